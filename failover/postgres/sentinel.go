package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// Sentinel is an idle session whose end shows that the server's sessions have ended: by a crash of any backend, after which
// PostgreSQL begins anew within the same postmaster, by a shutdown, or by the postmaster's death. PostgreSQL ends all old
// sessions before it accepts a new one, so a session that was opened while the Sentinel lived belongs to the same life of
// the server if the Sentinel still lives afterwards.
//
// Any byte that arrives, and the connection's end, make it dead for ever.
type Sentinel struct {
	conn net.Conn
	raw  syscall.RawConn
	dead atomic.Bool
	// closed is closed by watch, when it has seen the end.
	closed chan struct{}
	once   sync.Once
}

// pollSentinel is how often OpenSentinel tries again while PostgreSQL begins anew after the crash of a backend.
const pollSentinel = 20 * time.Millisecond

// OpenSentinel opens one, as soon as the server accepts sessions and keeps them. The caller closes it.
func (s *Server) OpenSentinel(ctx context.Context) (*Sentinel, error) {
	c, err := s.current()
	if err != nil {
		return nil, fmt.Errorf("sentinel: %w", err)
	}
	var se *Sentinel
	var last error
	what := func() string { return fmt.Sprintf("the server keeps no session (%v)", last) }
	err = poll(ctx, pollSentinel, what, func() (bool, error) {
		if se, last = s.openSentinel(ctx, c); last == nil {
			return true, nil
		}
		if state := sqlState(last); c.exited() || state != "" && state != cannotConnectNow {
			return false, last
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("sentinel: %w", err)
	}
	return se, nil
}

func (s *Server) openSentinel(ctx context.Context, c *child) (*Sentinel, error) {
	conn, err := c.aheadOr(ctx, forSentinel, s.sentinelSession)
	if err != nil {
		return nil, err
	}
	se, err := newSentinel(ctx, conn)
	if err != nil {
		closeSession(conn)
	}
	return se, err
}

func (s *Server) sentinelSession(ctx context.Context) (*pgconn.PgConn, error) {
	return s.local(ctx, "postgres", "on")
}

func newSentinel(ctx context.Context, conn *pgconn.PgConn) (*Sentinel, error) {
	// A session that was opened before a promotion is told of it with the next answer.
	if err := conn.Ping(ctx); err != nil {
		return nil, err
	}
	if err := conn.SyncConn(ctx); err != nil {
		return nil, err
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		return nil, err
	}
	sc, ok := hijacked.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.New("the connection is not a socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	se := &Sentinel{conn: hijacked.Conn, raw: raw, closed: make(chan struct{})}
	go se.watch()
	return se, nil
}

// Alive reports whether the session lives, by asking the kernel: about a microsecond. It never blocks and is safe for
// concurrent use.
func (se *Sentinel) Alive() bool {
	if se.dead.Load() {
		return false
	}
	quiet := false
	// Control, unlike Read, does not wait for watch, which is in Read.
	err := se.raw.Control(func(fd uintptr) { quiet = isQuiet(fd) })
	if err != nil || !quiet {
		se.dead.Store(true)
		return false
	}
	return true
}

// Closed is closed soon after the session has ended. Alive knows at once.
func (se *Sentinel) Closed() <-chan struct{} { return se.closed }

// Close ends the session and waits for the goroutine that watches it. It may be called more than once.
func (se *Sentinel) Close() {
	se.once.Do(func() {
		se.dead.Store(true)
		se.conn.Close()
	})
	<-se.closed
}

// watch waits until the connection is readable: data or its end.
func (se *Sentinel) watch() {
	defer close(se.closed)
	// An error means that Close was called.
	_ = se.raw.Read(func(fd uintptr) bool { return !isQuiet(fd) })
	se.dead.Store(true)
}

// isQuiet looks into the socket without taking anything out: quiet is an open connection without data.
func isQuiet(fd uintptr) bool {
	var b [1]byte
	_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == unix.EAGAIN || err == unix.EINTR
}
