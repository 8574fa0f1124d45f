package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestApplications(t *testing.T) {
	ctx := testContext(t)
	shop := Application{Database: "shop", User: "clerk", Connections: 2}
	a := newNode(t, freePort(t), 1, func(c *Config) {
		c.Applications = []Application{shop, {Database: "other", User: "other", Connections: 1}}
	}).withData(ctx)
	a.startPrimary(ctx, 1)
	const first, second = "correct horse", "battery's \"staple\""
	check(t, "ensure", a.EnsureApplication(ctx, shop, first))
	check(t, "ensure the other", a.EnsureApplication(ctx, Application{Database: "other", User: "other", Connections: 1}, first))
	login := func(user, password, database string) (*pgconn.PgConn, error) {
		return connect(ctx, a.cfg.SocketDir, a.cfg.Port, user, password, database, nil)
	}
	conn, err := login("clerk", first, "shop")
	check(t, "connect", err)
	defer closeSession(conn)
	check(t, "use", execute(ctx, conn, `CREATE TABLE public.t (n int); INSERT INTO public.t VALUES (1)`))
	for _, settings := range [][2]string{
		{"synchronous_commit", "on"}, {"synchronous_standby_names", SynchronousStandbyNames}, {"client_connection_check_interval", "10s"},
	} {
		if got := value(t, ctx, conn, "SHOW "+settings[0]); got != settings[1] {
			t.Errorf("%s is %s", settings[0], got)
		}
	}
	for _, forbidden := range []string{
		`SELECT pg_catalog.pg_cancel_backend(pg_backend_pid())`, `SELECT pg_catalog.pg_terminate_backend(pg_backend_pid())`,
		`SET synchronous_standby_names = ''`, `CREATE ROLE x`, `CREATE DATABASE x`, `ALTER ROLE clerk CONNECTION LIMIT -1`,
		`SELECT rolpassword FROM pg_authid`, `COPY public.t TO PROGRAM 'true'`, `SELECT pg_read_file('/etc/passwd')`, `SELECT pg_promote()`, `SET ROLE kine`,
	} {
		if err := execute(ctx, conn, forbidden); sqlState(err) != "42501" && sqlState(err) != "55P02" {
			t.Errorf("%s: %v", forbidden, err)
		}
	}
	for _, c := range [][3]string{{"clerk", first, Database}, {"clerk", first, "postgres"}, {"clerk", first, "other"}, {"other", first, "shop"}, {"clerk", "wrong password", "shop"}} {
		if conn, err := login(c[0], c[1], c[2]); err == nil {
			closeSession(conn)
			t.Errorf("%s is let into %s", c[0], c[2])
		}
	}
	two, err := login("clerk", first, "shop")
	check(t, "a second session", err)
	defer closeSession(two)
	if conn, err := login("clerk", first, "shop"); sqlState(err) != "53300" {
		if err == nil {
			closeSession(conn)
		}
		t.Errorf("a third session: %v", err)
	}
	shop.Connections = 5
	check(t, "ensure again", a.EnsureApplication(ctx, shop, second))
	if conn, err := login("clerk", first, "shop"); err == nil {
		closeSession(conn)
		t.Error("the old password is good")
	}
	three, err := login("clerk", second, "shop")
	check(t, "the new password", err)
	defer closeSession(three)
	if got := value(t, ctx, three, `SELECT count(*) FROM public.t`); got != "1" {
		t.Errorf("its table has %s rows", got)
	}
	verifier, err := scramVerifier("third password")
	check(t, "verifier", err)
	check(t, "ensure with a verifier", a.EnsureApplication(ctx, shop, verifier))
	four, err := login("clerk", "third password", "shop")
	check(t, "the verifier's password", err)
	closeSession(four)
	log, err := os.ReadFile(filepath.Join(a.dir, "postgres.log"))
	check(t, "read the log", err)
	if strings.Contains(string(log), "SCRAM-SHA-256$") {
		t.Error("a verifier is in the log")
	}
	if err := a.EnsureApplication(ctx, shop, "pässword"); err == nil || !strings.Contains(err.Error(), "printable ASCII") {
		t.Error(err)
	}
}

// Sessions whose client is gone end, so that they keep nobody out; but a commit that waits for the standby goes on waiting, as it would else become visible
// without having been replicated.
func TestSessionOfAClientThatIsGoneEndsUnlessItsCommitWaits(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	a.startPlain(ctx, "synchronous_standby_names=nobody")
	a.sql(ctx, `SET synchronous_commit = local; CREATE TABLE t (n int)`)
	gone := func(statement string) int {
		t.Helper()
		conn := a.session(ctx, Database)
		check(t, "set", execute(ctx, conn, `SET client_connection_check_interval = '50ms'`))
		go func() { _ = execute(ctx, conn, statement) }() // ends with the connection
		watch := a.session(ctx, Database)
		eventually(t, ctx, "the statement runs", func() bool {
			return value(t, ctx, watch, fmt.Sprintf(`SELECT count(*) FROM pg_stat_activity WHERE pid = %d AND wait_event IN ('SyncRep', 'PgSleep')`, conn.PID())) == "1"
		})
		check(t, "close", conn.Conn().Close())
		return int(conn.PID())
	}
	waiting, sleeping := gone(`INSERT INTO t VALUES (1)`), gone(`SELECT pg_sleep(3600)`)
	state := func(pid int) string {
		return a.value(ctx, fmt.Sprintf(`SELECT coalesce(string_agg(wait_event, ''), 'ended') FROM pg_stat_activity WHERE pid = %d`, pid))
	}
	eventually(t, ctx, "the sleeping one ends", func() bool { return state(sleeping) == "ended" })
	for range 10 { // of the intervals at which clients are looked at
		time.Sleep(50 * time.Millisecond)
		if s, rows := state(waiting), a.value(ctx, `SELECT count(*) FROM t`); s != "SyncRep" || rows != "0" {
			t.Fatalf("the session whose commit waits: %s; %s rows are visible", s, rows)
		}
	}
}

func TestPeerIsLookedForWhereItListens(t *testing.T) {
	for want, addrs := range map[string][]string{
		"192.0.2.1":   {"2001:db8::1", "192.0.2.1", "192.0.2.2"},
		"192.0.2.2":   {"192.0.2.2", "2001:db8::1"},
		"2001:db8::1": {"2001:db8::1", "2001:db8::2"},
	} {
		if got := preferred(addrs); got != want {
			t.Errorf("%q: %s, want %s", addrs, got, want)
		}
	}
}

func TestApplicationsAreMadeOnAPrimaryOnly(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	check(t, "start", a.Start(ctx, nil))
	if err := a.EnsureApplication(ctx, Application{"shop", "clerk", 1}, "some password"); !errors.Is(err, ErrNotPrimary) {
		t.Error(err)
	}
}

func TestApplicationNames(t *testing.T) {
	for name, good := range map[string]bool{
		"shop": true, "_x9": true, strings.Repeat("a", 63): true, strings.Repeat("a", 64): false, "": false, "9x": false, "Shop": false, "a-b": false, `a"b`: false,
		"a b": false, "kine": false, "kineshim": false, "kineshim_repl": false, "kubernetes": false, "postgres": false, "template1": false, "all": false,
		"sameuser": false, "replication": false, "public": false, "pg_read_all_data": false, "a\n": false,
	} {
		if err := ValidateApplicationName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := validateApplications([]Application{{"all", "x;y", 0}}); err == nil || strings.Count(fmt.Sprint(err), "\n") != 2 {
		t.Errorf("not all mistakes are named: %v", err)
	}
}
