package postgres

import (
	"testing"
	"time"
)

func TestFailoverKeepsAcknowledgedRows(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 1000)`)
	check(t, "stop a", a.StopImmediate(ctx))
	began := time.Now()
	lsn, err := b.Freeze(ctx)
	check(t, "freeze", err)
	frozen := time.Since(began)
	timeline, at, err := b.Promote(ctx, 2)
	check(t, "promote", err)
	promoted := time.Since(began)
	check(t, "solo", b.ConnectSolo(ctx))
	check(t, "epoch", b.CommitEpoch(ctx, 2, "b", timeline))
	t.Logf("freeze %v, promote %v, epoch %v; frozen at %v, switched at %v", frozen, promoted, time.Since(began), lsn, at)
	if timeline != 3 {
		t.Errorf("timeline %d, want 3", timeline)
	}
	if got := b.value(ctx, `SELECT count(*) FROM t`); got != "1000" {
		t.Errorf("%s rows, want 1000", got)
	}
}
