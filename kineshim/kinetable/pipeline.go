package kinetable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// maxInFlight bounds the batches that are sent and not reported: enough that nobody waits for it who has a bound of his
// own, and few enough that PostgreSQL's answers to them, some 100 bytes each, fit into a socket's buffer.
const maxInFlight = 256

// noCount is for statements whose number of rows is not known before.
const noCount = -1

// pipeline is the writing connection. Write's goroutine sends; a goroutine of its own receives, all the time, so that a
// connection that dies is noticed when nothing is in flight too.
type pipeline struct {
	conn     net.Conn
	frontend *pgproto3.Frontend // the receiver's
	pid      uint32
	started  string // when the session began, as PostgreSQL shows it
	store    *Store

	slots chan struct{} // taken by Write, given back by Done
	sent  chan expected // in the order of their Syncs; as many as slots, and the last
	// lastID is the greatest row ID that is known.
	lastID atomic.Int64
	// committed has one element for each batch that is committed and not reported; as many as slots.
	committed chan struct{}
	ended     chan struct{} // closed when the receiver has ended

	// Write's:
	out    wire
	counts []int64
	batch  int64 // the last one's number in the chain
	// Done's:
	broken bool // an error has been returned
}

// expected is what a batch's answer must be.
type expected struct {
	counts []int64       // of each statement, how many rows it must say it has changed; or noCount
	last   chan struct{} // not a batch, but Close's statement: closed when it is done
}

// newPipeline prepares the statements and makes conn, which must not be used any more, a pipeline.
func newPipeline(ctx context.Context, conn *pgx.Conn, sequence string, s *Store) (*pipeline, error) {
	p := &pipeline{
		store: s, slots: make(chan struct{}, maxInFlight), sent: make(chan expected, maxInFlight+1),
		committed: make(chan struct{}, maxInFlight), ended: make(chan struct{}),
	}
	var commit string
	err := conn.QueryRow(ctx, `SELECT current_setting('synchronous_commit'), extract(epoch FROM backend_start)::text, set_config('`+chainSetting+`', '0', false)
		FROM pg_stat_activity WHERE pid = pg_backend_pid()`).Scan(&commit, &p.started, nil)
	if err != nil {
		return nil, fmt.Errorf("read the session's settings: %w", err)
	}
	if commit != "on" {
		return nil, fmt.Errorf("synchronous_commit is %s and not on", commit)
	}
	for name, sql := range writeStatements(sequence) {
		if _, err := conn.PgConn().Prepare(ctx, name, sql, nil); err != nil {
			return nil, fmt.Errorf("prepare %s: %w", name, err)
		}
	}
	if err := conn.PgConn().SyncConn(ctx); err != nil {
		return nil, err
	}
	hijacked, err := conn.PgConn().Hijack()
	if err != nil {
		return nil, err
	}
	p.conn, p.frontend, p.pid = hijacked.Conn, hijacked.Frontend, hijacked.PID
	if err := p.conn.SetDeadline(time.Time{}); err != nil { // ctx may have left one
		return nil, err
	}
	go p.receive() // ends when the connection is closed, by cut
	return p, nil
}

// send sends what is in out, which is a batch with the given answer.
func (p *pipeline) send(e expected) error {
	if e.last == nil {
		select {
		case p.slots <- struct{}{}:
		case <-p.store.failed:
			return p.store.why
		}
	}
	p.sent <- e
	_, err := p.conn.Write(p.out.buf)
	if cap(p.out.buf) > maxKeptBuffer {
		p.out.buf = nil
	}
	if err != nil {
		p.store.fail(fmt.Errorf("%w: send: %w", ErrInDoubt, err))
		return p.store.Why()
	}
	return nil
}

// done waits for the oldest batch that is not reported.
func (p *pipeline) done() error {
	if p.broken {
		return p.store.Why()
	}
	select {
	case <-p.committed:
	default:
		select {
		case <-p.committed:
		case <-p.store.failed:
			select {
			case <-p.committed: // before it failed
			default:
				p.broken = true
				return p.store.why
			}
		}
	}
	<-p.slots
	return nil
}

// finish sends Close's last batch and the end of the session, and waits until PostgreSQL has ended it.
func (p *pipeline) finish(deadline time.Time) error {
	_ = p.conn.SetDeadline(deadline) // fails only on a closed connection
	last := make(chan struct{})
	p.out.buf = p.out.buf[:0]
	p.closing()
	p.out.terminate()
	if err := p.send(expected{counts: []int64{noCount}, last: last}); err != nil {
		return err
	}
	<-p.ended
	select {
	case <-last:
		return nil
	default:
		return fmt.Errorf("the sequence was not set: %w", p.store.Why())
	}
}

// cut closes the connection and waits for the receiver.
func (p *pipeline) cut() {
	_ = p.conn.Close() // nothing is to be saved
	<-p.ended
}

// receive reads until the connection ends or something is wrong.
func (p *pipeline) receive() {
	defer close(p.ended)
	a := answer{pipeline: p}
	for {
		msg, err := p.frontend.Receive()
		if err != nil {
			if a.finished {
				p.store.fail(ErrClosed)
				return
			}
			switch { // PostgreSQL may have said the reason before
			case a.err != nil:
				err = a.err
			case a.doubt != "":
				err = errors.New(a.doubt)
			}
			p.store.fail(fmt.Errorf("%w: %w", ErrInDoubt, err))
			return
		}
		if err := a.take(msg); err != nil {
			p.store.fail(err)
			return
		}
	}
}

// answer is PostgreSQL's answer to one batch, as far as it has been heard.
type answer struct {
	pipeline *pipeline
	batch    *expected // nil before its first message
	complete int       // statements that have said so
	err      error     // what PostgreSQL said went wrong
	doubt    string    // a warning by which the commit is in doubt
	finished bool      // Close's batch is done: PostgreSQL ends the session next
}

// take hears one message. An error is the end of the store.
func (a *answer) take(msg pgproto3.BackendMessage) error {
	switch msg := msg.(type) {
	case *pgproto3.BindComplete, *pgproto3.DataRow, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		return nil
	case *pgproto3.CommandComplete:
		return a.statement(msg.CommandTag)
	case *pgproto3.NoticeResponse:
		if a.doubts(msg) {
			a.doubt = msg.Message
		}
		return nil
	case *pgproto3.ErrorResponse:
		if a.err == nil {
			a.err = pgconn.ErrorResponseToPgError(msg)
		}
		return nil
	case *pgproto3.ReadyForQuery:
		return a.ready(msg.TxStatus)
	}
	return fmt.Errorf("%w: PostgreSQL sent a %T", ErrInDoubt, msg)
}

// doubts says whether a warning means that a commit did not wait for its standby. PostgreSQL's text may be in any
// language: the function that says it is always the same, and a commit has no other warnings.
func (a *answer) doubts(n *pgproto3.NoticeResponse) bool {
	severity := n.SeverityUnlocalized
	if severity == "" {
		severity = n.Severity
	}
	return lostSync(n.Routine, n.Message) || severity == "WARNING" && a.batch != nil && a.complete == len(a.batch.counts)
}

func lostSync(routine, message string) bool {
	return routine == "SyncRepWaitForLSN" || strings.Contains(message, "synchronous replication")
}

// expect takes the batch that is answered next.
func (a *answer) expect() error {
	if a.batch != nil {
		return nil
	}
	select {
	case e := <-a.pipeline.sent:
		a.batch = &e
		return nil
	default:
		return fmt.Errorf("%w: PostgreSQL answers what was not asked", ErrInDoubt)
	}
}

func (a *answer) statement(tag []byte) error {
	if err := a.expect(); err != nil {
		return err
	}
	if a.complete == len(a.batch.counts) {
		return fmt.Errorf("%w: more answers than statements", ErrInDoubt)
	}
	want := a.batch.counts[a.complete]
	a.complete++
	n, err := strconv.ParseInt(string(tag[bytes.LastIndexByte(tag, ' ')+1:]), 10, 64)
	if want != noCount && (err != nil || n != want) {
		return fmt.Errorf("%w: a statement for %d rows ended as %q", ErrInDoubt, want, tag)
	}
	return nil
}

// ready is the end of the batch's transaction: the only message that means a commit.
func (a *answer) ready(status byte) error {
	if err := a.expect(); err != nil {
		return err
	}
	switch {
	case a.err != nil:
		return fmt.Errorf("write: %w", a.err)
	case a.doubt != "":
		return fmt.Errorf("%w: %s", ErrInDoubt, a.doubt)
	case status != 'I' || a.complete != len(a.batch.counts):
		return fmt.Errorf("%w: %d of %d statements were answered, transaction status %q", ErrInDoubt, a.complete, len(a.batch.counts), status)
	}
	finished := a.batch.last != nil
	if finished {
		close(a.batch.last)
	} else {
		a.pipeline.committed <- struct{}{}
	}
	*a = answer{pipeline: a.pipeline, finished: finished}
	return nil
}
