package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kineshim/integration/pgtest"
	"kineshim/kineshim"
	"kineshim/kineshim/lease"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// leaseStream is a client's stream of keep-alives.
type leaseStream struct {
	grpc.ServerStream
	ctx  context.Context
	in   chan int64 // closed by the client's end
	out  chan *pb.LeaseKeepAliveResponse
	fail error // of Send
}

func newLeaseStream(ctx context.Context) *leaseStream {
	return &leaseStream{ctx: ctx, in: make(chan int64, 4096), out: make(chan *pb.LeaseKeepAliveResponse, 4096)}
}

func (s *leaseStream) Context() context.Context { return s.ctx }

func (s *leaseStream) Send(r *pb.LeaseKeepAliveResponse) error {
	if s.fail == nil {
		s.out <- r
	}
	return s.fail
}

func (s *leaseStream) Recv() (*pb.LeaseKeepAliveRequest, error) {
	select {
	case id, ok := <-s.in:
		if !ok {
			return nil, io.EOF
		}
		return &pb.LeaseKeepAliveRequest{ID: id}, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func keepAliveAnswer(id int64) *pb.LeaseKeepAliveResponse {
	return &pb.LeaseKeepAliveResponse{ID: id, TTL: 10}
}

func TestKeepAlivesAreAnsweredInOrderThoughTheFirstIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLeaseStream(t.Context())
		slow := make(chan struct{})
		var mu sync.Mutex
		renewed := 0
		for id := range int64(100) {
			s.in <- id
		}
		close(s.in)
		ended := make(chan error, 1)
		go func() {
			ended <- serveKeepAlives(s, func(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
				if id == 0 {
					<-slow
				}
				mu.Lock()
				defer mu.Unlock()
				renewed++
				return keepAliveAnswer(id), nil
			})
		}()
		synctest.Wait()
		if renewed != 99 || len(s.out) != 0 {
			t.Errorf("with the first pending: %d renewed, %d answered", renewed, len(s.out))
		}
		close(slow)
		if err := <-ended; err != nil {
			t.Errorf("the client has closed its side: %v", err)
		}
		for id := range int64(100) {
			if r := <-s.out; r.ID != id {
				t.Fatalf("answer to %d in place of %d", r.ID, id)
			}
		}
	})
}

func TestKeepAlivesOnTheirWayAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := newLeaseStream(ctx)
		for id := range int64(2 * maxKeepAlives) {
			s.in <- id
		}
		var mu sync.Mutex
		running := 0
		ended := make(chan error, 1)
		go func() {
			ended <- serveKeepAlives(s, func(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
				mu.Lock()
				running++
				mu.Unlock()
				<-ctx.Done() // as submit does while a commit hangs
				mu.Lock()
				running--
				mu.Unlock()
				return nil, ctx.Err()
			})
		}()
		synctest.Wait()
		if running != maxKeepAlives {
			t.Errorf("%d on their way, want %d", running, maxKeepAlives)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the stream's end: %v", err)
		}
		if running != 0 {
			t.Errorf("%d keep-alives outlive their stream", running)
		}
	})
}

func TestFailedKeepAliveEndsTheStreamAfterTheAnswersBefore(t *testing.T) {
	broken := errors.New("broken")
	for name, sendFails := range map[string]bool{"renewal": false, "send": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel() // as gRPC does when the handler has returned
				s := newLeaseStream(ctx)
				want := 2
				if sendFails {
					s.fail, want = broken, 0
				}
				for id := range int64(5) { // and the client's side stays open
					s.in <- id
				}
				err := serveKeepAlives(s, func(_ context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
					if id == 2 {
						return nil, broken
					}
					return keepAliveAnswer(id), nil
				})
				if err != broken || len(s.out) != want {
					t.Errorf("%v after %d answers, want %d", err, len(s.out), want)
				}
			})
		})
	}
}

// leaseEngine is an engine on a database of its own, whose lease clock can be moved.
type leaseEngine struct {
	*Engine
	session kineshim.Session
	skew    time.Duration // guarded by the clock's mutex
}

func startLeaseEngine(t *testing.T, pg *pgtest.Server, database string) *leaseEngine {
	t.Helper()
	if err := pg.CreateDatabase(database); err != nil {
		t.Fatal(err)
	}
	e := &leaseEngine{session: kineshim.Session{
		SocketDir: pg.Dir, Port: pgtest.Port, DSN: func(dir string) string { return pg.DSNAt(database, dir) },
	}}
	e.open(t)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *leaseEngine) open(t *testing.T) {
	t.Helper()
	opened, err := Open(t.Context(), Config{}, e.session)
	if err != nil {
		t.Fatal(err)
	}
	e.Engine = opened
	e.clock.mu.Lock()
	defer e.clock.mu.Unlock()
	e.skew = 0
	e.clock.boot = func() time.Duration { return bootTime() + e.skew }
}

// reopen replaces the engine by another one on the same table.
func (e *leaseEngine) reopen(t *testing.T) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e.open(t)
}

// pass lets time pass on the lease clock as it does while the engine serves.
func (e *leaseEngine) pass(d time.Duration) {
	for ; d > 0; d -= time.Second {
		e.clock.mu.Lock()
		e.skew += min(d, time.Second)
		e.clock.mu.Unlock()
		e.clock.confirm()
	}
}

func (e *leaseEngine) grant(t *testing.T, id, ttl int64) *pb.LeaseGrantResponse {
	t.Helper()
	r, err := e.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (e *leaseEngine) putKey(t *testing.T, key string, id int64) int64 {
	t.Helper()
	r, err := e.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte("v"), Lease: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

// left lists the keys that are left, and their revision.
func (e *leaseEngine) left(t *testing.T) ([]string, int64) {
	t.Helper()
	r, err := e.Range(t.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, kv := range r.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys, r.Header.Revision
}

func (e *leaseEngine) timeToLive(t *testing.T, id int64) *pb.LeaseTimeToLiveResponse {
	t.Helper()
	r, err := e.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// keepAlives sends keep-alives on a stream of their own and returns the TTLs answered.
func (e *leaseEngine) keepAlives(t *testing.T, ids ...int64) []int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := newLeaseStream(ctx)
	for _, id := range ids {
		s.in <- id
	}
	close(s.in)
	if err := e.LeaseKeepAlive(s); err != nil {
		t.Fatal(err)
	}
	close(s.out)
	var ttls []int64
	for r := range s.out {
		if r.ID != ids[len(ttls)] || r.Header.GetRevision() == 0 {
			t.Errorf("answer to %d: %v", ids[len(ttls)], r)
		}
		ttls = append(ttls, r.TTL)
	}
	return ttls
}

func TestLeasesOfAnEngine(t *testing.T) {
	pg := pgtest.New(t)
	for name, test := range map[string]func(*testing.T, *leaseEngine){
		"answers_as_etcd":        answersAsEtcd,
		"revoked_as_one":         revokedAsOneRevision,
		"expires_with_its_keys":  expiresWithItsKeys,
		"keeps_its_time":         keepsItsTimeInTheNextEngine,
		"renewal_is_durable":     renewalIsDurable,
		"key_leaves_its_lease":   keyLeavesItsLease,
		"renewal_of_the_expired": renewalOfTheExpiredRevokes,
	} {
		t.Run(name, func(t *testing.T) { test(t, startLeaseEngine(t, pg, name)) })
	}
}

func answersAsEtcd(t *testing.T, e *leaseEngine) {
	if r := e.grant(t, 0, 10); r.ID <= 0 || r.TTL != 10 || r.Header.Revision != 1 {
		t.Errorf("fresh: %v", r)
	}
	if r := e.grant(t, 5, -3); r.ID != 5 || r.TTL != 2 {
		t.Errorf("raised: %v", r)
	}
	grant := func(id, ttl int64) error {
		_, err := e.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		return err
	}
	if err := grant(5, 10); !errors.Is(err, rpctypes.ErrGRPCLeaseExist) {
		t.Errorf("grant twice: %v", err)
	}
	if err := grant(6, lease.MaxTTL+1); !errors.Is(err, rpctypes.ErrGRPCLeaseTTLTooLarge) {
		t.Errorf("grant for too long: %v", err)
	}
	if _, err := e.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 6}); !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		t.Errorf("revoke what is not there: %v", err)
	}
	if r := e.timeToLive(t, 6); r.ID != 6 || r.TTL != -1 || r.GrantedTTL != 0 || r.Header.Revision != 1 {
		t.Errorf("time to live of what is not there: %v", r)
	}
	if ttls := e.keepAlives(t, 6, 5, 6, 5); !slices.Equal(ttls, []int64{0, 2, 0, 2}) {
		t.Errorf("keep-alives: %v", ttls)
	}
	e.grant(t, 7, 3600)
	e.putKey(t, "b", 7)
	e.putKey(t, "a", 7)
	r := e.timeToLive(t, 7)
	if r.TTL < 3590 || r.TTL >= 3600 || r.GrantedTTL != 3600 || r.Header.Revision != 3 {
		t.Errorf("time to live: %v", r)
	}
	if keys := fmt.Sprintf("%s", r.Keys); keys != "[a b]" {
		t.Errorf("its keys: %s", keys)
	}
	all, err := e.LeaseLeases(t.Context(), &pb.LeaseLeasesRequest{})
	if err != nil || len(all.Leases) < 2 || all.Leases[len(all.Leases)-1].ID != 7 || all.Header.Revision != 3 {
		t.Errorf("leases: %v, %v", all, err)
	}
}

func revokedAsOneRevision(t *testing.T, e *leaseEngine) {
	e.grant(t, 1, 100)
	for _, key := range []string{"c", "a", "b"} {
		e.putKey(t, key, 1)
	}
	before := e.putKey(t, "d", 0)
	r, err := e.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 1})
	if err != nil || r.Header.Revision != before+1 {
		t.Fatalf("revoke: %v, %v", r, err)
	}
	for range 2 {
		if keys, revision := e.left(t); !slices.Equal(keys, []string{"d"}) || revision != before+1 {
			t.Errorf("left: %q at %d", keys, revision)
		}
		if r := e.timeToLive(t, 1); r.TTL != -1 {
			t.Errorf("time to live: %v", r)
		}
		e.reopen(t)
	}
}

func expiresWithItsKeys(t *testing.T, e *leaseEngine) {
	e.grant(t, 1, 100)
	e.grant(t, 2, 200)
	e.putKey(t, "a", 1)
	before := e.putKey(t, "b", 2)
	e.pass(98 * time.Second)
	if keys, revision := e.left(t); !slices.Equal(keys, []string{"a", "b"}) || revision != before {
		t.Errorf("left before the time: %q at %d", keys, revision)
	}
	e.pass(3 * time.Second)
	for deadline := time.Now().Add(10 * time.Second); e.committed() == before && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if keys, revision := e.left(t); !slices.Equal(keys, []string{"b"}) || revision != before+1 {
		t.Errorf("left after the time: %q at %d", keys, revision)
	}
}

func keepsItsTimeInTheNextEngine(t *testing.T, e *leaseEngine) {
	e.grant(t, 1, 100)
	e.putKey(t, "a", 1)
	e.pass(40 * time.Second)
	e.grant(t, 2, 100) // which stores the clock
	e.reopen(t)
	if r := e.timeToLive(t, 1); r.TTL < 55 || r.TTL > 60 || r.GrantedTTL != 100 || fmt.Sprintf("%s", r.Keys) != "[a]" {
		t.Errorf("after 40 s: %v", r)
	}
	if r := e.timeToLive(t, 2); r.TTL < 95 || r.TTL > 100 {
		t.Errorf("the other: %v", r)
	}
}

func renewalIsDurable(t *testing.T, e *leaseEngine) {
	e.grant(t, 1, 100)
	e.pass(90 * time.Second)
	ids := slices.Repeat([]int64{1, 9}, 500) // more than are on their way at a time, and many of one lease in one batch
	if ttls := e.keepAlives(t, ids...); !slices.Equal(ttls, slices.Repeat([]int64{100, 0}, 500)) {
		t.Errorf("keep-alives: %v", ttls)
	}
	e.reopen(t)
	if r := e.timeToLive(t, 1); r.TTL < 95 || r.TTL > 100 {
		t.Errorf("after the renewal: %v", r)
	}
}

func keyLeavesItsLease(t *testing.T, e *leaseEngine) {
	e.grant(t, 1, 100)
	e.grant(t, 2, 100)
	for _, key := range []string{"moved", "freed", "deleted", "kept"} {
		e.putKey(t, key, 1)
	}
	e.putKey(t, "moved", 2)
	e.putKey(t, "freed", 0)
	if _, err := e.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("deleted")}); err != nil {
		t.Fatal(err)
	}
	e.reopen(t)
	if r := e.timeToLive(t, 1); fmt.Sprintf("%s", r.Keys) != "[kept]" {
		t.Errorf("keys: %s", r.Keys)
	}
	if _, err := e.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	if keys, _ := e.left(t); !slices.Equal(keys, []string{"freed", "moved"}) {
		t.Errorf("left: %q", keys)
	}
}

func renewalOfTheExpiredRevokes(t *testing.T, e *leaseEngine) {
	e.grant(t, 1, 100)
	before := e.putKey(t, "a", 1)
	e.pass(101 * time.Second)
	if ttls := e.keepAlives(t, 1); !slices.Equal(ttls, []int64{0}) {
		t.Errorf("keep-alive: %v", ttls)
	}
	if keys, revision := e.left(t); len(keys) != 0 || revision != before+1 {
		t.Errorf("left when the client has read TTL 0: %q at %d", keys, revision)
	}
}
