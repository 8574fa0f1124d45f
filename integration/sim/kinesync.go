package sim

import (
	"time"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

// performSync is the lane of who acknowledges commits.
func (j *job) performSync() {
	k := j.k
	pg := k.pg
	switch j.step.Action {
	case decide.ConnectSolo:
		j.connectSolo()
	case decide.DisconnectSolo:
		j.within(10 * time.Second)
		j.ask(queryTakes, func() error {
			if k.w.mutant("flag-believed") { // the checkpointer has not got round to it: commits are still acknowledged
				sessions := pg.sessions
				pg.p.after(100*ms+k.w.within(400*ms), func() {
					if pg.sessions == sessions && k.soloOff {
						pg.acker = false
					}
				})
				k.soloOff = true
				return nil
			}
			pg.acker = false
			return nil
		}, func(err error) {
			if err == nil {
				k.proven, k.joinedAt = false, k.now()
			}
			j.finish(err)
		})
	case decide.ProveGating:
		j.proveGating()
	case decide.EnsureSlot:
		j.within(10 * time.Second)
		j.ask(queryTakes, func() error {
			if !pg.primary {
				return errRole
			}
			pg.slot = true
			return nil
		}, func(err error) {
			if err == nil {
				k.slot = true
			}
			j.finish(err)
		})
	case decide.DropStale:
		j.within(10 * time.Second)
		j.ask(queryTakes, func() error { pg.dropStale(staleWalsender); return nil }, j.finish)
	default:
		panic("unknown action " + string(j.step.Action))
	}
}

func (j *job) connectSolo() {
	k := j.k
	pg := k.pg
	if !k.beginSolo() {
		k.p.soon(ms, func() { j.finish(errNotNow) })
		return
	}
	k.soloOff = false
	k.w.cue(k.id, "connect-solo")
	j.within(10 * time.Second)
	j.ask(queryTakes, func() error {
		if !pg.primary {
			return errRole
		}
		pg.acker = true
		pg.release()
		return nil
	}, func(err error) {
		if err == nil {
			k.w.say(k.id, "acknowledges commits itself", "")
			if k.joinedAt != 0 && k.now()-k.joinedAt < joinTrial {
				k.noJoinUntil = k.now() + joinPause
			}
		}
		j.finish(err)
	})
}

// beginSolo looks once more whether commits may go on without the standby.
func (k *kine) beginSolo() bool {
	rec := k.v.rec
	if k.pairing.Load() || rec.Paired() || rec.Primary != names[k.id] || rec.Epoch != k.promotedEpoch {
		return (k.w.mutant("order") || k.w.mutant("solo-before-recorded")) && rec.Primary == names[k.id] && rec.Epoch == k.promotedEpoch
	}
	k.proven = false
	return true
}

func (j *job) proveGating() {
	k := j.k
	pg := k.pg
	generation := k.generation
	if k.soloConnected() {
		k.p.soon(ms, func() { j.finish(errRole) })
		return
	}
	j.within(5 * time.Second)
	proved := func() {
		if k.generation == generation && k.session() && !k.soloConnected() {
			k.proven = true
			k.w.say(k.id, "has proved that every commit waits for the standby", "")
		}
		j.finish(nil)
	}
	if k.w.mutant("flag-believed") {
		j.ask(queryTakes, func() error { return nil }, func(err error) {
			if err != nil {
				j.finish(err)
				return
			}
			proved()
		})
		return
	}
	var target record.LSN
	j.ask(queryTakes, func() error {
		if !pg.primary {
			return errRole
		}
		target = pg.dir.lsn(k.w)
		return nil
	}, func(err error) {
		if err != nil {
			j.finish(err)
			return
		}
		j.poll(5*ms, func() (bool, error) {
			if k.soloConnected() {
				return false, errRole
			}
			return k.standbyHas(target), nil
		}, proved)
	})
}
