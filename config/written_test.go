package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMembersMayBeThoseOfTheEnrolment(t *testing.T) {
	enrolled := map[string]Member{
		"a": {Raft: "192.0.2.10:2384", Peer: "192.0.2.10:2383", Postgres: "192.0.2.10:5433"},
		"b": {Raft: "192.0.2.11:2384", Peer: "192.0.2.11:2383", Postgres: "192.0.2.11:5433"},
		"w": {Raft: "192.0.2.12:2384"},
	}
	n, err := load1(t, "node: a\ndata_dir: /d\napiserver: {listen: ':7443'}\nvips: [{address: 192.0.2.50}]\nmembers: {w: {raft: 'pi.lan:2384'}}\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Enrolled(enrolled); err != nil {
		t.Fatal(err)
	}
	if n.WitnessName() != "w" || n.Members["w"].Raft != "pi.lan:2384" || n.Other() != "b" || n.Self().Postgres != "192.0.2.10:5433" {
		t.Errorf("%+v", n.Members)
	}
	if len(n.APIServer.Servers) != 2 {
		t.Errorf("the Kubernetes API is balanced to %v", n.APIServer.Servers)
	}
	for name, text := range map[string]string{
		"this node, \"z\", is not among them":        "node: z\ndata_dir: /d\n",
		"192.0.2.11 is b's own address":              "node: a\ndata_dir: /d\nvips: [{address: 192.0.2.11}]\n",
		"3 with peer and postgres":                   "node: a\ndata_dir: /d\nmembers: {c: {raft: 'c:1', peer: 'c:2', postgres: 'c:3'}}\n",
		"members.w.peer":                             "node: a\ndata_dir: /d\nmembers: {w: {raft: 'pi.lan:2384', postgres: 'pi.lan:1'}}\n",
		"this node, \"w\", has no peer and postgres": "node: w\ndata_dir: /d\n",
	} {
		n, err := load1(t, text)
		if err == nil {
			err = n.Enrolled(enrolled)
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestWrittenFilesAreRead(t *testing.T) {
	shared, err := SharedText([]string{"192.0.2.50/24", "2001:db8::50/64"}, ":7443")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []Written{{By: "test", Name: "a", DataDir: "/d"}, {By: "test", Name: "1e3", DataDir: "/d: #x", ClientListen: "127.0.0.9:1", HTTPListen: "[::1]:80", Shared: shared}} {
		n, err := ParseNode("written", w.Text())
		if err != nil || n.Name != w.Name || n.DataDir != w.DataDir {
			t.Errorf("%+v: %+v, %v", w, n, err)
		}
		if w.Shared != "" && (len(n.VIPs) != 2 || n.APIServer.Listen != ":7443" || n.ClientListen[0] != "127.0.0.9:1" || n.HTTPListen != "[::1]:80") {
			t.Errorf("%+v", n)
		}
	}
	if w, err := ParseWitness("written", WitnessText("test", "pi", "/d", ":2384")); err != nil || w.Name != "pi" || w.Listen != ":2384" {
		t.Errorf("%+v, %v", w, err)
	}
}

func TestSharedSettingsAreThoseOfNoMachine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	text := good + "client_listen: 127.0.0.9:1\n# the address of the shop\nvips:\n  - address: 192.0.2.50 # free\nlog: {level: debug}\ntiming: {heartbeat_timeout: 400ms}\npostgres: {bin_dir: /x}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Shared(path)
	want := "# the address of the shop\nvips:\n  - address: 192.0.2.50 # free\ntiming: {heartbeat_timeout: 400ms}\n"
	if err != nil || got != want {
		t.Errorf("got\n%s\n%v, want\n%s", got, err, want)
	}
	if err := os.WriteFile(path, []byte("node: a\ndata_dir: /d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Shared(path); got != "" || err != nil {
		t.Errorf("nothing to share: %q, %v", got, err)
	}
}
