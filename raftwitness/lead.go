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
	var since time.Duration // when this leadership began
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-n.leaderCh:
			n.wake()
			since = n.cfg.Clock()
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
			tick.Reset(n.handAway(ctx, n.cfg.Clock()-since))
		}
	}
}

const (
	// handAwayEvery is the time between attempts of a witness to be rid of the leadership.
	handAwayEvery = 50 * time.Millisecond
	// answerEvery is the time between looks whether a data node has answered.
	answerEvery = 5 * time.Millisecond
	// primaryFirst is the part of the promise for which a witness that leads waits for the primary's answer before it takes
	// another data node: whoever gets the leadership while the primary is well may begin a failover that nobody needs.
	primaryFirst = 3
)

// barrierTimeout bounds the wait for a majority. A leader that reaches none steps down before; one whose followers answer but
// cannot store does not.
const barrierTimeout = 5 * time.Second

// barrier applies all that was committed before this term. It reports whether that is done.
func (n *Node) barrier(ctx context.Context) bool {
	term := n.raft.CurrentTerm()
	if n.barrierTerm.Load() == term {
		return true
	}
	if n.cfg.OnLead != nil {
		n.cfg.OnLead(term) // before barrierTerm, without which there is no lease
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

// handAway offers a witness's leadership, which it has had for so long, to the data node that most probably can serve. It
// returns when to try again.
func (n *Node) handAway(ctx context.Context, led time.Duration) (again time.Duration) {
	if n.cfg.Identity.Role != record.Witness || ctx.Err() != nil {
		return handAwayEvery
	}
	name := n.successor(led < n.cfg.Identity.Promise/primaryFirst)
	if name == "" {
		return answerEvery
	}
	n.cfg.Log.Info("hands leadership over", "to", name)
	if err := n.HandOver(ctx, name); err != nil {
		n.cfg.Log.Warn("hand leadership over", "to", name, "error", err)
	}
	return handAwayEvery
}

// successor is the primary if it has answered lately, else, unless only the primary will do, another node in sync, else any data
// node; "" if none has answered.
func (n *Node) successor(onlyPrimary bool) string {
	r, _ := n.Record()
	heard := n.Status().Heard
	best, bestRank := "", 3
	for _, p := range n.peers() {
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
		if rank < bestRank && (rank == 0 || !onlyPrimary) {
			best, bestRank = p.Name, rank
		}
	}
	return best
}
