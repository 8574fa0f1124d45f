package kineshim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

func putOp(key string) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: []byte(key)}}}
}

func rangeOp(serializable bool) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{
		RequestRange: &etcdserverpb.RangeRequest{Key: []byte("k"), Serializable: serializable}}}
}

func txnOp(r *etcdserverpb.TxnRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: r}}
}

// sample is one kind of call.
type sample struct {
	name string
	call func(context.Context, *grpc.ClientConn) error
	// what the ledger says when it was done; "": a read.
	what string
	// survives: no failover makes an error of it. proved: because it is found out what was done.
	survives, proved bool
}

func samples() []sample {
	txn := func(r *etcdserverpb.TxnRequest) func(context.Context, *grpc.ClientConn) error {
		return func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := etcdserverpb.NewKVClient(c).Txn(ctx, r)
			return err
		}
	}
	return []sample{
		{"range", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := etcdserverpb.NewKVClient(c).Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("k")})
			return err
		}, "", true, false},
		{"put", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := etcdserverpb.NewKVClient(c).Put(ctx, &etcdserverpb.PutRequest{Key: []byte("k")})
			return err
		}, "put k", true, true},
		{"delete", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := etcdserverpb.NewKVClient(c).DeleteRange(ctx, &etcdserverpb.DeleteRangeRequest{Key: []byte("k")})
			return err
		}, "delete k", true, true},
		{"txn", txn(&etcdserverpb.TxnRequest{Failure: []*etcdserverpb.RequestOp{putOp("k")}}), "txn", true, true},
		{"txn within a txn", txn(&etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{
			txnOp(&etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{putOp("k")}})}}), "txn", true, true},
		{"txn that reads", txn(&etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{rangeOp(false)}}), "", true, false},
		{"grant of a new ID", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := etcdserverpb.NewLeaseClient(c).LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{TTL: 5})
			return err
		}, "grant 0", true, false},
		{"grant", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := etcdserverpb.NewLeaseClient(c).LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{ID: 4, TTL: 5})
			return err
		}, "grant 4", false, false},
		{"revoke", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := etcdserverpb.NewLeaseClient(c).LeaseRevoke(ctx, &etcdserverpb.LeaseRevokeRequest{ID: 4})
			return err
		}, "revoke", false, false},
		{"compact", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := etcdserverpb.NewKVClient(c).Compact(ctx, &etcdserverpb.CompactionRequest{Revision: 1})
			return err
		}, "compact", false, false},
	}
}

// hangOnce lets the first call hang in its engine, done or not, and tells.
func (l *ledger) hangOnce(undone bool) <-chan struct{} {
	hangs := make(chan struct{})
	var met atomic.Bool
	l.meet(func(*ledgerEngine, string) fate {
		if met.Swap(true) {
			return fate{}
		}
		defer close(hangs)
		return fate{undone: undone, hangs: true}
	})
	return hangs
}

// TestFailoverInTheMiddleOfACall breaks each kind of call, done and not done, at the primary's client and at the standby's, with a primary that
// ends its engine and with one that falls silent.
func TestFailoverInTheMiddleOfACall(t *testing.T) {
	for _, s := range samples() {
		for _, at := range []string{"primary", "standby"} {
			for _, undone := range []bool{false, true} {
				for _, alive := range []bool{true, false} {
					if at == "primary" && !alive {
						continue // then its client is gone too
					}
					t.Run(fmt.Sprintf("%s/%s/undone=%v/alive=%v", s.name, at, undone, alive), func(t *testing.T) {
						t.Parallel()
						failoverInTheMiddle(t, s, at == "standby", undone, alive)
					})
				}
			}
		}
	}
}

func failoverInTheMiddle(t *testing.T, s sample, atStandby, undone, alive bool) {
	c := startCluster(t)
	n := c.a
	if atStandby {
		n = c.b
		// Reads, too, are to be at the primary when that happens.
		c.b.replica.set(func(r *fakeReplica) { r.lacks = s.what == "" })
	}
	if s.proved && n.replica.Position() == 0 {
		t.Fatal("nothing can be proved")
	}
	hangs := c.ledger.hangOnce(undone)
	result := make(chan error, 1)
	go func() { result <- s.call(soon(t), dial(t, n.client)) }()
	within(t, hangs)
	c.failover(c.a, c.b, alive)
	err := within(t, result)
	want := 1
	if undone && !s.survives {
		want = 0
	}
	if s.what == "grant 0" && !undone {
		want = 2
	}
	if got := c.ledger.count(s.what); s.what != "" && got != want {
		t.Errorf("done %d times, want %d: %v", got, want, c.ledger.done)
	}
	if most := c.ledger.mostOften(); most > 1 {
		t.Errorf("an attempt was done %d times", most)
	}
	unknown := n.endpoint.UnknownOutcomes()
	if s.survives {
		if err != nil || unknown != 0 {
			t.Errorf("%v, %d unknown outcomes", err, unknown)
		}
	} else if wantCode(t, err, codes.Unavailable, OutcomeUnknown); unknown != 1 {
		t.Errorf("%d unknown outcomes, want 1", unknown)
	}
	if asked := c.ledger.again; s.proved != (asked > 0) {
		t.Errorf("asked %d times for an attempt before", asked)
	}
}

func TestWithoutACopyAnUnknownOutcomeIsToldAtOnce(t *testing.T) {
	c := startCluster(t)
	c.a.replica.set(func(r *fakeReplica) { r.position = 0 })
	hangs := c.ledger.hangOnce(false)
	result := make(chan error, 1)
	go func() {
		_, err := etcdserverpb.NewKVClient(dial(t, c.a.client)).Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k")})
		result <- err
	}()
	within(t, hangs)
	c.nobody(c.a, true)
	wantCode(t, within(t, result), codes.Unavailable, OutcomeUnknown)
	if c.a.endpoint.UnknownOutcomes() != 1 || c.ledger.count("put k") != 1 {
		t.Errorf("%d unknown outcomes, %v", c.a.endpoint.UnknownOutcomes(), c.ledger.done)
	}
}

func TestAWriteThatWaitsForTheCopyTooCanBeRepeated(t *testing.T) {
	c := startCluster(t)
	c.nobody(c.a, true)
	c.b.replica.set(func(r *fakeReplica) { r.position = 0 })
	hangs := c.ledger.hangOnce(false)
	result := make(chan error, 1)
	go func() {
		_, err := etcdserverpb.NewKVClient(dial(t, c.b.client)).Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k")})
		result <- err
	}()
	eventually(t, "the put waits", func() bool {
		c.b.endpoint.room.mu.Lock()
		defer c.b.endpoint.room.mu.Unlock()
		return c.b.endpoint.room.calls == 1
	})
	c.b.replica.set(func(r *fakeReplica) { r.position = 10 })
	c.failover(c.a, c.b, true)
	within(t, hangs)
	c.failover(c.b, c.a, true)
	if err := within(t, result); err != nil || c.ledger.again != 1 || c.ledger.count("put k") != 1 {
		t.Errorf("%v; asked %d times, %v", err, c.ledger.again, c.ledger.done)
	}
}

// TestAnAttemptIsNotRepeatedWhileItMayStillBeDone: the engine says that it does not know, and goes on serving.
func TestAnAttemptIsNotRepeatedWhileItMayStillBeDone(t *testing.T) {
	for _, at := range []string{"primary", "standby"} {
		t.Run(at, func(t *testing.T) {
			c := startCluster(t, func(o *Options) { o.MaxWait = 300 * time.Millisecond })
			n := c.a
			if at == "standby" {
				n = c.b
			}
			c.ledger.meet(func(*ledgerEngine, string) fate { return fate{undone: true, err: InDoubt("lost the answer")} })
			_, err := etcdserverpb.NewKVClient(dial(t, n.client)).Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k")})
			wantCode(t, err, codes.Unavailable, "lost the answer; waited ")
			waitedAtLeast(t, err, 300*time.Millisecond)
			wantCode(t, err, codes.Unavailable, OutcomeUnknown)
			if c.ledger.again != 0 || n.endpoint.UnknownOutcomes() != 1 {
				t.Errorf("asked again %d times, %d unknown outcomes", c.ledger.again, n.endpoint.UnknownOutcomes())
			}
		})
	}
}

// TestANewEngineOfTheSameEpochProvesALocalAttempt: its engine broke and was started anew.
func TestANewEngineOfTheSameEpochProvesALocalAttempt(t *testing.T) {
	c := startCluster(t)
	hangs := c.ledger.hangOnce(false)
	result := make(chan error, 1)
	go func() {
		_, err := etcdserverpb.NewKVClient(dial(t, c.a.client)).Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k")})
		result <- err
	}()
	within(t, hangs)
	c.engage(c.a)
	if err := within(t, result); err != nil || c.ledger.again != 1 || c.ledger.count("put k") != 1 {
		t.Errorf("%v; asked %d times, %v", err, c.ledger.again, c.ledger.done)
	}
}

func TestAnAttemptThatIsInDoubtAgainIsProvedByTheNextFailover(t *testing.T) {
	c := startCluster(t)
	calls, hang := 0, make(chan struct{}, 2)
	c.ledger.meet(func(*ledgerEngine, string) fate {
		calls++ // one call at a time
		if calls <= 2 {
			hang <- struct{}{}
			return fate{hangs: true}
		}
		return fate{}
	})
	result := make(chan error, 1)
	go func() {
		_, err := etcdserverpb.NewKVClient(dial(t, c.b.client)).Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k")})
		result <- err
	}()
	within(t, hang)
	c.failover(c.a, c.b, true)
	within(t, hang)
	c.failover(c.b, c.a, true)
	if err := within(t, result); err != nil || c.ledger.again != 2 || c.ledger.count("put k") != 1 {
		t.Errorf("%v; asked %d times, %v", err, c.ledger.again, c.ledger.done)
	}
}

// TestWhatWasInDoubtStaysSoIfNobodyCanTell: proved to be over, but then nobody serves.
func TestWhatWasInDoubtStaysSoIfNobodyCanTell(t *testing.T) {
	c := startCluster(t, func(o *Options) { o.MaxWait = 500 * time.Millisecond })
	calls, second := 0, make(chan struct{})
	c.ledger.meet(func(*ledgerEngine, string) fate {
		if calls++; calls == 1 {
			return fate{err: InDoubt("lost the answer")}
		}
		defer close(second)
		c.b.gate.set(func(g *fakeGate) { g.closed = errors.New("closed again") })
		return fate{undone: true, err: Unavailable("not begun")}
	})
	result := make(chan error, 1)
	go func() {
		_, err := etcdserverpb.NewKVClient(dial(t, c.b.client)).Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k")})
		result <- err
	}()
	eventually(t, "the put was done", func() bool { return c.ledger.count("put k") == 1 })
	c.failover(c.a, c.b, true)
	within(t, second)
	err := within(t, result)
	wantCode(t, err, codes.Unavailable, OutcomeUnknown)
	if c.b.endpoint.UnknownOutcomes() != 1 {
		t.Errorf("%v, %d unknown outcomes", err, c.b.endpoint.UnknownOutcomes())
	}
}

func TestAnAnswerIsHeldUntilTheGateLetsItOut(t *testing.T) {
	for _, at := range []string{"primary", "standby"} {
		for _, ends := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/ends=%v", at, ends), func(t *testing.T) {
				c := startCluster(t)
				n := c.a
				if at == "standby" {
					n = c.b
				}
				met := make(chan struct{}, 9)
				c.ledger.meet(func(e *ledgerEngine, _ string) fate {
					if e.node == "a" {
						c.a.gate.set(func(g *fakeGate) { g.check = errors.New("no contact to a majority") })
					}
					met <- struct{}{}
					return fate{}
				})
				result := make(chan error, 1)
				go func() {
					_, err := etcdserverpb.NewKVClient(dial(t, n.client)).Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k")})
					result <- err
				}()
				within(t, met)
				select {
				case err := <-result:
					t.Fatalf("answered behind the gate's back: %v", err)
				case <-time.After(50 * time.Millisecond): // nothing to poll for: the answer must not come
				}
				if ends {
					c.failover(c.a, c.b, true)
				} else {
					c.a.gate.set(func(g *fakeGate) { g.check = nil })
				}
				if err := within(t, result); err != nil || c.ledger.count("put k") != 1 || (c.ledger.again == 1) != ends {
					t.Errorf("%v; asked %d times, %v", err, c.ledger.again, c.ledger.done)
				}
			})
		}
	}
}

func TestReadsAreRepeatedWhateverTheirOutcome(t *testing.T) {
	for _, at := range []string{"primary", "standby"} {
		t.Run(at, func(t *testing.T) {
			c := startCluster(t)
			n := c.a
			if at == "standby" {
				n = c.b
				c.b.replica.set(func(r *fakeReplica) { r.lacks = true })
			}
			var calls atomic.Int64
			c.ledger.meet(func(*ledgerEngine, string) fate {
				switch calls.Add(1) {
				case 1:
					return fate{err: Unavailable("not done")}
				case 2:
					return fate{err: InDoubt("who knows")}
				case 3:
					return fate{err: errors.New("read unix @->/s: connection reset by peer")}
				}
				return fate{}
			})
			_, err := etcdserverpb.NewKVClient(dial(t, n.client)).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
			if err != nil || calls.Load() != 4 || n.endpoint.UnknownOutcomes() != 0 {
				t.Errorf("%v after %d calls, %d unknown outcomes", err, calls.Load(), n.endpoint.UnknownOutcomes())
			}
		})
	}
}

func TestPrimaryOfAnotherEpochIsNotAsked(t *testing.T) {
	c := startCluster(t, func(o *Options) { o.MaxWait = 300 * time.Millisecond })
	c.b.follow(t, Route{Target: c.a.peer, Node: "a", Epoch: 6})
	conn := dial(t, c.b.client)
	_, err := etcdserverpb.NewKVClient(conn).Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k")})
	wantCode(t, err, codes.Unavailable, errOtherEpoch.Error())
	if strings.Contains(err.Error(), OutcomeUnknown) {
		t.Errorf("what was refused may have been done: %v", err)
	}
	_, err = etcdserverpb.NewKVClient(conn).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
	wantCode(t, err, codes.Unavailable, errOtherEpoch.Error())
	watch, err := etcdserverpb.NewWatchClient(dial(t, c.a.peer)).Watch(metadata.AppendToOutgoingContext(soon(t), epochMetadata, "6"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = watch.Recv()
	wantCode(t, err, codes.Unavailable, errOtherEpoch.Error())
	if len(watch.Trailer().Get(notDoneKey)) == 0 {
		t.Errorf("a watch was refused with %v", watch.Trailer())
	}
	if len(c.ledger.done) != 0 || c.b.endpoint.UnknownOutcomes() != 0 {
		t.Errorf("done: %v; %d unknown outcomes", c.ledger.done, c.b.endpoint.UnknownOutcomes())
	}
}

func TestAClientCannotForgeAnAttempt(t *testing.T) {
	c := startCluster(t)
	ctx := metadata.AppendToOutgoingContext(soon(t), epochMetadata, "99", attemptMetadata, "5", attemptMetadata, "1", attemptMetadata, "true")
	for _, n := range []*node{c.a, c.b} {
		n.replica.set(func(r *fakeReplica) { r.position = 0 }) // so that the node makes no attempt of its own
		_, err := etcdserverpb.NewKVClient(dial(t, n.client)).Put(ctx, &etcdserverpb.PutRequest{Key: []byte("k")})
		if err != nil || c.ledger.again != 0 {
			t.Errorf("%v, asked %d times", err, c.ledger.again)
		}
	}
}
