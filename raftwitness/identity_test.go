package raftwitness

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/pki"
	"kineshim/raftwitness/record"

	"github.com/google/go-cmp/cmp"
)

func testIdentity() Identity {
	return identities(time.Second, map[string]string{"a": "h1:1", "b": "h2:1", "w": "h3:1"})["b"]
}

func TestIdentityIsSavedOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if _, err := LoadIdentity(dir); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("without a file: %v", err)
	}
	id := testIdentity()
	for range 2 { // again is not an error
		if err := id.Save(dir); err != nil {
			t.Fatal(err)
		}
	}
	got, err := LoadIdentity(dir)
	if err != nil || !cmp.Equal(id, got) {
		t.Errorf("%v %s", err, cmp.Diff(id, got))
	}
	if st, err := os.Stat(filepath.Join(dir, identityFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if err := testIdentity().Save(dir); err == nil || !strings.Contains(err.Error(), "enrolled already, as "+id.ServerID) {
		t.Errorf("another identity: %v", err)
	}
	if got, err := LoadIdentity(dir); err != nil || got.ServerID != id.ServerID {
		t.Errorf("%v, %v", got.ServerID, err)
	}
}

func TestDamagedIdentityIsNotTakenForNone(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "half": `{"clusterID":"c`, "null": "null", "no peers": `{"clusterID":"c","name":"a","serverID":"a-1","promiseNanoseconds":1000000000}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, identityFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadIdentity(dir); err == nil || errors.Is(err, ErrNotEnrolled) {
			t.Errorf("%s: %v", name, err)
		}
		if err := testIdentity().Save(dir); err == nil {
			t.Errorf("%s: replaced", name)
		}
	}
}

func TestIdentityIsValidated(t *testing.T) {
	for _, tc := range []struct {
		want  string
		spoil func(*Identity)
	}{
		{"missing", func(id *Identity) { id.ClusterID = "" }},
		{"missing", func(id *Identity) { id.Name = "" }},
		{"missing", func(id *Identity) { id.ServerID = "" }},
		{"below", func(id *Identity) { id.Promise = minPromise - 1 }},
		{"below", func(id *Identity) { id.Promise = 0 }},
		{"no Raft address for \"a\"", func(id *Identity) { id.Peers[0].Raft = "" }},
		{"2 voters", func(id *Identity) { id.Peers = id.Peers[:2] }},
		{"3 hold data", func(id *Identity) { id.Peers[2].Role = record.Data }},
		{"1 hold data", func(id *Identity) { id.Peers[0].Role = record.Witness }},
		{"founder \"w\" is not a data node", func(id *Identity) { id.Founder = "w" }},
		{"founder \"\" is not", func(id *Identity) { id.Founder = "" }},
		{"not among the voters", func(id *Identity) { id.ServerID = "b-other" }},
		{"not among the voters", func(id *Identity) { id.Role = record.Witness }},
	} {
		id := testIdentity()
		if err := id.Validate(); err != nil {
			t.Fatal(err)
		}
		tc.spoil(&id)
		want := strings.Replace(tc.want, "3 hold", "3 voters of which 3 hold", 1)
		want = strings.Replace(want, "1 hold", "3 voters of which 1 hold", 1)
		if err := id.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if err := id.Save(t.TempDir()); err == nil {
			t.Errorf("saved with %q", tc.want)
		}
		if _, err := Open(Config{Dir: t.TempDir(), Identity: id}); err == nil {
			t.Errorf("opened with %q", tc.want)
		}
	}
}

func TestServerIDsAndClusterIDsAreNew(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		for _, id := range []string{NewServerID("a"), NewClusterID()} {
			if seen[id] {
				t.Fatalf("%s twice", id)
			}
			seen[id] = true
		}
	}
	if id := NewServerID("shop-1"); !strings.HasPrefix(id, "shop-1-") || len(id) != len("shop-1-")+8 {
		t.Error(id)
	}
}

func TestPeersAndMembers(t *testing.T) {
	id := testIdentity()
	if p, ok := id.PeerByName("w"); !ok || p.Raft != "h3:1" || p.Role != record.Witness {
		t.Error(p, ok)
	}
	if _, ok := id.PeerByName("x"); ok {
		t.Error("a stranger is a peer")
	}
	ms := id.Members()
	if len(ms) != 3 || ms[1].Name != "b" || ms[1].ServerID != id.ServerID {
		b, _ := json.Marshal(ms)
		t.Errorf("%s", b)
	}
}

func TestFoundMakesOneClusterAndItsEnrolmentsCanBeRead(t *testing.T) {
	member := func(name string, role record.Role) Peer {
		return Peer{Member: record.Member{Name: name, Role: role}, Raft: name + ".example:7001"}
	}
	ids := Found("a", time.Second, []Peer{member("a", record.Data), member("b", record.Data), member("w", record.Witness)})
	if len(ids) != 3 {
		t.Fatal(ids)
	}
	authority, err := pki.NewAuthority(ids[0].ClusterID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		if err := id.Validate(); err != nil || id.ClusterID != ids[0].ClusterID || id.Name != voters[i] || id.IsFounder() != (i == 0) {
			t.Errorf("%+v, %v", id, err)
		}
		e, err := id.Enrolment(authority, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		e.Secrets = json.RawMessage(`{"k":"v"}`)
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "enrolment")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadEnrolment(path)
		if err != nil || !cmp.Equal(id, got.Identity) {
			t.Errorf("%v %s", err, cmp.Diff(id, got.Identity))
		}
		if (got.Certificates.CAKey != "") != (id.Role == record.Data) {
			t.Errorf("%s may make certificates: %t", id.Name, got.Certificates.CAKey != "")
		}
		dir := filepath.Join(t.TempDir(), "data")
		for range 2 {
			if err := got.Save(dir); err != nil {
				t.Fatal(err)
			}
		}
		if c, err := id.LoadCredentials(dir); err != nil || c.ID() != id.Subject() {
			t.Error(err)
		}
	}
	if other := Found("a", time.Second, ids[0].Peers); other[0].ClusterID == ids[0].ClusterID {
		t.Error("two clusters of one ID")
	}
	bad := filepath.Join(t.TempDir(), "enrolment")
	for _, content := range []string{"", "{}", `{"identity":{}}`, "rubbish"} {
		if err := os.WriteFile(bad, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadEnrolment(bad); err == nil {
			t.Errorf("%q is an enrolment", content)
		}
	}
	if _, err := ReadEnrolment(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
