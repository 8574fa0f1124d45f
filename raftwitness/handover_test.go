package raftwitness

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kineshim/raftwitness/record"

	"github.com/hashicorp/raft"
)

func TestLeaseIsGoneBeforeTheTargetIsTold(t *testing.T) {
	t.Parallel()
	c, peers := oneAmongScripted(t, "a", testPromise)
	var told atomic.Bool
	var left atomic.Int64
	var forfeited atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() { c.stop("a"); cancel(); wg.Wait() }()
	seen := func(_ time.Duration, rpc raft.RPC) {
		if _, ok := rpc.Command.(*raft.TimeoutNowRequest); ok {
			left.Store(int64(c.node("a").LeaseLeft()))
			forfeited.Store(c.node("a").Status().Forfeited)
			told.Store(true)
		}
	}
	grant := func(raft.RPC) bool { return true }
	for _, s := range peers {
		wg.Go(func() { s.answerVotes(ctx, grant, seen) })
	}
	a := c.node("a")
	eventually(t, "a has a lease", func() bool { return a.LeaseLeft() > 0 })
	term := a.Status().Term

	// b takes the offer and does not campaign, so that a goes on leading, heard by both.
	if err := a.HandOver(ctx, "b"); err == nil {
		t.Error("b has not campaigned, and yet the hand-over is said to have worked")
	}
	if !told.Load() || left.Load() != 0 || !forfeited.Load() {
		t.Errorf("b told: %v; lease then: %v, forfeited: %v", told.Load(), time.Duration(left.Load()), forfeited.Load())
	}
	steadily(t, "a leads without a lease", 3*testPromise, func() bool {
		s := a.Status()
		return !s.Leader || s.Term != term || s.LeaseLeft == 0 && s.Forfeited
	})
	if s := a.Status(); s.Leader && s.Term == term && len(s.Heard) != 2 {
		t.Errorf("a has not heard from both: %v", s.Heard)
	}
}

func TestFailedHandOverNeverBringsTheLeaseBack(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.agree()
	a := c.node("a")
	term := a.Status().Term
	c.links.isolate("b", true)
	if err := a.HandOver(t.Context(), "b"); err == nil {
		t.Fatal("handed over to a node that is cut off")
	}
	eventually(t, "the offer is made in vain", func() bool { s := a.Status(); return s.Forfeited || s.Term != term })
	steadily(t, "no lease in that term", 4*testPromise, func() bool { return a.LeaseLeft() == 0 || a.Status().Term != term })
	c.links.isolate("b", false)
	if err := a.HandOver(t.Context(), "w"); err != nil && a.Status().Leader {
		t.Logf("hand over to w: %v", err)
	}
	c.takeover("a", time.Now()) // by way of the witness, which gives it back to the primary
	if now := a.Status().Term; now <= term {
		t.Errorf("a lease in term %d after a hand-over in %d", now, term)
	}
}

func TestHandOverIsQuick(t *testing.T) {
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	stop := c.watchLeases()
	var took []time.Duration
	for range 4 {
		from := c.leader()
		c.agree()
		since := time.Now()
		if err := c.node(from).HandOver(t.Context(), other(from)); err != nil {
			t.Errorf("from %s: %v", from, err)
		}
		took = append(took, c.takeover(other(from), since))
	}
	if _, found := stop(); found != "" {
		t.Error(found)
	}
	t.Logf("from the call to the lease of the other: %v", took)
}

func TestHandOverRefusesStrangersAndItself(t *testing.T) {
	c, leader := startCluster(t, testPromise)
	if err := c.node(leader).HandOver(t.Context(), "x"); err == nil {
		t.Error("handed over to a stranger")
	}
	if err := c.node(leader).HandOver(t.Context(), leader); err == nil {
		t.Error("handed over to itself")
	}
	if err := c.node(other(leader)).HandOver(t.Context(), leader); !errors.Is(err, raft.ErrNotLeader) {
		t.Errorf("a follower hands over: %v", err)
	}
	if s := c.node(leader).Status(); s.Forfeited {
		t.Error("a hand-over that was refused has cost the lease")
	}
}

func TestProposalsAndTheirOutcomes(t *testing.T) {
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	a, b := c.node("a"), c.node("b")
	r, _ := a.Record()
	pause := record.Command{Kind: record.Pause, Epoch: r.Epoch, By: "a"}

	if err := b.Propose(t.Context(), pause); !errors.Is(err, ErrNotLeader) {
		t.Errorf("on a follower: %v", err)
	}
	if err := b.Settle(t.Context()); err == nil {
		t.Error("a follower has settled")
	}
	stale := pause
	stale.Epoch++
	if err := a.Propose(t.Context(), stale); !errors.Is(err, record.ErrStaleEpoch) {
		t.Errorf("of another epoch: %v", err)
	}
	if err := a.Propose(t.Context(), record.Command{Kind: record.Resume, Epoch: r.Epoch, By: "a"}); !errors.Is(err, record.ErrNotAllowed) {
		t.Errorf("against a rule: %v", err)
	}
	if err := a.Propose(t.Context(), record.Command{Kind: "nonsense", Epoch: r.Epoch, By: "a"}); !errors.Is(err, record.ErrUnknownKind) {
		t.Errorf("unknown: %v", err)
	}
	if err := a.Settle(t.Context()); err != nil {
		t.Errorf("settle: %v", err)
	}
	expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if err := a.Settle(expired); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("settle when it is too late: %v", err)
	}

	c.links.isolate("a", true)
	if err := a.Propose(t.Context(), pause); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("on a leader that is cut off: %v", err)
	}
	if err := a.Propose(t.Context(), pause); !errors.Is(err, ErrNotLeader) {
		t.Errorf("after it has noticed: %v", err)
	}
	c.takeover("b", time.Now())
	c.links.isolate("a", false)
	if got := c.agree(); got.Paused {
		t.Error("an entry that no majority held was committed")
	}

	c.lead("a")
	c.links.isolate("a", true)
	short, cancel := context.WithTimeout(t.Context(), testPromise/4)
	defer cancel()
	if err := a.Propose(short, pause); !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a deadline: %v", err)
	}
}
