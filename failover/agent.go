// Package failover is the agent of a data node: it observes the local PostgreSQL, the other data node and Raft, asks decide
// what to do, and does it.
package failover

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/disk"
	"kineshim/failover/postgres"
	"kineshim/pki"
	pb "kineshim/proto"
	"kineshim/raftwitness/record"

	"google.golang.org/grpc/connectivity"
)

// Outcome is what became of a proposal.
type Outcome int

const (
	// NotDone: the record is unchanged by it, and will stay so.
	NotDone Outcome = iota
	// Done: it is committed and applied here.
	Done
	// Unknown: it may be committed, now or later.
	Unknown
)

// RaftStatus is what the agent needs to know of Raft; see raftwitness.Status.
type RaftStatus struct {
	Leader, Barrier, Forfeited bool
	LeaderName                 string
	Term, CommitIndex          uint64
	LeaseLeft                  time.Duration
	// Heard is, on a leader, the time since each other voter answered in this term, by name.
	Heard map[string]time.Duration
	// Void says why this voter votes no more, for good; "": it does. Apart says of other voters, by name, why no word is exchanged with them.
	Void  string
	Apart map[string]string
}

// Store is the cluster record and the voter that keeps it.
type Store interface {
	Right
	// Propose commits a command. With NotDone or Unknown the error says why.
	Propose(context.Context, record.Command) (Outcome, error)
	// Settle returns when this leader knows the outcome of all proposals ever made.
	Settle(context.Context) error
	// HandOver forfeits this leader's lease and offers the leadership to the named voter.
	HandOver(ctx context.Context, name string) error
	Status() RaftStatus
	// Certificates is how long the voters' certificates are good, by name, as far as they have been seen.
	Certificates() map[string]pki.Validity
	// Changes returns a channel that gets a value after each change of record or leadership, until stop is called.
	Changes() (c <-chan struct{}, stop func())
}

// Session is one life of PostgreSQL's shared memory in one epoch.
type Session struct {
	Epoch, Generation uint64
	// Forced: a forced promotion began this epoch, or an earlier one that this process's copy of the data may not know of: the copy
	// may hold what this node's history does not. See forcedSince.
	Forced bool
}

// Engine answers the etcd API on the primary.
type Engine interface {
	StartEngine(ctx context.Context, s Session) error
	// Drain returns when no request is under way, or when ctx ends. It is called with the gate closed: no request begins meanwhile.
	Drain(ctx context.Context)
	// StopEngine returns when no request is under way any more.
	StopEngine()
	// UnknownOutcomes counts, since this process's start, the clients' requests that ended without saying whether they were done.
	UnknownOutcomes() uint64
	// EngineFailed is closed when the current engine is broken; nil without one.
	EngineFailed() <-chan struct{}
}

// Link is a connection to the other data node, as *grpc.ClientConn shows it.
type Link interface {
	GetState() connectivity.State
	// WaitForStateChange returns when the state is not the given one; false when ctx has ended.
	WaitForStateChange(ctx context.Context, state connectivity.State) bool
}

// Config is what an Agent needs. All fields are required, but for PeerLink, VIPs and Turned.
type Config struct {
	Self, Other, Witness string
	ServerID             string
	ClusterID            string
	Members              []record.Member
	Founder              bool
	Version              string
	Store                Store
	Postgres             *postgres.Server
	Engine               Engine
	// Peer calls the other data node.
	Peer pb.PeerClient
	// PeerLink is the connection that Peer uses: its end is news. Nil: the news waits for the next exchange.
	PeerLink Link
	Timing   decide.Timing
	// PeerAddress is the other data node's peer address, to which requests are forwarded.
	PeerAddress string
	// DataDir is the node's data directory, and PostgresDir the database's in it: their disk is watched. "": none is.
	DataDir, PostgresDir string
	// VIPs are this node's virtual addresses, for the status. Nil: there are none.
	VIPs func() []*pb.VipState
	// Turned is called each time that the agent has decided, several times a second, by the loop that does: without it, that loop stands still. It
	// must not block. Nil: nobody watches.
	Turned func()
	Log    *slog.Logger
}

// Agent runs one data node. Make it with New, then call Run once.
type Agent struct {
	cfg    Config
	log    *slog.Logger
	pg     *postgres.Server
	store  Store
	gate   *Gate
	routes *routes
	wakeCh chan struct{}
	beatCh chan struct{}
	// over is closed when Run ends: it ends the goroutines that watch something.
	over     chan struct{}
	instance string
	started  time.Time
	disk     *disk.Watch // nil: the disk is not watched
	// confirmed and pairing are read by the gate on every request; see decide.Input.
	confirmed, pairing atomic.Bool
	addresses          addresses
	// noLease: it has been logged that the gate holds nothing back but the lease, which has run out. It belongs to step.
	noLease bool
	// vitals are what monitoring is told.
	vitals atomic.Pointer[Vitals]

	mu sync.Mutex // guards the fields below
	local
	peer peer
	wish wish
	raft raftMemory
	// failovers are counted for monitoring.
	failovers failovers
	// noSwitchUntil is until when this agent begins no switchover by itself.
	noSwitchUntil time.Time

	// Each lane carries out one action at a time: on PostgreSQL, on who acknowledges commits, on Raft.
	postgresLane, syncLane, raftLane *lane
	wg                               sync.WaitGroup
}

// raftMemory is what must be remembered between two looks at Raft.
type raftMemory struct {
	leaderSince time.Time // zero: not leader
	leaderTerm  uint64
	// led is when anybody was last known to lead, or when this process started.
	led time.Time
	// regained is when somebody was last known to lead again after a time without for longer than an election takes.
	regained time.Time
	plan     decide.Plan
	notArmed []string
}

const (
	// tick is how often the agent decides when nothing wakes it: the resolution of all its thresholds but that of silence; see nextLook.
	tick = 50 * time.Millisecond
)

// New makes an agent and starts nothing.
func New(cfg Config) *Agent {
	a := &Agent{
		cfg: cfg, log: cfg.Log, pg: cfg.Postgres, store: cfg.Store, instance: newNonce(), started: time.Now(),
		wakeCh: make(chan struct{}, 1), beatCh: make(chan struct{}, 1), over: make(chan struct{}), addresses: addresses{changed: make(chan struct{}, 1)},
		failovers: newFailovers(),
	}
	a.gate = NewGate(cfg.Store, &a.confirmed, &a.pairing)
	a.routes = newRoutes()
	a.postgresLane, a.syncLane, a.raftLane = &lane{agent: a}, &lane{agent: a}, &lane{agent: a}
	a.local.unstreamedSince, a.local.downSince, a.raft.led = a.started, a.started, a.started
	a.disk = a.newDisk()
	return a
}

// SetEngine gives the agent its engine, which may need the agent's gate and routes. To be called before Run.
func (a *Agent) SetEngine(e Engine) { a.cfg.Engine = e }

// Gate says whether this node may answer.
func (a *Agent) Gate() *Gate { return a.gate }

// wake makes the agent decide at once.
func (a *Agent) wake() { poke(a.wakeCh) }

// beat tells the other node at once how this one is.
func (a *Agent) beat() { poke(a.beatCh) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run serves until ctx ends; then it closes the gate, ends what is under way and stops PostgreSQL. A clean hand-over is asked
// for with Leave before.
func (a *Agent) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := a.inspect(inner); err != nil {
		return err
	}
	changes, stop := a.store.Changes()
	defer stop()
	a.own(func() { a.watchPostgres(inner) })
	a.own(func() { a.probe(inner) })
	a.own(func() { a.watchDamage(inner) })
	a.own(func() { a.watchEssentials(inner) })
	a.own(func() { a.watchUpstream(inner) })
	if a.disk != nil {
		a.own(func() { a.disk.Run(inner) })
	}
	a.own(func() { a.exchange(inner) })
	if a.cfg.PeerLink != nil {
		a.own(func() { a.watchLink(inner) })
	}
	t := time.NewTimer(tick)
	defer t.Stop()
	for ctx.Err() == nil {
		t.Reset(a.step(inner))
		if a.cfg.Turned != nil {
			a.cfg.Turned()
		}
		select {
		case <-ctx.Done():
		case <-a.wakeCh:
		case <-changes:
		case <-t.C:
		}
	}
	a.gate.End("stopping")
	a.addresses.allow(false)
	a.routes.set(Route{Why: "kineshim is stopping"})
	cancel()
	for _, l := range []*lane{a.postgresLane, a.syncLane, a.raftLane} {
		l.stop()
	}
	close(a.over)
	a.wg.Wait()
	a.cfg.Engine.StopEngine()
	stopCtx, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer done()
	if err := a.stopPostgres(stopCtx); err != nil && !errors.Is(err, postgres.ErrNotRunning) {
		return err
	}
	return nil
}

// stopTimeout bounds the shutdown of PostgreSQL at the end.
const stopTimeout = 20 * time.Second

// stopPostgres ends PostgreSQL: a standby in good order, a primary at once, so that no commit that waits is cut short into
// one that looks done.
func (a *Agent) stopPostgres(ctx context.Context) error {
	a.mu.Lock()
	standby := a.role() == decide.Standby
	a.mu.Unlock()
	if standby {
		fast, cancel := context.WithTimeout(ctx, stopTimeout/2)
		defer cancel()
		if err := a.pg.StopFast(fast); err == nil {
			return nil
		}
	}
	return a.pg.StopImmediate(ctx)
}

// own runs f as a goroutine that Run waits for.
func (a *Agent) own(f func()) {
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		f()
	}()
}

// when runs f once c is closed, unless Run ends before. A nil c never is.
func (a *Agent) when(c <-chan struct{}, f func()) {
	a.own(func() {
		select {
		case <-c:
			f()
		case <-a.over:
		}
	})
}

// step decides once and sets going what was decided. It returns when to decide again if nothing happens before.
func (a *Agent) step(ctx context.Context) time.Duration {
	a.mu.Lock()
	in := a.input()
	plan := decide.Decide(&in)
	old := a.raft.plan
	a.raft.plan = plan
	a.raft.notArmed = decide.NotArmed(&in)
	a.failovers.look(in.Record, a.cfg.Self)
	a.noteSilence(&in)
	a.notePatience(&in)
	a.expireWish(&in)
	a.beginSwitch(plan.Switch)
	a.mu.Unlock()

	if in.Raft.Leads() {
		a.confirmed.Store(true)
	}
	if in.Raft.Void != "" {
		a.gate.End(plan.Closed) // what was begun is not answered either
	}
	a.applyGate(&in, plan)
	a.noteLease(&in)
	a.addresses.allow(plan.Closed == "" || a.draining(&in))
	a.applyRoute(&in, plan)
	if plan.Relief != old.Relief {
		if plan.Relief != "" {
			a.log.Info("asks the other node to take over", "node", a.cfg.Other, "why", plan.Relief, "epoch", in.Record.Epoch)
		}
		a.beat()
	}
	a.postgresLane.offer(ctx, plan.Postgres)
	a.syncLane.offer(ctx, plan.Sync)
	a.raftLane.offer(ctx, plan.Raft)
	a.publish()
	return nextLook(&in)
}

// nextLook is the time to the next tick, or to the moment when the other node's silence becomes too long, whichever is sooner.
func nextLook(in *decide.Input) time.Duration {
	if left := in.Timing.Silence - in.Peer.Age; left >= 0 && left < tick {
		return left + time.Millisecond
	}
	return tick
}

// noteLease logs when an open gate lets nobody in because the lease has run out, and when it is back.
func (a *Agent) noteLease(in *decide.Input) {
	gone := a.gate.Closed() == ErrNoLease.Error()
	switch {
	case gone == a.noLease:
		return
	case gone:
		a.log.Warn("the lease has run out: this node answers nobody", "epoch", in.Record.Epoch, "mode", in.Record.Mode(), "leads", in.Raft.Leader,
			"otherNodeSilentFor", in.Peer.Silent.Round(time.Millisecond), "witnessSilentFor", in.Raft.WitnessSilent.Round(time.Millisecond))
	case a.gate.answers():
		a.log.Info("the lease is back: this node answers", "epoch", in.Record.Epoch)
	}
	a.noLease = gone
}

// applyGate opens or closes the gate as the plan says.
func (a *Agent) applyGate(in *decide.Input, plan decide.Plan) {
	wasOpen := a.gate.accepting()
	if plan.Closed != "" {
		a.gate.Close(plan.Closed)
	} else {
		a.gate.Open()
	}
	if open := a.gate.accepting(); open != wasOpen {
		if open {
			a.log.Info("gate open: this node answers", "phase", "gate_open", "epoch", in.Record.Epoch, "timeline", in.Local.Timeline, "mode", in.Record.Mode())
			a.mu.Lock()
			a.local.servedEpoch = in.Record.Epoch
			a.mu.Unlock()
		} else {
			a.log.Info("gate closed", "why", plan.Closed, "epoch", in.Record.Epoch)
		}
		a.beat()
	}
}
