package kineshim

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"kineshim/pgwire"
)

// fakeServer is a PostgreSQL that plays what the test writes: each connection that reaches it comes out of conns.
type fakeServer struct {
	dir      string
	conns    chan net.Conn
	accepted atomic.Int64
}

func startFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	s := &fakeServer{dir: shortDir(t), conns: make(chan net.Conn, 10)}
	listener, err := net.Listen("unix", filepath.Join(s.dir, ".s.PGSQL.1"))
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.conns <- conn
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-stopped
	})
	return s
}

// startRelay starts a relay to the fake server; lost counts the commits that did not wait.
func (s *fakeServer) startRelay(t *testing.T) (r *relay, lost *atomic.Int64) {
	t.Helper()
	lost = new(atomic.Int64)
	r, err := newRelay(s.dir, 1, new(failures), func(string) { lost.Add(1) }, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.close() })
	return r, lost
}

// connect opens a connection through the relay and returns both its ends, behind the startup packet.
func (s *fakeServer) connect(t *testing.T, r *relay) (client, server net.Conn) {
	t.Helper()
	client = dialRelay(t, r)
	startup, err := (&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "kine"}}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, client, startup)
	select {
	case server = <-s.conns:
	case <-time.After(patience):
		t.Fatal("the relay did not connect")
	}
	t.Cleanup(func() { server.Close() })
	read(t, server, string(startup))
	return client, server
}

func dialRelay(t *testing.T, r *relay) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(r.dir, ".s.PGSQL.1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func write(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func readEnd(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Fatalf("read %q, %v; want the end", rest, err)
	}
}

func encode(t *testing.T, m pgproto3.BackendMessage) []byte {
	t.Helper()
	b, err := m.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ks-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func untyped(code uint32, rest ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(rest)))
	return append(binary.BigEndian.AppendUint32(b, code), rest...)
}

func TestCancelRequestsNeverReachPostgreSQL(t *testing.T) {
	s := startFakeServer(t)
	r, _ := s.startRelay(t)
	client := dialRelay(t, r)
	write(t, client, untyped(pgwire.CancelRequest, 0, 0, 0, 1, 0, 0, 0, 2))
	readEnd(t, client)
	if n := s.accepted.Load(); n != 0 {
		t.Errorf("%d connections reached PostgreSQL", n)
	}
	s.connect(t, r) // others do
	if n := r.failures.count(); n != 0 {
		t.Errorf("%d failures: %s", n, r.failures.why())
	}
}

func TestEncryptionIsDeclined(t *testing.T) {
	s := startFakeServer(t)
	r, _ := s.startRelay(t)
	client := dialRelay(t, r)
	for _, code := range []uint32{pgwire.GSSRequest, pgwire.SSLRequest} {
		write(t, client, untyped(code))
		read(t, client, "N")
	}
}

func TestMessagesPassUnchanged(t *testing.T) {
	s := startFakeServer(t)
	r, _ := s.startRelay(t)
	client, server := s.connect(t, r)
	question := []byte{'Q', 0, 0, 0, 10}
	question = append(question, "SELECT"...)
	write(t, client, question)
	read(t, server, string(question))
	row := encode(t, &pgproto3.DataRow{Values: [][]byte{make([]byte, 3<<20)}})
	answer := append(row, encode(t, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})...)
	answer = append(answer, encode(t, &pgproto3.ReadyForQuery{TxStatus: 'I'})...)
	go func() { _, _ = server.Write(answer) }() // larger than the socket's buffer
	read(t, client, string(answer))
	if n := r.failures.count(); n != 0 {
		t.Errorf("%d failures: %s", n, r.failures.why())
	}
}

func TestFailuresAreCountedBeforeTheEngineSeesThem(t *testing.T) {
	pgError := func(code string) pgproto3.BackendMessage {
		return &pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: code, Message: "m"}
	}
	warning := func(message string) pgproto3.BackendMessage {
		return &pgproto3.NoticeResponse{Severity: "WARNING", SeverityUnlocalized: "WARNING", Code: "01000", Message: message}
	}
	for _, c := range []struct {
		name     string
		starting bool
		state    byte
		message  pgproto3.BackendMessage
		failures uint64
		lost     int64
	}{
		{"lost race", false, 'I', pgError("23505"), 0, 0},
		{"read-only", false, 'I', pgError("25006"), 1, 0},
		{"terminated", false, 'I', pgError("57P01"), 1, 0},
		{"no table while starting", true, 'I', pgError("42P01"), 0, 0},
		{"no table later", false, 'I', pgError("42P01"), 1, 0},
		{"deadlock of the compaction", false, 'T', pgError("40P01"), 0, 0},
		{"deadlock of an insert", false, 'I', pgError("40P01"), 1, 0},
		{"serialization failure of the compaction", false, 'T', pgError("40001"), 0, 0},
		{"notice", false, 'I', &pgproto3.NoticeResponse{Severity: "NOTICE", SeverityUnlocalized: "NOTICE", Code: "42P07"}, 0, 0},
		{"warning", false, 'I', warning("odd"), 1, 0},
		{"commit that did not wait", false, 'I', warning("canceling wait for synchronous replication due to user request"), 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startFakeServer(t)
			r, lost := s.startRelay(t)
			r.starting.Store(c.starting)
			client, server := s.connect(t, r)
			sent := append(encode(t, &pgproto3.ReadyForQuery{TxStatus: c.state}), encode(t, c.message)...)
			write(t, server, sent)
			read(t, client, string(sent))
			if n := r.failures.count(); n != c.failures || lost.Load() != c.lost {
				t.Errorf("%d failures (%s), %d lost; want %d and %d", n, r.failures.why(), lost.Load(), c.failures, c.lost)
			}
		})
	}
}

func TestEndOfTheServerIsCountedBeforeTheEngineSeesIt(t *testing.T) {
	row := encode(t, &pgproto3.DataRow{Values: [][]byte{make([]byte, 100)}})
	for _, sent := range []int{0, 3, len(row) - 1, len(row)} {
		t.Run(fmt.Sprintf("after %d bytes", sent), func(t *testing.T) {
			s := startFakeServer(t)
			r, _ := s.startRelay(t)
			client, server := s.connect(t, r)
			write(t, server, row[:sent])
			server.Close()
			if _, err := io.ReadAll(client); err != nil {
				t.Fatal(err)
			}
			if n := r.failures.count(); n != 1 {
				t.Errorf("%d failures, want 1", n)
			}
		})
	}
}

func TestGoodbyeOfTheEngineIsNoFailure(t *testing.T) {
	for _, how := range []string{"terminate", "close"} {
		t.Run(how, func(t *testing.T) {
			s := startFakeServer(t)
			r, _ := s.startRelay(t)
			client, server := s.connect(t, r)
			if how == "terminate" {
				bye := []byte{msgTerminate, 0, 0, 0, 4}
				write(t, client, bye)
				read(t, server, string(bye))
				server.Close() // before the engine has closed its side
				readEnd(t, client)
			} else {
				client.Close()
				readEnd(t, server)
			}
			if n := r.failures.count(); n != 0 {
				t.Errorf("%d failures: %s", n, r.failures.why())
			}
		})
	}
}

func TestUnreachablePostgreSQLIsAFailure(t *testing.T) {
	s := &fakeServer{dir: shortDir(t)}
	r, _ := s.startRelay(t)
	client := dialRelay(t, r)
	startup, err := (&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, client, startup)
	readEnd(t, client)
	if n := r.failures.count(); n != 1 {
		t.Errorf("%d failures, want 1", n)
	}
}

func TestRelayClosesEverythingAndLeavesNothing(t *testing.T) {
	s := startFakeServer(t)
	r, _ := s.startRelay(t)
	info, err := os.Stat(r.dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("%s: %v, %v", r.dir, info, err)
	}
	client, server := s.connect(t, r)
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	readEnd(t, client)
	readEnd(t, server)
	if _, err := os.Stat(r.dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", r.dir, err)
	}
}

func TestRelaysOfKilledProcessesAreRemoved(t *testing.T) {
	in := shortDir(t)
	dead, live, empty := filepath.Join(in, relayPrefix+"dead"), filepath.Join(in, relayPrefix+"live"), filepath.Join(in, relayPrefix+"empty")
	for _, dir := range []string{dead, live, empty} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{dead, live} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, ".s.PGSQL.1"), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		defer l.Close()
		if dir == dead {
			l.Close()
		}
	}
	removeStaleRelays(in)
	for dir, want := range map[string]bool{dead: false, live: true, empty: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v, want there: %v", dir, err, want)
		}
	}
}
