package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/config"
	"kineshim/pki"
	"kineshim/pki/rpc"
	pb "kineshim/proto"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

// controls answers everything, and remembers who asked.
type controls struct {
	pb.UnimplementedControlServer
	asked string
}

func (c *controls) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{}, nil
}

func (c *controls) Promote(_ context.Context, r *pb.PromoteRequest) (*pb.PromoteResponse, error) {
	c.asked = r.GetOperator()
	return &pb.PromoteResponse{}, nil
}

func (c *controls) Replace(context.Context, *pb.ReplaceRequest) (*pb.ReplaceResponse, error) {
	return &pb.ReplaceResponse{Enrolment: []byte("the keys")}, nil
}

func (c *controls) Restore(grpc.ClientStreamingServer[pb.RestoreRequest, pb.RestoreResponse]) error {
	return nil
}

// authorityOf makes an authority and the credentials of a data node.
func authorityOf(t *testing.T) (*pki.Authority, *pki.Credentials, string) {
	t.Helper()
	cluster, dir := raftwitness.NewClusterID(), t.TempDir()
	a, err := pki.NewAuthority(cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id := raftwitness.Identity{ClusterID: cluster, Name: "a", ServerID: "a-1", Role: record.Data}
	e, err := id.Enrolment(a, time.Hour)
	if err == nil {
		err = e.Certificates.Save(raftwitness.CertificatesDir(dir))
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := id.LoadCredentials(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a, c, cluster
}

func TestOperatorsMayDoWhatTheirRoleSays(t *testing.T) {
	authority, own, cluster := authorityOf(t)
	n := &node{log: slog.New(slog.DiscardHandler)}
	server := grpc.NewServer(append(n.operatorOptions(func(name string) (bool, error) {
		if name == "oscar" {
			return false, errors.New("the disk is broken")
		}
		return name == "mallory", nil
	}), grpc.Creds(rpc.Credentials(own.Server(isOperator))))...)
	c := &controls{}
	pb.RegisterControlServer(server, c)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(ln)
	t.Cleanup(server.Stop)
	as := func(role pki.Role, name string) pb.ControlClient {
		pass, err := authority.Pass(pki.ID{Cluster: cluster, Role: role, Server: name}, nil, time.Hour, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		credentials, err := pass.Credentials()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(rpc.Credentials(credentials.Client(func(pki.ID) error { return nil }))))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return pb.NewControlClient(conn)
	}
	calls := map[string]func(pb.ControlClient) error{
		"look": func(c pb.ControlClient) error { _, err := c.Status(t.Context(), &pb.StatusRequest{}); return err },
		"act": func(c pb.ControlClient) error {
			_, err := c.Promote(t.Context(), &pb.PromoteRequest{Operator: "root@nowhere"})
			return err
		},
		"take keys": func(c pb.ControlClient) error { _, err := c.Replace(t.Context(), &pb.ReplaceRequest{}); return err },
		"restore": func(c pb.ControlClient) error {
			s, err := c.Restore(t.Context())
			if err == nil {
				_, err = s.CloseAndRecv()
			}
			return err
		},
	}
	for _, w := range []struct {
		role pki.Role
		call string
		want codes.Code
	}{
		{pki.Viewer, "look", codes.OK}, {pki.Viewer, "act", codes.PermissionDenied}, {pki.Viewer, "take keys", codes.PermissionDenied}, {pki.Viewer, "restore", codes.PermissionDenied},
		{pki.Operator, "look", codes.OK}, {pki.Operator, "act", codes.OK}, {pki.Operator, "take keys", codes.PermissionDenied}, {pki.Operator, "restore", codes.PermissionDenied},
		{pki.Data, "look", codes.Unavailable}, {pki.Witness, "look", codes.Unavailable},
	} {
		if err := calls[w.call](as(w.role, "alice")); status.Code(err) != w.want {
			t.Errorf("%s, %s: %v, want %v", w.role, w.call, err, w.want)
		}
	}
	for name, call := range calls {
		if err := call(as(pki.Operator, "mallory")); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("revoked, %s: %v", name, err)
		}
		if err := call(as(pki.Operator, "oscar")); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the disk is broken") {
			t.Errorf("perhaps revoked, %s: %v", name, err)
		}
	}
	if c.asked != "alice (from afar)" {
		t.Errorf("it was asked by %q", c.asked)
	}
}

func TestEachControlMethodIsForSomebodyOrForNobodyFromAfar(t *testing.T) {
	here := []string{pb.Control_Replace_FullMethodName, pb.Control_Revoke_FullMethodName, pb.Control_Restore_FullMethodName}
	known := strings.Join(append(append(here, looking...), acting...), " ")
	for _, m := range pb.Control_ServiceDesc.Methods {
		if name := "/" + pb.Control_ServiceDesc.ServiceName + "/" + m.MethodName; !strings.Contains(known, name) {
			t.Errorf("%s: may it be called from afar?", name)
		}
	}
}

func TestOperatorsFileIsMade(t *testing.T) {
	a, _ := writeConfig(t, "a", "control_listen: 0.0.0.0:2382\n")
	if code, out := call("init", "--config", a, "--enrolments", t.TempDir()); code != 0 {
		t.Fatalf("init: exit %d, %s", code, out)
	}
	file := filepath.Join(t.TempDir(), "alice.json")
	if code, out := call("operator", "alice", "--config", a, "--out", file); code != 1 || !strings.Contains(out, "--may look or --may act") {
		t.Errorf("without a role: exit %d, %s", code, out)
	}
	if code, out := call("operator", "alice", "--may", "look", "--config", a, "--out", file); code != 0 || !strings.Contains(out, "shimctl --credentials "+file) {
		t.Fatalf("exit %d, %s", code, out)
	}
	p, err := pki.LoadPass(file)
	if err != nil || p.ID.Role != pki.Viewer || p.ID.Server != "alice" || strings.Join(p.Nodes, " ") != "127.0.0.1:2382 127.0.0.1:2382" || p.Certificates.CAKey != "" {
		t.Errorf("%+v, %v", p, err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if code, out := call("operator", "alice", "--may", "act", "--config", a, "--out", file); code != 1 || !strings.Contains(out, "exists") {
		t.Errorf("again: exit %d, %s", code, out)
	}
	if _, err := controlAddresses(config.Node{}); err == nil || !strings.Contains(err.Error(), "control_listen") {
		t.Errorf("without control_listen: %v", err)
	}
}

func TestOperatorIsNoVoter(t *testing.T) {
	authority, own, cluster := authorityOf(t)
	// A certificate whose name is that of a voter's server ID, but whose role is an operator's.
	pass, err := authority.Pass(pki.ID{Cluster: cluster, Role: pki.Operator, Server: "a-1"}, nil, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := pass.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{id: raftwitness.Identity{ClusterID: cluster, Name: "a", ServerID: "a-1", Role: record.Data}}
	if err := n.isDataNode(credentials.ID()); err == nil {
		t.Error("the other data node's port takes it")
	}
	var said bytes.Buffer
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := raftwitness.NewListener(ln, slog.New(slog.NewTextHandler(&said, nil)))
	voter := raftwitness.Identity{ClusterID: cluster, Name: "a", ServerID: "a-1", Role: record.Data, Founder: "a", Promise: time.Second, Peers: []raftwitness.Peer{
		{Member: record.Member{Name: "a", ServerID: "a-1", Role: record.Data}, Raft: "127.0.0.1:1"},
		{Member: record.Member{Name: "b", ServerID: "b-1", Role: record.Data}, Raft: "127.0.0.1:2"},
		{Member: record.Member{Name: "w", ServerID: "w-1", Role: record.Witness}, Raft: "127.0.0.1:3"},
	}}
	raft, err := raftwitness.Open(raftwitness.Config{Dir: t.TempDir(), Identity: voter, Credentials: own, Listener: l, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- raft.Run(ctx) }()
	c, err := credentials.Over(func(address string, d time.Duration) (net.Conn, error) { return net.DialTimeout("tcp", address, d) },
		func(pki.ID) error { return nil }, "kineshim-raft/1")(ln.Addr().String(), 5*time.Second)
	if err == nil { // TLS 1.3: the server refuses after the client is done
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	cancel()
	<-done
	l.Close()
	if err == nil || !strings.Contains(said.String(), "no voter") {
		t.Errorf("the Raft port: %v; it said %s", err, &said)
	}
}
