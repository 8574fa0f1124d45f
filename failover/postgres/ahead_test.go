package postgres

import (
	"errors"
	"syscall"
	"testing"
	"time"
)

// promoteWithAhead promotes a lone node and waits until the sessions for what comes next are open.
func promoteWithAhead(t *testing.T) (n *node, timeline uint32) {
	t.Helper()
	ctx := testContext(t)
	n = newNode(t, freePort(t), 1).withData(ctx)
	check(t, "start", n.Start(ctx, nil))
	_, err := n.Freeze(ctx)
	check(t, "freeze", err)
	timeline, _, err = n.Promote(ctx, 1)
	check(t, "promote", err)
	a := &n.child.Load().ahead
	a.mu.Lock()
	defer a.mu.Unlock()
	for p, s := range a.open {
		<-s.done
		if s.conn == nil {
			t.Fatalf("the session for purpose %d was not opened", p)
		}
	}
	if len(a.open) != 3 {
		t.Fatalf("%d sessions are open, want 3", len(a.open))
	}
	return n, timeline
}

// left says how many of them nobody has taken.
func (n *node) left() int {
	a := &n.child.Load().ahead
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.open)
}

// A session that began while PostgreSQL was in recovery commits as any other does: not without an acknowledgement.
func TestSessionsFromBeforeThePromotionAreUsedAndGateCommits(t *testing.T) {
	ctx := testContext(t)
	n, timeline := promoteWithAhead(t)
	sentinel, err := n.OpenSentinel(ctx)
	check(t, "sentinel", err)
	defer sentinel.Close()
	if err := n.CommitEpoch(within(t, 300*time.Millisecond), 1, "n", timeline); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("the epoch is committed though nobody acknowledges: %v", err)
	}
	n.waitsForStandby(ctx)
	check(t, "connect solo", n.ConnectSolo(ctx))
	check(t, "epoch", n.CommitEpoch(ctx, 1, "n", timeline))
	if left := n.left(); left != 0 {
		t.Errorf("%d sessions were opened in vain", left)
	}
	if got := n.value(ctx, `SELECT epoch || ' ' || timeline FROM kineshim.epoch`); got != "1 2" {
		t.Errorf("the epoch row says %q", got)
	}
	if got := n.value(ctx, `SELECT sync_state || ' ' || state FROM pg_stat_replication`); got != "quorum streaming" {
		t.Errorf("the acknowledger is %q", got)
	}
	if !sentinel.Alive() {
		t.Error("the sentinel is dead")
	}
}

func TestSessionsFromBeforeThePromotionAreNotMissedWhenTheyAreDead(t *testing.T) {
	ctx := testContext(t)
	n, timeline := promoteWithAhead(t)
	began := n.child.Load()
	bystander := n.session(ctx, "postgres")
	check(t, "crash", syscall.Kill(n.backend(ctx, "walwriter"), syscall.SIGKILL))
	eventually(t, ctx, "the end of all sessions", func() bool { return !isIdle(bystander) })
	sentinel, err := n.OpenSentinel(ctx) // it waits until PostgreSQL has begun anew
	check(t, "sentinel", err)
	defer sentinel.Close()
	check(t, "connect solo", n.ConnectSolo(ctx))
	check(t, "epoch", n.CommitEpoch(ctx, 1, "n", timeline))
	if n.child.Load() != began || !sentinel.Alive() {
		t.Error("PostgreSQL was not started anew within its postmaster, or the sentinel is of the life before")
	}
}

// One that nobody needs must not be taken for an acknowledger, or hold a place, for ever.
func TestSessionsThatNobodyTakesAreClosed(t *testing.T) {
	ctx := testContext(t)
	n, _ := promoteWithAhead(t)
	conn := n.session(ctx, "postgres")
	clients := func() string { return value(t, ctx, conn, `SELECT count(*) FROM pg_stat_replication`) }
	if got := clients(); got != "1" {
		t.Fatalf("%s replication clients", got)
	}
	began := time.Now()
	eventually(t, ctx, "the end of the connection", func() bool { return clients() == "0" })
	if took := time.Since(began); took > aheadFor+5*time.Second {
		t.Errorf("it took %v", took)
	}
}
