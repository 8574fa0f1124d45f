package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"kineshim/raftwitness/record"
)

// write keeps the node writing until the returned function is called, which waits for the end.
func (n *node) write(ctx context.Context) (stop func()) {
	n.t.Helper()
	conn := n.session(ctx, Database)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			execute(ctx, conn, `SET synchronous_commit = local; INSERT INTO t SELECT generate_series(1, 100)`)
		}
	}()
	stop = func() { cancel(); <-done }
	n.t.Cleanup(stop)
	return stop
}

func (n *node) flushedBeyond(ctx context.Context, lsn record.LSN) {
	n.t.Helper()
	eventually(n.t, ctx, "more WAL", func() bool { return n.observe(ctx).FlushLSN > lsn })
}

func TestFrozenStandbyReceivesNoMore(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	a.write(ctx)
	// Frozen at moments of all kinds: while it streams, connects, and just after it was told to.
	for i := range 8 {
		check(t, "follow", b.Follow(ctx))
		if i%2 == 0 {
			b.streams(ctx)
		} else {
			time.Sleep(time.Duration(i) * 5 * time.Millisecond)
		}
		at, err := b.Freeze(ctx)
		check(t, "freeze", err)
		// A walreceiver that was still to come would come within its retry interval.
		for end := time.Now().Add(600 * time.Millisecond); time.Now().Before(end); {
			o := b.observe(ctx)
			if have := max(o.ReceiveLSN, o.ReplayLSN); have > at {
				t.Fatalf("round %d: frozen at %v, but has %v", i, at, have)
			}
			if o.WalReceiver.Status == "streaming" {
				t.Fatalf("round %d: it streams", i)
			}
		}
		a.flushedBeyond(ctx, at+64<<10)
	}
	at, err := b.Freeze(ctx)
	check(t, "freeze again", err)
	_, switched, err := b.Promote(ctx, 2)
	check(t, "promote", err)
	if switched > at {
		t.Errorf("switched at %v, beyond the freeze at %v", switched, at)
	}
}

func TestFreezeStopsAFrozenWalreceiver(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	freezeProcess(t, b.backend(ctx, "walreceiver"))
	began := time.Now()
	at, err := b.Freeze(ctx)
	check(t, "freeze", err)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	a.write(ctx)
	a.flushedBeyond(ctx, at+64<<10)
	if o := b.observe(ctx); max(o.ReceiveLSN, o.ReplayLSN) != at || o.WalReceiver.PID != 0 {
		t.Errorf("frozen at %v, then %+v", at, o)
	}
}

func TestFreezeWhenThePrimaryHasGone(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	lsn, err := a.ProveGating(ctx)
	check(t, "prove gating", err)
	check(t, "stop a", a.StopImmediate(ctx))
	began := time.Now()
	at, err := b.Freeze(ctx)
	check(t, "freeze", err)
	if took := time.Since(began); at < lsn || took > freezeWithin {
		t.Errorf("frozen at %v after %v, want at least %v within %v", at, took, lsn, freezeWithin)
	}
}

func TestEachPromotionBeginsATimeline(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	for i, want := range []uint32{2, 3} {
		epoch := uint64(i + 1)
		check(t, "start", a.Start(ctx, nil))
		at, err := a.Freeze(ctx)
		check(t, "freeze", err)
		timeline, switched, err := a.Promote(ctx, epoch)
		check(t, "promote", err)
		if timeline != want || switched > at || switched == 0 {
			t.Errorf("timeline %d at %v, want %d, not beyond %v", timeline, switched, want, at)
		}
		if o := a.observe(ctx); o.Timeline != want || o.InRecovery || o.FlushLSN == 0 {
			t.Errorf("observed %+v", o)
		}
		if _, _, err := a.Promote(ctx, epoch); !errors.Is(err, ErrNotStandby) {
			t.Errorf("promoting a primary: %v", err)
		}
		if _, err := a.Freeze(ctx); !errors.Is(err, ErrNotStandby) {
			t.Errorf("freezing a primary: %v", err)
		}
		d, err := a.Inspect(ctx)
		check(t, "inspect", err)
		if p := (Promotion{epoch, want - 1, want, switched}); d.Promotion != p || d.Timeline != want {
			t.Errorf("on the disk: %+v, want %+v", d, p)
		}
		check(t, "stop", a.StopImmediate(ctx))
	}
}

func TestPromoteRefusesAStandbyThatFollows(t *testing.T) {
	ctx := testContext(t)
	_, b := pair(t, ctx)
	if _, _, err := b.Promote(ctx, 2); !errors.Is(err, ErrNotFrozen) {
		t.Errorf("promote: %v", err)
	}
	d, err := b.Inspect(ctx)
	check(t, "inspect", err)
	if d.Promotion.Epoch != 0 {
		t.Errorf("a promotion is marked: %+v", d.Promotion)
	}
}

// A process that ends between the promotion and the note of it leaves a marker that tells what happened.
func TestAPromotionWithoutItsNoteIsRecognisedUntilItFollows(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	check(t, "marker", b.writeMarker(b.promotionMarkerPath(), Promotion{Epoch: 9, FromTimeline: 2}))
	d, err := b.Inspect(ctx)
	check(t, "inspect", err)
	if d.Promotion.Epoch != 9 || d.Promotion.Timeline != 0 || d.Timeline != 2 {
		t.Errorf("%+v", d)
	}
	check(t, "follow", b.Follow(ctx))
	d, err = b.Inspect(ctx)
	check(t, "inspect", err)
	if d.Promotion.Epoch != 0 {
		t.Errorf("the marker outlives Follow: %+v", d.Promotion)
	}
	if err := a.Follow(ctx); !errors.Is(err, ErrNotStandby) {
		t.Errorf("follow on a primary: %v", err)
	}
}

func TestReplyAgeIsMeasuredHere(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	thaw := freezeProcess(t, b.backend(ctx, "walreceiver"))
	age := func() time.Duration {
		for _, st := range a.observe(ctx).Standbys {
			if st.AppName == StandbyName {
				return st.ReplyAge
			}
		}
		return -1
	}
	eventually(t, ctx, "a silent standby", func() bool { return age() > 1500*time.Millisecond })
	n, err := a.DropStaleWalsenders(ctx, time.Hour)
	if err != nil || n != 0 {
		t.Errorf("dropped %d (%v), want none", n, err)
	}
	n, err = a.DropStaleWalsenders(ctx, time.Second)
	if err != nil || n != 1 {
		t.Errorf("dropped %d (%v), want 1", n, err)
	}
	eventually(t, ctx, "the walsender's end", func() bool { return age() == -1 })
	thaw()
	_, err = a.ProveGating(ctx)
	check(t, "prove gating after its return", err)
	eventually(t, ctx, "a lively standby", func() bool { a := age(); return a >= 0 && a < time.Second })
}

func TestASlotThatLostWALIsFoundAndMadeAnew(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx, func(c *Config) {
		c.SlotKeep, c.Settings = "16MB", map[string]string{"wal_keep_size": "0", "max_wal_size": "32MB", "min_wal_size": "32MB"}
	})
	a.sql(ctx, `CREATE TABLE t (n int)`)
	check(t, "stop b", b.StopFast(ctx))
	check(t, "solo", a.ConnectSolo(ctx))
	lost := func() bool {
		o, err := a.Observe(ctx)
		check(t, "observe", err)
		return o.SlotLost
	}
	if lost() {
		t.Fatal("lost before")
	}
	eventually(t, ctx, "a lost slot", func() bool {
		a.sql(ctx, `INSERT INTO t VALUES (1)`)
		a.sql(ctx, `SELECT pg_switch_wal()`)
		a.sql(ctx, `CHECKPOINT`)
		return lost()
	})
	check(t, "ensure slot", a.EnsureSlot(ctx))
	check(t, "ensure slot again", a.EnsureSlot(ctx))
	if lost() {
		t.Error("lost after it was made anew")
	}
	check(t, "start b", b.Start(ctx, nil))
	if err := b.CheckUpstream(ctx); !errors.Is(err, ErrWALRemoved) {
		t.Errorf("check upstream: %v", err)
	}
	check(t, "stop b", b.StopImmediate(ctx))
	check(t, "clone", b.Clone(ctx, nil))
	check(t, "start b", b.Start(ctx, nil))
	check(t, "check upstream", b.CheckUpstream(ctx))
	check(t, "follow", b.Follow(ctx))
	check(t, "disconnect solo", a.DisconnectSolo(ctx))
	_, err := a.ProveGating(ctx)
	check(t, "prove gating", err)

	// A standby keeps no slot: it would keep WAL for ever.
	check(t, "stop a", a.StopImmediate(ctx))
	check(t, "start a", a.Start(ctx, nil))
	if got := a.value(ctx, `SELECT count(*) FROM pg_replication_slots`); got != "0" {
		t.Errorf("%s slots on a standby", got)
	}
}
