package failover

import (
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/postgres"
	"kineshim/raftwitness/record"
)

// input collects what a decision may depend on. a.mu is held.
func (a *Agent) input() decide.Input {
	pairing := a.pairing.Load() // before the record; see Gate.Check
	rec, _ := a.store.Record()
	now := time.Now()
	return decide.Input{
		Self: a.cfg.Self, Other: a.cfg.Other, Witness: a.cfg.Witness, Founder: a.cfg.Founder,
		Record: rec, Confirmed: a.confirmed.Load(), Pairing: pairing,
		Raft: a.raftInput(now), Local: a.localInput(now, rec), Peer: a.peer.input(now, a.started, a.raft.leaderSince),
		Wish: a.wish.input(), Timing: a.cfg.Timing,
	}
}

const (
	// electionsTake is, in heartbeat timeouts, for how long nobody is known to lead at most when a leader is lost and another is elected.
	electionsTake = 4
	// regainGrace is what a connection to the other node may take when the network is back: an attempt that was under way has to end, and the next to succeed.
	regainGrace = 1500 * time.Millisecond
)

// raftInput looks at Raft and remembers since when this node has been leading.
func (a *Agent) raftInput(now time.Time) decide.Raft {
	s := a.store.Status()
	if s.Leader || s.LeaderName != "" {
		if now.Sub(a.raft.led) > electionsTake*a.cfg.Timing.Silence {
			a.raft.regained = now
		}
		a.raft.led = now
	}
	switch {
	case !s.Leader:
		a.raft.leaderSince = time.Time{}
	case a.raft.leaderSince.IsZero() || a.raft.leaderTerm != s.Term:
		a.raft.leaderSince, a.raft.leaderTerm = now, s.Term
		a.log.Info("leads", "phase", "elected", "term", s.Term)
		a.beat()
	}
	r := decide.Raft{
		Leader: s.Leader, Barrier: s.Barrier, Forfeited: s.Forfeited, LeaseLeft: s.LeaseLeft,
		WitnessHeard: decide.Never, OtherHeard: decide.Never, Void: s.Void,
	}
	if s.Leader {
		r.WitnessSilent = now.Sub(a.raft.leaderSince)
		r.Regained = now.Sub(a.raft.regained) < regainGrace
		r.OtherSilent = r.WitnessSilent
		if age, ok := s.Heard[a.cfg.Witness]; ok {
			r.WitnessHeard, r.WitnessSilent = age, age
		}
		if age, ok := s.Heard[a.cfg.Other]; ok {
			r.OtherHeard, r.OtherSilent = age, age
		}
	}
	return r
}

func (a *Agent) localInput(now time.Time, rec *record.Record) decide.Local {
	l := &a.local
	select {
	case <-a.cfg.Engine.EngineFailed(): // nil, which is never ready, without an engine
		// It may have seen a commit that was cut short: the barrier again, before the next one starts.
		if l.engine != 0 { // once: the broken one stays the current one until the next has started
			l.engine, l.epochCommitted = 0, 0
		}
	default:
	}
	in := decide.Local{
		Role: a.role(), SystemID: l.data.SystemID, Timeline: l.data.Timeline, LSN: l.data.MinRecovery,
		MarkerEpoch: l.data.Promotion.Epoch, MarkerTimeline: l.data.Promotion.Timeline,
		PromotedEpoch: l.promotedEpoch, PromotedLSN: l.promotedLSN, Frozen: l.frozen, Adrift: l.adrift,
		Served: rec.Initialised() && l.servedEpoch == rec.Epoch, StartFailures: l.startFailures, RewoundEpoch: l.rewoundEpoch,
		DownFor: since(now, l.downSince), UnwellFor: since(now, l.unwellSince),
		Session: a.session(), EpochCommitted: l.epochCommitted != 0 && l.epochCommitted == l.generation, Engine: l.engine != 0 && l.engine == l.generation,
		Solo: a.pg.SoloConnected(), Proven: l.proven, JoinBackoff: now.Before(l.noJoinUntil), Slot: l.slot, SlotLost: l.obs.SlotLost, Granted: l.grant != grant{},
		Disk: a.diskInput(),
	}
	if !l.obsAt.IsZero() {
		in.Timeline = l.obs.Timeline
	}
	switch in.Role {
	case decide.Standby:
		if !l.obsAt.IsZero() {
			in.LSN = max(l.obs.ReceiveLSN, l.obs.ReplayLSN)
		}
		in.Streaming = l.unstreamedSince.IsZero()
		in.NotStreaming, in.WALRemoved = since(now, l.unstreamedSince), l.walRemoved
	case decide.Primary:
		if l.promotedTLI != 0 {
			in.Timeline = l.promotedTLI
		}
		in.LSN = l.obs.FlushLSN
		a.standbyInput(now, &in)
	}
	return in
}

// standbyInput is what this primary knows of its standby's replication.
func (a *Agent) standbyInput(now time.Time, in *decide.Local) {
	l := &a.local
	in.StandbyStalled = since(now, l.stalledSince)
	s, found := standbyOf(l.obs)
	in.StandbyStreams = found && s.State == "streaming"
	if found && l.obs.FlushLSN > s.FlushLSN {
		in.LagBytes = uint64(l.obs.FlushLSN - s.FlushLSN)
	}
	if !in.StandbyStreams && in.StandbyStalled == 0 {
		in.StandbyStalled = time.Nanosecond
	}
	for _, w := range l.obs.Standbys {
		in.StaleWalsender = in.StaleWalsender || w.AppName == postgres.StandbyName && w.ReplyAge > staleWalsender
	}
}

// since is how long ago t was; 0 for the zero time.
func since(now, t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(time.Nanosecond, now.Sub(t))
}
