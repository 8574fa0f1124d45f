// Package pgtest runs throw-away PostgreSQL servers for tests: on a unix socket only, in a directory of their own below /tmp,
// dead with the process that started them.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// Port is in the name of every server's socket; nothing listens on TCP.
	Port = 5432
	// Password is every role's.
	Password = "throw-away"
	// Role owns the databases that engines use, as in a real cluster.
	Role = "kine"

	startBound = 30 * time.Second
	killBound  = 10 * time.Second
)

// Server is one PostgreSQL. Its methods are for one goroutine at a time.
type Server struct {
	// Dir holds the data and the socket.
	Dir  string
	bin  string
	cmd  *exec.Cmd
	args []string
}

// Start makes a database cluster and starts it. settings are name=value; fsync is off unless they say otherwise. Remove it
// when it is no longer needed.
func Start(settings ...string) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "ks-pg-")
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, bin: bin}
	for _, setting := range append([]string{"fsync=off", "max_connections=100"}, settings...) {
		s.args = append(s.args, "-c", setting)
	}
	if err := s.init(); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	if err := s.Resume(); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	if err := s.exec("CREATE ROLE " + Role + " LOGIN PASSWORD '" + Password + "'"); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

// binaries is where PostgreSQL's programs are: pg_config's word, else Debian's newest.
func binaries() (string, error) {
	out, err := exec.Command("pg_config", "--bindir").Output()
	if err == nil {
		return strings.TrimSpace(string(out)), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		return "", fmt.Errorf("find PostgreSQL (make setup installs it): %w", err)
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1]), nil
}

// New is Start for one test, which it skips with -short. The server is removed at the test's end.
func New(t testing.TB, settings ...string) *Server {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	s, err := Start(settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Command is one of PostgreSQL's programs, run as OS user postgres if this is root, which PostgreSQL refuses. It dies with
// the thread that starts it.
func (s *Server) Command(name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Geteuid() != 0 {
		return cmd, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2, os.Chown(s.Dir, uid, gid)); err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return cmd, nil
}

func (s *Server) data() string { return filepath.Join(s.Dir, "data") }

func (s *Server) init() error {
	password := filepath.Join(s.Dir, "password") // in a directory of 0700
	if err := os.WriteFile(password, []byte(Password+"\n"), 0o644); err != nil {
		return err
	}
	cmd, err := s.Command("initdb", "-D", s.data(), "-U", "super", "--auth=scram-sha-256", "--pwfile="+password,
		"-E", "UTF8", "--locale=C", "-N")
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// Resume starts the server again after Kill, and waits until it answers. The socket's directory is 0700: MkdirTemp's.
func (s *Server) Resume() error {
	cmd, err := s.Command("postgres", append([]string{"-D", s.data(), "-k", s.Dir, "-p", strconv.Itoa(Port),
		"-c", "listen_addresses=", "-c", "logging_collector=off"}, s.args...)...)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	for deadline := time.Now().Add(startBound); ; time.Sleep(10 * time.Millisecond) {
		err := s.exec("SELECT 1")
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start postgres: %w", err)
		}
	}
}

func (s *Server) exec(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startBound)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.SuperDSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

// Kill ends the whole server at once, like a power cut: the postmaster by SIGKILL, on which its children leave, and waits.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // it was killed
	s.cmd = nil
	for deadline := time.Now().Add(killBound); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		left := s.processes()
		if len(left) == 0 {
			break
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	_ = os.Remove(filepath.Join(s.data(), "postmaster.pid"))
}

// processes are those of this server: they work in its data directory.
func (s *Server) processes() []int {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	var pids []int
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && cwd == s.data() {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Remove kills the server and removes its files.
func (s *Server) Remove() error {
	s.Kill()
	return os.RemoveAll(s.Dir)
}

// SuperDSN connects as the superuser.
func (s *Server) SuperDSN(database string) string { return s.dsn("super", database, s.Dir) }

// DSN connects as Role, to the server's socket.
func (s *Server) DSN(database string) string { return s.dsn(Role, database, s.Dir) }

// DSNAt connects as Role, to a socket in another directory.
func (s *Server) DSNAt(database, socketDir string) string { return s.dsn(Role, database, socketDir) }

func (s *Server) dsn(role, database, dir string) string {
	return fmt.Sprintf("postgres://%s:%s@/%s?host=%s&port=%d", role, Password, database, dir, Port)
}

// CreateDatabase makes a database that Role owns.
func (s *Server) CreateDatabase(name string) error {
	return s.exec("CREATE DATABASE " + pgx.Identifier{name}.Sanitize() + " OWNER " + Role)
}

// DropDatabase removes a database and ends its sessions.
func (s *Server) DropDatabase(name string) error {
	return s.exec("DROP DATABASE IF EXISTS " + pgx.Identifier{name}.Sanitize() + " WITH (FORCE)")
}

// Admin opens a superuser's session for one test.
func (s *Server) Admin(t testing.TB, database string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startBound)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.SuperDSN(database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}
