package failover

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/postgres"
	"kineshim/pki"
	pb "kineshim/proto"
	"kineshim/raftwitness/record"

	"google.golang.org/grpc"
)

var threeMembers = []record.Member{
	{Name: "a", ServerID: "a-1", Role: record.Data},
	{Name: "b", ServerID: "b-1", Role: record.Data},
	{Name: "w", ServerID: "w-1", Role: record.Witness},
}

// records made by real commands.
func recordAfter(commands ...record.Command) *record.Record {
	var r record.Record
	for _, c := range append([]record.Command{
		{Kind: record.Init, By: "a", Node: "a", ClusterID: "c", SystemID: 7, Members: threeMembers},
		{Kind: record.Timeline, By: "a", Timeline: 2, SwitchLSN: 100},
	}, commands...) {
		c.Epoch = r.Epoch
		next, err := r.Apply(c)
		if err != nil {
			panic(err)
		}
		r = next
	}
	return &r
}

func soloRecord() *record.Record { return recordAfter() }

func pairedRecord() *record.Record {
	return recordAfter(record.Command{Kind: record.Pair, By: "a", Node: "b", Timeline: 2})
}

// failedOver is epoch 2 under b.
func failedOver() *record.Record {
	return recordAfter(record.Command{Kind: record.Pair, By: "a", Node: "b", Timeline: 2},
		record.Command{Kind: record.Promote, By: "b", Node: "b", Timeline: 2}, record.Command{Kind: record.Timeline, By: "b", Timeline: 3, SwitchLSN: 200})
}

// fakeStore is a voter that does what the test says.
type fakeStore struct {
	mu     sync.Mutex // guards the fields below
	rec    *record.Record
	status RaftStatus
	lease  time.Duration
	// afterRecord runs once a reader has its record.
	afterRecord func()
	propose     func(context.Context, record.Command) (Outcome, error)
	settle      func(context.Context) error
	handOver    func(context.Context, string) error
}

func (s *fakeStore) Record() (*record.Record, uint64) {
	s.mu.Lock()
	r, after := s.rec, s.afterRecord
	s.mu.Unlock()
	if after != nil {
		after()
	}
	return r, 1
}

func (s *fakeStore) Propose(ctx context.Context, c record.Command) (Outcome, error) {
	return s.propose(ctx, c)
}
func (s *fakeStore) Settle(ctx context.Context) error { return s.settle(ctx) }
func (s *fakeStore) HandOver(ctx context.Context, name string) error {
	return s.handOver(ctx, name)
}

// Certificates: none were seen.
func (s *fakeStore) Certificates() map[string]pki.Validity { return nil }

func (s *fakeStore) Status() RaftStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.status
	r.LeaseLeft = s.lease
	return r
}

func (s *fakeStore) LeaseLeft() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease
}

func (s *fakeStore) Changes() (<-chan struct{}, func()) { return nil, func() {} }

func (s *fakeStore) set(r *record.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec = r
}

// lead makes the named voter the leader.
func (s *fakeStore) lead(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Leader, s.status.LeaderName = name == "a", name
}

func (s *fakeStore) setLease(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lease = d
}

// fakeEngine starts when start says so, and drains as drain says.
type fakeEngine struct {
	start  func(context.Context) error
	drain  func(context.Context)
	failed chan struct{}
	stops  atomic.Int32
	// session is the last one that it was started for.
	session Session
}

func (e *fakeEngine) Drain(ctx context.Context) {
	if e.drain != nil {
		e.drain(ctx)
	}
}

func (e *fakeEngine) StartEngine(ctx context.Context, s Session) error {
	e.session = s
	if e.start == nil {
		return nil
	}
	return e.start(ctx)
}
func (e *fakeEngine) UnknownOutcomes() uint64       { return 0 }
func (e *fakeEngine) StopEngine()                   { e.stops.Add(1) }
func (e *fakeEngine) EngineFailed() <-chan struct{} { return e.failed }

// fakePeer answers with state or err, and counts the questions.
type fakePeer struct {
	pb.PeerClient
	mu    sync.Mutex // guards the fields below
	state *pb.NodeState
	err   error
	asked int
}

func (p *fakePeer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *fakePeer) Exchange(context.Context, *pb.NodeState, ...grpc.CallOption) (*pb.NodeState, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	return p.state, p.err
}

// sentinel is alive until it is set to true.
type sentinel struct{ dead atomic.Bool }

func (s *sentinel) Alive() bool { return !s.dead.Load() }

var errTest = errors.New("as the test wants it")

type agentFixture struct {
	*Agent
	store  *fakeStore
	engine *fakeEngine
	peer   *fakePeer
}

// newAgent is a data node a, or b, without a PostgreSQL.
func newAgent(t *testing.T, self string, rec *record.Record) agentFixture {
	t.Helper()
	other := map[string]string{"a": "b", "b": "a"}[self]
	f := agentFixture{store: &fakeStore{rec: rec}, engine: &fakeEngine{}, peer: &fakePeer{err: errTest}}
	f.Agent = New(Config{
		Self: self, Other: other, Witness: "w", Members: threeMembers, Founder: self == "a", Store: f.store, Postgres: &postgres.Server{}, Engine: f.engine, Peer: f.peer,
		Timing: decide.Timing{Silence: 500 * time.Millisecond, ReplicationStall: time.Second, WitnessLostAfter: 10 * time.Second}, PeerAddress: other + ":1", Log: slog.New(slog.DiscardHandler),
	})
	return f
}

// serving makes it a primary of the epoch whose standby gates commits, proved.
func (f agentFixture) serving(epoch uint64) agentFixture {
	f.Agent.mu.Lock()
	defer f.Agent.mu.Unlock()
	l := &f.Agent.local
	l.data = postgres.DataState{Exists: true, Complete: true, SystemID: 7, Timeline: 2}
	l.up, l.promotedEpoch, l.promotedTLI, l.proven = true, epoch, 2, true
	return f
}
