package kineshim

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// mortal stands between two nodes and dies, with all connections and for good, when so many bytes have passed in a direction. Less than 0: never.
type mortal struct {
	listener net.Listener
	upstream string
	up, down atomic.Int64 // left to pass to the server and to the client

	mu    sync.Mutex // guards conns
	conns []net.Conn
	dead  atomic.Bool
}

func newMortal(t *testing.T, upstream string, up, down int64) *mortal {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mortal{listener: listener, upstream: upstream}
	m.up.Store(up)
	m.down.Store(down)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", upstream)
			if err != nil {
				client.Close()
				return
			}
			if !m.track(client, server) {
				return
			}
			running.Go(func() { m.pass(server, client, &m.up) })
			running.Go(func() { m.pass(client, server, &m.down) })
		}
	})
	t.Cleanup(func() {
		m.die()
		running.Wait()
	})
	return m
}

func (m *mortal) track(conns ...net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns = append(m.conns, conns...)
	if m.dead.Load() {
		for _, c := range conns {
			c.Close()
		}
	}
	return !m.dead.Load()
}

func (m *mortal) die() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead.Store(true)
	m.listener.Close()
	for _, c := range m.conns {
		c.Close()
	}
}

// sever ends the connections that there are; new ones are taken.
func (m *mortal) sever() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		c.Close()
	}
	m.conns = nil
}

// pass passes bytes on until none are left to pass.
func (m *mortal) pass(to, from net.Conn, left *atomic.Int64) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if most := left.Load(); most >= 0 {
				n = min(n, int(most))
				left.Add(-int64(n))
			}
			_, _ = to.Write(buffer[:n])
		}
		if err != nil || left.Load() == 0 {
			if left.Load() == 0 {
				m.die()
			}
			to.Close()
			return
		}
	}
}

// TestAServerKilledAfterEachByte kills the primary's machine after each byte that it has received, and after each that it has sent: a put is
// called not done only if it was not done. All moments together show both outcomes.
func TestAServerKilledAfterEachByte(t *testing.T) {
	for _, direction := range []string{"received", "sent"} {
		t.Run(direction, func(t *testing.T) {
			primary := startPrimary(t, "a")
			// By their keys: a put that is in doubt may be done while the next one is under way.
			var done sync.Map
			primary.engine.onPut = func(_ context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
				done.Store(string(r.Key), true)
				return &etcdserverpb.PutResponse{}, nil
			}
			outcomes := map[string]int{}
			notDone := map[string]error{}
			for n := int64(1); outcomes["answered"] < 3; n++ {
				if n > 2000 {
					t.Fatalf("no answer even when %d bytes have passed: %v", n, outcomes)
				}
				up, down := n, int64(-1)
				if direction == "sent" {
					up, down = -1, n
				}
				m := newMortal(t, primary.peer, up, down)
				key := fmt.Sprintf("after %4d bytes", n)
				err := putThrough(t, m.listener.Addr().String(), key)
				m.die()
				outcomes[outcomeOf(t, err)]++
				if NotDone(err) {
					notDone[key] = err
				}
				if _, was := done.Load(key); err == nil && !was {
					t.Errorf("%s: answered and not done", key)
				}
			}
			time.Sleep(50 * time.Millisecond) // what was called not done must not be done later either
			for key, err := range notDone {
				if _, was := done.Load(key); was {
					t.Errorf("%s: done, and called not done: %v", key, err)
				}
			}
			t.Logf("%v", outcomes)
			if outcomes["not done"] == 0 || outcomes["in doubt"] == 0 {
				t.Error("this test proves nothing")
			}
		})
	}
}

// TestAServerKilledUnderLoad: the connection dies while many calls are at all stages of their way.
func TestAServerKilledUnderLoad(t *testing.T) {
	primary := startPrimary(t, "a")
	var done sync.Map
	primary.engine.onPut = func(_ context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
		done.Store(string(r.Key), true)
		return &etcdserverpb.PutResponse{}, nil
	}
	outcomes := map[string]int{}
	for round := range 20 {
		m := newMortal(t, primary.peer, -1, -1)
		target := m.listener.Addr().String()
		o := newOffline(t, func(o *Options) { o.MaxWait = -1 })
		link, err := o.conns.get(target)
		if err != nil {
			t.Fatal(err)
		}
		link.Connect()
		settle(t, link)
		o.router.to(Route{Target: target, Node: "a"})
		type result struct {
			key string
			err error
		}
		var clients sync.WaitGroup
		results := make(chan result, 10_000)
		for i := range 50 {
			clients.Go(func() {
				for n := range 100 {
					key := fmt.Sprint(round, "-", i, "-", n)
					err := o.put(soon(t), &etcdserverpb.PutRequest{Key: []byte(key), Value: make([]byte, 1000)})
					results <- result{key, err}
					if err != nil {
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(round) * time.Millisecond) // until they are at it
		m.die()
		clients.Wait()
		close(results)
		time.Sleep(5 * time.Millisecond) // until what was received is done
		for r := range results {
			outcome := outcomeOf(t, r.err)
			outcomes[outcome]++
			if _, was := done.Load(r.key); was && outcome == "not done" || !was && outcome == "answered" {
				t.Errorf("%s: done %v, called %s: %v", r.key, was, outcome, r.err)
			}
		}
		o.Close()
	}
	t.Logf("%v", outcomes)
}

// putThrough forwards one put to an address, and returns what the first attempt came to.
func putThrough(t *testing.T, target, key string) error {
	t.Helper()
	return putWhen(t, settle, target, key)
}

// putWhen is putThrough when the connection is as it should be.
func putWhen(t *testing.T, ready func(*testing.T, *grpc.ClientConn), target, key string) error {
	t.Helper()
	o := newOffline(t, func(o *Options) { o.MaxWait = -1 })
	defer o.Close()
	o.router.to(Route{Target: target, Node: "a"})
	link, err := o.conns.get(target)
	if err != nil {
		t.Fatal(err)
	}
	link.Connect()
	ready(t, link)
	return o.put(soon(t), &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte("some value")})
}

// settle waits until a connection is ready or has failed. One that was ready for a moment only is idle for longer than it takes to begin.
func settle(t *testing.T, link *grpc.ClientConn) {
	t.Helper()
	for {
		state := link.GetState()
		ctx, cancel := soon(t), context.CancelFunc(func() {})
		switch state {
		case connectivity.Ready, connectivity.TransientFailure:
			return
		case connectivity.Idle:
			ctx, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
		}
		changed := link.WaitForStateChange(ctx, state)
		cancel()
		if !changed {
			return
		}
	}
}

// end waits until a connection has failed, or was ready and is so no more: what is put before that is known may have been sent.
func end(t *testing.T, link *grpc.ClientConn) {
	t.Helper()
	settle(t, link)
	if link.GetState() == connectivity.Ready && !link.WaitForStateChange(soon(t), connectivity.Ready) {
		t.Fatal("the connection does not end")
	}
}

func outcomeOf(t *testing.T, err error) string {
	t.Helper()
	switch {
	case err == nil:
		return "answered"
	case NotDone(err):
		return "not done"
	case status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), OutcomeUnknown):
		return "in doubt"
	}
	t.Fatalf("neither done nor refused: %v", err)
	return ""
}

// TestAServerThatEndsInTheMiddleOfACall speaks HTTP/2 by hand and ends each way that a server can.
func TestAServerThatEndsInTheMiddleOfACall(t *testing.T) {
	for _, c := range []struct {
		name string
		// onCall is called with the stream of a call; the connection ends when it returns.
		onCall func(*rawServer, uint32)
	}{
		{"after the headers", func(*rawServer, uint32) {}},
		{"after the request", func(s *rawServer, _ uint32) { s.untilEnd() }},
		{"after the headers of the answer", func(s *rawServer, id uint32) {
			s.untilEnd()
			s.write(frameHeaders, flagEndHeaders, id, "\x88\x0f\x10\x10application/grpc") // :status 200, content-type
		}},
		{"with a reset of the stream", func(s *rawServer, id uint32) {
			s.untilEnd()
			s.write(frameReset, 0, id, "\x00\x00\x00\x02") // INTERNAL_ERROR
			s.drain()
		}},
		{"with a GOAWAY that includes the call", func(s *rawServer, id uint32) {
			s.write(frameGoAway, 0, 0, string(binary.BigEndian.AppendUint32(nil, id))+"\x00\x00\x00\x00")
			s.untilEnd()
		}},
		// In the next two gRPC tries again by itself, and does not say any more that the first try was not looked at.
		{"with a GOAWAY that excludes the call", func(s *rawServer, _ uint32) {
			s.write(frameGoAway, 0, 0, "\x00\x00\x00\x00\x00\x00\x00\x00")
			s.drain()
		}},
		{"with a refusal of the stream", func(s *rawServer, id uint32) {
			s.write(frameReset, 0, id, "\x00\x00\x00\x07") // REFUSED_STREAM
			for kind := byte(frameData); kind != frameHeaders; {
				var err error
				if kind, _, _, err = s.read(); err != nil {
					return
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startRawServer(t, c.onCall)
			err := putThrough(t, s.listener.Addr().String(), "k")
			if got := outcomeOf(t, err); got != "in doubt" {
				t.Errorf("%s: %v", got, err)
			}
			if !s.called.Load() {
				t.Error("the call did not reach the server: this proves nothing")
			}
		})
	}
	for name, onAccept := range map[string]func(*rawServer){
		"that closes before its settings": func(*rawServer) {},
		"that closes after its settings":  func(s *rawServer) { s.write(frameSettings, 0, 0, "") },
	} {
		t.Run("a server "+name, func(t *testing.T) {
			s := startRawServer(t, nil)
			s.onAccept = onAccept
			if err := putWhen(t, end, s.listener.Addr().String(), "k"); outcomeOf(t, err) != "not done" {
				t.Error(err)
			}
		})
	}
}

// Of HTTP/2 (RFC 9113, section 6).
const (
	frameData, frameHeaders, frameReset, frameSettings, frameGoAway = 0, 1, 3, 4, 7
	flagAck, flagEndStream, flagEndHeaders                          = 1, 1, 4
)

// rawServer is a server of one connection.
type rawServer struct {
	listener net.Listener
	conn     net.Conn
	called   atomic.Bool
	// onAccept, if not nil, is all that the server does; onCall is called when it has the headers of a call.
	onAccept func(*rawServer)
	onCall   func(*rawServer, uint32)
}

func startRawServer(t *testing.T, onCall func(*rawServer, uint32)) *rawServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{listener: listener, onCall: onCall}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.serve()
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
	})
	return s
}

func (s *rawServer) serve() {
	var err error
	if s.conn, err = s.listener.Accept(); err != nil {
		return
	}
	s.listener.Close()
	defer s.conn.Close()
	_ = s.conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(s.conn, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
		return
	}
	if s.onAccept != nil {
		s.onAccept(s)
		return
	}
	s.write(frameSettings, 0, 0, "")
	for {
		switch kind, flags, stream, err := s.read(); {
		case err != nil:
			return
		case kind == frameSettings && flags&flagAck == 0:
			s.write(frameSettings, flagAck, 0, "")
		case kind == frameHeaders:
			s.called.Store(true)
			s.onCall(s, stream)
			return
		}
	}
}

// write sends a frame.
func (s *rawServer) write(kind, flags byte, stream uint32, payload string) {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	head = binary.BigEndian.AppendUint32(append(head, flags), stream)
	_, _ = s.conn.Write(append(head, payload...))
}

// read receives a frame, and forgets what is in it.
func (s *rawServer) read() (kind, flags byte, stream uint32, err error) {
	var head [9]byte
	if _, err = io.ReadFull(s.conn, head[:]); err != nil {
		return 0, 0, 0, err
	}
	length := int64(binary.BigEndian.Uint32(head[:]) >> 8)
	_, err = io.CopyN(io.Discard, s.conn, length)
	return head[3], head[4], binary.BigEndian.Uint32(head[5:]), err
}

// untilEnd reads until the client has sent all of its request.
func (s *rawServer) untilEnd() {
	for {
		kind, flags, _, err := s.read()
		if err != nil || kind == frameData && flags&flagEndStream != 0 {
			return
		}
	}
}

// drain reads some frames more, or until the client closes the connection.
func (s *rawServer) drain() {
	for range 4 {
		if _, _, _, err := s.read(); err != nil {
			return
		}
	}
}
