package sim

import (
	"time"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

const (
	proposeTimeout  = 5 * time.Second
	handOverTimeout = 3 * time.Second
)

// propose commits a command and remembers what depends on its outcome.
func (j *job) propose() {
	k := j.k
	c := j.step.Command
	if c.Kind == record.Init {
		c.ClusterID, c.Members = "sim", members
	}
	if c.Kind == record.Pair && !k.beginPairing() {
		k.p.soon(ms, func() { j.finish(errNotNow) })
		return
	}
	k.w.cue(k.id, string(c.Kind))
	answered := false
	hear := func(o proposalOutcome, err error) {
		if answered {
			return
		}
		answered = true
		if c.Kind == record.Pair && (o != unknown || k.w.mutant("unknown-is-failure")) {
			k.pairing.Store(false)
		}
		if c.Kind == record.Force && o == done {
			k.wish.force = 0
		}
		if o == done {
			k.exchangeNow()
		}
		if err == nil && o != done {
			err = errTimeout
		}
		j.finish(err)
	}
	k.p.after(proposeTimeout, func() { hear(unknown, errTimeout) })
	k.v.append(&c, func(o proposalOutcome, err error) {
		k.p.soon(ms/5, func() { hear(o, err) })
	})
}

// beginPairing makes this node act as paired from before it proposes to pair.
func (k *kine) beginPairing() bool {
	if k.w.mutant("pairing") {
		return k.proven
	}
	if k.grant != (grant{}) || !k.proven || k.soloConnected() || k.v.leaseLeft() == 0 {
		return false
	}
	k.pairing.Store(true)
	return true
}

// settle waits behind a barrier for the outcome of all proposals.
func (j *job) settle() {
	k := j.k
	j.within(proposeTimeout)
	k.v.append(nil, func(o proposalOutcome, err error) {
		k.p.soon(ms/5, func() {
			if j.over() {
				return
			}
			if o == done {
				k.pairing.Store(false)
			} else if err == nil {
				err = errTimeout
			}
			j.finish(err)
		})
	})
}

func (j *job) handOver() {
	k := j.k
	to := number(j.step.To)
	offer := func() {
		j.within(handOverTimeout)
		k.v.handOver(to, func(ok bool) {
			k.p.soon(ms/5, func() {
				if ok {
					j.finish(nil)
				} else {
					j.finish(errNotLeader)
				}
			})
		})
	}
	if to != k.other {
		offer()
		return
	}
	k.w.cue(k.id, "hand-over")
	told := false
	once := func() {
		if !told && !j.over() {
			told = true
			offer()
		}
	}
	k.exchange(once) // it must know why before it leads
	k.p.after(400*ms, once)
}

// decide is the real decide, unless a mutant bends it.
func (w *World) decide(k *kine, in *decide.Input) decide.Plan {
	if w.opt.Mutant == "" {
		return decide.Decide(in)
	}
	return w.bend(k, in)
}

// apply is the record's own Apply, unless a mutant bends it.
func (w *World) apply(r *record.Record, c record.Command) (record.Record, error) {
	if w.mutant("insync") && c.Kind == record.Promote && c.Epoch == r.Epoch && !r.InSyncHas(c.Node) && r.Initialised() {
		bent := r.Clone()
		bent.InSync = []string{nameOther(c.Node), c.Node}
		if bent.InSync[0] > bent.InSync[1] {
			bent.InSync[0], bent.InSync[1] = bent.InSync[1], bent.InSync[0]
		}
		return bent.Apply(c)
	}
	return r.Apply(c)
}

func nameOther(n string) string { return names[1-number(n)] }
