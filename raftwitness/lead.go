package raftwitness

import (
	"context"
	"time"

	"kineshim/raftwitness/record"

	"github.com/hashicorp/raft"
)

// lead does what each new leadership asks for: the barrier, and on the witness the hand-over to a data node. It ends with ctx.
func (n *Node) lead(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	tick.Stop()
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-n.leaderCh:
			n.wake()
			if !leads {
				tick.Stop()
				continue
			}
		case <-tick.C:
		}
		if n.raft.State() != raft.Leader {
			tick.Stop()
			continue
		}
		if !n.barrier(ctx) || n.cfg.Identity.Role == record.Witness {
			n.handAway(ctx)
			tick.Reset(handAwayEvery)
		}
	}
}

// handAwayEvery is the time between attempts of a witness to be rid of the leadership.
const handAwayEvery = 50 * time.Millisecond

// barrierTimeout bounds the wait for a majority. A leader that reaches none steps down before; one whose followers answer but
// cannot store does not.
const barrierTimeout = 5 * time.Second

// barrier applies all that was committed before this term. It reports whether that is done.
func (n *Node) barrier(ctx context.Context) bool {
	term := n.raft.CurrentTerm()
	if n.barrierTerm.Load() == term {
		return true
	}
	if err := n.Settle(ctx); err != nil {
		n.cfg.Log.Warn("barrier of the new term", "term", term, "error", err)
		return false
	}
	if n.raft.State() != raft.Leader || n.raft.CurrentTerm() != term {
		return false
	}
	n.barrierTerm.Store(term)
	n.cfg.Log.Info("leads, and has applied all earlier entries", "term", term)
	n.wake()
	return true
}

// handAway offers a witness's leadership to the data node that most probably can serve.
func (n *Node) handAway(ctx context.Context) {
	if n.cfg.Identity.Role != record.Witness || ctx.Err() != nil {
		return
	}
	name := n.successor()
	if name == "" {
		return
	}
	n.cfg.Log.Info("hands leadership over", "to", name)
	if err := n.HandOver(ctx, name); err != nil {
		n.cfg.Log.Warn("hand leadership over", "to", name, "error", err)
	}
}

// successor is the primary if it has answered lately, else another node in sync, else any data node; "" if none has answered.
func (n *Node) successor() string {
	r, _ := n.Record()
	heard := n.Status().Heard
	best, bestRank := "", 3
	for _, p := range n.cfg.Identity.Peers {
		age, ok := heard[p.Name]
		if p.Role != record.Data || !ok || age > n.cfg.Identity.Promise {
			continue
		}
		rank := 2
		switch {
		case p.Name == r.Primary || !r.Initialised() && p.Name == n.cfg.Identity.Founder:
			rank = 0
		case r.InSyncHas(p.Name):
			rank = 1
		}
		if rank < bestRank {
			best, bestRank = p.Name, rank
		}
	}
	return best
}
