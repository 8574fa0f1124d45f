package postgres

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Why synchronous_standby_names must not be changed by a reload: the view reports the new state at once, while commits go on
// ungated until the checkpointer has handled the reload.
func TestReloadedSynchronousNamesDoNotGateWhileTheCheckpointerIsBusy(t *testing.T) {
	ctx := testContext(t)
	portA, portB := freePort(t), freePort(t)
	a, b := newNode(t, portA, portB).withData(ctx), newNode(t, portB, portA)
	a.startPlain(ctx)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	check(t, "slot", a.EnsureSlot(ctx))
	check(t, "clone", b.Clone(ctx, nil))
	check(t, "start b", b.Start(ctx, nil))
	check(t, "follow", b.Follow(ctx))
	b.streams(ctx)

	freezeProcess(t, a.backend(ctx, "checkpointer"))
	a.sql(ctx, `ALTER SYSTEM SET synchronous_standby_names = '`+StandbyName+`'`)
	a.sql(ctx, `SELECT pg_reload_conf()`)
	conn := a.session(ctx, "postgres")
	eventually(t, ctx, "sync in the view", func() bool {
		return value(t, ctx, conn, `SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'`) == "1"
	})
	if got := a.value(ctx, `SHOW synchronous_standby_names`); got != StandbyName {
		t.Fatalf("a new session has synchronous_standby_names %q", got)
	}
	freezeProcess(t, b.backend(ctx, "walreceiver"))
	if err := mustReturn(t, within(t, 10*time.Second), a.background(ctx, `INSERT INTO t VALUES (1)`)); err != nil {
		t.Fatalf("the commit did not pass: %v; PostgreSQL has changed and gates at once", err)
	}
}

func TestDisconnectingTheAckerGatesAtOnce(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	check(t, "connect solo", a.ConnectSolo(ctx))
	freezeProcess(t, a.backend(ctx, "checkpointer"))
	thaw := freezeProcess(t, b.backend(ctx, "walreceiver"))
	a.sql(ctx, `INSERT INTO t VALUES (1)`)
	if _, err := a.ProveGating(ctx); !errors.Is(err, ErrSoloConnected) {
		t.Fatalf("gating proved while solo: %v", err)
	}

	// Nor while there is any such client, ours or not.
	stray, err := a.openAcker(ctx)
	check(t, "stray acker", err)
	a.solo.close()
	if _, err := a.ProveGating(ctx); !errors.Is(err, ErrSoloConnected) {
		t.Fatalf("gating proved beside a stray acknowledger: %v", err)
	}
	stray.close()
	check(t, "connect solo", a.ConnectSolo(ctx))

	lost := a.SoloLost()
	check(t, "disconnect solo", a.DisconnectSolo(ctx))
	select {
	case <-lost:
	default:
		t.Error("SoloLost is open after DisconnectSolo")
	}
	if a.SoloConnected() {
		t.Error("SoloConnected after DisconnectSolo")
	}
	commit := a.background(ctx, `INSERT INTO t VALUES (2)`)
	mustWait(t, commit, 500*time.Millisecond)
	if lsn, err := a.ProveGating(within(t, 300*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("gating proved at %v without the standby: %v", lsn, err)
	}
	mustWait(t, commit, 0)
	if got := a.value(ctx, `SELECT count(*) FROM t`); got != "1" {
		t.Errorf("%s rows are visible, want 1", got)
	}

	thaw()
	lsn, err := a.ProveGating(ctx)
	check(t, "prove gating again", err)
	check(t, "commit", mustReturn(t, ctx, commit))
	b.replayed(ctx, lsn)
	eventually(t, ctx, "rows on b", func() bool { return b.value(ctx, `SELECT count(*) FROM t`) == "2" })
}

func TestConnectingSoloReleasesWhatWaits(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	check(t, "stop b", b.StopImmediate(ctx))
	for range 3 {
		commit := a.background(ctx, `INSERT INTO t VALUES (1)`)
		a.waitsForStandby(ctx)
		check(t, "connect solo", a.ConnectSolo(ctx))
		check(t, "commit", mustReturn(t, ctx, commit))
		check(t, "disconnect solo", a.DisconnectSolo(ctx))
	}
	if got := a.value(ctx, `SELECT count(*) FROM t`); got != "3" {
		t.Errorf("%s rows, want 3", got)
	}
}

func TestSettingsThatDoNotGateAreFound(t *testing.T) {
	ctx := testContext(t)
	a, _ := pair(t, ctx)
	for _, whose := range []string{"ROLE kine", "ROLE ALL", "DATABASE kubernetes", "ROLE kineshim IN DATABASE postgres"} {
		a.sql(ctx, `ALTER `+whose+` SET synchronous_commit = off`)
		if _, err := a.ProveGating(ctx); !errors.Is(err, ErrUnsafeSettings) {
			t.Errorf("%s: prove gating: %v", whose, err)
		}
		if err := a.CommitEpoch(ctx, 1, "n", 2); !errors.Is(err, ErrUnsafeSettings) {
			t.Errorf("%s: commit epoch: %v", whose, err)
		}
		a.sql(ctx, `ALTER `+whose+` RESET synchronous_commit`)
	}
	_, err := a.ProveGating(ctx)
	check(t, "prove gating", err)
}

// What an application may do to itself must not keep the cluster from serving.
func TestSettingsOfApplicationsAreTheirs(t *testing.T) {
	ctx := testContext(t)
	a, _ := pair(t, ctx)
	shop := Application{Database: "shop", User: "shop", Connections: 1}
	check(t, "ensure", a.EnsureApplication(ctx, shop, "correct horse"))
	a.sql(ctx, `SET ROLE shop; ALTER ROLE shop SET synchronous_commit = off; ALTER DATABASE shop SET synchronous_commit = local`)
	if _, err := a.ProveGating(ctx); err != nil {
		t.Errorf("prove gating: %v", err)
	}
	if err := a.CommitEpoch(ctx, 1, "n", 2); err != nil {
		t.Errorf("commit epoch: %v", err)
	}
}

func TestAlterSystemCannotOpenTheGate(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	check(t, "stop b", b.StopImmediate(ctx))
	// ALTER SYSTEM itself does not commit anything, so it need not wait.
	for _, name := range []string{"synchronous_standby_names", "synchronous_commit", "fsync", "port", "recovery_min_apply_delay", "max_standby_streaming_delay"} {
		v := map[string]string{"synchronous_commit": "off", "fsync": "off", "port": "1", "recovery_min_apply_delay": "1h", "max_standby_streaming_delay": "1h"}[name]
		a.sql(ctx, `ALTER SYSTEM SET `+name+` = '`+v+`'`)
	}
	a.sql(ctx, `SELECT pg_reload_conf()`)
	if got := a.value(ctx, `SHOW synchronous_standby_names`); got != SynchronousStandbyNames {
		t.Errorf("synchronous_standby_names is %q after a reload", got)
	}
	mustWait(t, a.background(ctx, `INSERT INTO t VALUES (1)`), 300*time.Millisecond)

	// Nor does it after a restart.
	check(t, "stop a", a.StopImmediate(ctx))
	check(t, "start a", a.Start(ctx, nil))
	o := a.observe(ctx)
	if o.SyncNames != SynchronousStandbyNames || o.SynchronousCommit != "on" {
		t.Errorf("after a restart: %q, %q", o.SyncNames, o.SynchronousCommit)
	}
	if got := a.value(ctx, `SHOW max_standby_streaming_delay`); got != "250ms" {
		t.Errorf("max_standby_streaming_delay is %s", got)
	}
}
