package sim

import (
	"time"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

func (k *kine) role() decide.Role {
	switch {
	case k.up && (k.promotedEpoch != 0 || !k.promoting && k.obsAt != 0 && !k.obs.recovery):
		return decide.Primary
	case k.up:
		return decide.Standby
	case !k.data.exists:
		return decide.Absent
	case !k.data.whole:
		return decide.Broken
	}
	return decide.Stopped
}

// inspect reads what is on the disk.
func (k *kine) inspect() { k.data = k.pg.dir }

func (k *kine) session() bool { return k.sentinel != nil && k.sentinel.Alive() }

// input is Agent.input.
func (k *kine) input() decide.Input {
	now := k.now()
	rec := k.v.rec
	return decide.Input{
		Self: names[k.id], Other: names[k.other], Witness: names[nodeW], Founder: k.id == nodeA,
		Record: rec, Confirmed: k.confirmed.Load(), Pairing: k.pairing.Load(),
		Raft: k.raftInput(now), Local: k.localInput(now, rec), Peer: k.peerInput(now),
		Wish:   decide.Wish{SwitchTo: k.wish.switchTo, Drained: k.wish.drained, Force: now < k.wish.force, Stopping: k.wish.stopping},
		Timing: k.w.timing,
	}
}

func (k *kine) raftInput(now time.Duration) decide.Raft {
	v := k.v
	leads := v.state == leader
	switch {
	case !leads:
		k.leaderSince = 0
	case k.leaderSince == 0 || k.leaderTerm != v.term:
		k.leaderSince, k.leaderTerm = now, v.term
		k.exchangeNow()
	}
	r := decide.Raft{Leader: leads, WitnessHeard: decide.Never, OtherHeard: decide.Never}
	if leads {
		r.Barrier, r.Forfeited = v.barrierTerm == v.term, v.term <= v.forfeited
		r.LeaseLeft = v.leaseLeft()
		r.WitnessSilent, r.OtherSilent = now-k.leaderSince, now-k.leaderSince
		if v.contactTerm[nodeW] == v.term {
			age := v.w.boot(v.m) - v.contactSent[nodeW]
			r.WitnessHeard, r.WitnessSilent = age, age
		}
		if other := k.other; v.contactTerm[other] == v.term {
			age := v.w.boot(v.m) - v.contactSent[other]
			r.OtherHeard, r.OtherSilent = age, age
		}
	}
	return r
}

func (k *kine) localInput(now time.Duration, rec *record.Record) decide.Local {
	if k.engine.failed && k.engineOn != 0 {
		k.engineOn, k.epochCommitted = 0, 0
	}
	in := decide.Local{
		Role: k.role(), SystemID: k.data.system, Timeline: k.data.timeline, LSN: k.data.lsn(k.w),
		MarkerEpoch: k.data.markerEpoch, MarkerTimeline: k.data.markerTimeline,
		PromotedEpoch: k.promotedEpoch, PromotedLSN: k.promotedLSN, Frozen: k.frozen, Adrift: k.adrift,
		Served: rec.Initialised() && k.servedEpoch == rec.Epoch, StartFailures: k.startFailures, RewoundEpoch: k.rewoundEpoch,
		DownFor: since(now, k.downSince), UnwellFor: since(now, k.unwellSince),
		Session: k.session(), EpochCommitted: k.epochCommitted != 0 && k.epochCommitted == k.generation, Engine: k.engineOn != 0 && k.engineOn == k.generation,
		Solo: k.soloConnected(), Proven: k.proven, JoinBackoff: now < k.noJoinUntil, Slot: k.slot, Granted: k.grant != grant{},
	}
	if k.obsAt != 0 {
		in.Timeline = k.obs.timeline
	}
	switch in.Role {
	case decide.Standby:
		if k.obsAt != 0 {
			in.LSN = k.obs.received
		}
		in.Streaming = k.unstreamedSince == 0
		in.NotStreaming = since(now, k.unstreamedSince)
	case decide.Primary:
		if k.promotedTLI != 0 {
			in.Timeline = k.promotedTLI
		}
		in.LSN = k.obs.flush
		k.standbyInput(now, &in)
	}
	return in
}

func (k *kine) standbyInput(now time.Duration, in *decide.Local) {
	in.StandbyStalled = since(now, k.stalledSince)
	s, found := standbyOf(k.obs.standbys)
	in.StandbyStreams = found && s.state
	if found && k.obs.flush > s.flush {
		in.LagBytes = uint64(k.obs.flush - s.flush)
	}
	if !in.StandbyStreams && in.StandbyStalled == 0 {
		in.StandbyStalled = time.Nanosecond
	}
	for _, o := range k.obs.standbys {
		in.StaleWalsender = in.StaleWalsender || o.age > staleWalsender
	}
}

func standbyOf(all []seen) (best seen, found bool) {
	for _, s := range all {
		if !found || s.state && !best.state || s.state == best.state && s.age < best.age {
			best, found = s, true
		}
	}
	return best, found
}

func (k *kine) soloConnected() bool {
	return k.up && k.pg.p.up && k.pg.primary && k.pg.acker && !k.soloOff
}

// observeLoop looks at PostgreSQL; one that is frozen does not answer, and two seconds later that is noticed.
func (k *kine) observeLoop() {
	k.p.after(observeEvery, k.observeLoop)
	if k.up {
		k.observe()
	}
}

func (k *kine) observe() {
	began, life := k.now(), k.life
	if !k.pg.p.stopped {
		k.noteObservation(k.look())
		return
	}
	k.p.after(2*time.Second, func() {
		if k.up && k.life == life && k.pg.p.stopped && k.unwellSince == 0 && k.promotedEpoch != 0 {
			k.unwellSince = began
		}
	})
}

func (k *kine) look() observation {
	pg := k.pg
	now := k.w.mono(k.m)
	o := observation{recovery: !pg.primary, timeline: pg.dir.timeline}
	if pg.primary {
		o.flush = pg.dir.lsn(k.w)
		for _, s := range pg.senders {
			o.standbys = append(o.standbys, seen{s.pid, lsnOf(s.flush), now - s.replied, s.caught})
		}
	} else {
		o.received = pg.dir.lsn(k.w)
		o.streaming = pg.conn != nil
	}
	return o
}

func (k *kine) noteObservation(o observation) {
	now := k.now()
	k.obs, k.obsAt = o, now
	if o.recovery {
		if o.streaming {
			k.unstreamedSince, k.rewoundEpoch = 0, 0
		} else if k.unstreamedSince == 0 {
			k.unstreamedSince = now
		}
		return
	}
	s, found := standbyOf(o.standbys)
	moved := found && s.flush > k.standbyFlush
	ok := found && s.state && s.age < staleWalsender && (moved || s.flush >= k.flushedBefore)
	switch {
	case ok:
		k.stalledSince = 0
	case k.stalledSince == 0:
		k.stalledSince = now
	}
	if !found || s.pid != k.standbyPID || s.flush < k.standbyFlush {
		k.proven = false
	}
	k.standbyPID, k.standbyFlush, k.flushedBefore = s.pid, s.flush, o.flush
}

// nowUp and nowDown are the agent's notes of PostgreSQL's life.
func (k *kine) nowUp() {
	k.up, k.stopping, k.startFailures = true, false, 0
	k.life++
	k.downSince, k.unwellSince, k.obsAt, k.obs = 0, 0, 0, observation{}
	k.unstreamedSince = k.now()
	k.promotedEpoch, k.promotedTLI, k.promotedLSN = 0, 0, 0
	k.forgetSession()
}

func (k *kine) nowDown() {
	if !k.up {
		return
	}
	if k.promotedEpoch != 0 {
		k.endGate("PostgreSQL has ended")
	}
	k.up, k.downSince = false, k.now()
	k.promotedEpoch, k.promotedTLI, k.promotedLSN = 0, 0, 0
	k.obsAt, k.obs = 0, observation{}
	k.engine.failed = true
	k.forgetSession()
	k.exchangeNow()
	k.wake()
}

func (k *kine) forgetSession() {
	if k.sentinel != nil {
		k.sentinel.dead = true
	}
	k.sentinel, k.epochCommitted, k.engineOn = nil, 0, 0
	k.proven, k.slot = false, false
	k.joinedAt, k.noJoinUntil = 0, 0
	k.stalledSince, k.flushedBefore, k.standbyFlush = 0, 0, 0
}

// exited is the end of PostgreSQL, which the kernel tells at once.
func (k *kine) exited() {
	if !k.p.up {
		return
	}
	k.p.soon(ms, func() {
		if !k.pg.p.up {
			k.nowDown()
			k.failPending(errDown)
		}
	})
}

// sessionEnded is a crash of a backend: the sentinel and the engine's session are gone.
func (k *kine) sessionEnded() {
	if !k.p.up {
		return
	}
	k.engine.failed = true
	k.epochPending = nil
	k.p.soon(ms, func() {
		k.failPending(errDown)
		k.wake()
	})
}

// probeLoop writes once a second in a new session.
func (k *kine) probeLoop() {
	k.p.after(probeEvery, k.probeLoop)
	if !k.up || k.promotedEpoch == 0 || k.epochCommitted == 0 || k.wish.switchTo != "" {
		return
	}
	began, generation, answered := k.now(), k.generation, false
	pg := k.pg
	pg.p.after(ms, func() {
		pg.p.disk(func() {
			if !pg.primary {
				return
			}
			pg.append(0) // a local commit: it waits for nobody
			pg.pump()
			pg.release()
			answered = true
			if k.up && k.generation == generation {
				k.unwellSince = 0
			}
		})
	})
	k.p.after(probeTimeout, func() {
		if !answered && k.up && k.generation == generation && k.unwellSince == 0 {
			k.unwellSince = began
		}
	})
}
