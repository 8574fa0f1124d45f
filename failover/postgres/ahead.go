package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// purpose says what a session that is opened ahead is for.
type purpose int

const (
	forSentinel purpose = iota
	forEpoch
	forSolo
)

// aheadFor is how long a session that was opened ahead is kept. Whoever wants it asks a few milliseconds after the promotion; a session that
// nobody wants would stand among the replication clients, for example, and be taken for one that acknowledges.
const aheadFor = 5 * time.Second

// ahead holds the sessions that the first verbs after a promotion need. They are opened while PostgreSQL ends its recovery, which
// waits for the disk: a session outlives the promotion, and to open one takes longer than what it is used for.
type ahead struct {
	// mu guards open; a session in it belongs to whoever takes it out.
	mu   sync.Mutex
	open map[purpose]*aheadSession
}

// aheadSession is being opened until done is closed. Then conn may be nil: it could not be opened.
type aheadSession struct {
	done chan struct{}
	conn *pgconn.PgConn
}

// openAhead begins to open the sessions. What goes wrong is left to the verbs, which then open their own.
func (s *Server) openAhead(c *child) {
	how := map[purpose]func(context.Context) (*pgconn.PgConn, error){
		forSentinel: s.sentinelSession,
		forEpoch:    s.warmEpochSession,
		forSolo:     s.soloSession,
	}
	open := make(map[purpose]*aheadSession, len(how))
	for p, connect := range how {
		a := &aheadSession{done: make(chan struct{})}
		open[p] = a
		c.goBackground(func(life context.Context) {
			defer close(a.done)
			if conn, err := connect(life); err == nil {
				a.conn = conn
			}
		})
	}
	c.ahead.set(open)
	c.goBackground(func(life context.Context) {
		t := time.NewTimer(aheadFor)
		defer t.Stop()
		select {
		case <-t.C:
		case <-life.Done():
		}
		c.ahead.set(nil)
	})
}

// set closes the sessions that nobody has taken and keeps others instead.
func (a *ahead) set(open map[purpose]*aheadSession) {
	a.mu.Lock()
	old := a.open
	a.open = open
	a.mu.Unlock()
	for _, o := range old {
		<-o.done // it ends with the postmaster, or within connectWithin
		if o.conn != nil {
			closeSession(o.conn)
		}
	}
}

// take returns the session for the purpose, which is the caller's then; nil if there is none that lives.
func (a *ahead) take(ctx context.Context, p purpose) *pgconn.PgConn {
	a.mu.Lock()
	o := a.open[p]
	a.mu.Unlock()
	if o == nil {
		return nil
	}
	select {
	case <-o.done:
	case <-ctx.Done():
		return nil
	}
	a.mu.Lock()
	mine := a.open[p] == o
	delete(a.open, p)
	a.mu.Unlock()
	if !mine || o.conn == nil {
		return nil
	}
	if !isIdle(o.conn) {
		closeSession(o.conn)
		return nil
	}
	return o.conn
}

// aheadOr returns the session that was opened ahead, or opens one.
func (c *child) aheadOr(ctx context.Context, p purpose, open func(context.Context) (*pgconn.PgConn, error)) (*pgconn.PgConn, error) {
	if conn := c.ahead.take(ctx, p); conn != nil {
		return conn, nil
	}
	return open(ctx)
}
