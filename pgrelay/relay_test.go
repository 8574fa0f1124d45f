package pgrelay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"kineshim/integration/pgtest"
	"kineshim/pgwire"
	"kineshim/pki"

	"golang.org/x/sys/unix"
)

var (
	errClosed = errors.New("this node is not the primary; b is")
	errDead   = errors.New("dead")
	errLease  = errors.New("no lease")
)

// fakeGate is a gate with one session, as the test wants it.
type fakeGate struct {
	mu    sync.Mutex // guards the fields below
	enter error
	check error
	over  bool
}

func (g *fakeGate) set(f func(*fakeGate)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g)
}

func (g *fakeGate) Enter() (Session, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g, g.enter
}

func (g *fakeGate) Check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.check
}

func (g *fakeGate) Over() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.over
}

func (g *fakeGate) Wait(ctx context.Context) error {
	for {
		err := g.Check()
		if err == nil || errors.Is(err, errDead) {
			return err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fakePostgres plays what the test writes: each connection that reaches it comes out of conns.
type fakePostgres struct {
	socket string
	conns  chan net.Conn
}

func newFakePostgres(t *testing.T) *fakePostgres {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ks-relay-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &fakePostgres{filepath.Join(dir, "s"), make(chan net.Conn, 10)}
	ln, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.conns <- c
		}
	}()
	return p
}

// accept is the next connection, its startup packet read.
func (p *fakePostgres) accept(t *testing.T) net.Conn {
	t.Helper()
	select {
	case c := <-p.conns:
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // fails on closed ones only
		read(t, c, string(startup("clerk", "shop")))
		return c
	case <-time.After(20 * time.Second):
		t.Fatal("nobody connects to PostgreSQL")
		return nil
	}
}

func startup(user, database string, more ...string) []byte {
	var b []byte
	for _, s := range append([]string{"user", user, "database", database}, more...) {
		b = append(append(b, s...), 0)
	}
	b = append(b, 0)
	head := binary.BigEndian.AppendUint32(nil, uint32(8+len(b)))
	return append(binary.BigEndian.AppendUint32(head, 3<<16), b...)
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q", b, err, want)
	}
}

func write(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// readEnd reads to the end of the connection, which must come by itself.
func readEnd(t *testing.T, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection goes on")
	}
	return string(b)
}

// start runs a relay for the account shop/clerk and returns where it listens.
func start(t *testing.T, g *fakeGate, socket string, change ...func(*Config)) (r *Relay, at string) {
	t.Helper()
	cfg := Config{Gate: g, Accounts: []Account{{"shop", "clerk"}}, Socket: socket, MaxConnections: 10, Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, []net.Listener{ln}) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Run does not end")
		}
	})
	return r, ln.Addr().String()
}

func dial(t *testing.T, at string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // fails on closed ones only
	return c
}

// connected is a client with its connection at PostgreSQL.
func connected(t *testing.T, p *fakePostgres, at string) (client, server net.Conn) {
	t.Helper()
	client = dial(t, at)
	write(t, client, startup("clerk", "shop"))
	return client, p.accept(t)
}

func TestBytesPassUnchangedBothWays(t *testing.T) {
	p := newFakePostgres(t)
	_, at := start(t, &fakeGate{}, p.socket)
	client, server := connected(t, p, at)
	big := strings.Repeat("0123456789", 300_000)
	go func() { _, _ = client.Write([]byte(big)) }() // larger than the buffers
	read(t, server, big)
	go func() { _, _ = server.Write([]byte(big)) }()
	read(t, client, big)
	client.Close()
	readEnd(t, server)
}

// refusal reads what a client that is not let in is told.
func refusal(t *testing.T, c net.Conn) *pgproto3.ErrorResponse {
	t.Helper()
	m, err := pgproto3.NewFrontend(c, nil).Receive()
	e, ok := m.(*pgproto3.ErrorResponse)
	if err != nil || !ok {
		t.Fatalf("%T, %v", m, err)
	}
	return e
}

func TestStandbyRefusesAndNamesThePrimary(t *testing.T) {
	p := newFakePostgres(t)
	_, at := start(t, &fakeGate{enter: errClosed}, p.socket)
	c := dial(t, at)
	write(t, c, startup("clerk", "shop"))
	if e := refusal(t, c); e.Code != "57P03" || !strings.Contains(e.Message, "b is") {
		t.Errorf("%+v", e)
	}
	readEnd(t, c)
	if len(p.conns) != 0 {
		t.Error("PostgreSQL was asked")
	}
}

func TestOnlyApplicationsAreLetIn(t *testing.T) {
	p := newFakePostgres(t)
	_, at := start(t, &fakeGate{}, p.socket)
	for _, packet := range [][]byte{
		startup("kineshim", "postgres"), startup("kineshim", "shop"), startup("kine", "kubernetes"), startup("clerk", "kubernetes"), startup("clerk", "other"),
		startup("kineshim_repl", "shop", "replication", "true"), startup("clerk", "shop", "replication", "database"), startup("clerk", ""), startup("", ""),
	} {
		c := dial(t, at)
		write(t, c, packet)
		if e := refusal(t, c); e.Code != "28000" {
			t.Errorf("%q: %+v", packet, e)
		}
	}
	c := dial(t, at)
	write(t, c, startup("clerk", "shop", "user", "kineshim"))
	if e := refusal(t, c); e.Code != "08P01" {
		t.Errorf("a parameter twice: %+v", e)
	}
	if len(p.conns) != 0 {
		t.Error("PostgreSQL was asked")
	}
}

func TestOnlyFromTheNetworksThatAreNamed(t *testing.T) {
	p := newFakePostgres(t)
	_, at := start(t, &fakeGate{}, p.socket, func(c *Config) { c.From = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	c := dial(t, at)
	write(t, c, startup("clerk", "shop"))
	if e := refusal(t, c); e.Code != "28000" || !strings.Contains(e.Message, "127.0.0.1") {
		t.Errorf("%+v", e)
	}
	_, at = start(t, &fakeGate{}, p.socket, func(c *Config) { c.From = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	connected(t, p, at)
	_, at = start(t, &fakeGate{}, p.socket, func(c *Config) { c.From, c.Proven = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, true })
	connected(t, p, at)
}

func TestOnlyTheReplicatorReplicates(t *testing.T) {
	r, err := New(Config{
		For: "replication", Gate: Always{}, Accounts: []Account{{"postgres", "repl"}}, Replicator: "repl", Socket: "/nowhere", MaxConnections: 1,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		params map[string]string
		in     bool
	}{
		{map[string]string{"user": "repl", "replication": "true"}, true},
		{map[string]string{"user": "repl", "database": "replication", "replication": "true"}, true},
		{map[string]string{"user": "repl", "database": "postgres"}, true},
		{map[string]string{"user": "repl", "database": "kubernetes"}, false},
		{map[string]string{"user": "repl"}, false},
		{map[string]string{"user": "kineshim", "database": "postgres", "replication": "true"}, false},
		{map[string]string{"user": "", "replication": "true"}, false},
		{map[string]string{"user": "kineshim", "database": "postgres"}, false},
	} {
		if err := r.admit(c.params); (err == nil) != c.in {
			t.Errorf("%v: %v", c.params, err)
		}
	}
}

func TestCancelRequestsNeverReachPostgreSQL(t *testing.T) {
	p := newFakePostgres(t)
	_, at := start(t, &fakeGate{}, p.socket)
	c := dial(t, at)
	b := binary.BigEndian.AppendUint32(nil, 16)
	write(t, c, append(binary.BigEndian.AppendUint32(b, pgwire.CancelRequest), 0, 0, 0, 1, 0, 0, 0, 2))
	if got := readEnd(t, c); got != "" || len(p.conns) != 0 {
		t.Errorf("%q, %d connections", got, len(p.conns))
	}
}

func TestEncryptionIsDeclined(t *testing.T) {
	p := newFakePostgres(t)
	_, at := start(t, &fakeGate{}, p.socket)
	c := dial(t, at)
	for _, code := range []uint32{pgwire.GSSRequest, pgwire.SSLRequest} {
		write(t, c, binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, code))
		read(t, c, "N")
	}
	write(t, c, startup("clerk", "shop"))
	p.accept(t)
}

// What PostgreSQL has answered is for nobody once another node may be the primary.
func TestAnswerIsHeldBackWithoutALease(t *testing.T) {
	p, g := newFakePostgres(t), &fakeGate{}
	_, at := start(t, g, p.socket)
	client, server := connected(t, p, at)
	g.set(func(g *fakeGate) { g.check = errLease })
	write(t, server, []byte("stale?"))
	_ = client.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // fails on closed ones only
	if n, err := client.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	_ = client.SetReadDeadline(time.Now().Add(20 * time.Second)) // fails on closed ones only
	g.set(func(g *fakeGate) { g.check = nil })
	read(t, client, "stale?")
	g.set(func(g *fakeGate) { g.check = errDead })
	write(t, server, []byte("stale!"))
	if got := readEnd(t, client); got != "" {
		t.Errorf("answered %q", got)
	}
}

func TestConnectionsAreCutWhenTheRoleEnds(t *testing.T) {
	p, g := newFakePostgres(t), &fakeGate{}
	r, at := start(t, g, p.socket)
	client, server := connected(t, p, at)
	g.set(func(g *fakeGate) { g.over = true })
	if got := readEnd(t, client); got != "" {
		t.Errorf("answered %q", got)
	}
	readEnd(t, server)
	late := dial(t, at) // Enter says yes, but the session is over
	write(t, late, startup("clerk", "shop"))
	readEnd(t, late)
	awaitLinks(t, r, 0)
}

// A machine that has died acknowledges nothing; one whose program does not read does, and is left alone.
func TestClientsWhoseMachinesAreDeafAreCutOff(t *testing.T) {
	p := newFakePostgres(t)
	_, at := start(t, &fakeGate{}, p.socket, func(c *Config) { c.deafAfter = 2 })
	_, slowly := connected(t, p, at)
	go func() { _, _ = slowly.Write(make([]byte, 32<<20)) }() // which nobody reads
	client, server := connected(t, p, at)
	raw, err := client.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var attached error
	if err := raw.Control(func(fd uintptr) {
		nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
		attached = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	}); err != nil || attached != nil {
		t.Fatal(err, attached)
	}
	write(t, server, []byte("an answer"))
	readEnd(t, server)
	_ = slowly.SetReadDeadline(time.Now().Add(2 * deafLook)) // fails on closed ones only
	if _, err := slowly.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one who does not read: %v", err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	p := newFakePostgres(t)
	r, at := start(t, &fakeGate{}, p.socket, func(c *Config) { c.MaxConnections = 1 })
	first, _ := connected(t, p, at)
	readEnd(t, dial(t, at))
	first.Close()
	awaitOpen(t, r, 0)
	connected(t, p, at)
}

// awaitOpen waits until the relay has that many connections.
func awaitOpen(t *testing.T, r *Relay, want int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		open, _ := r.room.Count()
		if open == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open, %d are wanted", open, want)
		}
		time.Sleep(time.Millisecond)
	}
}

// One who connects and says nothing leaves room for others, and who may not come here at all takes none from those who may.
func TestNobodyKeepsTheOthersOut(t *testing.T) {
	p := newFakePostgres(t)
	r, at := start(t, &fakeGate{}, p.socket, func(c *Config) {
		c.MaxConnections, c.From = 8, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/30")}
	})
	from := func(last byte) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, last)}}
		c, err := d.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	for range 20 {
		from(9)
	}
	for range 20 {
		from(2)
	}
	awaitOpen(t, r, 6) // 8, less the quarter that one address leaves to others
	if open, _ := r.strangers.Count(); open > maxStrangers {
		t.Errorf("%d strangers are let begin", open)
	}
	connected(t, p, at)
}

func newAuthority(t *testing.T) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority("c", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// withTLS has the relay show a certificate for localhost.
func withTLS(t *testing.T, ca *pki.Authority) func(*Config) {
	t.Helper()
	pair, err := ca.ServerPair([]string{"localhost"}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"postgresql"}}
	}
}

func TestClientsThatAskForTLSGetIt(t *testing.T) {
	ca := newAuthority(t)
	p := newFakePostgres(t)
	r, at := start(t, &fakeGate{}, p.socket, withTLS(t, ca))
	connected(t, p, at) // in clear, as nothing forbids it
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca.PEM()))
	raw := dial(t, at)
	write(t, raw, binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, pgwire.GSSRequest))
	read(t, raw, "N")
	write(t, raw, binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, pgwire.SSLRequest))
	read(t, raw, "S")
	client := tls.Client(raw, &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"postgresql"}})
	write(t, client, startup("clerk", "shop"))
	server := p.accept(t)
	big := strings.Repeat("0123456789", 300_000)
	go func() { _, _ = client.Write([]byte(big)) }() // larger than the buffers
	read(t, server, big)
	go func() { _, _ = server.Write([]byte(big)) }()
	read(t, client, big)
	r.Cut(func(s tls.ConnectionState) bool { return s.Version != tls.VersionTLS13 }, "a test")
	read(t, client, echo(t, server, "still there"))
	// One who does not read keeps nobody from being cut off.
	go func() { _, _ = server.Write(make([]byte, 32<<20)) }()
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	r.Cut(func(s tls.ConnectionState) bool { return s.Version == tls.VersionTLS13 }, "a test")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v to cut the connection", took)
	}
	awaitLinks(t, r, 1) // the one in clear
}

// records notes the length of the largest TLS record that is read.
type records struct {
	net.Conn
	head    []byte
	left    int
	largest int
}

func (r *records) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	for rest := b[:n]; len(rest) > 0; {
		if skip := min(r.left, len(rest)); skip > 0 {
			r.left, rest = r.left-skip, rest[skip:]
			continue
		}
		r.head, rest = append(r.head, rest[0]), rest[1:]
		if len(r.head) == 5 { // type, version, length
			r.left = int(binary.BigEndian.Uint16(r.head[3:]))
			r.largest, r.head = max(r.largest, r.left), nil
		}
	}
	return n, err
}

// libpq sees no more than 8 KB of a record at a time.
func TestRecordsAreNoLargerThanPostgreSQLs(t *testing.T) {
	ca := newAuthority(t)
	p := newFakePostgres(t)
	_, at := start(t, &fakeGate{}, p.socket, withTLS(t, ca))
	raw := dial(t, at)
	write(t, raw, binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, pgwire.SSLRequest))
	read(t, raw, "S")
	seen := &records{Conn: raw}
	client := tls.Client(seen, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}})
	write(t, client, startup("clerk", "shop"))
	server := p.accept(t)
	const size = 8 << 20
	go func() { _, _ = server.Write(make([]byte, size)) }()
	if _, err := io.CopyN(io.Discard, client, size); err != nil {
		t.Fatal(err)
	}
	const overhead = 256 // RFC 8446, 5.2
	if seen.largest > 8<<10+overhead || seen.largest < 4<<10 {
		t.Errorf("the largest record has %d bytes", seen.largest)
	}
}

// echo has PostgreSQL say something, and returns it.
func echo(t *testing.T, server net.Conn, text string) string {
	t.Helper()
	write(t, server, []byte(text))
	return text
}

// awaitLinks waits until the relay passes that many connections on.
func awaitLinks(t *testing.T, r *Relay, want int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		n := len(r.links)
		r.mu.Unlock()
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are left, not %d", n, want)
		}
	}
}

func TestPlainTextIsRefusedIfItIsToBe(t *testing.T) {
	ca := newAuthority(t)
	p := newFakePostgres(t)
	_, at := start(t, &fakeGate{}, p.socket, withTLS(t, ca), func(c *Config) { c.NoPlainText = true })
	c := dial(t, at)
	write(t, c, startup("clerk", "shop"))
	if e := refusal(t, c); e.Code != "28000" || !strings.Contains(e.Message, "sslmode=require") {
		t.Errorf("%+v", e)
	}
	// What comes behind the request, before it is answered, would count as encrypted.
	c = dial(t, at)
	write(t, c, append(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, pgwire.SSLRequest), startup("clerk", "shop")...))
	if got := readEnd(t, c); got != "" {
		t.Errorf("answered %q", got)
	}
	if len(p.conns) != 0 {
		t.Error("PostgreSQL was asked")
	}
}

func TestRealPostgreSQLThroughARealDriver(t *testing.T) {
	s := pgtest.New(t)
	if err := s.CreateDatabase("shop"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ca := newAuthority(t)
	roots := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(roots, []byte(ca.PEM()), 0o600); err != nil {
		t.Fatal(err)
	}
	ours := func(c *Config) { c.Accounts = []Account{{"shop", pgtest.Role}} }
	socket := filepath.Join(s.Dir, ".s.PGSQL.5432")
	_, at := start(t, &fakeGate{}, socket, ours, withTLS(t, ca))
	encrypted, err := pgx.Connect(ctx, "postgres://"+pgtest.Role+":"+pgtest.Password+"@"+strings.Replace(at, "127.0.0.1", "localhost", 1)+"/shop?sslmode=verify-full&sslrootcert="+roots)
	if err != nil {
		t.Fatal(err)
	}
	defer encrypted.Close(ctx)
	var n int
	if err := encrypted.QueryRow(ctx, `SELECT count(*) FROM generate_series(1, 100000)`).Scan(&n); err != nil || n != 100000 {
		t.Errorf("%d, %v", n, err)
	}
	g := &fakeGate{}
	_, at = start(t, g, socket, ours)
	dsn := "postgres://" + pgtest.Role + ":" + pgtest.Password + "@" + at + "/shop"
	conn, err := pgx.Connect(ctx, dsn) // asks for TLS first
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, `SELECT count(*) FROM generate_series(1, 100000)`).Scan(&n); err != nil || n != 100000 {
		t.Errorf("%d, %v", n, err)
	}
	g.set(func(g *fakeGate) { g.over, g.check, g.enter = true, errDead, errClosed })
	if err := conn.Ping(ctx); err == nil {
		t.Error("answered after the role has ended")
	}
	var e *pgconn.PgError
	if _, err := pgx.Connect(ctx, dsn); !errors.As(err, &e) || e.Code != "57P03" {
		t.Errorf("on a standby: %v", err)
	}
}
