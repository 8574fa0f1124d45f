package postgres

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Why a waiting commit is never cancelled: it becomes visible, and the client is told success, with a warning.
func TestACancelledWaitIsCommittedAndVisible(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	a.startPlain(ctx, "synchronous_standby_names=nobody")
	a.sql(ctx, `SET synchronous_commit = local; CREATE TABLE t (n int)`)
	commit := a.background(ctx, `INSERT INTO t VALUES (1)`)
	a.waitsForStandby(ctx)
	a.sql(ctx, `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`)
	if err := mustReturn(t, ctx, commit); err == nil || !strings.HasPrefix(err.Error(), "done, but: canceling wait for synchronous replication") {
		t.Errorf("the client got %v", err)
	}
	if got := a.value(ctx, `SELECT count(*) FROM t`); got != "1" {
		t.Errorf("%s rows are visible, want 1", got)
	}
}

// Why a primary is never shut down in fast mode: that cancels the waits too.
func TestAFastShutdownCommitsWhatWaits(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	a.startPlain(ctx, "synchronous_standby_names=nobody")
	a.sql(ctx, `SET synchronous_commit = local; CREATE TABLE t (n int)`)
	conn := a.session(ctx, Database)
	result := make(chan error, 1)
	go func() { result <- execute(ctx, conn, `INSERT INTO t VALUES (1)`) }()
	a.waitsForStandby(ctx)
	check(t, "SIGINT", syscall.Kill(a.child.Load().pid, syscall.SIGINT))
	err := mustReturn(t, ctx, result)
	if w := warned(conn); !strings.HasPrefix(w, "canceling the wait for synchronous replication") {
		t.Errorf("the client got %v, warning %q", err, w)
	}
	<-a.Exited()
	a.startPlain(ctx, "synchronous_standby_names=nobody")
	if got := a.value(ctx, `SELECT count(*) FROM t`); got != "1" {
		t.Errorf("%s rows are visible, want 1", got)
	}
}

func TestStopImmediateAcknowledgesNothing(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	freezeProcess(t, b.backend(ctx, "walreceiver"))
	var commits []<-chan error
	for range 8 {
		commits = append(commits, a.background(ctx, `INSERT INTO t VALUES (1)`))
	}
	a.waitsForStandby(ctx)
	if err := a.StopFast(ctx); !errors.Is(err, ErrNotStandby) {
		t.Fatalf("fast shutdown of a primary: %v", err)
	}
	check(t, "stop", a.StopImmediate(ctx))
	for _, c := range commits {
		if err := mustReturn(t, ctx, c); err == nil || strings.Contains(err.Error(), "for synchronous replication") {
			t.Errorf("a client got %v, want an error", err)
		}
	}
	if a.Running() {
		t.Error("running after the stop")
	}
}

// The driver sends a cancel request when a context ends; the sessions of this package must not.
func TestAContextThatEndsCancelsNoCommit(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	thaw := freezeProcess(t, b.backend(ctx, "walreceiver"))
	conn := a.session(ctx, Database)
	if err := execute(within(t, 200*time.Millisecond), conn, `INSERT INTO t VALUES (1)`); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("insert: %v", err)
	}
	a.waitsForStandby(ctx)
	// The driver sends its cancel request, if it can, at once.
	look := a.session(ctx, Database)
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		if got := value(t, ctx, look, `SELECT count(*) FROM t`); got != "0" {
			t.Fatalf("%s rows are visible, want none", got)
		}
	}
	thaw()
	eventually(t, ctx, "the row", func() bool { return a.value(ctx, `SELECT count(*) FROM t`) == "1" })
}

// After a crash of any backend PostgreSQL begins anew, and shows rows that the standby never got, with no sign of it in the
// postmaster's start time.
func TestACrashOfABackendIsSeenAndTheEpochIsABarrier(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	sentinel, err := a.OpenSentinel(ctx)
	check(t, "sentinel", err)
	defer sentinel.Close()
	began := a.value(ctx, `SELECT pg_postmaster_start_time()`)
	thaw := freezeProcess(t, b.backend(ctx, "walreceiver"))
	victim := a.session(ctx, "postgres")
	commit := a.background(ctx, `INSERT INTO t VALUES (1)`)
	a.waitsForStandby(ctx)
	if got := a.value(ctx, `SELECT count(*) FROM t`); got != "0" {
		t.Fatalf("%s rows are visible before the crash", got)
	}
	if !sentinel.Alive() {
		t.Fatal("the sentinel is dead before the crash")
	}

	check(t, "kill a backend", syscall.Kill(int(victim.PID()), syscall.SIGKILL))
	if err := mustReturn(t, ctx, commit); err == nil {
		t.Error("the commit was acknowledged")
	}
	eventually(t, ctx, "a new session", func() bool {
		conn, err := a.local(ctx, Database, "on")
		if err != nil {
			return false
		}
		defer closeSession(conn)
		if sentinel.Alive() {
			t.Fatal("a new session was opened while the sentinel lived")
		}
		return true
	})
	select {
	case <-sentinel.Closed():
	case <-ctx.Done():
		t.Error("the sentinel's channel stays open")
	}
	if got := a.value(ctx, `SELECT count(*) FROM t`); got != "1" {
		t.Errorf("%s rows are visible after the crash, want the one that was never acknowledged", got)
	}
	if again := a.value(ctx, `SELECT pg_postmaster_start_time()`); again != began {
		t.Errorf("the postmaster's start time changed from %s to %s", began, again)
	}

	if err := a.CommitEpoch(within(t, 500*time.Millisecond), 1, "n", 2); !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("the barrier passed without the standby: %v", err)
	}
	if err := a.CommitEpoch(within(t, 100*time.Millisecond), 1, "n", 2); !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("the barrier passed without the standby: %v", err)
	}
	if got := a.value(ctx, `SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO kineshim.epoch%'`); got != "1" {
		t.Errorf("%s commits wait, want 1 for all calls", got)
	}
	thaw()
	check(t, "epoch", a.CommitEpoch(ctx, 1, "n", 2))
	eventually(t, ctx, "the row on b", func() bool { return b.value(ctx, `SELECT count(*) FROM t`) == "1" })
}

func TestTheEpochNeverGoesBack(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	a.startPrimary(ctx, 7)
	for _, c := range []struct {
		epoch    uint64
		node     string
		timeline uint32
		want     error
	}{
		{7, "n", 2, nil},
		{6, "n", 2, ErrLaterEpoch},
		{7, "other", 2, ErrLaterEpoch},
		{7, "n", 1, ErrLaterEpoch},
		{8, "other", 2, nil},
		{7, "n", 2, ErrLaterEpoch},
	} {
		if err := a.CommitEpoch(ctx, c.epoch, c.node, c.timeline); !errors.Is(err, c.want) {
			t.Errorf("epoch %d of %s on timeline %d: %v, want %v", c.epoch, c.node, c.timeline, err, c.want)
		}
	}
	if got := a.value(ctx, `SELECT epoch || ' ' || node || ' ' || timeline FROM kineshim.epoch`); got != "8 other 2" {
		t.Errorf("the row is %q", got)
	}
}
