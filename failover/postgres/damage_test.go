package postgres

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A page is damaged on the disk, and nobody knows until it is read. Then it is known for good: after a crash, which resets PostgreSQL's own
// count, and until a copy of the other node's data takes the place of these.
func TestDamagedPagesAreNoticedAndRemembered(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	a.sql(ctx, `CREATE TABLE t AS SELECT generate_series(1, 1000) AS n`)
	a.sql(ctx, `CHECKPOINT`)
	path := filepath.Join(a.cfg.DataDir, a.value(ctx, `SELECT pg_relation_filepath('t')`))
	check(t, "stop", a.StopImmediate(ctx))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, "open", err)
	_, err = f.WriteAt([]byte("damaged"), 4000)
	check(t, "damage", err)
	check(t, "close", f.Close())
	check(t, "start", a.Start(ctx, nil))

	damaged := func() bool {
		d, err := a.Inspect(ctx)
		check(t, "inspect", err)
		return d.Damaged
	}
	if n, err := a.CheckDamage(ctx); n != 0 || err != nil || damaged() {
		t.Fatalf("found before it was read: %d, %v", n, err)
	}
	conn := a.session(ctx, Database)
	var n int
	if _, err := queryJSON(ctx, conn, `SELECT to_json(sum(n)) FROM t`, &n); err == nil || !strings.Contains(err.Error(), "invalid page") {
		t.Fatalf("the damaged page was read: %d, %v", n, err)
	}
	eventually(t, ctx, "the failure is counted", func() bool {
		n, err := a.CheckDamage(ctx)
		return n > 0 && err == nil
	})
	if !damaged() {
		t.Error("it is not written down")
	}
	check(t, "stop", a.StopImmediate(ctx))
	if !damaged() {
		t.Error("it is forgotten with the process")
	}
	b.lead(ctx, 2)
	check(t, "clone", a.Clone(ctx, nil))
	if damaged() {
		t.Error("the clone still counts as damaged")
	}
}
