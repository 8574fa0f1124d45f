package failover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/postgres"
	pb "kineshim/proto"
	"kineshim/raftwitness/record"
)

// Bounds of the actions. Those without a bound here show progress and end with ctx.
const (
	proposeTimeout  = 5 * time.Second
	handOverTimeout = 3 * time.Second
	sessionTimeout  = 30 * time.Second
	promoteTimeout  = 60 * time.Second
	freezeTimeout   = 10 * time.Second
	followTimeout   = 10 * time.Second
	proveTimeout    = 5 * time.Second
	ackerTimeout    = 10 * time.Second
	// engineTimeout is for the load of a huge table from a slow disk. It ends before if something else is to be done.
	engineTimeout = 10 * time.Minute
	grantTimeout  = 2 * time.Second
)

// perform carries out one action. It returns errNotNow for what passes by itself.
func (a *Agent) perform(ctx context.Context, s decide.Step) error {
	switch s.Action {
	case decide.InitDB:
		return a.initDB(ctx)
	case decide.Start:
		return a.start(ctx)
	case decide.Stop:
		return a.stop(ctx)
	case decide.Freeze:
		return bounded(ctx, freezeTimeout, a.freeze)
	case decide.Follow:
		return bounded(ctx, followTimeout, a.follow)
	case decide.Promote:
		return bounded(ctx, promoteTimeout, a.promote)
	case decide.Rewind:
		return a.rebuild(ctx, a.rewind)
	case decide.Clone:
		return a.rebuild(ctx, a.clone)
	case decide.OpenSession:
		return bounded(ctx, sessionTimeout, a.openSession)
	case decide.CommitEpoch:
		return a.commitEpoch(ctx)
	case decide.StartEngine:
		return bounded(ctx, engineTimeout, a.startEngine)
	case decide.Drain:
		return a.drain(ctx)
	case decide.ConnectSolo:
		return bounded(ctx, ackerTimeout, a.connectSolo)
	case decide.DisconnectSolo:
		return bounded(ctx, ackerTimeout, a.disconnectSolo)
	case decide.ProveGating:
		return bounded(ctx, proveTimeout, a.proveGating)
	case decide.EnsureSlot:
		return bounded(ctx, ackerTimeout, a.ensureSlot)
	case decide.DropStale:
		return bounded(ctx, ackerTimeout, a.dropStale)
	case decide.Propose:
		return a.propose(ctx, s.Command)
	case decide.HandOver:
		return a.handOver(ctx, s.To)
	case decide.Settle:
		return bounded(ctx, proposeTimeout, a.settle)
	}
	panic("unknown action " + string(s.Action))
}

func bounded(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}

func boundedLSN(ctx context.Context, d time.Duration, f func(context.Context) (record.LSN, error)) (at record.LSN, err error) {
	err = bounded(ctx, d, func(ctx context.Context) error {
		at, err = f(ctx)
		return err
	})
	return at, err
}

func (a *Agent) showProgress(p postgres.Progress) {
	a.mu.Lock()
	old := a.local.progress
	a.local.progress = p
	a.mu.Unlock()
	if p.What != old.What || p.Step != old.Step {
		a.log.Info("progress", "what", p.What, "step", p.Step, "doneBytes", p.DoneBytes, "totalBytes", p.TotalBytes)
	}
}

func (a *Agent) initDB(ctx context.Context) error {
	a.showProgress(postgres.Progress{What: "initdb", Step: "making a new database"})
	defer a.showProgress(postgres.Progress{})
	if err := a.pg.InitDB(ctx); err != nil {
		return err
	}
	return a.inspect(ctx)
}

// startStall is how long a start may show no progress: a data directory that waits for WAL which nobody has any more would
// wait for ever. A start that works changes what it shows with each WAL file; a large disk that is being synced may not.
const startStall = 10 * time.Minute

// start starts PostgreSQL as a standby of nobody.
func (a *Agent) start(ctx context.Context) error {
	defer a.showProgress(postgres.Progress{})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(startStall, func() { cancel(fmt.Errorf("no progress for %v", startStall)) })
	defer stalled.Stop()
	step := ""
	err := a.pg.Start(ctx, func(p postgres.Progress) {
		if p.Step != step {
			step = p.Step
			stalled.Reset(startStall)
		}
		a.showProgress(p)
	})
	if err != nil {
		err = errors.Join(err, context.Cause(ctx))
		a.mu.Lock()
		a.local.startFailures++
		a.mu.Unlock()
		return errors.Join(err, a.inspect(context.WithoutCancel(ctx)))
	}
	if err := a.inspect(ctx); err != nil { // before anybody may act on timeline and LSN
		return errors.Join(err, a.pg.StopImmediate(ctx))
	}
	a.mu.Lock()
	a.local.frozen, a.local.adrift = true, false
	a.mu.Unlock()
	a.nowUp()
	a.observe(ctx)
	a.beat()
	return nil
}

// stop ends PostgreSQL at once.
func (a *Agent) stop(ctx context.Context) error {
	a.gate.End("PostgreSQL is being stopped")
	a.mu.Lock()
	a.local.stopping = true
	a.mu.Unlock()
	// Side by side: an engine whose commits wait for a standby that has gone ends only with PostgreSQL.
	var engine sync.WaitGroup
	engine.Go(a.cfg.Engine.StopEngine)
	err := bounded(context.WithoutCancel(ctx), stopTimeout, a.pg.StopImmediate)
	engine.Wait()
	if err != nil && !errors.Is(err, postgres.ErrNotRunning) {
		return err
	}
	return a.inspect(ctx)
}

func (a *Agent) freeze(ctx context.Context) error {
	a.setUpstream(false, true)
	at, err := a.pg.Freeze(ctx)
	if err != nil {
		return err
	}
	a.setUpstream(true, false)
	a.mu.Lock()
	l := &a.local
	seen := !l.obsAt.IsZero()
	l.obs.ReceiveLSN = max(l.obs.ReceiveLSN, at)
	a.mu.Unlock()
	if !seen {
		a.observe(ctx)
	}
	return nil
}

func (a *Agent) follow(ctx context.Context) error {
	a.setUpstream(false, true) // before: from the first step on, the WAL position may move
	if err := a.pg.Follow(ctx); err != nil {
		return err
	}
	a.setUpstream(false, false)
	return nil
}

// setUpstream notes whether the standby is frozen, or neither that nor known to follow.
func (a *Agent) setUpstream(frozen, adrift bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.local.frozen, a.local.adrift = frozen, adrift
	a.local.unstreamedSince, a.local.streamPID, a.local.walRemoved = time.Now(), 0, false
	a.local.life++
}

func (a *Agent) promote(ctx context.Context) error {
	rec, _ := a.store.Record()
	if rec.Primary != a.cfg.Self {
		return errNotNow
	}
	a.setPromoting(true)
	timeline, switchLSN, err := a.pg.Promote(ctx, rec.Epoch)
	if err != nil {
		a.setPromoting(false)
		if errors.Is(err, postgres.ErrNotFrozen) {
			a.setUpstream(false, true)
		}
		return err
	}
	a.mu.Lock()
	l := &a.local
	l.promoting = false
	l.promotedEpoch, l.promotedTLI, l.promotedLSN = rec.Epoch, timeline, switchLSN
	l.data.Promotion.Epoch, l.data.Promotion.Timeline = rec.Epoch, timeline
	l.frozen, l.adrift = false, false
	l.unwellSince = time.Time{}
	l.obs, l.obsAt = postgres.Observation{}, time.Time{}
	a.forgetSession()
	a.mu.Unlock()
	a.log.Info("PostgreSQL is promoted", "phase", "promoted", "epoch", rec.Epoch, "timeline", timeline, "switchLSN", switchLSN.String())
	return nil
}

// setPromoting notes that PostgreSQL may become read-write by this agent's own doing.
func (a *Agent) setPromoting(is bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.local.promoting = is
}

// openSession begins a new generation: the sentinel sees its end before anybody else can open a session in the next.
func (a *Agent) openSession(ctx context.Context) error {
	a.cfg.Engine.StopEngine()
	sentinel, err := a.pg.OpenSentinel(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	l := &a.local
	if !l.up || l.promotedEpoch == 0 {
		a.mu.Unlock()
		sentinel.Close()
		return errNotNow
	}
	a.forgetSession()
	l.generation++
	l.sentinel = sentinel
	s := Session{Epoch: l.promotedEpoch, Generation: l.generation}
	a.mu.Unlock()
	a.gate.Begin(s, sentinel)
	a.when(sentinel.Closed(), a.wake)
	return nil
}

func (a *Agent) commitEpoch(ctx context.Context) error {
	a.mu.Lock()
	l := &a.local
	epoch, timeline, generation := l.promotedEpoch, l.promotedTLI, l.generation
	a.mu.Unlock()
	if err := a.pg.CommitEpoch(ctx, epoch, a.cfg.Self, timeline); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if l.generation == generation && a.session() {
		l.epochCommitted = generation
		l.unwellSince = time.Time{} // it has just written: what failed while it began anew is over
	}
	return nil
}

func (a *Agent) startEngine(ctx context.Context) error {
	rec, _ := a.store.Record()
	a.mu.Lock()
	// What was forced before this process's copy, or before the cluster was last paired, has been taken account of: the history has a name of its own since then,
	// by which a copy of another one is known.
	from := max(a.local.copyEpoch, lastServed(rec))
	s := Session{Epoch: a.local.promotedEpoch, Generation: a.local.generation, Forced: forcedSince(rec, from)}
	a.mu.Unlock()
	if err := a.cfg.Engine.StartEngine(ctx, s); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log.Info("the engine is ready", "phase", "engine_ready", "epoch", s.Epoch) // before the gate, which may open as soon as it is known
	a.local.copyEpoch = max(a.local.copyEpoch, s.Epoch)
	if a.local.generation == s.Generation && a.session() {
		a.local.engine = s.Generation
	}
	return nil
}

const (
	// drainRequests bounds the wait for the requests that are under way when the gate closes, while others wait for it to open again. A commit
	// takes some milliseconds; what takes longer than this is cut short, and repeated on the new primary if that is safe.
	drainRequests = 300 * time.Millisecond
	// drainTimeout bounds the wait for the standby during a switchover.
	drainTimeout = 2 * time.Second
)

// drain lets the requests end that are under way, ends the engine, so that nothing is written any more, and waits until the standby has all
// of it.
func (a *Agent) drain(ctx context.Context) error {
	began := time.Now()
	requests, cancel := context.WithTimeout(ctx, drainRequests)
	a.cfg.Engine.Drain(requests)
	cancel()
	drained := time.Since(began)
	a.cfg.Engine.StopEngine()
	a.mu.Lock()
	a.local.engine = 0
	a.mu.Unlock()
	stopped := time.Since(began)
	at, err := boundedLSN(ctx, drainTimeout, a.pg.AwaitStandby)
	if err != nil {
		return err
	}
	a.log.Info("the standby has everything", "phase", "drained", "requests", drained, "engine", stopped-drained, "standby", time.Since(began)-stopped, "lsn", at.String())
	a.mu.Lock()
	a.wish.drained = true
	a.mu.Unlock()
	return nil
}

// pause waits for d; it reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (a *Agent) connectSolo(ctx context.Context) error {
	if !a.beginSolo() {
		return errNotNow
	}
	if err := a.pg.ConnectSolo(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	l := &a.local
	if !l.joinedAt.IsZero() && time.Since(l.joinedAt) < joinTrial {
		l.noJoinUntil = time.Now().Add(joinPause)
	}
	a.mu.Unlock()
	a.when(a.pg.SoloLost(), a.wake)
	return nil
}

// beginSolo looks once more, at the last moment, whether commits may go on without the standby, and keeps a pairing from
// beginning meanwhile: that needs a new proof, which waits for its turn behind this action.
func (a *Agent) beginSolo() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	pairing := a.pairing.Load() // before the record; see Gate.Check
	rec, _ := a.store.Record()
	if pairing || rec.Paired() || rec.Primary != a.cfg.Self || rec.Epoch != a.local.promotedEpoch {
		return false
	}
	a.local.proven = false
	return true
}

func (a *Agent) disconnectSolo(ctx context.Context) error {
	if err := a.pg.DisconnectSolo(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	a.local.proven, a.local.joinedAt = false, time.Now()
	a.mu.Unlock()
	return nil
}

func (a *Agent) proveGating(ctx context.Context) error {
	a.mu.Lock()
	generation := a.local.generation
	a.mu.Unlock()
	lsn, err := a.pg.ProveGating(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.local.generation == generation && a.session() && !a.pg.SoloConnected() {
		a.local.proven = true
		a.log.Info("every commit waits for the standby", "lsn", lsn.String())
	}
	return nil
}

func (a *Agent) ensureSlot(ctx context.Context) error {
	if err := a.pg.EnsureSlot(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	a.local.slot, a.local.obs.SlotLost = true, false
	a.mu.Unlock()
	return nil
}

func (a *Agent) dropStale(ctx context.Context) error {
	n, err := a.pg.DropStaleWalsenders(ctx, staleWalsender)
	if n > 0 {
		a.log.Info("ended walsenders that served nobody", "count", n)
	}
	return err
}

// rebuild destroys the local data and makes them anew, with the primary's leave.
func (a *Agent) rebuild(ctx context.Context, make func(context.Context) error) error {
	rec, _ := a.store.Record()
	nonce := newNonce()
	defer func() { // whatever becomes of the question: the primary need not wait for this attempt any more
		a.mu.Lock()
		a.local.rebuilt = nonce
		a.local.progress = postgres.Progress{}
		a.mu.Unlock()
		a.beat()
	}()
	ask, cancel := context.WithTimeout(ctx, grantTimeout)
	defer cancel()
	r, err := a.cfg.Peer.BeginRebuild(ask, &pb.BeginRebuildRequest{Node: a.cfg.Self, Epoch: rec.Epoch, Instance: a.instance, Nonce: nonce})
	if err != nil {
		return fmt.Errorf("ask the primary's leave: %w", err)
	}
	if !r.Granted {
		return fmt.Errorf("the primary does not allow it: %s", r.Reason)
	}
	if now, _ := a.store.Record(); now.Epoch != rec.Epoch || now.InSyncHas(a.cfg.Self) {
		return errNotNow
	}
	a.beat()
	err = make(ctx)
	return errors.Join(err, a.inspect(context.WithoutCancel(ctx)))
}

func (a *Agent) rewind(ctx context.Context) error {
	rec, _ := a.store.Record()
	a.mu.Lock()
	a.local.rewoundEpoch = rec.Epoch
	a.mu.Unlock()
	if err := a.halt(ctx); err != nil {
		return err
	}
	return a.pg.Rewind(ctx, a.showProgress)
}

func (a *Agent) clone(ctx context.Context) error {
	if err := a.halt(ctx); err != nil {
		return err
	}
	err := a.pg.Clone(ctx, a.showProgress)
	if err == nil {
		a.mu.Lock()
		a.local.startFailures = 0
		a.mu.Unlock()
	}
	return err
}

// halt stops a standby, if it runs.
func (a *Agent) halt(ctx context.Context) error {
	if err := a.stopPostgres(ctx); err != nil && !errors.Is(err, postgres.ErrNotRunning) {
		return err
	}
	return nil
}

// propose commits a command and remembers what depends on its outcome.
func (a *Agent) propose(ctx context.Context, c record.Command) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), proposeTimeout)
	defer cancel()
	c.AtUnixMilli = time.Now().UnixMilli()
	switch c.Kind {
	case record.Init:
		c.ClusterID, c.Members = a.cfg.ClusterID, a.cfg.Members
	case record.Pair:
		if !a.beginPairing() {
			return errNotNow
		}
		c.ServerID = a.provedServer()
	}
	if c.Kind == record.Promote || c.Kind == record.Force {
		a.noteProposal(c)
	}
	outcome, err := a.store.Propose(ctx, c)
	if c.Kind == record.Pair && outcome != Unknown {
		a.pairing.Store(false) // the record, applied before, says paired, or nothing was done
	}
	if c.Kind == record.Promote && outcome == Done {
		a.log.Info("the promotion is committed", "phase", "promote_committed", "epoch", c.Epoch+1)
	}
	if c.Kind == record.Force && outcome == Done {
		a.mu.Lock()
		a.wish.force = time.Time{}
		a.mu.Unlock()
	}
	if outcome == Done {
		a.beat()
	}
	return err
}

// noteProposal notes why a new epoch is proposed, for whoever counts.
func (a *Agent) noteProposal(c record.Command) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rec, _ := a.store.Record()
	relief := ""
	if s := a.peer.state; s != nil {
		relief = s.ReliefReason
	}
	a.failovers.propose(c.Epoch+1, causeOf(c, rec.Primary, relief))
}

// provedServer is the server ID of the standby that was proved, if the members have ever changed: members of a version that knows no
// replacement would refuse the field.
func (a *Agent) provedServer() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if rec, _ := a.store.Record(); rec.Incarnation > 1 && a.peer.state != nil {
		return a.peer.state.ServerId
	}
	return ""
}

// beginPairing makes this node act as paired from before it proposes to pair. It refuses when what the proposal rests on no
// longer holds.
func (a *Agent) beginPairing() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.local.grant != (grant{}) || !a.local.proven || a.pg.SoloConnected() || a.store.LeaseLeft() == 0 {
		return false
	}
	a.pairing.Store(true)
	return true
}

func (a *Agent) settle(ctx context.Context) error {
	if err := a.store.Settle(ctx); err != nil {
		return err
	}
	a.pairing.Store(false)
	return nil
}

func (a *Agent) handOver(ctx context.Context, to string) error {
	if to == a.cfg.Other { // it must know why before it leads
		a.exchangeOnce(ctx)
		a.awaitNoAddress(ctx)
	}
	err := bounded(ctx, handOverTimeout, func(ctx context.Context) error { return a.store.HandOver(ctx, to) })
	if err == nil {
		return bounded(ctx, 2*a.cfg.Timing.Silence/5, a.awaitElection)
	}
	return err
}

// awaitElection returns when this node has ceased to lead, or when ctx ends: whoever was offered the leadership has not got it then.
func (a *Agent) awaitElection(ctx context.Context) error {
	changes, stop := a.store.Changes()
	defer stop()
	for a.store.Status().Leader {
		select {
		case <-changes:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}
