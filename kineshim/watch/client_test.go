package watch

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// answerBound is how long a client waits before the test fails.
const answerBound = 10 * time.Second

// server serves the watches of one hub after the other, over gRPC.
type server struct {
	pb.UnimplementedWatchServer
	t        *testing.T
	store    *store
	hub      atomic.Pointer[Hub]
	mu       sync.Mutex // held while publishing and while the hub is replaced
	listener *bufconn.Listener
}

func (s *server) Watch(stream pb.Watch_WatchServer) error { return s.hub.Load().Serve(stream) }

func newServer(t *testing.T) *server {
	s := &server{t: t, store: newStore(), listener: bufconn.Listen(1 << 20)}
	s.replace()
	g := grpc.NewServer()
	pb.RegisterWatchServer(g, s)
	served := make(chan error, 1)
	go func() { served <- g.Serve(s.listener) }()
	t.Cleanup(func() {
		s.hub.Load().Close()
		g.Stop()
		<-served
		if n := s.hub.Load().running; n != 0 {
			t.Errorf("%d goroutines are left", n)
		}
	})
	return s
}

// replace closes the hub and begins with a new one, whose ring is empty.
func (s *server) replace() {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := NewHub(Config{Source: s.store, Revision: s.store.revision, PendingBytes: 20_000, RingBytes: 100_000})
	if old := s.hub.Swap(h); old != nil {
		old.Close()
	}
}

func (s *server) publish(ops ...op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hub.Load().Publish([]Commit{s.store.commit(ops...)}, s.store.revision)
}

func (s *server) dial() (grpc.DialOption, grpc.DialOption) {
	dialer := func(ctx context.Context, _ string) (net.Conn, error) { return s.listener.DialContext(ctx) }
	return grpc.WithContextDialer(dialer), grpc.WithTransportCredentials(insecure.NewCredentials())
}

func (s *server) client() *clientv3.Client {
	dial, insecure := s.dial()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"passthrough:///watch"}, DialOptions: []grpc.DialOption{dial, insecure}, Logger: zap.NewNop(),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// next is the next response, which must come in time.
func next(t *testing.T, w clientv3.WatchChan) clientv3.WatchResponse {
	t.Helper()
	select {
	case r, ok := <-w:
		if !ok {
			t.Fatal("the watch has ended")
		}
		return r
	case <-time.After(answerBound):
		t.Fatal("there is no response")
	}
	panic("not reached")
}

// created waits for a watch's creation.
func created(t *testing.T, w clientv3.WatchChan) int64 {
	t.Helper()
	r := next(t, w)
	if !r.Created {
		t.Fatalf("got %+v, want created", r)
	}
	return r.Header.Revision
}

func TestClientFollowsEventsAndProgress(t *testing.T) {
	s := newServer(t)
	c := s.client()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	live := c.Watch(ctx, "a", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	other := c.Watch(ctx, "b", clientv3.WithCreatedNotify())
	created(t, live)
	created(t, other)
	s.publish(put("a1", "1"), put("c", "1"))
	s.publish(put("a1", "2"))
	s.publish(del("a1"))
	var got []string
	for len(got) < 3 {
		for _, e := range next(t, live).Events {
			text := fmt.Sprintf("%s %d", e.Type, e.Kv.ModRevision)
			if e.PrevKv != nil {
				text += " after " + string(e.PrevKv.Value)
			}
			got = append(got, text)
		}
	}
	if want := []string{"PUT 2", "PUT 3 after 1", "DELETE 4 after 2"}; lines(got) != lines(want) {
		t.Errorf("got %q, want %q", got, want)
	}
	s.publish(put("z", "1"))
	if err := c.RequestProgress(ctx); err != nil {
		t.Fatal(err)
	}
	for _, w := range []clientv3.WatchChan{live, other} {
		if r := next(t, w); !r.IsProgressNotify() || r.Header.Revision != 5 {
			t.Errorf("got %+v, want progress 5", r)
		}
	}
	past := c.Watch(ctx, "a1", clientv3.WithRev(3), clientv3.WithFilterPut())
	if r := next(t, past); len(r.Events) != 1 || r.Events[0].Kv.ModRevision != 4 || r.Events[0].PrevKv != nil {
		t.Errorf("got %+v, want the deletion", r)
	}
}

func TestClientHearsOfCompactionAndOfRefusal(t *testing.T) {
	s := newServer(t)
	c := s.client()
	for range 5 {
		s.publish(put("a", "1"))
	}
	s.store.compact(4)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := next(t, c.Watch(ctx, "a", clientv3.WithRev(3)))
	if r.CompactRevision != 4 || r.Err() != rpctypes.ErrCompacted {
		t.Errorf("got %+v with error %v", r, r.Err())
	}
	if r := next(t, c.Watch(ctx, "a", clientv3.WithRev(4))); len(r.Events) == 0 || r.Events[0].Kv.ModRevision != 4 {
		t.Errorf("got %+v", r)
	}
	r = next(t, c.Watch(ctx, "b", clientv3.WithRange("a")))
	if !r.Canceled || r.Err() == nil || r.Err().Error() != "mvcc: watcher range is empty" {
		t.Errorf("got %+v with error %v", r, r.Err())
	}
}

func TestClientResumesWithoutGapOrDuplicateWhenTheHubIsReplaced(t *testing.T) {
	const n = 2000
	s := newServer(t)
	c := s.client()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var watches []clientv3.WatchChan
	for i := range 6 {
		opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithPrevKV()}
		if i%2 == 0 {
			opts = append(opts, clientv3.WithFragment(), clientv3.WithProgressNotify())
		}
		w := c.Watch(clientv3.WithRequireLeader(ctx), "a", opts...)
		created(t, w)
		watches = append(watches, w)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			s.publish(put(fmt.Sprint("a", i%7), fmt.Sprint(i)))
			switch {
			case i%500 == 250:
				s.replace()
			case i%20 == 0:
				_ = c.RequestProgress(clientv3.WithRequireLeader(ctx))
			}
		}
	}()
	for i, w := range watches {
		last := int64(1)
		for last < n+1 {
			r := next(t, w)
			if err := r.Err(); err != nil {
				t.Fatal(err)
			}
			for _, e := range r.Events {
				if e.Kv.ModRevision != last+1 {
					t.Fatalf("watch %d: revision %d after %d", i, e.Kv.ModRevision, last)
				}
				if e.PrevKv == nil && !e.IsCreate() {
					t.Fatalf("watch %d: no previous value at %d", i, e.Kv.ModRevision)
				}
				last = e.Kv.ModRevision
			}
			if r.IsProgressNotify() && r.Header.Revision > last {
				t.Fatalf("watch %d: progress %d after event %d", i, r.Header.Revision, last)
			}
		}
	}
	<-done
}

func TestStreamWhoseClientDoesNotReadEndsWithTheHub(t *testing.T) {
	s := newServer(t)
	dial, insecure := s.dial()
	conn, err := grpc.NewClient("passthrough:///watch", dial, insecure)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: prefix("a", 0)}}
	if err := stream.Send(create); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || !r.Created {
		t.Fatal(r, err)
	}
	for range 100 {
		s.publish(put("a", string(make([]byte, 100_000))))
	}
	start := time.Now()
	s.replace()
	if d := time.Since(start); d > closeWait/2 {
		t.Errorf("closing took %s", d)
	}
	for {
		if _, err := stream.Recv(); err != nil {
			break
		}
	}
}
