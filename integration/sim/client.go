package sim

import (
	"time"

	"kineshim/failover"
)

// engine is the etcd engine on the primary: it gives out revisions and knows what is committed.
type engine struct {
	k          *kine
	generation uint64 // of the session it runs on; 0: it does not run
	failed     bool
	// committed is the newest entry of whose commit it has been told, or which it found at its start.
	committed int32
	inFlight  int
}

// load starts it: it finds whatever the table holds.
func (e *engine) load(k *kine, generation uint64) {
	*e = engine{k: k, generation: generation, committed: k.pg.dir.tip}
}

func (e *engine) stop() { e.generation, e.inFlight = 0, 0 }

const (

	// gatherTakes is how long a read's data are gathered.
	gatherTakes = 2 * ms
	// waitPoll and waitFor: an answer waits for a lease.
	waitPoll, waitFor = 5 * ms, 2 * time.Second
)

// clientLoop asks this node for a write and a read, again and again.
func (k *kine) clientLoop() {
	k.p.after(k.w.clientEvery/2+k.w.within(k.w.clientEvery), k.clientLoop)
	token, err := k.gate.Enter()
	if err != nil || k.engine.generation != token.Generation || k.engine.failed {
		return
	}
	if k.w.rng.IntN(2) == 0 {
		k.write(token)
	} else {
		k.read(token)
	}
}

// write is a client's put: answered when it is committed and the gate holds.
func (k *kine) write(token failover.Token) {
	w := k.w
	w.nextID++
	id, pg := w.nextID, k.pg
	k.engine.inFlight++
	pg.p.after(ms/5, func() {
		if !pg.primary {
			return
		}
		pg.commit(id, func(entry int32) {
			k.p.after(ms/10, func() {
				if e := &k.engine; e.generation == token.Generation {
					if w.wal[entry].depth > w.wal[e.committed].depth {
						e.committed = entry
					}
					e.inFlight = max(0, e.inFlight-1)
				}
				k.answer(token, w.now+waitFor, func() { w.check.acknowledged(k, token.Epoch, entry) })
			})
		})
	})
}

// read is a client's linearizable read.
func (k *kine) read(token failover.Token) {
	w := k.w
	seen, floor := k.engine.committed, w.check.floor
	if w.mutant("gate-not-checked-after-gathering") {
		k.p.soon(gatherTakes, func() { w.check.answered(k, token.Epoch, seen, floor) })
		return
	}
	k.p.soon(gatherTakes, func() {
		k.answer(token, w.now+waitFor, func() { w.check.answered(k, token.Epoch, seen, floor) })
	})
}

// answer gives an answer if the gate allows it, now or soon; a dead token never gets one.
func (k *kine) answer(token failover.Token, until time.Duration, give func()) {
	switch err := k.gate.Check(token); {
	case err == nil:
		give()
	case err == failover.ErrTokenDead || k.w.now > until:
	default:
		k.p.after(waitPoll, func() { k.answer(token, until, give) })
	}
}
