package balancer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// apiServer answers /readyz with a code, and /name with its name, over TLS as a real one does.
type apiServer struct {
	*httptest.Server
	name string
	code atomic.Int32
	hits atomic.Int32
}

func newAPIServer(t *testing.T, name string) *apiServer {
	t.Helper()
	s := &apiServer{name: name}
	s.code.Store(http.StatusOK)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			w.WriteHeader(int(s.code.Load()))
			return
		}
		s.hits.Add(1)
		fmt.Fprint(w, name)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) addr() string { return s.Listener.Addr().String() }

// start runs a balancer and returns where it listens.
func start(t *testing.T, cfg Config) (b *Balancer, at string) {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 100
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx, []net.Listener{ln}) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Run does not end")
		}
	})
	return b, ln.Addr().String()
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// who answers a new connection.
func who(t *testing.T, s *apiServer, at string) string {
	t.Helper()
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()}}
	c.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
	r, err := c.Get("https://" + at + "/name")
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestServersShareConnectionsAndOneThatIsNotReadyGetsNone(t *testing.T) {
	x, y := newAPIServer(t, "x"), newAPIServer(t, "y")
	b, at := start(t, Config{Servers: []string{x.addr(), y.addr()}})
	eventually(t, "both are known to be local", func() bool { return b.servers[0].local() && b.servers[1].local() }) // before, one may be found so first
	for range 10 {
		who(t, x, at)
	}
	if x.hits.Load() != 5 || y.hits.Load() != 5 { // both are local
		t.Errorf("%d and %d", x.hits.Load(), y.hits.Load())
	}
	x.code.Store(http.StatusInternalServerError)
	eventually(t, "x is bad", func() bool { return !b.servers[0].good() })
	for range 6 {
		if got := who(t, x, at); got != "y" {
			t.Errorf("answered by %s", got)
		}
	}
	x.code.Store(http.StatusUnauthorized) // k3s asks who it is
	eventually(t, "x is good", func() bool { return b.servers[0].good() })
}

func TestOrderOfServers(t *testing.T) {
	b, err := New(Config{Servers: []string{"bad:1", "local:1", "good:1", "bad-local:1", "good-too:1"}, MaxConnections: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b.servers[0].health.bad, b.servers[3].health.bad = true, true
	b.servers[1].here, b.servers[3].here = true, true
	seen := map[string]int{}
	for range 10 {
		var names []string
		for _, s := range b.order() {
			names = append(names, s.addr)
		}
		seen[strings.Join(names, " ")]++
	}
	for _, want := range []string{"local:1 good:1 good-too:1 bad-local:1 bad:1", "local:1 good-too:1 good:1 bad-local:1 bad:1"} {
		if seen[want] < 4 { // the two that are equal take turns
			t.Errorf("%s: %d times of 10: %v", want, seen[want], seen)
		}
		seen[want] = 0
	}
}

func TestOwnAddressesAreLocal(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "192.0.2.77:1": false, "example.org:1": false, "": false} {
		if isLocal(addr) != want {
			t.Errorf("%q: %v", addr, !want)
		}
	}
}

func TestServerThatCannotBeReachedCostsNoClient(t *testing.T) {
	y := newAPIServer(t, "y")
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := dead.Addr().String()
	dead.Close()
	_, at := start(t, Config{Servers: []string{gone, y.addr()}})
	for range 6 {
		if got := who(t, y, at); got != "y" {
			t.Errorf("answered by %s", got)
		}
	}
}

func TestBadServersAreTriedWhenThereIsNoOther(t *testing.T) {
	x := newAPIServer(t, "x")
	x.code.Store(http.StatusInternalServerError)
	b, at := start(t, Config{Servers: []string{x.addr()}})
	eventually(t, "x is bad", func() bool { return !b.servers[0].good() })
	if got := who(t, x, at); got != "x" {
		t.Errorf("answered by %s", got)
	}
}

func TestHealthNeedsSeveralChecksToChange(t *testing.T) {
	var h health
	no := errors.New("no")
	now := time.Now()
	for i, c := range []struct {
		err     error
		changed bool
		bad     bool
	}{
		{no, false, false}, {no, false, false}, {nil, false, false}, // a good one between starts anew
		{no, false, false}, {no, false, false}, {no, true, true},
		{nil, false, true}, {no, false, true}, {nil, false, true}, {nil, true, false},
	} {
		if changed := h.note(now, c.err); changed != c.changed || h.bad != c.bad {
			t.Errorf("check %d: changed %v, bad %v", i, changed, h.bad)
		}
	}
}

func TestConnectionsToABadServerAreDrainedIfAnotherIsGood(t *testing.T) {
	mk := func() (*server, net.Conn) {
		s := newServer("127.0.0.1:1", nil, slog.New(slog.DiscardHandler))
		client, ours := net.Pipe()
		up, _ := net.Pipe()
		s.add(ours, up)
		return s, client
	}
	now := time.Now()
	for name, c := range map[string]struct {
		bad   bool
		since time.Duration
		other bool
		want  bool
	}{
		"bad for long": {true, drainFor, true, true}, "bad since a moment ago": {true, drainFor - time.Second, true, false},
		"nowhere to go": {true, drainFor, false, false}, "good": {false, drainFor, true, false},
	} {
		s, client := mk()
		s.health = health{bad: c.bad, badAt: now.Add(-c.since)}
		s.drain(now, func(*server) bool { return c.other })
		_ = client.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // a pipe's never fails
		if _, err := client.Read(make([]byte, 1)); errors.Is(err, io.EOF) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// echoServer answers each line, and says "bye" when the client has said all.
func echoServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { ln.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						break
					}
					fmt.Fprint(c, line)
				}
				fmt.Fprint(c, "bye\n")
			})
		}
	})
	return ln.Addr().String()
}

func dial(t *testing.T, at string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), bufio.NewReader(c)
}

func TestHalfClosedConnectionIsAnswered(t *testing.T) {
	_, at := start(t, Config{Servers: []string{echoServer(t)}})
	c, r := dial(t, at)
	fmt.Fprint(c, "hello\n")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(r)
	if err != nil || string(all) != "hello\nbye\n" {
		t.Errorf("%q, %v", all, err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	b, at := start(t, Config{Servers: []string{echoServer(t)}, MaxConnections: 2})
	var open []*net.TCPConn
	for range 2 {
		c, r := dial(t, at)
		fmt.Fprint(c, "x\n")
		if line, err := r.ReadString('\n'); err != nil || line != "x\n" {
			t.Fatal(line, err)
		}
		open = append(open, c)
	}
	over, r := dial(t, at)
	fmt.Fprint(over, "x\n")
	if line, err := r.ReadString('\n'); err == nil {
		t.Errorf("one too many is answered: %q", line)
	}
	open[0].Close()
	eventually(t, "its place is free", func() bool { open, _ := b.room.Count(); return open == 1 })
	c, r := dial(t, at)
	fmt.Fprint(c, "x\n")
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "x") {
		t.Errorf("%q, %v", line, err)
	}
}

func TestEndOfRunEndsConnections(t *testing.T) {
	b, err := New(Config{Servers: []string{echoServer(t)}, MaxConnections: 10, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx, []net.Listener{ln}) }()
	c, r := dial(t, ln.Addr().String())
	fmt.Fprint(c, "x\n")
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := r.ReadByte(); err == nil {
		t.Error("still open")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestOneAddressLeavesRoomForOthers(t *testing.T) {
	b, at := start(t, Config{Servers: []string{echoServer(t)}, MaxConnections: 4})
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	for range 10 {
		c, err := d.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	eventually(t, "three are taken, and the rest is refused", func() bool {
		open, refused := b.room.Count()
		return open == 3 && refused == 7
	})
	c, r := dial(t, at)
	fmt.Fprint(c, "x\n")
	if line, err := r.ReadString('\n'); err != nil || line != "x\n" {
		t.Errorf("another is not served: %q, %v", line, err)
	}
}
