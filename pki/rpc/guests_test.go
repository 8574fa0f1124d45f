package rpc

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"kineshim/pki"
)

// Who is no longer welcome is shown out, though his connection was made while he was; others stay.
func TestGuestsAreShownOut(t *testing.T) {
	authority, err := pki.NewAuthority("c", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	of := func(role pki.Role, name string) *pki.Credentials {
		pass, err := authority.Pass(pki.ID{Cluster: "c", Role: role, Server: name}, nil, time.Hour, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		c, err := pass.Credentials()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	anybody := func(pki.ID) error { return nil }
	// A pass is for clients only: whom it speaks with is not what is tried here.
	config := of(pki.Data, "a-1").Server(anybody)
	var guests Guests
	server := grpc.NewServer(grpc.Creds(guests.Credentials(config)))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(ln)
	t.Cleanup(server.Stop)
	connect := func(name string) grpc_health_v1.Health_WatchClient {
		client := of(pki.Data, name).Client(anybody)
		client.VerifyConnection = nil
		conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(Credentials(client)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		t.Cleanup(cancel)
		w, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err == nil {
			_, err = w.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	old, present := connect("b-1"), connect("b-2")
	if n := guests.Close(func(id pki.ID) bool { return id.Server == "b-1" }); n != 1 {
		t.Errorf("%d connections were closed, not 1", n)
	}
	if _, err := old.Recv(); err == nil {
		t.Error("the stream of the one who was shown out goes on")
	}
	server.Stop()
	if _, err := present.Recv(); err == nil {
		t.Error("a stopped server goes on")
	}
	deadline := time.Now().Add(20 * time.Second)
	for guests.Close(func(pki.ID) bool { return false }) != 0 || guests.count() != 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d guests are remembered after they have left", guests.count())
		}
		time.Sleep(time.Millisecond)
	}
}

func (g *Guests) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}
