package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// ownTables are made in Database by InitDB. One row each: the epoch under which the database was last served, and a
// counter that Probe writes.
var ownTables = []string{
	`REVOKE CONNECT, TEMPORARY ON DATABASE ` + Database + ` FROM PUBLIC`,
	`CREATE SCHEMA IF NOT EXISTS kineshim`,
	`CREATE TABLE IF NOT EXISTS kineshim.epoch (one boolean PRIMARY KEY DEFAULT true CHECK (one), epoch bigint NOT NULL, node text NOT NULL, timeline bigint NOT NULL, at timestamptz NOT NULL DEFAULT now())`,
	`CREATE TABLE IF NOT EXISTS kineshim.probe (one boolean PRIMARY KEY DEFAULT true CHECK (one), n bigint NOT NULL)`,
	`INSERT INTO kineshim.probe (n) VALUES (0) ON CONFLICT DO NOTHING`,
}

// upsertEpoch never goes back: no row is returned then.
const upsertEpoch = `INSERT INTO kineshim.epoch AS e (epoch, node, timeline) VALUES ($1, $2, $3)
	ON CONFLICT (one) DO UPDATE SET epoch = excluded.epoch, node = excluded.node, timeline = excluded.timeline, at = now()
	WHERE e.epoch < excluded.epoch OR e.epoch = excluded.epoch AND e.node = excluded.node AND e.timeline <= excluded.timeline`

// epochCommits holds the one commit of CommitEpoch that may be waiting for the standby.
type epochCommits struct {
	// mu guards pending, which is nil when none is under way.
	mu      sync.Mutex
	pending *epochCommit
}

type epochCommit struct {
	epoch    uint64
	node     string
	timeline uint32
	child    *child
	// done is closed after err is set.
	done chan struct{}
	err  error
}

// CommitEpoch writes the epoch into the database and returns when that commit is as durable as every commit must be: as WAL
// is a sequence, everything that a reader could see before is then durable too. It must be called after each promotion and
// after each crash of a backend (a Sentinel tells), before the first read is answered.
//
// The wait for the standby is never cut short: when ctx ends, CommitEpoch returns ErrUnknownOutcome and the commit goes on
// waiting; a further call with the same arguments joins it. ErrLaterEpoch means that nothing was written, for the reason it
// names; ErrUnsafeSettings, that the session would not have waited.
func (s *Server) CommitEpoch(ctx context.Context, epoch uint64, node string, timeline uint32) error {
	if err := s.commitEpoch(ctx, epoch, node, timeline); err != nil {
		return fmt.Errorf("commit epoch %d: %w", epoch, err)
	}
	return nil
}

func (s *Server) commitEpoch(ctx context.Context, epoch uint64, node string, timeline uint32) error {
	for {
		p, err := s.pendingEpoch(epoch, node, timeline)
		if err != nil {
			return err
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return fmt.Errorf("%w: the commit waits for the standby: %w", ErrUnknownOutcome, ctx.Err())
		}
		if p.epoch == epoch && p.node == node && p.timeline == timeline {
			return p.err
		}
	}
}

// pendingEpoch returns the commit under way, which may be another's, or begins this one.
func (s *Server) pendingEpoch(epoch uint64, node string, timeline uint32) (*epochCommit, error) {
	c, err := s.current()
	if err != nil {
		return nil, err
	}
	s.epoch.mu.Lock()
	defer s.epoch.mu.Unlock()
	if p := s.epoch.pending; p != nil && p.child == c {
		return p, nil
	}
	p := &epochCommit{epoch: epoch, node: node, timeline: timeline, child: c, done: make(chan struct{})}
	s.epoch.pending = p
	c.goBackground(func(life context.Context) {
		p.err = s.writeEpoch(life, p)
		s.epoch.mu.Lock()
		defer s.epoch.mu.Unlock()
		if s.epoch.pending == p {
			s.epoch.pending = nil
		}
		close(p.done)
	})
	return p, nil
}

func (s *Server) epochSession(ctx context.Context) (*pgconn.PgConn, error) {
	return s.local(ctx, Database, "on")
}

// warmEpochSession is an epochSession that has seen the system catalogs that writeEpoch needs: a fresh one spends most of its time there.
func (s *Server) warmEpochSession(ctx context.Context) (*pgconn.PgConn, error) {
	conn, err := s.epochSession(ctx)
	if err != nil {
		return nil, err
	}
	err = execute(ctx, conn, gateQuery)
	if err == nil {
		_, err = conn.Prepare(ctx, "", upsertEpoch, nil)
	}
	if err != nil {
		closeSession(conn)
		return nil, err
	}
	return conn, nil
}

// writeEpoch does the work of CommitEpoch; ctx ends only with the postmaster.
func (s *Server) writeEpoch(ctx context.Context, p *epochCommit) error {
	conn, err := p.child.aheadOr(ctx, forEpoch, s.epochSession)
	if err != nil {
		return err
	}
	defer closeSession(conn)
	if err := mustBePrimary(ctx, conn); err != nil {
		return err
	}
	if err := s.mustGate(ctx, conn); err != nil {
		return err
	}
	r := conn.ExecParams(ctx, upsertEpoch, [][]byte{
		strconv.AppendUint(nil, p.epoch, 10), []byte(p.node), strconv.AppendUint(nil, uint64(p.timeline), 10),
	}, nil, nil, nil).Read()
	var e *pgconn.PgError
	switch {
	case errors.As(r.Err, &e) && e.SeverityUnlocalized == "ERROR":
		return r.Err
	case r.Err != nil:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, r.Err)
	case warned(conn) != "":
		// A commit whose wait was cut short reports success, after a warning.
		return fmt.Errorf("%w: %s", ErrUnknownOutcome, warned(conn))
	case r.CommandTag.RowsAffected() != 1:
		return ErrLaterEpoch
	}
	s.log.Info("epoch committed", "epoch", p.epoch, "node", p.node, "timeline", p.timeline)
	return nil
}
