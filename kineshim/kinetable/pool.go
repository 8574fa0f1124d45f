package kinetable

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// pool is a bounded set of connections that are made when they are needed, all to the same PostgreSQL: each is checked
// when it is made.
type pool struct {
	config  *pgx.ConnConfig
	failed  func() error // why nothing may be done any more, or nil
	check   func(context.Context, *pgx.Conn) error
	prepare map[string]string // by name

	slots chan struct{} // one for each connection in use
	ctx   context.Context
	end   context.CancelFunc

	mu     sync.Mutex  // guards idle and closed, and orders inUse.Add before inUse.Wait
	idle   []*pgx.Conn // the last used at the end
	closed bool
	inUse  sync.WaitGroup
}

func newPool(config *pgx.ConnConfig, size int, failed func() error, check func(context.Context, *pgx.Conn) error,
	settings, prepare map[string]string) *pool {
	config = config.Copy()
	for name, value := range settings {
		config.RuntimeParams[name] = value
	}
	config.OnNotice = keepDoubt
	p := &pool{config: config, failed: failed, check: check, prepare: prepare, slots: make(chan struct{}, size)}
	p.ctx, p.end = context.WithCancel(context.Background())
	return p
}

// with calls f with a connection, which is kept for others unless f has left it in the middle of something. The context
// that f gets ends with ctx and with the pool.
func (p *pool) with(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	if err := p.failed(); err != nil {
		return err
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	p.inUse.Add(1)
	p.mu.Unlock()
	defer p.inUse.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return p.reason(ctx.Err())
	}
	conn, err := p.take(ctx)
	if err != nil {
		return p.reason(fmt.Errorf("connect: %w", err))
	}
	err = f(ctx, conn)
	p.give(conn)
	if err != nil {
		return p.reason(err)
	}
	return nil
}

// take returns the connection that was used last of those that are idle, or a new one.
func (p *pool) take(ctx context.Context) (*pgx.Conn, error) {
	for {
		p.mu.Lock()
		last := len(p.idle) - 1
		if last < 0 {
			p.mu.Unlock()
			return p.connect(ctx)
		}
		conn := p.idle[last]
		p.idle = p.idle[:last]
		p.mu.Unlock()
		if alive(conn) {
			return conn, nil
		}
		abandon(conn)
	}
}

func (p *pool) give(conn *pgx.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || conn.IsClosed() || conn.PgConn().IsBusy() || conn.PgConn().TxStatus() != 'I' {
		abandon(conn)
		return
	}
	p.idle = append(p.idle, conn)
}

// reason says why a connection's context has ended, if it is the pool that has.
func (p *pool) reason(err error) error {
	if p.ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

func (p *pool) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, p.config.Copy())
	if err != nil {
		return nil, err
	}
	err = p.check(ctx, conn)
	for name, sql := range p.prepare {
		if err == nil {
			_, err = conn.PgConn().Prepare(ctx, name, sql, nil)
		}
	}
	if err != nil {
		abandon(conn)
		return nil, err
	}
	return conn, nil
}

// alive looks whether PostgreSQL has closed an idle connection, or has said something, which is mostly why it will. It
// costs one system call. It must not take the lock that a Read of the socket holds: after a write that took a while, pgx
// leaves a goroutine behind in a Read, which ends with the next answer.
func alive(conn *pgx.Conn) bool {
	if conn.IsClosed() {
		return false
	}
	socket, ok := conn.PgConn().Conn().(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
	})
	return err == nil && quiet
}

// abandon closes a connection without a word to PostgreSQL, which rolls back what it had begun.
func abandon(conn *pgx.Conn) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = conn.Close(ended) // says that the context has ended
}

// close ends what runs, and the connections. What does not end by the deadline is left behind, and ends its connection
// then.
func (p *pool) close(deadline time.Time) {
	p.mu.Lock()
	p.closed = true
	for _, conn := range p.idle {
		abandon(conn)
	}
	p.idle = nil
	p.mu.Unlock()
	p.end()
	ended := make(chan struct{})
	go func() { // ends with the calls
		p.inUse.Wait()
		close(ended)
	}()
	timeout := time.NewTimer(time.Until(deadline))
	defer timeout.Stop()
	select {
	case <-ended:
	case <-timeout.C:
	}
}
