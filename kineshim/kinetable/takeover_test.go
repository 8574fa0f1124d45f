package kinetable

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"kineshim/integration/pgtest"
)

// sharedServer is one PostgreSQL for all tests of the package that do not end it.
var sharedServer struct {
	once   sync.Once
	server *pgtest.Server
	err    error
	mu     sync.Mutex // guards n
	n      int
}

func TestMain(m *testing.M) {
	code := m.Run()
	if sharedServer.server != nil {
		if err := sharedServer.server.Remove(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// testDatabase returns the shared server and the name of a database of the test's own, which pgtest.Role owns.
func testDatabase(t testing.TB) (*pgtest.Server, string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	sharedServer.once.Do(func() { sharedServer.server, sharedServer.err = pgtest.Start() })
	if sharedServer.err != nil {
		t.Fatal(sharedServer.err)
	}
	sharedServer.mu.Lock()
	sharedServer.n++
	name := fmt.Sprintf("test%d", sharedServer.n)
	sharedServer.mu.Unlock()
	if err := sharedServer.server.CreateDatabase(name); err != nil {
		t.Fatal(err)
	}
	return sharedServer.server, name
}

const patience = 20 * time.Second

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// records is a slog.Handler that keeps what is logged.
type records struct {
	mu  sync.Mutex // guards all
	all []string
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }
func (r *records) Handle(_ context.Context, rec slog.Record) error {
	line := rec.Level.String() + " " + rec.Message
	rec.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, line)
	return nil
}

func (r *records) lines(part string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	for _, line := range r.all {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return found
}

// taken is a table that has been taken over.
type taken struct {
	conn   *pgx.Conn
	config *pgx.ConnConfig
	shape  shape
	log    *records
}

func tryTake(ctx context.Context, t testing.TB, pg *pgtest.Server, database string) (*taken, error) {
	t.Helper()
	config, err := pgx.ParseConfig(pg.DSN(database))
	if err != nil {
		t.Fatal(err)
	}
	ownSession(config)
	conn, err := pgx.ConnectConfig(soon(t), config.Copy())
	if err != nil {
		t.Fatal(err)
	}
	k := &taken{conn: conn, config: config, log: new(records)}
	k.shape, err = takeOver(ctx, conn, slog.New(k.log))
	if err != nil {
		_ = conn.Close(soon(t))
		return k, err
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // a test may have ended it
	return k, nil
}

func take(t testing.TB, pg *pgtest.Server, database string) *taken {
	t.Helper()
	k, err := tryTake(soon(t), t, pg, database)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// end closes the session and waits until PostgreSQL has ended it.
func (k *taken) end(t testing.TB, admin *pgx.Conn) {
	t.Helper()
	pid := k.conn.PgConn().PID()
	if err := k.conn.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	ended(t, admin, pid)
}

// kill ends the session as an administrator or the OOM killer would.
func (k *taken) kill(t testing.TB, admin *pgx.Conn) {
	t.Helper()
	pid := k.conn.PgConn().PID()
	run(t, admin, "SELECT pg_terminate_backend($1)", pid)
	ended(t, admin, pid)
}

func ended(t testing.TB, admin *pgx.Conn, pid uint32) {
	t.Helper()
	eventually(t, "the session has ended", func() bool {
		return one[bool](t, admin, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)
	})
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func run(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(soon(t), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func one[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(soon(t), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// plainSession is a session of the owner that is not ours: what a kine, or somebody with psql, has.
func plainSession(t testing.TB, pg *pgtest.Server, database string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(soon(t), pg.DSN(database)+"&application_name=plain")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the server may have ended it
	return conn
}

// dump is the whole table, kine's columns only, as text.
func dump(t testing.TB, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(soon(t), `SELECT concat_ws('|', id, name, created, deleted, create_revision, prev_revision, lease,
		coalesce(encode(value, 'escape'), 'NULL'), coalesce(encode(old_value, 'escape'), 'NULL')) FROM kine ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// indexes are the names of the table's indexes, sorted.
func lastCalled(t testing.TB, conn *pgx.Conn) int64 {
	t.Helper()
	return one[int64](t, conn, "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('kine', 'id')), 0)")
}

func equal[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(shape{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// columnsSQL describes kine's own columns of a table.
func TestSecondTakeOverWritesNothing(t *testing.T) {
	pg, database := testDatabase(t)
	admin := pg.Admin(t, database)
	first := take(t, pg, database)
	first.end(t, admin)
	const next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
	// PostgreSQL's own processes take transaction IDs too, now and then. What a take-over writes, it writes each time.
	var second *taken
	for range 5 {
		before := one[string](t, admin, next)
		second = take(t, pg, database)
		if one[string](t, admin, next) == before {
			break
		}
		second.end(t, admin)
		second = nil
	}
	if second == nil {
		t.Fatal("each of five take-overs took a transaction ID")
	}
	equal(t, "shape", second.shape, first.shape)
	equal(t, "log", second.log.lines("changed"), nil)
}

// oldTable makes a table as it is in the field.
// fillOld writes what a kine leaves: a history with an update, a deletion, a key made again, and gap rows.
// collated makes a database with other locales than the server's. The operating system's en_US need not be there: ICU's is.
func TestOfTwoTakeOversOneWins(t *testing.T) {
	pg, database := testDatabase(t)
	admin := pg.Admin(t, database)
	type result struct {
		k   *taken
		err error
	}
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	results := make(chan result, 2)
	for range cap(results) {
		go func() {
			k, err := tryTake(ctx, t, pg, database)
			results <- result{k, err}
		}()
	}
	winner, loser := <-results, <-results
	if winner.err != nil || loser.err == nil {
		t.Fatalf("first to return: %v, second: %v", winner.err, loser.err)
	}
	who := fmt.Sprintf(`pid %d (application_name "kineshim_engine"`, winner.k.conn.PgConn().PID())
	if !strings.Contains(loser.err.Error(), who) {
		t.Errorf("the error does not name %s: %v", who, loser.err)
	}
	if len(loser.k.log.lines(who)) == 0 { // slog's quoting is not in it
		t.Errorf("the log does not name %s: %q", who, loser.k.log.all)
	}
	winner.k.kill(t, admin)
	take(t, pg, database)
}

func TestTakeOverNamesWhoIsInTheWay(t *testing.T) {
	pg, database := testDatabase(t)
	owner, reader := plainSession(t, pg, database), plainSession(t, pg, database)
	oldTable(t, owner, "BIGSERIAL", "BIGINT", "text")
	fillOld(t, owner)
	before, indexesBefore := dump(t, owner), indexes(t, owner)
	run(t, reader, "BEGIN")
	run(t, reader, "SELECT FROM kine")
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	k, err := tryTake(ctx, t, pg, database)
	who := fmt.Sprintf("pid %d", reader.PgConn().PID())
	if err == nil || !strings.Contains(err.Error(), who) {
		t.Fatalf("the error does not name %s: %v", who, err)
	}
	equal(t, "warnings", len(k.log.lines("others are connected to the database")), 1)
	// Nothing is half done.
	equal(t, "rows", dump(t, owner), before)
	equal(t, "indexes", indexes(t, owner), indexesBefore)
	if err := tryWay(t, owner, everyWay["insert"]); err != nil {
		t.Errorf("kine cannot write after a takeover that failed: %v", err)
	}
	run(t, reader, "COMMIT")
	take(t, pg, database)
}

func TestSessionsOfOtherRolesAreWarnedOf(t *testing.T) {
	pg, database := testDatabase(t)
	super, ours := pg.Admin(t, database), plainSession(t, pg, database)
	run(t, ours, "SET application_name = 'kineshim'")
	k := take(t, pg, database)
	equal(t, "warnings", k.log.lines("others are"), []string{fmt.Sprintf(
		`WARN others are connected to the database sessions=pid %d (application_name "", user "super", state hidden)`, super.PgConn().PID())})
}

func TestSettingsOfRoleAndDatabaseAreOverruled(t *testing.T) {
	pg, database := testDatabase(t)
	run(t, pg.Admin(t, database), "ALTER DATABASE "+database+" SET synchronous_commit = off")
	k := take(t, pg, database)
	equal(t, "synchronous_commit", one[string](t, k.conn, "SHOW synchronous_commit"), "on")
}

func TestRevisionsAreIDsOnceKineHasHadTheTable(t *testing.T) {
	pg, database := testDatabase(t)
	admin := pg.Admin(t, database)
	identity := func(k *taken) int64 { return one[int64](t, k.conn, "SELECT identity_upto FROM kineshim_state") }
	k := take(t, pg, database)
	// Two keys in revision 2, then revision 3.
	run(t, k.conn, `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, ks_revision) VALUES
		(2, '/a', 1, 0, 0, 0, 0, 'a', NULL), (3, '/b', 1, 0, 0, 0, 0, 'b', 2), (4, '/c', 1, 0, 0, 0, 0, 'c', 3)`)
	run(t, k.conn, "SELECT setval('kine_id_seq', 4)")
	k.end(t, admin)
	k = take(t, pg, database)
	equal(t, "identity without kine", identity(k), 0)
	k.end(t, admin)
	kine := startKine(t, pg, database) // writes /registry/health
	equal(t, "kine's revision", kine.create(t, "/d", "d"), 6)
	kine.stop()
	k = take(t, pg, database)
	equal(t, "identity after kine", identity(k), 6)
	run(t, k.conn, `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, ks_revision) VALUES
		(7, '/e', 1, 0, 0, 0, 0, 'a', NULL), (8, '/f', 1, 0, 0, 0, 0, 'b', 7)`)
	run(t, k.conn, "SELECT setval('kine_id_seq', 8)")
	k.end(t, admin)
	startKine(t, pg, database).stop() // writes nothing, but its clients have seen revision 8
	k = take(t, pg, database)
	equal(t, "identity after a kine that wrote nothing", identity(k), 8)
	k.end(t, admin)
	kine = startKine(t, pg, database)
	kine.create(t, "/g", "g")
	kine.stop()
	equal(t, "identity after kine again", identity(take(t, pg, database)), 8) // its own rows have no other revision
}

// BenchmarkTakeOver is what each failover pays: a connection, and a takeover that finds all in place.
func BenchmarkTakeOver(b *testing.B) {
	pg, database := testDatabase(b)
	admin := pg.Admin(b, database)
	take(b, pg, database).end(b, admin)
	for _, open := range []bool{true, false} {
		b.Run(fmt.Sprintf("takeover=%v", open), func(b *testing.B) {
			for b.Loop() {
				config, err := pgx.ParseConfig(pg.DSN(database))
				if err != nil {
					b.Fatal(err)
				}
				ownSession(config)
				conn, err := pgx.ConnectConfig(soon(b), config)
				if err == nil && open {
					_, err = takeOver(soon(b), conn, slog.New(slog.DiscardHandler))
				}
				if err != nil {
					b.Fatal(err)
				}
				_ = conn.Close(soon(b))
			}
		})
	}
}
