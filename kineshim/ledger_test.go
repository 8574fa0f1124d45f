package kineshim

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// ledger is what the engines of all nodes have done: the table.
type ledger struct {
	mu       sync.Mutex     // guards the fields below
	done     map[string]int // what was done, and how often
	attempts map[int64]int
	again    int   // attempts that were made again
	revision int64 // of the last change
	// meeting, see meet.
	meeting func(e *ledgerEngine, what string) fate
}

// meet has f called, without the lock, by each call before it does anything. What it returns is how the call ends.
func (l *ledger) meet(f func(e *ledgerEngine, what string) fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.meeting = f
}

// fate is how a call ends.
type fate struct {
	// undone: it does nothing. hangs: it is not answered before its engine is closed, and the outcome is not known then.
	undone, hangs bool
	// err is its answer, if not nil.
	err error
}

func newLedger() *ledger {
	return &ledger{done: map[string]int{}, attempts: map[int64]int{}, revision: 1}
}

func (l *ledger) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done[what]
}

// mostOften is how often the attempt was done that was done most often.
func (l *ledger) mostOften() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for v := range maps.Values(l.attempts) {
		n = max(n, v)
	}
	return n
}

func (l *ledger) now() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revision
}

// ledgerEngine is an engine that writes down what it does. Its calls run in the goroutines of their requests, like the native engine's.
type ledgerEngine struct {
	*fakeEngine
	l      *ledger
	node   string
	closed chan struct{}
	once   sync.Once
	asked  atomic.Int64 // questions for the revision
	// onRevision is called after the revision was looked up, before it is returned.
	onRevision func()
}

var _ InlineEngine = (*ledgerEngine)(nil)

func (e *ledgerEngine) Inline() {}

func (e *ledgerEngine) Close() error {
	e.once.Do(func() { close(e.closed) })
	return nil
}

func (e *ledgerEngine) Revision() int64 {
	e.asked.Add(1)
	r := e.l.now()
	if e.onRevision != nil {
		e.onRevision()
	}
	return r
}

func (e *ledgerEngine) header() *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{Revision: e.l.now()}
}

// run does one call.
func (e *ledgerEngine) run(ctx context.Context, what string, changes bool) error {
	select {
	case <-e.closed:
		return Unavailable("the engine is closed")
	default:
	}
	var f fate
	e.l.mu.Lock()
	meeting := e.l.meeting
	if a, _ := AttemptOf(ctx); a.Again {
		e.l.again++
	}
	e.l.mu.Unlock()
	if meeting != nil {
		f = meeting(e, what)
	}
	if !f.undone {
		e.l.do(ctx, what, changes)
	}
	select {
	case <-e.closed:
		return InDoubt("the engine was closed")
	default:
	}
	if !f.hangs {
		return f.err
	}
	select {
	case <-e.closed:
		return InDoubt("the engine was closed")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *ledger) do(ctx context.Context, what string, changes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a, ok := AttemptOf(ctx); ok {
		if a.Again && l.attempts[a.ID] > 0 {
			return // it has been done
		}
		l.attempts[a.ID]++
	}
	l.done[what]++
	if changes {
		l.revision++
	}
}

func (e *ledgerEngine) Range(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if err := e.run(ctx, "range", false); err != nil {
		return nil, err
	}
	return &etcdserverpb.RangeResponse{Header: e.header(), Kvs: []*mvccpb.KeyValue{{Key: r.Key, Value: []byte(e.node)}}}, nil
}

func (e *ledgerEngine) Put(ctx context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if err := e.run(ctx, "put "+string(r.Key), true); err != nil {
		return nil, err
	}
	return &etcdserverpb.PutResponse{Header: e.header()}, nil
}

func (e *ledgerEngine) DeleteRange(ctx context.Context, r *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error) {
	if err := e.run(ctx, "delete "+string(r.Key), true); err != nil {
		return nil, err
	}
	return &etcdserverpb.DeleteRangeResponse{Header: e.header()}, nil
}

func (e *ledgerEngine) Txn(ctx context.Context, r *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	if err := e.run(ctx, "txn", changes(r)); err != nil {
		return nil, err
	}
	return &etcdserverpb.TxnResponse{Header: e.header()}, nil
}

func (e *ledgerEngine) Compact(ctx context.Context, _ *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error) {
	if err := e.run(ctx, "compact", false); err != nil {
		return nil, err
	}
	return &etcdserverpb.CompactionResponse{Header: e.header()}, nil
}

func (e *ledgerEngine) LeaseGrant(ctx context.Context, r *etcdserverpb.LeaseGrantRequest) (*etcdserverpb.LeaseGrantResponse, error) {
	if err := e.run(ctx, fmt.Sprint("grant ", r.ID), false); err != nil {
		return nil, err
	}
	return &etcdserverpb.LeaseGrantResponse{Header: e.header(), ID: 1, TTL: r.TTL}, nil
}

func (e *ledgerEngine) LeaseRevoke(ctx context.Context, _ *etcdserverpb.LeaseRevokeRequest) (*etcdserverpb.LeaseRevokeResponse, error) {
	if err := e.run(ctx, "revoke", true); err != nil {
		return nil, err
	}
	return &etcdserverpb.LeaseRevokeResponse{Header: e.header()}, nil
}

// LeaseKeepAlive answers each message with the number of the node's letter as its TTL.
func (e *ledgerEngine) LeaseKeepAlive(s etcdserverpb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		if err := e.run(s.Context(), fmt.Sprint("renew ", r.ID), false); err != nil {
			return err
		}
		response := &etcdserverpb.LeaseKeepAliveResponse{Header: e.header(), ID: r.ID, TTL: int64(e.node[0])}
		if err := s.Send(response); err != nil {
			return err
		}
	}
}

// fakeReplica is a copy that tests move.
type fakeReplica struct {
	mu       sync.Mutex // guards the fields below
	position int64
	revision int64
	lacks    bool // it cannot tell
	changed  chan struct{}
	onWatch  func(etcdserverpb.Watch_WatchServer) error
}

var _ Replica = (*fakeReplica)(nil)

func newFakeReplica() *fakeReplica {
	return &fakeReplica{position: 10, revision: 1 << 40, changed: make(chan struct{})}
}

func (r *fakeReplica) set(change func(*fakeReplica)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
	close(r.changed)
	r.changed = make(chan struct{})
}

// reach waits for a revision.
func (r *fakeReplica) reach(ctx context.Context, atLeast int64) (int64, error) {
	for {
		r.mu.Lock()
		revision, lacks, changed := r.revision, r.lacks, r.changed
		r.mu.Unlock()
		if lacks {
			return 0, fmt.Errorf("fake: %w", ErrNotHere)
		}
		if revision >= atLeast {
			return revision, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Range answers with the value "copy" and atLeast as the count.
func (r *fakeReplica) Range(ctx context.Context, q *etcdserverpb.RangeRequest, atLeast int64) (*etcdserverpb.RangeResponse, error) {
	revision, err := r.reach(ctx, atLeast)
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: revision}, Count: atLeast,
		Kvs: []*mvccpb.KeyValue{{Key: q.Key, Value: []byte("copy")}}}, nil
}

func (r *fakeReplica) Txn(ctx context.Context, q *etcdserverpb.TxnRequest, atLeast int64) (*etcdserverpb.TxnResponse, error) {
	if changes(q) {
		return nil, ErrNotHere
	}
	revision, err := r.reach(ctx, atLeast)
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.TxnResponse{Header: &etcdserverpb.ResponseHeader{Revision: revision}}, nil
}

func (r *fakeReplica) Watch(s etcdserverpb.Watch_WatchServer) error {
	r.mu.Lock()
	lacks := r.lacks
	r.mu.Unlock()
	if lacks {
		return ErrNotHere
	}
	return r.onWatch(s)
}

// Permit permits everything.
func (r *fakeReplica) Permit(context.Context, any, AccessPoint) error { return nil }

// Guarded: nobody needs permission.
func (r *fakeReplica) Guarded() bool { return false }

func (r *fakeReplica) Position() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lacks {
		return 0
	}
	return r.position
}

// cluster is two nodes with copies and one table.
type cluster struct {
	t      *testing.T
	ledger *ledger
	epoch  uint64
	a, b   *node
}

// startCluster starts a cluster whose primary is a. Requests wait for up to the test's patience.
func startCluster(t *testing.T, change ...func(*Options)) *cluster {
	t.Helper()
	c := &cluster{t: t, ledger: newLedger(), epoch: 7}
	c.a, c.b = c.startNode("a", change), c.startNode("b", change)
	c.engage(c.a)
	c.direct(c.a, c.b)
	return c
}

func (c *cluster) startNode(name string, change []func(*Options)) *node {
	c.t.Helper()
	replica := newFakeReplica()
	n := startNode(c.t, name, append([]func(*Options){func(o *Options) {
		o.MaxWait = patience
		o.Replica = replica
		o.Engine = func(context.Context, Session) (Engine, error) {
			return &ledgerEngine{fakeEngine: newFakeEngine(), l: c.ledger, node: name, closed: make(chan struct{})}, nil
		}
	}}, change...)...)
	n.replica = replica
	return n
}

// engage gives a node an engine in the current epoch and opens its gate.
func (c *cluster) engage(n *node) {
	c.t.Helper()
	if err := n.endpoint.StartEngine(c.t.Context(), Session{Epoch: c.epoch, Generation: 1}); err != nil {
		c.t.Fatal(err)
	}
	n.gate.set(func(g *fakeGate) { g.token, g.closed = Token{Epoch: c.epoch, Generation: 1}, nil })
}

// direct routes both nodes to the primary.
func (c *cluster) direct(primary, standby *node) {
	primary.router.to(Route{Local: true, Node: primary.name(), Epoch: c.epoch})
	standby.router.to(Route{Target: primary.peer, Node: primary.name(), Epoch: c.epoch})
}

// nobody takes the role from the primary of an epoch. If it is alive it ends its engine.
func (c *cluster) nobody(primary *node, alive bool) {
	primary.gate.set(func(g *fakeGate) { g.closed = &ClosedError{Why: "not the primary"} })
	for _, n := range []*node{c.a, c.b} {
		n.router.to(Route{Why: "electing"})
	}
	if !alive {
		return
	}
	begun := time.Now()
	primary.endpoint.StopEngine()
	if took := time.Since(begun); took > drainBound/2 {
		c.t.Errorf("the engine was stopped after %v", took)
	}
}

// failover makes the standby the primary of the next epoch.
func (c *cluster) failover(from, to *node, alive bool) {
	c.t.Helper()
	c.nobody(from, alive)
	c.epoch++
	c.engage(to)
	c.direct(to, from)
}

func (n *node) name() string { return n.endpoint.opt.Node }

// within fails the test if a call takes longer than the test's patience.
func within[R any](t *testing.T, result <-chan R) R {
	t.Helper()
	select {
	case r := <-result:
		return r
	case <-time.After(2 * patience):
		t.Fatal("it takes too long")
		panic("not reached")
	}
}
