package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/k3s-io/kine/pkg/drivers"
	_ "github.com/k3s-io/kine/pkg/drivers/pgsql"
)

func TestInitDBMakesAWholeDatabase(t *testing.T) {
	ctx := testContext(t)
	var log synced
	a := newNode(t, freePort(t), 1, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	d, err := a.Inspect(ctx)
	check(t, "inspect", err)
	if d.Exists || d.Complete {
		t.Errorf("before: %+v", d)
	}
	if err := a.Start(ctx, nil); !errors.Is(err, ErrDataIncomplete) {
		t.Errorf("start without data: %v", err)
	}
	if err := a.InitDB(cancelledContext()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	check(t, "initdb", a.InitDB(ctx))
	d, err = a.Inspect(ctx)
	check(t, "inspect", err)
	if !d.Complete || d.What != "initdb" || d.SystemID == 0 || d.Timeline != 1 || d.ControlState != "shut down" {
		t.Errorf("after: %+v", d)
	}
	if err := a.InitDB(ctx); !errors.Is(err, ErrExists) {
		t.Errorf("again: %v", err)
	}
	a.startPrimary(ctx, 1)
	for query, want := range map[string]string{
		`SHOW data_checksums`: "on",
		`SELECT string_agg(rolname || rolsuper || rolreplication, ' ' ORDER BY rolname) FROM pg_roles WHERE rolcanlogin`:              "kinefalsefalse kineshimtruetrue kineshim_replfalsetrue",
		`SELECT pg_get_userbyid(datdba) || datcollate || pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'kubernetes'`: "kineCUTF8",
		`SELECT count(*) FROM pg_authid WHERE rolcanlogin AND rolpassword NOT LIKE 'SCRAM-SHA-256$%'`:                                 "0",
	} {
		if got := a.value(ctx, query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

func TestWhoMayConnect(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	a.startPrimary(ctx, 1)
	s, socket := testSecrets, a.cfg.SocketDir
	secure, err := a.clientConfig()
	check(t, "certificates", err)
	for _, c := range []struct {
		host, user, password, database string
		allowed                        bool
	}{
		{socket, Superuser, s.Superuser, "postgres", true},
		{socket, Superuser, s.Kine, "postgres", false},
		{socket, KineRole, s.Kine, Database, true},
		{socket, KineRole, s.Kine, "postgres", true},
		{socket, KineRole, s.Kine, "template1", false},
		{socket, KineRole, "", Database, false},
		{socket, ReplicationRole, s.Replication, Database, false},
		{"127.0.0.1", ReplicationRole, s.Replication, "postgres", true},
		{"127.0.0.1", ReplicationRole, s.Replication, Database, false},
		{"127.0.0.1", ReplicationRole, s.Kine, "postgres", false},
		{"127.0.0.1", Superuser, s.Superuser, "postgres", false},
		{"127.0.0.1", KineRole, s.Kine, Database, false},
	} {
		var conn *pgconn.PgConn
		var err error
		if c.host == socket {
			conn, err = connect(ctx, c.host, a.cfg.Port, c.user, c.password, c.database, nil)
		} else {
			conn, err = connectTLS(ctx, secure, c.host, a.cfg.Port, c.user, c.password, c.database, nil)
		}
		if err == nil {
			closeSession(conn)
		}
		if (err == nil) != c.allowed {
			t.Errorf("%s to %s over %s: %v, allowed: %v", c.user, c.database, c.host, err, c.allowed)
		}
	}
	fi, err := os.Stat(a.SocketPath())
	check(t, "socket", err)
	dir, err := os.Stat(socket)
	check(t, "socket directory", err)
	if fi.Mode().Perm() != 0o700 || dir.Mode().Perm() != 0o700 {
		t.Errorf("socket %v in a directory %v", fi.Mode(), dir.Mode())
	}
}

func TestKineStartsWithItsEndpoint(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	a.startPrimary(ctx, 1)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	_, backend, err := drivers.New(ctx, &wg, &drivers.Config{
		Endpoint: a.KineDSN(a.cfg.SocketDir), CompactTimeout: 5 * time.Second, CompactMinRetain: 1000, CompactBatchSize: 1000, PollBatchSize: 500,
	})
	check(t, "kine", err)
	check(t, "kine's start", backend.Start(ctx))
	if got := a.value(ctx, `SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'kine'`); got != KineRole {
		t.Errorf("kine's table belongs to %q", got)
	}
	conn, err := pgconn.Connect(ctx, a.KineDSN(a.cfg.SocketDir))
	check(t, "connect", err)
	defer closeSession(conn)
	if got := value(t, ctx, conn, `SHOW synchronous_commit`); got != "on" {
		t.Errorf("synchronous_commit is %q", got)
	}
	if err := execute(ctx, conn, `SELECT * FROM kineshim.epoch`); sqlState(err) != "42501" {
		t.Errorf("kine reads our table: %v", err)
	}
}

// Passwords must be neither on a command line nor in an environment, nor in any log or readable file.
func TestSecretsStayHidden(t *testing.T) {
	ctx := testContext(t)
	var log synced
	a, b := pair(t, ctx, func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	seen := watchCommandLines(t)
	a.sql(ctx, `CREATE TABLE t (n int)`)
	failOver(t, ctx, a, b)
	check(t, "rewind", a.Rewind(ctx, nil))
	check(t, "clone", a.Clone(ctx, nil))
	check(t, "start a", a.Start(ctx, nil))
	check(t, "follow", a.Follow(ctx))
	a.streams(ctx)
	lines := seen()
	for _, program := range []string{"pg_basebackup", "pg_rewind", "walreceiver", "walsender"} {
		if !strings.Contains(lines, program) {
			t.Errorf("no command line of %s was seen: the test shows nothing", program)
		}
	}
	logs := log.String() + readAll(t, a.logPath()) + readAll(t, b.logPath())
	for _, secret := range []string{testSecrets.Superuser, testSecrets.Replication, testSecrets.Kine} {
		if strings.Contains(lines, secret) {
			t.Error("a password is on a command line or in an environment")
		}
		if strings.Contains(logs, secret) {
			t.Error("a password is in a log")
		}
	}
	noPasswordIsReadable(t, a.dir)
}

// failOver makes b the primary of epoch 2.
func failOver(t *testing.T, ctx context.Context, a, b *node) {
	t.Helper()
	check(t, "stop a", a.StopImmediate(ctx))
	b.lead(ctx, 2)
	check(t, "checkpoint", b.withLocal(ctx, func(conn *pgconn.PgConn) error { return execute(ctx, conn, `CHECKPOINT`) }))
}

// watchCommandLines collects the command lines and environments of all PostgreSQL programs until the returned function is
// called, which returns them.
func watchCommandLines(t *testing.T) func() string {
	stop, done := make(chan struct{}), make(chan string)
	go func() {
		seen := make(map[string]bool)
		for {
			entries, _ := os.ReadDir("/proc")
			for _, e := range entries {
				exe, err := os.Readlink(fmt.Sprintf("/proc/%s/exe", e.Name()))
				if err != nil || !strings.Contains(exe, "/postgresql/") {
					continue
				}
				for _, f := range []string{"cmdline", "environ"} {
					b, _ := os.ReadFile(fmt.Sprintf("/proc/%s/%s", e.Name(), f))
					seen[string(b)] = true
				}
			}
			select {
			case <-stop:
				var all strings.Builder
				for line := range seen {
					all.WriteString(line + "\n")
				}
				done <- all.String()
				return
			default:
			}
		}
	}()
	result := sync.OnceValue(func() string { close(stop); return <-done })
	t.Cleanup(func() { result() })
	return result
}

// noPasswordIsReadable checks that no file which others may read holds a password.
func noPasswordIsReadable(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "postgres"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, fi.Mode())
		}
		return err
	})
	check(t, "walk", err)
}
