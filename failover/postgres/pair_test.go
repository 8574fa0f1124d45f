package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
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
	// A walreceiver may have been started on the old settings, which cannot connect any more and moves nothing: it is waited for, as the agent does.
	for i := 0; i < 3 && errors.Is(err, ErrNotFrozen); i++ {
		again, freezeErr := b.Freeze(ctx)
		check(t, "freeze again", freezeErr)
		if again != lsn {
			t.Errorf("WAL moved from %v to %v while frozen", lsn, again)
		}
		timeline, at, err = b.Promote(ctx, 2)
	}
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

// ledger is what writers know of their rows.
type ledger struct {
	next  atomic.Int64
	mu    sync.Mutex
	acked []int64
}

func (l *ledger) ack(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked = append(l.acked, n)
}

func (l *ledger) rows() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]int64(nil), l.acked...)
}

// writers insert rows into the node until it fails; the returned function waits for their end.
func (l *ledger) writers(ctx context.Context, n *node, count int) (wait func()) {
	var wg sync.WaitGroup
	for range count {
		conn := n.session(ctx, Database)
		wg.Go(func() {
			for {
				row := l.next.Add(1)
				err := execute(ctx, conn, fmt.Sprintf(`INSERT INTO t VALUES (%d)`, row))
				if err != nil || warned(conn) != "" {
					return
				}
				l.ack(row)
			}
		})
	}
	return wg.Wait
}

// rejoin brings an old primary back as a standby in the cheapest way that works, and says which.
func (n *node) rejoin(ctx context.Context) string {
	n.t.Helper()
	check(n.t, "start", n.Start(ctx, nil))
	err := n.CheckUpstream(ctx)
	if err == nil {
		check(n.t, "follow", n.Follow(ctx))
		return "follow"
	}
	if !errors.Is(err, ErrDiverged) {
		n.t.Fatalf("check upstream: %v", err)
	}
	check(n.t, "stop", n.StopFast(ctx))
	how := "rewind"
	if err := n.Rewind(ctx, nil); err != nil {
		n.t.Logf("rewind: %v", err)
		how = "clone"
		check(n.t, "clone", n.Clone(ctx, nil))
	}
	check(n.t, "start", n.Start(ctx, nil))
	check(n.t, "follow", n.Follow(ctx))
	return how
}

func TestFailoversBackAndForthLoseNothing(t *testing.T) {
	ctx := testContext(t)
	primary, standby := pair(t, ctx)
	primary.sql(ctx, `CREATE TABLE t (n bigint PRIMARY KEY)`)
	var book ledger
	for round := range 4 {
		wait := book.writers(ctx, primary, 4)
		enough := len(book.rows()) + 200
		eventually(t, ctx, "acknowledged rows", func() bool { return len(book.rows()) >= enough })
		if round%2 == 0 {
			check(t, "stop", primary.StopImmediate(ctx))
		} else {
			check(t, "kill", syscall.Kill(primary.child.Load().pid, syscall.SIGKILL))
		}
		wait()
		standby.lead(ctx, uint64(round+2))
		primary, standby = standby, primary
		how := standby.rejoin(ctx)
		check(t, "disconnect solo", primary.DisconnectSolo(ctx))
		_, err := primary.ProveGating(ctx)
		check(t, "prove gating", err)
		if how == "clone" {
			t.Error("it took a clone")
		}
		t.Logf("round %d: %d rows acknowledged, rejoined by %s", round, len(book.rows()), how)
		for _, n := range []*node{primary, standby} {
			n.holds(ctx, book.rows())
		}
	}
}

// holds waits until a node shows as many rows as were acknowledged, and checks that it has each.
func (n *node) holds(ctx context.Context, rows []int64) {
	n.t.Helper()
	conn := n.session(ctx, Database)
	eventually(n.t, ctx, "the rows", func() bool {
		count, err := strconv.Atoi(value(n.t, ctx, conn, `SELECT count(*) FROM t`))
		check(n.t, "count", err)
		return count >= len(rows)
	})
	var have []int64
	_, err := queryJSON(ctx, conn, `SELECT json_agg(n) FROM t`, &have)
	check(n.t, "rows", err)
	there := make(map[int64]bool, len(have))
	for _, r := range have {
		there[r] = true
	}
	for _, r := range rows {
		if !there[r] {
			n.t.Fatalf("row %d was acknowledged and is not there", r)
		}
	}
}

// Observe runs ten times a second for years: it must stay cheap and keep one session.
func TestObserveKeepsOneSession(t *testing.T) {
	ctx := testContext(t)
	a, _ := pair(t, ctx)
	a.observe(ctx)
	pid := a.monitor.conn.PID()
	began := time.Now()
	const times = 200
	for range times {
		a.observe(ctx)
	}
	if took := time.Since(began); took > times*200*time.Millisecond {
		t.Errorf("%v each", took/times)
	}
	if again := a.monitor.conn.PID(); again != pid {
		t.Errorf("backend %d, then %d", pid, again)
	}
	check(t, "end the session", a.withLocal(ctx, func(conn *pgconn.PgConn) error {
		return execute(ctx, conn, fmt.Sprintf(`SELECT pg_terminate_backend(%d)`, pid))
	}))
	eventually(t, ctx, "a new session", func() bool {
		_, err := a.Observe(ctx)
		return err == nil && a.monitor.conn.PID() != pid
	})
}
