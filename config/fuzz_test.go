package config

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"go.yaml.in/yaml/v3"
)

const smallNode = `node: a
data_dir: /var/lib/kineshim
members:
  a: {raft: "10.0.0.1:7000", peer: "10.0.0.1:7001", postgres: "10.0.0.1:5432"}
  b: {raft: "10.0.0.2:7000", peer: "10.0.0.2:7001", postgres: "10.0.0.2:5432"}
  w: {raft: "10.0.0.3:7000"}
`

// FuzzNode: a file that is taken means the same when it is written anew; and none is taken with what cannot be served.
func FuzzNode(f *testing.F) {
	f.Add([]byte(smallNode))
	f.Add([]byte(smallNode + "client_listen: [http://127.0.0.1:2379, https://[::1]:1]\nvips: [{address: 10.0.0.9/24}]\napiserver: {listen: ':7443'}\n"))
	f.Add([]byte(smallNode + "timing: {heartbeat_timeout: 1s}\nnative: {max_txn_ops: 7}\npostgres: {settings: {jit: 'on'}}\n"))
	f.Add([]byte("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"))
	path := filepath.Join(f.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(smallNode), 0o600); err != nil {
		f.Fatal(err)
	}
	if _, err := LoadNode(path); err != nil { // else nothing would ever be compared
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := LoadNode(path)
		if err != nil {
			return
		}
		if len(n.Members) >= voters && (n.Other() == "" || n.WitnessName() == "" || n.Self().Witness()) || len(n.ClientAddresses()) == 0 || n.MaxWait <= 0 {
			t.Fatalf("it was taken: %+v", n)
		}
		written, err := yaml.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, written, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := LoadNode(path)
		if err != nil || !reflect.DeepEqual(again, n) {
			t.Fatalf("%v\nit was\n%+v\nand became\n%+v\nby\n%s", err, n, again, written)
		}
	})
}

// FuzzWitness is FuzzNode of a witness.
func FuzzWitness(f *testing.F) {
	f.Add([]byte("node: w\ndata_dir: /var/lib/raftwitness\nlisten: ':7000'\n"))
	f.Add([]byte("node: w\ndata_dir: /x\nlisten: 10.0.0.3:7000\nhttp_listen: 127.0.0.1:8009\nlog: {level: debug, format: json}\n"))
	path := filepath.Join(f.TempDir(), "witness.yaml")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		w, err := LoadWitness(path)
		if err != nil {
			return
		}
		written, err := yaml.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, written, 0o600); err != nil {
			t.Fatal(err)
		}
		if again, err := LoadWitness(path); err != nil || again != w {
			t.Fatalf("%v: %+v became %+v", err, w, again)
		}
	})
}
