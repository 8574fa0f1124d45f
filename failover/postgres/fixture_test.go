package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"kineshim/pgrelay"
	"kineshim/raftwitness/record"
)

// waitFor bounds every wait of a test. Nothing here takes a tenth of it, but for a machine that is busy with other things.
const waitFor = 60 * time.Second

var testSecrets = NewSecrets()

// template is a directory with a fresh database's pgdata and data.json, made once: initdb takes longer than most tests.
var template struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	if os.Getenv(orphanEnv) != "" {
		runOrphanParent()
	}
	code := m.Run()
	if template.dir != "" {
		os.RemoveAll(template.dir)
	}
	os.Exit(code)
}

// node is one data node's PostgreSQL in a directory of its own.
type node struct {
	*Server
	t   *testing.T
	dir string
}

// tempDir makes a directory that PostgreSQL's user can reach, which t.TempDir's parents do not allow.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := makeTempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func makeTempDir() (string, error) {
	dir, err := os.MkdirTemp("/tmp", "ks-pg-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// freePort returns a port that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func testConfig(dir string, port, peerPort int) Config {
	return Config{
		DataDir:  filepath.Join(dir, "pgdata"),
		StateDir: dir,
		Port:     port,
		Peer:     HostPort{"127.0.0.1", peerPort},
		Secrets:  testSecrets,
		TLS:      testTLS(),
		Log:      slog.New(slog.DiscardHandler),
	}
}

// newNode makes a node that has no data directory yet, and stops whatever runs there when the test ends.
func newNode(t *testing.T, port, peerPort int, change ...func(*Config)) *node {
	t.Helper()
	dir := tempDir(t)
	cfg := testConfig(dir, port, peerPort)
	if testing.Verbose() {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil)).With("port", port)
	}
	for _, c := range change {
		c(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	relay(t, s)
	n := &node{s, t, dir}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitFor)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close at the end: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the node at port %d: %s", port, s.logTail(0))
		}
	})
	return n
}

// relay lets the peer in, as kineshim does.
func relay(t *testing.T, s *Server) {
	t.Helper()
	pair, err := testAuthority().ServerPair([]string{peerName}, time.Hour, time.Now())
	check(t, "certificate", err)
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	check(t, "certificate", err)
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(testAuthority().PEM())
	r, err := pgrelay.New(pgrelay.Config{
		For: "replication", Gate: pgrelay.Always{}, Accounts: []pgrelay.Account{{Database: "postgres", User: ReplicationRole}}, Replicator: ReplicationRole,
		Socket: s.SocketPath(), MaxConnections: 20, NoPlainText: true, Log: slog.New(slog.DiscardHandler),
		TLS: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients},
	})
	check(t, "relay", err)
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.cfg.Port))
	check(t, "relay", err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, []net.Listener{ln}) }()
	t.Cleanup(func() {
		cancel()
		check(t, "relay", <-done)
	})
}

// testContext ends with the test, or after waitFor.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitFor)
	t.Cleanup(cancel)
	return ctx
}

// within is a context for something that should be over soon, or must not happen within that time.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// withData gives the node a fresh database.
func (n *node) withData(ctx context.Context) *node {
	n.t.Helper()
	template.once.Do(func() { template.dir, template.err = makeTemplate(ctx) })
	check(n.t, "template", template.err)
	check(n.t, "directories", n.prepareDirs())
	out, err := exec.Command("cp", "-a", filepath.Join(template.dir, "pgdata"), n.cfg.DataDir).CombinedOutput()
	if err != nil {
		n.t.Fatalf("copy the template: %v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(template.dir, "postgres", "data.json"))
	check(n.t, "template's marker", err)
	check(n.t, "marker", n.writeDurably(n.dataMarkerPath(), b))
	return n
}

func makeTemplate(ctx context.Context) (string, error) {
	dir, err := makeTempDir()
	if err != nil {
		return dir, err
	}
	s, err := New(testConfig(dir, 1, 2))
	if err != nil {
		return dir, err
	}
	return dir, errors.Join(s.InitDB(ctx), s.Close(ctx))
}

// startPrimary starts and promotes a node, alone, for the given epoch.
func (n *node) startPrimary(ctx context.Context, epoch uint64) {
	n.t.Helper()
	check(n.t, "start", n.Start(ctx, nil))
	n.lead(ctx, epoch)
}

// lead promotes a node that runs and lets commits through.
func (n *node) lead(ctx context.Context, epoch uint64) {
	n.t.Helper()
	_, err := n.Freeze(ctx)
	check(n.t, "freeze", err)
	timeline, _, err := n.Promote(ctx, epoch)
	check(n.t, "promote", err)
	check(n.t, "connect solo", n.ConnectSolo(ctx))
	check(n.t, "epoch", n.CommitEpoch(ctx, epoch, "n", timeline))
	check(n.t, "slot", n.EnsureSlot(ctx))
}

// pair returns a primary in epoch 1 and a standby whose acknowledgement is needed for every commit.
func pair(t *testing.T, ctx context.Context, change ...func(*Config)) (a, b *node) {
	t.Helper()
	portA, portB := freePort(t), freePort(t)
	a, b = newNode(t, portA, portB, change...).withData(ctx), newNode(t, portB, portA, change...)
	a.startPrimary(ctx, 1)
	check(t, "clone", b.Clone(ctx, nil))
	check(t, "start standby", b.Start(ctx, nil))
	check(t, "follow", b.Follow(ctx))
	check(t, "disconnect solo", a.DisconnectSolo(ctx))
	_, err := a.ProveGating(ctx)
	check(t, "prove gating", err)
	return a, b
}

// session opens a superuser session on a database, with commits as they should be.
func (n *node) session(ctx context.Context, database string) *pgconn.PgConn {
	n.t.Helper()
	conn, err := n.local(ctx, database, "on")
	check(n.t, "session", err)
	n.t.Cleanup(func() { closeSession(conn) })
	check(n.t, "search path", execute(ctx, conn, `SET search_path = public`))
	return conn
}

// sql runs statements in a session of their own.
func (n *node) sql(ctx context.Context, text string) {
	n.t.Helper()
	check(n.t, text, execute(ctx, n.session(ctx, Database), text))
}

// value runs a query in a session of its own, which ends with it, and returns its one value as text.
func (n *node) value(ctx context.Context, query string) string {
	n.t.Helper()
	conn := n.session(ctx, Database)
	defer closeSession(conn)
	return value(n.t, ctx, conn, query)
}

func value(t *testing.T, ctx context.Context, conn *pgconn.PgConn, query string) string {
	t.Helper()
	results, err := conn.Exec(ctx, query).ReadAll()
	check(t, query, err)
	if len(results) != 1 || len(results[0].Rows) != 1 {
		t.Fatalf("%s: not one row", query)
	}
	return string(results[0].Rows[0][0])
}

// background runs a statement in a session of its own and delivers its result.
func (n *node) background(ctx context.Context, text string) <-chan error {
	n.t.Helper()
	conn := n.session(ctx, Database)
	result := make(chan error, 1)
	go func() {
		err := execute(ctx, conn, text)
		switch w := warned(conn); {
		case w != "" && err == nil:
			err = fmt.Errorf("done, but: %s", w)
		case w != "":
			err = fmt.Errorf("%w, and: %s", err, w)
		}
		result <- err
	}()
	return result
}

// mustWait fails the test if a result arrives while the condition, which ends the wait, is not true yet.
func mustWait(t *testing.T, result <-chan error, d time.Duration) {
	t.Helper()
	select {
	case err := <-result:
		t.Fatalf("it returned %v, but should wait", err)
	case <-time.After(d):
	}
}

func mustReturn(t *testing.T, ctx context.Context, result <-chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		t.Fatal("it did not return")
		return nil
	}
}

// eventually polls a condition until it holds.
func eventually(t *testing.T, ctx context.Context, what string, cond func() bool) {
	t.Helper()
	if err := poll(ctx, 5*time.Millisecond, func() string { return what }, func() (bool, error) { return cond(), nil }); err != nil {
		t.Fatal(err)
	}
}

// backend returns the process ID of a server process of the given type.
func (n *node) backend(ctx context.Context, kind string) int {
	n.t.Helper()
	var pid int
	conn := n.session(ctx, "postgres")
	eventually(n.t, ctx, "a "+kind, func() bool {
		_, err := queryJSON(ctx, conn, `SELECT to_json(min(pid)) FROM pg_stat_activity WHERE backend_type = '`+kind+`'`, &pid)
		check(n.t, "find "+kind, err)
		return pid != 0
	})
	return pid
}

func (n *node) observe(ctx context.Context) Observation {
	n.t.Helper()
	o, err := n.Observe(ctx)
	check(n.t, "observe", err)
	return o
}

// streams waits until the node follows its primary.
func (n *node) streams(ctx context.Context) {
	n.t.Helper()
	eventually(n.t, ctx, "streaming", func() bool { return n.observe(ctx).WalReceiver.Status == "streaming" })
}

// replayed waits until a standby has replayed up to a position.
func (n *node) replayed(ctx context.Context, lsn record.LSN) {
	n.t.Helper()
	eventually(n.t, ctx, "replay", func() bool { return n.observe(ctx).ReplayLSN >= lsn })
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	check(t, "open", err)
	defer f.Close()
	b, err := io.ReadAll(f)
	check(t, "read", err)
	return strings.TrimSpace(string(b))
}

// stop freezes a process (SIGSTOP) and returns what thaws it; the test's end does so too.
func freezeProcess(t *testing.T, pid int) (thaw func()) {
	t.Helper()
	check(t, "SIGSTOP", syscall.Kill(pid, syscall.SIGSTOP))
	thaw = sync.OnceFunc(func() { syscall.Kill(pid, syscall.SIGCONT) })
	t.Cleanup(thaw)
	return thaw
}

// startPlain runs the node's data directory as a primary whose settings can change: PostgreSQL without our precautions.
func (n *node) startPlain(ctx context.Context, settings ...string) {
	n.t.Helper()
	check(n.t, "directories", n.prepareDirs())
	check(n.t, "configuration", n.writeConf())
	check(n.t, "leftovers", n.removeLeftovers(ctx))
	args := []string{"-D", n.cfg.DataDir, "-c", "hba_file=" + n.hbaPath(), "-c", "listen_addresses=", "-c", "wal_log_hints=on",
		"-c", fmt.Sprintf("port=%d", n.cfg.Port), "-c", "unix_socket_directories=" + n.cfg.SocketDir}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	c, err := n.startChild(n.command(syscall.SIGQUIT, "postgres", args...))
	check(n.t, "start plain", err)
	check(n.t, "start plain", n.awaitSession(ctx, c, func(string, uint64, uint64) {}))
}

// waitsForStandby waits until a commit waits for synchronous replication.
func (n *node) waitsForStandby(ctx context.Context) {
	n.t.Helper()
	conn := n.session(ctx, "postgres")
	eventually(n.t, ctx, "a waiting commit", func() bool {
		return value(n.t, ctx, conn, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`) != "0"
	})
}
