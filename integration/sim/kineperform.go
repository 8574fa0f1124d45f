package sim

import (
	"errors"
	"time"

	"kineshim/failover"
	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

// The times that actions take, about.
const (
	initdbTakes  = time.Second
	startTakes   = 300 * ms
	stopTakes    = 30 * ms
	freezeTakes  = 3 * ms
	promoteTakes = 60 * ms
	rewindTakes  = 2 * time.Second
	cloneTakes   = 3 * time.Second
	queryTakes   = 2 * ms
	engineTakes  = 30 * ms
)

// perform begins the action; see failover's perform.go for each.
func (j *job) perform() {
	k := j.k
	pg := k.pg
	switch j.step.Action {
	case decide.InitDB:
		k.w.check.destroys(k, "initdb")
		j.destroying = true
		k.p.after(initdbTakes, func() {
			if !j.over() {
				pg.initdb()
				j.destroying = false
				k.inspect()
				j.finish(nil)
			}
		})
	case decide.Start:
		j.start()
	case decide.Stop:
		k.endGate("PostgreSQL is being stopped")
		k.stopping = true
		k.engine.stop()
		k.p.after(stopTakes/2+k.w.within(stopTakes), func() {
			pg.p.held, pg.p.stopped = 0, false
			if pg.p.up {
				pg.die()
				k.nowDown()
			}
			k.inspect()
			j.finish(nil)
		})
	case decide.Freeze:
		j.freeze()
	case decide.Follow:
		k.setUpstream(false, true)
		j.within(10 * time.Second)
		j.ask(freezeTakes, func() error {
			if pg.primary {
				return errRole
			}
			if pg.dir.markerTimeline == 0 {
				pg.dir.markerEpoch = 0 // forgetUnfinishedPromotion
			}
			pg.follow()
			return nil
		}, func(err error) {
			if err == nil {
				k.setUpstream(false, false)
			}
			j.finish(err)
		})
	case decide.Promote:
		j.promote()
	case decide.Rewind, decide.Clone:
		j.rebuild()
	case decide.OpenSession:
		j.openSession()
	case decide.CommitEpoch:
		j.commitEpoch()
	case decide.StartEngine:
		j.startEngine()
	case decide.Drain:
		j.drain()
	case decide.Propose:
		j.propose()
	case decide.HandOver:
		j.handOver()
	case decide.Settle:
		j.settle()
	default:
		j.performSync()
	}
}

func (j *job) start() {
	k := j.k
	if !k.pg.dir.exists || !k.pg.dir.whole {
		k.startFailures++
		k.p.soon(ms, func() { k.inspect(); j.finish(errDown) })
		return
	}
	k.p.after(startTakes/2+k.w.within(startTakes)+2*k.m.diskDelay, func() {
		if j.over() {
			return
		}
		k.pg.start()
		k.inspect()
		k.frozen, k.adrift = true, false
		k.nowUp()
		k.observe()
		k.exchangeNow()
		j.finish(nil)
	})
}

func (j *job) freeze() {
	k := j.k
	pg := k.pg
	k.setUpstream(false, true)
	j.within(10 * time.Second)
	j.ask(freezeTakes, func() error {
		if pg.primary {
			return errRole
		}
		if !k.w.mutant("freeze-skipped") {
			pg.freeze()
		}
		return nil
	}, func(err error) {
		if err != nil {
			j.finish(err)
			return
		}
		k.setUpstream(true, false)
		k.obs.received = max(k.obs.received, pg.dir.lsn(k.w))
		if k.obsAt == 0 {
			k.observe()
		}
		j.finish(nil)
	})
}

func (k *kine) setUpstream(frozen, adrift bool) {
	k.frozen, k.adrift = frozen, adrift
	k.unstreamedSince = k.now()
	k.life++
}

func (j *job) promote() {
	k := j.k
	rec := k.v.rec
	if rec.Primary != names[k.id] && !k.w.mutant("insync") {
		k.p.soon(ms, func() { j.finish(errNotNow) })
		return
	}
	k.promoting = true
	j.within(time.Minute)
	j.ask(promoteTakes, func() error {
		timeline, at, err := k.pg.promote(rec.Epoch)
		if err != nil {
			return err
		}
		k.w.sayf(k.id, "PostgreSQL is promoted in epoch %d on timeline %d at %v", rec.Epoch, timeline, at)
		k.w.check.promoted(k, rec.Epoch)
		k.w.cue(k.id, "promoted")
		return nil
	}, func(err error) {
		k.promoting = false
		if err != nil {
			if errors.Is(err, errNotFrozen) {
				k.setUpstream(false, true)
			}
			j.finish(err)
			return
		}
		d := &k.pg.dir
		k.promotedEpoch, k.promotedTLI = rec.Epoch, d.timeline
		k.promotedLSN = lsnOf(d.history[len(d.history)-1].end)
		k.data.markerEpoch, k.data.markerTimeline = rec.Epoch, d.timeline
		k.frozen, k.adrift, k.unwellSince = false, false, 0
		k.obs, k.obsAt = observation{}, 0
		k.forgetSession()
		j.finish(nil)
	})
}

// rebuild destroys the local data and makes them anew, with the primary's leave.
func (j *job) rebuild() {
	k := j.k
	w, o := k.w, k.w.kines[k.other]
	rec := k.v.rec
	nonce, instance := k.name("rebuild"), k.instance
	w.cue(k.id, "rebuild")
	epoch := rec.Epoch
	end := func(err error) {
		if !j.over() {
			k.rebuilt = nonce
			k.exchangeNow()
			j.finish(err)
		}
	}
	heard := false
	k.p.after(2*time.Second, func() {
		if !heard {
			heard = true
			end(errTimeout)
		}
	})
	w.deliver(k.id, o.p, 0, func() {
		granted := o.beginRebuild(epoch, instance, nonce)
		w.deliver(k.other, k.p, 0, func() {
			if heard || j.over() {
				return
			}
			heard = true
			now := k.v.rec
			if !granted && !w.mutant("grant-ignored") {
				end(errPeer)
				return
			}
			if (now.Epoch != epoch || now.InSyncHas(names[k.id])) && !w.mutant("destroys-in-sync") {
				end(errNotNow)
				return
			}
			k.exchangeNow()
			j.copyPeer(end)
		})
	})
}

// copyPeer stops PostgreSQL and takes the data from the primary. A rewind works in place, a clone beside the old data.
func (j *job) copyPeer(end func(error)) {
	k := j.k
	w, pg, from := k.w, k.pg, k.w.kines[k.other].pg
	rewind := j.step.Action == decide.Rewind
	takes := cloneTakes
	if rewind {
		k.rewoundEpoch = k.v.rec.Epoch
		takes = rewindTakes
	}
	if pg.p.up {
		pg.p.held, pg.p.stopped = 0, false
		pg.die()
		k.nowDown()
	}
	usable := func() bool {
		return from.p.runs() && from.primary && w.both(k.id, k.other)
	}
	if !usable() || rewind && from.dir.system != pg.dir.system {
		k.p.soon(100*ms, func() { end(errPeer) })
		return
	}
	begun, life := w.now, from.p.life
	w.check.destroys(k, string(j.step.Action))
	j.destroying = rewind
	k.p.after(takes/2+w.within(takes), func() {
		if j.over() {
			return
		}
		k.inspect()
		if !usable() || from.p.life != life {
			end(errPeer)
			return
		}
		w.check.destroys(k, string(j.step.Action))
		w.sayf(k.id, "its data are made anew, in %v", w.now-begun)
		d := from.dir
		d.exists, d.whole, d.markerEpoch, d.markerTimeline = true, true, 0, 0
		pg.dir = d
		j.destroying = false
		k.startFailures = 0
		k.inspect()
		end(nil)
	})
}

func (j *job) openSession() {
	k := j.k
	pg := k.pg
	k.engine.stop()
	j.within(30 * time.Second)
	var s *sentinel
	j.ask(queryTakes, func() error { s = pg.sessions; return nil }, func(err error) {
		switch {
		case err != nil:
			j.finish(err)
			return
		case !k.up || k.promotedEpoch == 0:
			j.finish(errNotNow)
			return
		}
		k.forgetSession()
		k.generation++
		k.sentinel = &sentinel{dead: s.dead}
		if !s.dead {
			k.sentinel = s
		}
		k.token = failover.Token{Epoch: k.promotedEpoch, Generation: k.generation}
		k.gate.Begin(failover.Session{Epoch: k.promotedEpoch, Generation: k.generation}, k.sentinel)
		j.finish(nil)
	})
}

// epochCommit is a commit of the epoch row that may be waiting.
type epochCommit struct {
	epoch uint64
	tli   uint32
	done  bool
}

// commitEpoch writes the epoch row, or joins the commit that waits.
func (j *job) commitEpoch() {
	k := j.k
	pg := k.pg
	generation := k.generation
	if k.w.mutant("epoch-row-skipped") {
		k.p.soon(ms, func() { k.epochCommitted = generation; j.finish(nil) })
		return
	}
	e := k.epochPending
	if e == nil || e.epoch != k.promotedEpoch || e.tli != k.promotedTLI {
		e = &epochCommit{epoch: k.promotedEpoch, tli: k.promotedTLI}
		k.epochPending = e
		j.onPostgres = true
		pg.p.after(queryTakes, func() {
			if pg.primary {
				pg.commit(0, func(int32) { k.p.after(ms/10, func() { e.done = true }) })
			}
		})
	}
	j.poll(3*ms, func() (bool, error) { return e.done, nil }, func() {
		if k.epochPending == e {
			k.epochPending = nil
		}
		if k.generation == generation && k.session() {
			k.epochCommitted = generation
		}
		j.finish(nil)
	})
}

func (j *job) startEngine() {
	k := j.k
	generation := k.generation
	j.within(10 * time.Minute)
	j.ask(engineTakes, func() error { return nil }, func(err error) {
		if err != nil {
			j.finish(err)
			return
		}
		if !k.session() {
			j.finish(errDown)
			return
		}
		k.engine.load(k, generation)
		if k.generation == generation {
			k.engineOn = generation
		}
		j.finish(nil)
	})
}

const (
	drainRequests = 300 * ms
	drainTimeout  = 2 * time.Second
)

// drain lets requests end, stops the engine and waits until the standby has everything.
func (j *job) drain() {
	k := j.k
	began := k.now()
	j.poll(5*ms, func() (bool, error) { return k.engine.inFlight == 0 || k.now()-began > drainRequests, nil }, func() {
		k.engine.stop()
		k.engineOn = 0
		target := k.pg.dir.lsn(k.w)
		j.within(drainTimeout)
		j.poll(ms, func() (bool, error) {
			if k.soloConnected() {
				return false, errRole
			}
			return k.standbyHas(target), nil
		}, func() {
			k.wish.drained = k.wish.switchTo != ""
			j.finish(nil)
		})
	})
}

// standbyHas: a walsender that counts has reported so much.
func (k *kine) standbyHas(target record.LSN) bool {
	for _, s := range k.pg.senders {
		if s.caught && lsnOf(s.flush) >= target {
			return true
		}
	}
	return false
}
