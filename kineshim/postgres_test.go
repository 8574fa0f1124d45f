package kineshim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// postgres is a throw-away PostgreSQL that listens on a unix socket only.
type postgres struct {
	dir string // holds data and the socket
	bin string
	cmd *exec.Cmd
}

const (
	pgPort     = 5432
	pgPassword = "throw-away"
)

// shared is one server for all tests that do not kill it.
var shared struct {
	once sync.Once
	pg   *postgres
	err  error
	n    int
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.pg != nil {
		shared.pg.remove()
	}
	os.Exit(code)
}

// sharedDatabase returns the shared server and the name of a database of the test's own.
func sharedDatabase(t *testing.T) (*postgres, string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	shared.once.Do(func() { shared.pg, shared.err = newPostgres() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	shared.n++
	name := fmt.Sprintf("test%d", shared.n)
	shared.pg.createDatabase(t, name)
	return shared.pg, name
}

// ownPostgres returns a server that the test may kill.
func ownPostgres(t *testing.T) (*postgres, string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	pg, err := newPostgres()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.remove)
	pg.createDatabase(t, "own")
	return pg, "own"
}

func newPostgres() (*postgres, error) {
	bin, err := exec.Command("pg_config", "--bindir").Output()
	if err != nil {
		return nil, fmt.Errorf("pg_config: %w", err)
	}
	dir, err := os.MkdirTemp("/tmp", "ks-kine-")
	if err != nil {
		return nil, err
	}
	pg := &postgres{dir: dir, bin: strings.TrimSpace(string(bin))}
	if err := pg.init(); err != nil {
		pg.remove()
		return nil, err
	}
	if err := pg.start(); err != nil {
		pg.remove()
		return nil, err
	}
	return pg, nil
}

// command runs one of PostgreSQL's programs, as OS user postgres if this is root, which PostgreSQL refuses.
func (pg *postgres) command(name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(filepath.Join(pg.bin, name), args...)
	cmd.Dir = pg.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT} // also when the test is killed
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2, os.Chown(pg.dir, uid, gid)); err != nil {
			return nil, err
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return cmd, nil
}

func (pg *postgres) init() error {
	pwfile := filepath.Join(pg.dir, "password") // in a directory of 0700
	if err := os.WriteFile(pwfile, []byte(pgPassword+"\n"), 0o644); err != nil {
		return err
	}
	cmd, err := pg.command("initdb", "-D", filepath.Join(pg.dir, "data"), "-U", "super", "--auth=scram-sha-256",
		"--pwfile="+pwfile, "-E", "UTF8", "--locale=C", "-N")
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// start starts the postmaster and waits until it answers. The socket's directory is 0700: MkdirTemp's.
func (pg *postgres) start() error {
	cmd, err := pg.command("postgres", "-D", filepath.Join(pg.dir, "data"), "-k", pg.dir, "-p", strconv.Itoa(pgPort),
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=100", "-c", "logging_collector=off", "-c", "max_wal_senders=5")
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(pg.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	pg.cmd = cmd
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		conn, err := pgx.Connect(ctx, pg.superDSN("postgres"))
		if err == nil {
			conn.Close(ctx)
		}
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start postgres: %w", err)
		}
	}
}

// kill ends the whole server at once, like a power cut: the postmaster by SIGKILL, on which its children leave, and waits.
func (pg *postgres) kill() {
	if pg.cmd == nil {
		return
	}
	_ = pg.cmd.Process.Kill()
	_ = pg.cmd.Wait() // it was killed
	pg.cmd = nil
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		left := pg.processes()
		if len(left) == 0 {
			break
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	_ = os.Remove(filepath.Join(pg.dir, "data", "postmaster.pid"))
}

// processes are those of this server: they work in its data directory.
func (pg *postgres) processes() []int {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	var pids []int
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && cwd == filepath.Join(pg.dir, "data") {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func (pg *postgres) remove() {
	pg.kill()
	os.RemoveAll(pg.dir)
}

func (pg *postgres) superDSN(database string) string {
	return fmt.Sprintf("postgres://super:%s@/%s?host=%s&port=%d", pgPassword, database, pg.dir, pgPort)
}

func (pg *postgres) createDatabase(t *testing.T, name string) {
	t.Helper()
	admin := pg.admin(t, "postgres")
	var exists bool
	if err := admin.QueryRow(soon(t), "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'kine')").Scan(&exists); err != nil {
		t.Fatal(err)
	}
	if !exists {
		exec1(t, admin, "CREATE ROLE kine LOGIN PASSWORD '"+pgPassword+"'")
	}
	exec1(t, admin, "CREATE DATABASE "+name+" OWNER kine")
}

// admin opens a superuser's session that does not pass through a relay.
func (pg *postgres) admin(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(soon(t), pg.superDSN(database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec1(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(soon(t), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// session is what an engine for the database is started with.
func (pg *postgres) session(t *testing.T, database string) Session {
	return Session{
		Epoch: 7, Generation: 3, SocketDir: pg.dir, Port: pgPort, Log: testLog(t),
		DSN: func(dir string) string {
			return fmt.Sprintf("postgres://kine:%s@/%s?host=%s&port=%d", pgPassword, database, dir, pgPort)
		},
	}
}

// startKine starts a node whose engine is kine on the database, and a client of it.
func startKine(t *testing.T, pg *postgres, database string) (*node, *clientv3.Client) {
	t.Helper()
	n := &node{gate: newFakeGate(), router: &fakeRouter{}}
	n.router.to(Route{Why: "nobody yet"})
	var err error
	n.endpoint, err = New(Options{Node: "a", Gate: n.gate, Router: n.router, Engine: KineEngine, Log: testLog(t),
		HeaderInfo: func() HeaderInfo { return HeaderInfo{ClusterID: 11, MemberID: 12, RaftTerm: 13} }})
	if err != nil {
		t.Fatal(err)
	}
	n.client = serve(t, n.endpoint, n.endpoint.ClientServerOptions())
	n.peer = serve(t, n.endpoint, n.endpoint.PeerServerOptions())
	t.Cleanup(func() {
		if err := n.endpoint.Close(); err != nil {
			t.Errorf("close the endpoint: %v", err)
		}
	})
	n.leadKine(t, pg, database)
	return n, newClient(t, n.client)
}

func (n *node) leadKine(t *testing.T, pg *postgres, database string) {
	t.Helper()
	if err := n.endpoint.StartEngine(soon(t), pg.session(t, database)); err != nil {
		t.Fatal(err)
	}
	n.router.to(Route{Local: true, Node: "a"})
}

func newClient(t *testing.T, address string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: patience, MaxUnaryRetries: 1,
		Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}
