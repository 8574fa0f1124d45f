package raftwitness

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// speak sends bytes to the listener and returns what it answers until it closes the connection.
func speak(t *testing.T, l *Listener, b []byte) (answer string, took time.Duration) {
	t.Helper()
	start := time.Now()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("the connection is still open after %v", patience)
	}
	return string(got), time.Since(start)
}

func frame(length int, body string) []byte {
	b := binary.BigEndian.AppendUint16([]byte(helloMagic), uint16(length))
	return append(b, body...)
}

func TestStrangersAreToldWhyTheyAreRefused(t *testing.T) {
	l := newTestListener(t, "w")
	ids := identities(testPromise, map[string]string{"a": "127.0.0.1:1", "b": "127.0.0.1:1", "w": l.Addr().String()})
	newTestGroup(t, ids["w"], l)
	w := ids["w"].ServerID
	for _, tc := range []struct {
		name  string
		spoil func(*Identity)
		to    string
		want  string
	}{
		{"another cluster", func(id *Identity) { id.ClusterID = "other" }, w, `cluster "other" is not known here`},
		{"an older incarnation of the callee", func(*Identity) {}, "w-00000000", `you want "w-00000000", this is "` + w + `": one of the two was enrolled anew`},
		{"another promise", func(id *Identity) { id.Promise = time.Second }, w, "your heartbeat timeout is 1s, here it is 300ms: they must be equal"},
		{"an older incarnation of the caller", func(id *Identity) { id.ServerID = "a-00000000" }, w, `"a-00000000" is not a voter of this cluster`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			id := ids["a"]
			tc.spoil(&id)
			dial := func(string, time.Duration) (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }
			g := newGroup(id, newTestListener(t, "a"), dial, func(string) (string, bool) { return "w.example:1", true })
			c, err := g.Dial(raft.ServerAddress(tc.to), time.Second)
			if err == nil {
				c.Close()
				t.Fatal("not refused")
			}
			if !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "w.example:1") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestDialRefusesServersThatAreNoVoters(t *testing.T) {
	c := newTestCluster(t, testPromise)
	g := newTestGroup(t, c.ids["a"], c.nodes["a"].cfg.Listener)
	if _, err := g.Dial("x-1", time.Second); err == nil || !strings.Contains(err.Error(), `"x-1": not a voter`) {
		t.Error(err)
	}
}

func TestDialGivesUpOnAServerThatSaysNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ids := identities(testPromise, map[string]string{"a": "127.0.0.1:1", "b": "127.0.0.1:1", "w": ln.Addr().String()})
	g := newTestGroup(t, ids["a"], newTestListener(t, "a"))
	start := time.Now()
	if _, err := g.Dial(raft.ServerAddress(ids["w"].ServerID), 100*time.Millisecond); err == nil {
		t.Error("a connection to a server that says nothing")
	}
	if d := time.Since(start); d > patience/2 {
		t.Errorf("it took %v", d)
	}
}

func TestGarbageIsClosed(t *testing.T) {
	t.Parallel()
	l := newTestListener(t, "w")
	ids := identities(testPromise, map[string]string{"a": "127.0.0.1:1", "b": "127.0.0.1:1", "w": l.Addr().String()})
	newTestGroup(t, ids["w"], l)
	valid, err := json.Marshal(hello{Cluster: ids["w"].ClusterID, From: ids["a"].ServerID, To: ids["w"].ServerID, Promise: testPromise})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"HTTP":             []byte("GET / HTTP/1.1\r\nHost: w\r\n\r\n"),
		"TLS":              {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"too long":         frame(helloMax+1, "x"),
		"not JSON":         frame(4, "xxxx"),
		"empty":            frame(0, ""),
		"silence":          nil,
		"half a header":    []byte(helloMagic),
		"half a hello":     frame(len(valid), string(valid[:10])),
		"half a character": []byte("K"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer, took := speak(t, l, b)
			if answer != "" {
				t.Errorf("answered %q", answer)
			}
			if took > helloTimeout+patience/4 {
				t.Errorf("open for %v", took)
			}
		})
	}
}

// greeted is how many connections are in their hello.
func greeted(l *Listener) int {
	n, _ := l.greeting.Count()
	return n
}

func TestStrangersDoNotDisturb(t *testing.T) {
	const promise = 2 * time.Second // so that a pause of this machine does not end a lease by itself
	c, leader := startCluster(t, promise)
	term := c.node(leader).Status().Term
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range 3 * maxGreetingOfOne { // to every voter, more than are heard at a time, none of which says a word
		for _, name := range voters {
			conn, err := net.Dial("tcp", c.nodes[name].cfg.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
	}
	for _, name := range voters {
		if n := greeted(c.nodes[name].cfg.Listener); n > maxGreetingOfOne {
			t.Errorf("%d connections in their hello", n)
		}
	}
	steadily(t, "the leader keeps its lease", promise, func() bool { return c.node(leader).LeaseLeft() > 0 || c.node(leader).Status().Term != term })
	if now := c.node(leader).Status().Term; now != term {
		t.Logf("term %d became %d: a busy machine", term, now)
	}
	eventually(t, "all are closed", func() bool {
		for _, name := range voters {
			if greeted(c.nodes[name].cfg.Listener) > 0 {
				return false
			}
		}
		return true
	})
	c.initialise()
	c.agree()
}

func TestConnectionsOfOneGroupAreBoundedAndEndWithIt(t *testing.T) {
	l := newTestListener(t, "w")
	ids := identities(testPromise, map[string]string{"a": "127.0.0.1:1", "b": "127.0.0.1:1", "w": l.Addr().String()})
	g := newTestGroup(t, ids["w"], l)
	a := newTestGroup(t, ids["a"], newTestListener(t, "a"))
	var dialled, accepted []net.Conn
	for range maxOpen {
		c, err := a.Dial(raft.ServerAddress(ids["w"].ServerID), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		dialled = append(dialled, c)
		s, err := g.Accept()
		if err != nil {
			t.Fatal(err)
		}
		accepted = append(accepted, s)
	}
	ends := func(c net.Conn) bool {
		c.SetReadDeadline(time.Now().Add(patience))
		_, err := c.Read(make([]byte, 1))
		return errors.Is(err, io.EOF) || strings.Contains(err.Error(), "reset")
	}
	if c, err := a.Dial(raft.ServerAddress(ids["w"].ServerID), time.Second); err == nil {
		if !ends(c) {
			t.Error("one connection too many is not closed")
		}
		c.Close()
	}
	accepted[0].Close() // makes room
	c, err := a.Dial(raft.ServerAddress(ids["w"].ServerID), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "the connection waits to be accepted", func() bool { return len(g.conns) == 1 })
	dialled = append(dialled[1:], c)
	g.Close()
	for i, c := range dialled {
		if !ends(c) {
			t.Errorf("connection %d outlives its group", i)
		}
	}
	eventually(t, "accept says that the group is closed", func() bool { // after the one that waited, which is closed too
		_, err := g.Accept()
		return errors.Is(err, net.ErrClosed)
	})
	if _, err := a.Dial(raft.ServerAddress(ids["w"].ServerID), time.Second); err == nil || !strings.Contains(err.Error(), "not known here") {
		t.Errorf("dial after close: %v", err)
	}
}

func TestTwoClustersShareTheirPorts(t *testing.T) {
	t.Parallel()
	one, _ := startCluster(t, testPromise)
	one.initialise()
	address := map[string]string{}
	for _, name := range voters {
		address[name] = one.nodes[name].cfg.Listener.Addr().String()
	}
	two := newTestCluster(t, testPromise)
	two.ids = identities(testPromise, address)
	for _, name := range voters {
		cfg := &two.nodes[name].cfg
		cfg.Identity, cfg.Listener, cfg.Dial = two.ids[name], one.nodes[name].cfg.Listener, two.links.dialer(name, address)
		two.start(name)
	}
	two.initialise()
	r1, r2 := one.agree(), two.agree()
	if r1.ClusterID != one.ids["a"].ClusterID || r2.ClusterID != two.ids["a"].ClusterID || r1.ClusterID == r2.ClusterID {
		t.Errorf("%q and %q", r1.ClusterID, r2.ClusterID)
	}

	// A second voter of the first cluster on the same port is refused, and takes nothing from the one that is there.
	cfg := one.nodes["w"].cfg
	cfg.Dir = t.TempDir()
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "served on this port already") {
		t.Error(err)
	}
	one.stop("a")
	one.start("a") // its new connections must find w
	eventually(t, "a is heard by w, or hears it", func() bool {
		s, leader := one.node("a").Status(), one.node("w").Status().LeaderName
		_, heard := s.Heard["w"]
		return heard || s.LeaderName == "b" && leader == "b"
	})
	if _, err := newTestGroupFor(t, one, "a").Dial(raft.ServerAddress(one.ids["w"].ServerID), time.Second); err != nil {
		t.Errorf("the witness of the first cluster cannot be reached any more: %v", err)
	}
	for _, name := range voters {
		two.stop(name)
	}
	one.manyCommands(2)
	one.agree()
}

// newTestGroupFor dials as the named voter of a running cluster does.
func newTestGroupFor(t *testing.T, c *testCluster, name string) *group {
	t.Helper()
	g := newTestGroup(t, Identity{ClusterID: "unused"}, newTestListener(t, name))
	g.id = c.ids[name]
	g.addr = func(server string) (string, bool) { return c.node(name).address(server) }
	return g
}

func TestListenerCloseWaitsForItsHellos(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := NewListener(ln, testLog("w"))
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "the hello has begun", func() bool { return greeted(l) == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	select {
	case err := <-closed:
		if err != nil || greeted(l) != 0 {
			t.Errorf("%v, %d hellos go on", err, greeted(l))
		}
	case <-ctx.Done():
		t.Fatal("does not close while somebody says nothing")
	}
}
