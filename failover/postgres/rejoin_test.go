package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kineshim/raftwitness/record"
	"kineshim/statfs"
)

// failOverWithTail makes b the primary of epoch 2 while a, stopped, holds a row that b does not have.
func failOverWithTail(t *testing.T, ctx context.Context, a, b *node) {
	t.Helper()
	a.sql(ctx, `CREATE TABLE t (n int); INSERT INTO t VALUES (1)`)
	// The sender, not the receiver: what has been sent arrives, however late.
	freezeProcess(t, a.backend(ctx, "walsender"))
	commit := a.background(ctx, `INSERT INTO t SELECT 2 FROM generate_series(1, 10000)`)
	a.waitsForStandby(ctx)
	check(t, "stop a", a.StopImmediate(ctx))
	if err := mustReturn(t, ctx, commit); err == nil {
		t.Fatal("the tail was acknowledged")
	}
	b.lead(ctx, 2)
	b.sql(ctx, `INSERT INTO t VALUES (3)`)
}

// rejoined checks that a follows b and holds what b holds, gated.
func rejoined(t *testing.T, ctx context.Context, a, b *node) {
	t.Helper()
	a.streams(ctx)
	check(t, "disconnect solo", b.DisconnectSolo(ctx))
	lsn, err := b.ProveGating(ctx)
	check(t, "prove gating", err)
	a.replayed(ctx, lsn)
	const query = `SELECT string_agg(n::text, ',' ORDER BY n) FROM t`
	if got := a.value(ctx, query); got != "1,3" {
		t.Errorf("the old primary has rows %.40q, want 1,3", got)
	}
}

func TestAnOldPrimaryWithATailFollowsOnlyAfterRewind(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	failOverWithTail(t, ctx, a, b)

	check(t, "start a", a.Start(ctx, nil))
	if err := a.CheckUpstream(ctx); !errors.Is(err, ErrDiverged) {
		t.Errorf("check upstream: %v", err)
	}
	check(t, "follow", a.Follow(ctx))
	eventually(t, ctx, "PostgreSQL's refusal", func() bool {
		return strings.Contains(readAll(t, a.logPath()), "new timeline 3 forked off current database system timeline 2 before current recovery point")
	})
	check(t, "stop a", a.StopFast(ctx))

	// ALTER SYSTEM on the source is the worst that a rewind can copy.
	b.sql(ctx, fmt.Sprintf(`ALTER SYSTEM SET port = %d`, b.cfg.Port))
	b.sql(ctx, `ALTER SYSTEM SET synchronous_commit = off`)
	var steps []string
	check(t, "rewind", a.Rewind(ctx, func(p Progress) { steps = append(steps, p.Step) }))
	if steps[len(steps)-1] != "rewinding" {
		t.Errorf("progress: %q", steps)
	}
	check(t, "start a", a.Start(ctx, nil))
	if got, want := a.value(ctx, `SHOW port`), fmt.Sprint(a.cfg.Port); got != want {
		t.Errorf("port %s after the rewind, want %s", got, want)
	}
	if o := a.observe(ctx); o.SynchronousCommit != "on" || o.SyncNames != SynchronousStandbyNames {
		t.Errorf("settings after the rewind: %q, %q", o.SynchronousCommit, o.SyncNames)
	}
	check(t, "follow", a.Follow(ctx))
	check(t, "check upstream", a.CheckUpstream(ctx))
	rejoined(t, ctx, a, b)
	tailIsKept(t, a)

	d, err := a.Inspect(ctx)
	check(t, "inspect", err)
	if !d.Complete || d.What != "rewind" || d.Promotion.Epoch != 0 {
		t.Errorf("after the rewind: %+v", d)
	}
}

// tailIsKept checks that the WAL that only the node had lies where an operator finds it, and can be read.
func tailIsKept(t *testing.T, n *node) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, "diverged", "*", "0000000200000000*"))
	check(t, "diverged", err)
	abouts, err := filepath.Glob(filepath.Join(n.dir, "diverged", "*", "about.json"))
	check(t, "diverged", err)
	if len(files) == 0 || len(abouts) != 1 {
		t.Fatalf("diverged WAL files %q, %q", files, abouts)
	}
	fi, err := os.Stat(files[0])
	check(t, "diverged", err)
	if fi.Size() != walSegmentMB<<20 {
		t.Errorf("%s has %d bytes", files[0], fi.Size())
	}
}

func TestRewindAfterACrashOfTheOldPrimary(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	failOverWithTail(t, ctx, a, b)
	check(t, "rewind", a.Rewind(ctx, nil))
	check(t, "start a", a.Start(ctx, nil))
	check(t, "follow", a.Follow(ctx))
	rejoined(t, ctx, a, b)
	tailIsKept(t, a)
}

func TestAnOldPrimaryWithoutATailJustFollows(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int); INSERT INTO t VALUES (1)`)
	// Let nothing of the server's own be between the two when it stops.
	eventually(t, ctx, "b has everything", func() bool {
		_, err := a.ProveGating(ctx)
		check(t, "prove gating", err)
		o := a.observe(ctx)
		return b.observe(ctx).ReceiveLSN == o.InsertLSN
	})
	check(t, "stop a", a.StopImmediate(ctx))
	b.lead(ctx, 2)
	b.sql(ctx, `INSERT INTO t VALUES (3)`)
	check(t, "start a", a.Start(ctx, nil))
	check(t, "check upstream", a.CheckUpstream(ctx))
	check(t, "follow", a.Follow(ctx))
	rejoined(t, ctx, a, b)
	if o := a.observe(ctx); o.Timeline != 3 {
		t.Errorf("timeline %d, want 3", o.Timeline)
	}
}

func TestAnInterruptedRewindIsRefusedAndRepairedByClone(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	failOverWithTail(t, ctx, a, b)
	cancelled, cancel := context.WithCancel(ctx)
	err := a.Rewind(cancelled, func(p Progress) {
		if p.Step == "rewinding" && p.TotalBytes > 0 {
			cancel()
		}
	})
	cancel()
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("rewind: %v", err)
	}
	d, err := a.Inspect(ctx)
	check(t, "inspect", err)
	if !d.Exists || d.Complete || d.Why != "interrupted: rewind" {
		t.Errorf("after the interruption: %+v", d)
	}
	if err := a.Start(ctx, nil); !errors.Is(err, ErrDataIncomplete) {
		t.Errorf("start: %v", err)
	}
	if err := a.Rewind(ctx, nil); !errors.Is(err, ErrDataIncomplete) {
		t.Errorf("rewind again: %v", err)
	}
	if a.Running() {
		t.Error("something runs")
	}

	b.sql(ctx, fmt.Sprintf(`ALTER SYSTEM SET port = %d`, b.cfg.Port))
	var copied bool
	check(t, "clone", a.Clone(ctx, func(p Progress) { copied = copied || p.DoneBytes > 0 && p.DoneBytes <= p.TotalBytes }))
	if !copied {
		t.Error("the clone showed no progress")
	}
	check(t, "start a", a.Start(ctx, nil))
	if got, want := a.value(ctx, `SHOW port`), fmt.Sprint(a.cfg.Port); got != want {
		t.Errorf("port %s after the clone, want %s", got, want)
	}
	check(t, "follow", a.Follow(ctx))
	rejoined(t, ctx, a, b)
	for _, left := range []string{newSuffix, oldSuffix} {
		if there, err := exists(a.cfg.DataDir + left); err != nil || there {
			t.Errorf("%s is still there (%v)", a.cfg.DataDir+left, err)
		}
	}
}

func TestCloneForWhichThereIsNoRoomLeavesTheOldData(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `SET synchronous_commit = local; CREATE TABLE t AS SELECT generate_series(1, 1000000) AS n`)
	check(t, "stop", b.StopFast(ctx))
	programs := b.cfg.BinDir
	b.cfg.BinDir = slowBaseBackup(t, programs)
	b.space = func(string) (int64, int64, error) { return 65 << 20, 1 << 30, nil }
	if err := b.Clone(ctx, nil); !errors.Is(err, ErrNoRoom) || !strings.Contains(err.Error(), "rm -r "+b.cfg.DataDir) {
		t.Errorf("without room: %v", err)
	}
	if d, err := b.Inspect(ctx); err != nil || !d.Complete {
		t.Errorf("the old data are not what they were: %+v, %v", d, err)
	}
	if _, err := os.Stat(b.cfg.DataDir + newSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was copied is still there: %v", err)
	}
	b.cfg.BinDir, b.space = programs, statfs.Space
	check(t, "clone", b.Clone(ctx, nil))
}

// slowBaseBackup is a directory of PostgreSQL's programs in which pg_basebackup takes a minute for what these tests have.
func slowBaseBackup(t *testing.T, programs string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kineshim-slow-*") // PostgreSQL's user must be able to enter it
	check(t, "make a directory", err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	check(t, "open it", os.Chmod(dir, 0o755))
	all, err := os.ReadDir(programs)
	check(t, "list the programs", err)
	for _, e := range all {
		if e.Name() != "pg_basebackup" {
			check(t, "link", os.Symlink(filepath.Join(programs, e.Name()), filepath.Join(dir, e.Name())))
		}
	}
	script := "#!/bin/sh\nexec " + filepath.Join(programs, "pg_basebackup") + " --max-rate=1M \"$@\"\n"
	check(t, "write", os.WriteFile(filepath.Join(dir, "pg_basebackup"), []byte(script), 0o755))
	return dir
}

// What cannot work must fail before anything is damaged.
func TestRewindAndCloneWithoutThePeerChangeNothing(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), freePort(t)).withData(ctx)
	a.startPrimary(ctx, 1)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	if err := a.Rewind(ctx, nil); !errors.Is(err, ErrRunning) {
		t.Errorf("rewind while running: %v", err)
	}
	if err := a.Clone(ctx, nil); !errors.Is(err, ErrRunning) {
		t.Errorf("clone while running: %v", err)
	}
	check(t, "stop", a.StopImmediate(ctx))
	before, err := a.Inspect(ctx)
	check(t, "inspect", err)
	if err := a.Rewind(ctx, nil); err == nil {
		t.Error("rewind without a peer succeeded")
	}
	if err := a.Clone(ctx, nil); err == nil {
		t.Error("clone without a peer succeeded")
	}
	d, err := a.Inspect(ctx)
	check(t, "inspect", err)
	if d.Checkpoint != before.Checkpoint || d.ControlState != before.ControlState {
		t.Errorf("it has recovered: %+v, before %+v", d, before)
	}
	if !d.Complete || d.What != "initdb" || d.Promotion.Epoch != 1 || d.Promotion.Timeline != 2 {
		t.Errorf("afterwards: %+v", d)
	}
	check(t, "start", a.Start(ctx, nil))
	if got := a.value(ctx, `SELECT count(*) FROM t`); got != "0" {
		t.Errorf("count: %s", got)
	}
}

// A standby that is on its primary's timeline has nothing but what it has from there, whatever ended it. Recovered alone, it would have WAL of its own behind that.
func TestStandbyOfThePeersTimelineIsNotRewound(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t (n int); INSERT INTO t VALUES (1), (3)`)
	check(t, "stop", b.StopImmediate(ctx))
	before, err := b.Inspect(ctx)
	check(t, "inspect", err)
	if before.rewindable() {
		t.Fatalf("it has been stopped in good order: %+v", before)
	}
	check(t, "rewind", b.Rewind(ctx, nil))
	d, err := b.Inspect(ctx)
	check(t, "inspect", err)
	if d != before {
		t.Errorf("%+v, before %+v", d, before)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "diverged")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("diverged WAL is kept, and pushes out what is: %v", err)
	}
	check(t, "start", b.Start(ctx, nil))
	check(t, "follow", b.Follow(ctx))
	rejoined(t, ctx, b, a)
}

func TestRewindThatWouldKeepWhatRecoveryHasWrittenIsRefused(t *testing.T) {
	for line, back := range map[string]record.LSN{
		"pg_rewind: servers diverged at WAL location 0/3000098 on timeline 2":                  0,
		"pg_rewind: no rewind required":                                                        0,
		"pg_rewind: rewinding from last common checkpoint at 0/2000060 on timeline 2":          0x2000060,
		"pg_rewind: rewinding from last common checkpoint at 1/0A000060 on timeline 2 (in 18)": 0x10A000060,
		"pg_rewind: rewinding from last common checkpoint at nowhere on timeline 2":            0,
	} {
		var p rewindPlan
		p.read(line)
		if p.common != back {
			t.Errorf("%s: %s", line, p.common)
		}
	}
	for _, c := range []struct {
		common, checkpoint record.LSN
		good               bool
	}{{0, 100, false}, {101, 100, false}, {100, 100, true}, {50, 100, true}} {
		if err := (rewindPlan{c.common}).goesBackTo(c.checkpoint); (err == nil) != c.good {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestADataDirectoryThatWasNotMadeHereIsRefused(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	marker := a.dataMarkerPath()
	content := readAll(t, marker)
	check(t, "remove the marker", os.Remove(marker))
	if err := a.Start(ctx, nil); !errors.Is(err, ErrDataIncomplete) {
		t.Errorf("start without a marker: %v", err)
	}
	d, err := a.Inspect(ctx)
	check(t, "inspect", err)
	other := strings.Replace(content, fmt.Sprint(d.SystemID), fmt.Sprint(d.SystemID+1), 1)
	check(t, "marker", a.writeDurably(marker, []byte(other)))
	if err := a.Start(ctx, nil); !errors.Is(err, ErrDataIncomplete) {
		t.Errorf("start of another database: %v", err)
	}
	check(t, "marker", a.writeDurably(marker, []byte(content)))
	check(t, "start", a.Start(ctx, nil))
}
