package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	"kineshim/pki"
	"kineshim/pki/rpc"
	"kineshim/proto"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

// afar is a node that answers operators on loopback.
type afar struct {
	authority *pki.Authority
	cluster   string
	address   string
}

func startAfar(t *testing.T, role record.Role, c *control) *afar {
	t.Helper()
	a := &afar{cluster: raftwitness.NewClusterID()}
	var err error
	if a.authority, err = pki.NewAuthority(a.cluster, time.Now()); err != nil {
		t.Fatal(err)
	}
	id, dir := raftwitness.Identity{ClusterID: a.cluster, Name: "a", ServerID: "a-1", Role: role}, t.TempDir()
	e, err := id.Enrolment(a.authority, time.Hour)
	if err == nil {
		err = e.Certificates.Save(raftwitness.CertificatesDir(dir))
	}
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := id.LoadCredentials(dir)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(rpc.Credentials(credentials.Server(func(pki.ID) error { return nil }))))
	proto.RegisterControlServer(s, c)
	go s.Serve(ln)
	t.Cleanup(s.Stop)
	a.address = ln.Addr().String()
	return a
}

// pass writes an operator's file.
func (a *afar) pass(t *testing.T, lifetime time.Duration, began time.Time, nodes ...string) string {
	t.Helper()
	p, err := a.authority.Pass(pki.ID{Cluster: a.cluster, Role: pki.Viewer, Server: "alice"}, nodes, lifetime, began)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "alice.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNodesAreAskedFromAfar(t *testing.T) {
	a := startAfar(t, record.Data, &control{status: always(paired())})
	file := a.pass(t, time.Hour, time.Now(), "127.0.0.1:1", a.address)
	invoke(t, nil, "", "--credentials", file, "status").expect(t, exitFine, "serves")
	t.Setenv(credentialsEnv, file)
	invoke(t, nil, "", "status").expect(t, exitFine, "serves")
	invoke(t, nil, "", "--node", "127.0.0.1:1", "status").expect(t, exitFailed, "stderr: nobody listens there", "stderr: control_listen")
	invoke(t, nil, "", "snapshot", "save", filepath.Join(t.TempDir(), "s")).expect(t, exitUnsafe, "stderr: on the node itself")
}

func TestCredentialsThatAreOfNoUse(t *testing.T) {
	a := startAfar(t, record.Data, &control{status: always(paired())})
	ended := a.pass(t, time.Hour, time.Now().Add(-2*time.Hour), a.address)
	invoke(t, nil, "", "--credentials", ended, "status").expect(t, exitFailed, "stderr: certificate of alice ended on")
	other := startAfar(t, record.Data, &control{}).pass(t, time.Hour, time.Now(), a.address)
	invoke(t, nil, "", "--credentials", other, "status").expect(t, exitFailed, "stderr: not from this cluster's authority")
	witness := startAfar(t, record.Witness, &control{})
	invoke(t, nil, "", "--credentials", witness.pass(t, time.Hour, time.Now(), witness.address), "status").expect(t, exitFailed, "stderr: no data node")
	invoke(t, nil, "", "--credentials", filepath.Join(t.TempDir(), "none"), "status").expect(t, exitFailed, "stderr: read the credentials")
	invoke(t, nil, "", "--node", a.address, "status").expect(t, exitUsage, "stderr: --node needs --credentials")
	invoke(t, nil, "", "--socket", "x", "--credentials", ended, "status").expect(t, exitUsage, "stderr: one of them")
}
