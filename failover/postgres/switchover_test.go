package postgres

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestAwaitStandbyMeansThatTheStandbyHasEverything(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	thaw := freezeProcess(t, b.backend(ctx, "walreceiver"))
	a.sql(ctx, `SET synchronous_commit = local; INSERT INTO t SELECT generate_series(1, 1000)`)
	if at, err := a.AwaitStandby(within(t, 200*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("at %v: %v, though the standby receives nothing", at, err)
	}
	thaw()
	at, err := a.AwaitStandby(ctx)
	check(t, "await standby", err)
	if have, err := b.Freeze(ctx); err != nil || have < at {
		t.Errorf("the standby has %v of %v (%v)", have, at, err)
	}
	if _, err := b.AwaitStandby(ctx); !errors.Is(err, ErrNotPrimary) {
		t.Errorf("on a standby: %v", err)
	}
	check(t, "connect solo", a.ConnectSolo(ctx))
	if _, err := a.AwaitStandby(ctx); !errors.Is(err, ErrSoloConnected) {
		t.Errorf("while kineshim acknowledges by itself: %v", err)
	}
}

// The order of a switchover: nothing is written any more, the standby has everything, the old primary is stopped while the standby
// freezes. Whatever PostgreSQL writes of itself, the old primary follows as it is.
func TestAfterASwitchoverTheOldPrimaryFollowsWithoutARewind(t *testing.T) {
	ctx := testContext(t)
	primary, standby := pair(t, ctx)
	primary.sql(ctx, `CREATE TABLE t (n bigint PRIMARY KEY)`)
	var book ledger
	for round := range 4 {
		writing, stop := context.WithCancel(ctx)
		wait := book.writers(writing, primary, 4)
		enough := len(book.rows()) + 200
		eventually(t, ctx, "acknowledged rows", func() bool { return len(book.rows()) >= enough })
		stop()
		wait()
		check(t, "checkpoint", primary.withLocal(ctx, func(conn *pgconn.PgConn) error { return execute(ctx, conn, `CHECKPOINT`) }))
		_, err := primary.AwaitStandby(ctx)
		check(t, "await standby", err)
		var stopped sync.WaitGroup
		stopped.Go(func() {
			if err := primary.StopImmediate(ctx); err != nil {
				t.Errorf("stop: %v", err)
			}
		})
		standby.lead(ctx, uint64(round+2))
		stopped.Wait()
		primary, standby = standby, primary
		if how := standby.rejoin(ctx); how != "follow" {
			t.Errorf("round %d: it took a %s", round, how)
		}
		check(t, "disconnect solo", primary.DisconnectSolo(ctx))
		_, err = primary.ProveGating(ctx)
		check(t, "prove gating", err)
		for _, n := range []*node{primary, standby} {
			n.holds(ctx, book.rows())
		}
	}
}
