package kinetable

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// refused says whether the guard has refused a statement, and with which words.
func refused(err error) (words string, ok bool) {
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.Code != guardRefusal {
		return "", false
	}
	return e.Message + " " + e.Detail + " " + e.Hint, true
}

// everyWay is how somebody else could write to the table.
var everyWay = map[string]string{
	"insert": "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value) VALUES ('/x', 1, 0, 0, 0, 0, '')",
	// also if it would change nothing
	"update":   "UPDATE kine SET prev_revision = 9 WHERE name = 'compact_rev_key'",
	"delete":   "DELETE FROM kine WHERE false",
	"truncate": "TRUNCATE kine",
	"copy":     "COPY kine (name) FROM STDIN",
	"upsert":   "INSERT INTO kine (id, name) VALUES (1, '') ON CONFLICT DO NOTHING",
}

func tryWay(t testing.TB, conn *pgx.Conn, sql string) error {
	t.Helper()
	if strings.HasPrefix(sql, "COPY") {
		_, err := conn.PgConn().CopyFrom(soon(t), strings.NewReader("/x\n"), sql)
		return err
	}
	_, err := conn.Exec(soon(t), sql)
	return err
}

func TestNobodyElseWritesWhileTheSessionLives(t *testing.T) {
	pg, database := testDatabase(t)
	k := take(t, pg, database)
	before := dump(t, k.conn)
	other, super := plainSession(t, pg, database), pg.Admin(t, database)
	run(t, super, "SET session_replication_role = replica")
	for way, sql := range everyWay {
		for who, conn := range map[string]*pgx.Conn{"owner": other, "superuser": super} {
			words, ok := refused(tryWay(t, conn, sql))
			if !ok || !strings.Contains(words, fmt.Sprintf("pid %d, application_name 'kineshim_engine'", k.conn.PgConn().PID())) {
				t.Errorf("%s, %s: %q", way, who, words)
			}
		}
	}
	equal(t, "rows", dump(t, k.conn), before)
	run(t, k.conn, everyWay["insert"])
	k.kill(t, super)
	if words, ok := refused(tryWay(t, other, everyWay["insert"])); !ok || !strings.Contains(words, "restarted") {
		t.Errorf("insert without kine's unique index: %q", words)
	}
	run(t, other, "CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)")
	for _, way := range []string{"update", "delete", "copy", "upsert", "truncate", "insert"} {
		if err := tryWay(t, other, everyWay[way]); err != nil {
			t.Errorf("%s after our session: %v", way, err)
		}
	}
}

func TestSideSessionsWriteWhileTheirEngineLives(t *testing.T) {
	pg, database := testDatabase(t)
	admin := pg.Admin(t, database)
	first := take(t, pg, database)
	side, err := pgx.ConnectConfig(soon(t), first.config.Copy())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = side.Close(soon(t)) }()
	run(t, side, everyWay["delete"])
	stale, err := pgx.ConnectConfig(soon(t), first.config.Copy())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stale.Close(soon(t)) }()

	// The side session is in the middle of a transaction when its engine ends: the next one waits for it.
	run(t, side, "BEGIN")
	run(t, side, everyWay["update"])
	first.kill(t, admin)
	type result struct {
		k   *taken
		err error
	}
	done := make(chan result, 1)
	ctx := soon(t)
	go func() {
		k, err := tryTake(ctx, t, pg, database)
		done <- result{k, err}
	}()
	eventually(t, "the next engine has the lock", func() bool {
		return one[bool](t, admin, "SELECT EXISTS (SELECT FROM pg_locks WHERE granted AND "+isEngineLock+" AND mode = 'ExclusiveLock')")
	})
	select {
	case r := <-done:
		t.Fatalf("the table was taken over while an old session was writing: %v", r.err)
	case <-time.After(10 * pollEvery):
	}
	if _, ok := refused(tryWay(t, stale, everyWay["delete"])); !ok {
		t.Error("a session of an engine that is gone was not refused")
	}
	run(t, side, "COMMIT")
	second := <-done
	if second.err != nil {
		t.Fatal(second.err)
	}
	equal(t, "what the side session wrote", one[int64](t, second.k.conn, "SELECT prev_revision FROM kine"), 9)
	if _, ok := refused(tryWay(t, side, everyWay["delete"])); !ok {
		t.Error("a session of an engine that is gone was not refused")
	}
}

func TestTakeOverWaitsForAWriter(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, other *pgx.Conn, take func() *taken, admin *pgx.Conn){
		"first time": func(t *testing.T, other *pgx.Conn, _ func() *taken, _ *pgx.Conn) {
			oldTable(t, other, "BIGSERIAL", "BIGINT", "text")
		},
		"with the guard there": func(t *testing.T, other *pgx.Conn, take func() *taken, admin *pgx.Conn) {
			take().end(t, admin)
			run(t, other, "CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)")
		},
	} {
		t.Run(name, func(t *testing.T) {
			pg, database := testDatabase(t)
			other, admin := plainSession(t, pg, database), pg.Admin(t, database)
			prepare(t, other, func() *taken { return take(t, pg, database) }, admin)
			run(t, other, "BEGIN")
			run(t, other, everyWay["insert"])
			done := make(chan error, 1)
			var k *taken
			ctx := soon(t)
			go func() {
				var err error
				k, err = tryTake(ctx, t, pg, database)
				done <- err
			}()
			eventually(t, "the takeover waits", func() bool {
				return one[bool](t, admin, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'kineshim_engine' AND wait_event_type = 'Lock')")
			})
			run(t, other, everyWay["update"]) // a transaction that has begun goes on
			run(t, other, "COMMIT")
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			equal(t, "the writer's row", one[int64](t, k.conn, "SELECT count(*) FROM kine WHERE name = '/x'"), 1)
		})
	}
}

func TestGuardIsRefreshed(t *testing.T) {
	for name, sql := range map[string]string{
		"disabled":       "ALTER TABLE kine DISABLE TRIGGER ALL",
		"dropped":        "DROP TRIGGER kineshim_guard ON kine",
		"function gone":  "DROP FUNCTION kineshim_guard CASCADE",
		"another body":   "CREATE OR REPLACE FUNCTION kineshim_guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
		"another events": "DROP TRIGGER kineshim_guard ON kine; CREATE TRIGGER kineshim_guard BEFORE INSERT ON kine EXECUTE FUNCTION kineshim_guard()",
	} {
		t.Run(name, func(t *testing.T) {
			pg, database := testDatabase(t)
			take(t, pg, database).end(t, pg.Admin(t, database))
			other := plainSession(t, pg, database)
			run(t, other, sql)
			take(t, pg, database)
			if _, ok := refused(tryWay(t, other, everyWay["truncate"])); !ok {
				t.Error("not refused")
			}
		})
	}
}

// BenchmarkGuard is what a hundred thousand statements cost that change nothing, in one transaction or each in its own, with and
// without the guard. The client is not in it.
func BenchmarkGuard(b *testing.B) {
	for _, commit := range []string{"", "COMMIT;"} {
		for _, guarded := range []bool{true, false} {
			b.Run(fmt.Sprintf("guarded=%v,%s", guarded, commit), func(b *testing.B) {
				pg, database := testDatabase(b)
				k := take(b, pg, database)
				if !guarded {
					run(b, k.conn, "ALTER TABLE kine DISABLE TRIGGER ALL")
				}
				const n = 100_000
				for b.Loop() {
					run(b, k.conn, fmt.Sprintf("DO 'BEGIN FOR i IN 1..%d LOOP DELETE FROM kine WHERE id = 0; %s END LOOP; END'", n, commit))
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/statement")
			})
		}
	}
}

func TestEngineThatWaitsDoesNotDisturbTheOneThatServes(t *testing.T) {
	pg, database := testDatabase(t)
	admin := pg.Admin(t, database)
	k := take(t, pg, database)
	side, err := pgx.ConnectConfig(soon(t), k.config.Copy())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = side.Close(soon(t)) }()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = tryTake(ctx, t, pg, database) // ends with ctx
	}()
	eventually(t, "it waits", func() bool {
		return one[bool](t, admin, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND "+isEngineLock+")")
	})
	run(t, k.conn, everyWay["insert"])
	run(t, side, everyWay["update"])
	cancel()
	<-done
}
