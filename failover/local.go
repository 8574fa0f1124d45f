package failover

import (
	"context"
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/postgres"
	pb "kineshim/proto"
	"kineshim/raftwitness/record"
)

// local is what the agent knows of its own PostgreSQL. Agent.mu guards it.
type local struct {
	data postgres.DataState
	// up: a start has been completed and the process has not exited since. stopping: it has been told to exit.
	up, stopping bool
	// obs is the last observation, seen at obsAt; zero after each start and promotion.
	obs   postgres.Observation
	obsAt time.Time
	// downSince is since when PostgreSQL has not been up; zero: it is.
	downSince time.Time
	// unwellSince is since when write probes have failed; zero: the last one succeeded.
	unwellSince   time.Time
	startFailures int
	// damageFound counts how often damaged pages have been found in a copy of the data.
	damageFound uint64

	// life counts the standby's lives; see StandbyLife. copyEpoch is the epoch in which this process's copy of the data was begun; 0: there is none.
	life, copyEpoch uint64

	// frozen: the walreceiver has been stopped for good. adrift: it is neither that nor known to follow.
	frozen, adrift  bool
	unstreamedSince time.Time // zero: streaming
	// streamPID is the walreceiver that streamed at the last look; 0: none did.
	streamPID int
	// walRemoved: the primary has been asked, in this life, and no longer has the WAL that comes next here.
	walRemoved   bool
	rewoundEpoch uint64

	// promoting: a promotion of this agent's is under way.
	promoting      bool
	promotedEpoch  uint64
	promotedTLI    uint32
	promotedLSN    record.LSN
	servedEpoch    uint64
	sentinel       *postgres.Sentinel
	generation     uint64
	epochCommitted uint64 // the generation in which the epoch row is committed
	engine         uint64 // the generation on which the engine runs

	proven        bool
	stalledSince  time.Time // zero: the standby keeps up
	flushedBefore record.LSN
	standbyFlush  record.LSN
	standbyPID    int
	// standbyLag is the standby's.
	standbyLag  lagMark
	joinedAt    time.Time
	noJoinUntil time.Time
	slot        bool
	grant       grant

	// essentials are of essentialsAt; zero: never asked.
	essentials   postgres.Essentials
	essentialsAt time.Time

	progress postgres.Progress
	rebuilt  string
}

// grant is the leave given to the standby to destroy its data.
type grant struct{ instance, nonce string }

// role says what the local PostgreSQL is. a.mu is held.
func (a *Agent) role() decide.Role {
	l := &a.local
	switch {
	case l.up && (l.promotedEpoch != 0 || !l.promoting && !l.obsAt.IsZero() && !l.obs.InRecovery):
		return decide.Primary
	case l.up:
		return decide.Standby
	case !l.data.Exists:
		return decide.Absent
	case !l.data.Complete:
		return decide.Broken
	}
	return decide.Stopped
}

// inspect reads what is on the disk.
func (a *Agent) inspect(ctx context.Context) error {
	d, err := a.pg.Inspect(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.local.data = d
	a.mu.Unlock()
	return nil
}

// nowUp notes that PostgreSQL is up as a standby, and watches over its end.
func (a *Agent) nowUp() {
	a.mu.Lock()
	l := &a.local
	l.up, l.stopping, l.startFailures = true, false, 0
	l.life++
	l.downSince, l.unwellSince = time.Time{}, time.Time{}
	l.obs, l.obsAt = postgres.Observation{}, time.Time{}
	l.essentialsAt = time.Time{}
	l.unstreamedSince, l.streamPID, l.walRemoved = time.Now(), 0, false
	l.promotedEpoch, l.promotedTLI, l.promotedLSN = 0, 0, 0
	a.forgetSession()
	exited := a.pg.Exited()
	a.mu.Unlock()
	a.when(exited, a.nowDown)
}

// nowDown notes that PostgreSQL has exited, whoever ended it.
func (a *Agent) nowDown() {
	a.mu.Lock()
	l := &a.local
	wasPrimary := l.promotedEpoch != 0
	if wasPrimary {
		a.gate.End("PostgreSQL has ended")
	}
	ordered := l.stopping
	l.up, l.downSince = false, time.Now()
	l.promotedEpoch, l.promotedTLI, l.promotedLSN = 0, 0, 0
	l.obs, l.obsAt = postgres.Observation{}, time.Time{}
	a.forgetSession()
	a.mu.Unlock()
	if wasPrimary && !ordered {
		a.log.Warn("PostgreSQL has ended while it was primary")
	}
	a.beat()
	a.wake()
}

// forgetSession drops all that held for one life of PostgreSQL's shared memory only. a.mu is held.
func (a *Agent) forgetSession() {
	l := &a.local
	if l.sentinel != nil {
		l.sentinel.Close()
	}
	l.sentinel, l.epochCommitted, l.engine = nil, 0, 0
	l.proven, l.slot = false, false
	l.joinedAt, l.noJoinUntil = time.Time{}, time.Time{}
	l.stalledSince, l.flushedBefore, l.standbyFlush, l.standbyLag = time.Time{}, 0, 0, lagMark{}
}

// session reports whether the sentinel session lives. a.mu is held.
func (a *Agent) session() bool { return a.local.sentinel != nil && a.local.sentinel.Alive() }

const (
	// observeEvery bounds how late a stalled standby is noticed.
	observeEvery = 100 * time.Millisecond
	// observeTimeout ends a query that a frozen PostgreSQL does not answer.
	observeTimeout = 2 * time.Second
	// probeEvery and probeTimeout: one new connection and one local commit a second.
	probeEvery, probeTimeout = time.Second, 2 * time.Second
	// staleWalsender is the silence after which a walsender is taken to serve nobody.
	staleWalsender = 3 * time.Second
	// joinTrial is how long a standby must have gated commits before a stall counts as a new one.
	joinTrial = 10 * time.Second
	// joinPause is the pause after a standby that stalled while it was being joined.
	joinPause = 5 * time.Second
)

// watchPostgres observes PostgreSQL until ctx ends.
func (a *Agent) watchPostgres(ctx context.Context) {
	every(ctx, observeEvery, func() {
		if a.isUp() {
			a.observe(ctx)
		}
	})
}

// every calls f at that pace until ctx ends.
func every(ctx context.Context, pace time.Duration, f func()) {
	t := time.NewTicker(pace)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		f()
	}
}

func (a *Agent) isUp() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.local.up
}

func (a *Agent) observe(ctx context.Context) {
	began := time.Now()
	a.mu.Lock()
	life := a.local.life
	a.mu.Unlock()
	q, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	obs, err := a.pg.Observe(q)
	a.mu.Lock()
	defer a.mu.Unlock()
	l := &a.local
	if !l.up || l.life != life { // what was seen is over
		return
	}
	if err != nil {
		if ctx.Err() == nil {
			a.log.Debug("observe PostgreSQL", "error", err)
		}
		if l.unwellSince.IsZero() && l.promotedEpoch != 0 {
			l.unwellSince = began
		}
		return
	}
	l.obs, l.obsAt = obs, time.Now()
	if obs.InRecovery {
		a.noteStreaming(obs)
	} else {
		a.noteStandby(obs)
	}
}

// noteStandby measures whether the standby keeps up: it does while it acknowledges what this primary had flushed at the last
// look, and while it says something once a second.
func (a *Agent) noteStandby(obs postgres.Observation) {
	l := &a.local
	s, found := standbyOf(obs)
	moved := found && s.FlushLSN > l.standbyFlush
	ok := found && s.State == "streaming" && s.ReplyAge < staleWalsender && (moved || s.FlushLSN >= l.flushedBefore)
	switch {
	case ok:
		l.stalledSince = time.Time{}
	case l.stalledSince.IsZero():
		l.stalledSince = time.Now()
	}
	if !found || s.PID != l.standbyPID || s.FlushLSN < l.standbyFlush {
		l.proven = false // another life of the standby, which may have lost what the last one had
	}
	l.standbyLag.note(obs.FlushLSN, s.FlushLSN, time.Now())
	l.standbyPID, l.standbyFlush, l.flushedBefore = s.PID, s.FlushLSN, obs.FlushLSN
}

// standbyOf picks the standby's walsender: of several, the one that answered last.
func standbyOf(obs postgres.Observation) (best postgres.Standby, found bool) {
	for _, s := range obs.Standbys {
		if s.AppName == postgres.StandbyName && (!found || s.State == "streaming" && best.State != "streaming" || s.State == best.State && s.ReplyAge < best.ReplyAge) {
			best, found = s, true
		}
	}
	return best, found
}

// probe writes to a primary in a new session, again and again, until ctx ends: only a write shows that PostgreSQL can write.
func (a *Agent) probe(ctx context.Context) {
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		a.mu.Lock()
		// Not during a switchover: what is written now would be a tail that only this node has.
		due := a.local.up && a.local.promotedEpoch != 0 && a.local.epochCommitted != 0 && a.wish.switchTo == ""
		generation := a.local.generation
		a.mu.Unlock()
		if !due {
			continue
		}
		began := time.Now()
		q, cancel := context.WithTimeout(ctx, probeTimeout)
		err := a.pg.Probe(q)
		cancel()
		if ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		if l := &a.local; l.up && l.generation == generation {
			switch {
			case err == nil:
				l.unwellSince = time.Time{}
			case l.unwellSince.IsZero():
				l.unwellSince = began
				a.log.Warn("write probe", "error", err)
			}
		}
		a.mu.Unlock()
	}
}

// nodeState is what this node says of itself.
func (a *Agent) nodeState() *pb.NodeState {
	a.mu.Lock()
	defer a.mu.Unlock()
	in := a.input()
	rs := a.store.Status()
	role, why := a.roleText(&in)
	s := &pb.NodeState{
		Node: a.cfg.Self, ServerId: a.cfg.ServerID, Version: a.cfg.Version, Instance: a.instance, Rebuilt: a.local.rebuilt, Leaving: a.wish.leaving,
		Epoch: in.Record.Epoch, RecordConfirmed: in.Confirmed,
		Role: role, RoleReason: why, SystemId: in.Local.SystemID, Timeline: in.Local.Timeline, FlushLsn: uint64(in.Local.LSN), ReplayLsn: uint64(a.local.obs.ReplayLSN),
		DataComplete: in.Local.Role != decide.Absent && in.Local.Role != decide.Broken, Streaming: in.Local.Streaming,
		Progress: progressProto(a.local.progress),
		GateOpen: a.gate.answers() || a.draining(&in), GateReason: a.raft.plan.Closed, StandbyGates: in.Local.Proven && !in.Local.Solo && in.Local.Role == decide.Primary, WantsRelief: a.raft.plan.Relief != "", ReliefReason: a.raft.plan.Relief,
		UnknownOutcomes: a.cfg.Engine.UnknownOutcomes(),
		Void:            rs.Void, Leader: rs.Leader, Term: rs.Term, LeaseLeftMs: rs.LeaseLeft.Milliseconds(), CommitIndex: rs.CommitIndex, WitnessContactMs: -1,
	}
	d := in.Local.Disk
	s.DiskTrouble, s.DiskLow, s.DiskRoomy, s.DiskFull, s.DiskFailing, s.DataDamaged = a.trouble(), d.Low, d.Roomy, d.Full, d.Failing, d.Damaged
	_, s.AppliedIndex = a.store.Record()
	if a.cfg.VIPs != nil {
		s.Vips = a.cfg.VIPs()
	}
	if !s.GateOpen && s.GateReason == "" {
		s.GateReason = ErrNoLease.Error()
	}
	if age, ok := rs.Heard[a.cfg.Witness]; ok {
		s.WitnessContactMs = age.Milliseconds()
	}
	return s
}

// draining: the gate is closed for a switchover, and what was begun before is still answered. For the other node that is an open gate: if it
// took away the route, it would cut off the requests that it has forwarded.
func (a *Agent) draining(in *decide.Input) bool {
	return in.Wish.SwitchTo != "" && in.Local.Engine && a.gate.holds()
}

// roleText is the role for people, and for the other node, with long work named. a.mu is held.
func (a *Agent) roleText(in *decide.Input) (role, why string) {
	switch busy := a.postgresLane.busy(); busy {
	case decide.InitDB, decide.Start:
		return "starting", a.local.progress.Step
	case decide.Clone:
		return "cloning", a.local.progress.Step
	case decide.Rewind:
		return "rewinding", a.local.progress.Step
	case decide.Stop:
		return "stopping", ""
	case decide.Promote:
		return "promoting", ""
	}
	failure := a.postgresLane.lastFailure()
	if in.Local.Role == decide.Broken && failure == "" {
		failure = "a clone or a rewind was interrupted; it is made anew when a primary can be copied"
	}
	return string(in.Local.Role), failure
}

func progressProto(p postgres.Progress) *pb.Progress {
	if p.What == "" {
		return nil
	}
	return &pb.Progress{What: p.What, Step: p.Step, DoneBytes: p.DoneBytes, TotalBytes: p.TotalBytes, ElapsedMs: p.Elapsed.Milliseconds()}
}
