package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"kineshim/raftwitness/record"
)

// pollGating is how often ProveGating looks at the standby.
const pollGating = 5 * time.Millisecond

// ProveGating returns when no commit can be acknowledged without the standby, and the standby holds all that has been
// committed so far: it takes the end of WAL on this disk and waits until the standby, streaming and counted, has it on its
// own. It returns that position.
//
// Commits must not be acknowledged by kineshim itself (ErrSoloConnected otherwise): DisconnectSolo comes first.
// ErrUnsafeSettings says that a session could commit without waiting. When ctx ends, nothing has been proved.
func (s *Server) ProveGating(ctx context.Context) (record.LSN, error) {
	if s.SoloConnected() {
		return 0, fmt.Errorf("prove gating: %w", ErrSoloConnected)
	}
	target, err := s.proveGating(ctx)
	if err != nil {
		return 0, fmt.Errorf("prove gating: %w", err)
	}
	s.log.Info("gating proved", "lsn", target)
	return target, nil
}

func (s *Server) proveGating(ctx context.Context) (target record.LSN, err error) {
	// A new session, because a setting may have changed for new sessions only.
	conn, err := s.local(ctx, Database, "on")
	if err != nil {
		return 0, err
	}
	defer closeSession(conn)
	if err := mustBePrimary(ctx, conn); err != nil {
		return 0, err
	}
	if err := s.mustGate(ctx, conn); err != nil {
		return 0, err
	}
	if _, err := queryJSON(ctx, conn, `SELECT to_json(pg_current_wal_flush_lsn())`, &target); err != nil {
		return 0, err
	}
	return target, s.awaitStandby(ctx, conn, target, pollGating)
}

// pollStandby is how often AwaitStandby looks. It is called when nothing is written any more and requests wait: the first look or the second is
// the last.
const pollStandby = time.Millisecond

// AwaitStandby returns when the standby has on its disk all that this primary has flushed, as of this call; it returns that position. Commits
// must not be acknowledged by kineshim itself (ErrSoloConnected).
func (s *Server) AwaitStandby(ctx context.Context) (target record.LSN, err error) {
	err = s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		if err := mustBePrimary(ctx, conn); err != nil {
			return err
		}
		if _, err := queryJSON(ctx, conn, `SELECT to_json(pg_current_wal_flush_lsn())`, &target); err != nil {
			return err
		}
		return s.awaitStandby(ctx, conn, target, pollStandby)
	})
	if err != nil {
		return 0, fmt.Errorf("await standby: %w", err)
	}
	return target, nil
}

// awaitStandby waits until the standby counts and has WAL up to target, while kineshim does not acknowledge.
func (s *Server) awaitStandby(ctx context.Context, conn *pgconn.PgConn, target record.LSN, every time.Duration) error {
	const query = `SELECT json_build_object(
		'solo', count(*) FILTER (WHERE application_name = '` + SoloName + `'),
		'seen', count(*) FILTER (WHERE application_name = '` + StandbyName + `'),
		'flush', coalesce(max(flush_lsn) FILTER (WHERE application_name = '` + StandbyName + `'
			AND state = 'streaming' AND sync_state IN ('sync', 'quorum')), '0/0')) FROM pg_stat_replication`
	var at struct {
		Solo, Seen int
		Flush      record.LSN
	}
	what := func() string {
		if at.Seen == 0 {
			return "the standby is not connected"
		}
		return fmt.Sprintf("the standby has %v of %v", at.Flush, target)
	}
	return poll(ctx, every, what, func() (bool, error) {
		if _, err := queryJSON(ctx, conn, query, &at); err != nil {
			return false, err
		}
		if at.Solo != 0 {
			return false, ErrSoloConnected
		}
		return at.Flush >= target, nil
	})
}

// gateState is what decides whether commits wait.
type gateState struct {
	Names, Level string
	// Overrides lists what of our own sessions has another synchronous_commit. An application may have one for its role or its database: it gives up for
	// itself what it is worth, and must not keep the cluster from serving by it.
	Overrides    string
	Checkpointer struct {
		// Began tells one checkpointer from the next; shared memory does not outlive it.
		Began string
		// Idle: it has been through its initialisation, as it sleeps, between checkpoints or within a slow one.
		Idle bool
	}
}

// checkpointerQuery tells one checkpointer from the next.
const checkpointerQuery = `SELECT to_json(pid || ' ' || backend_start) FROM pg_stat_activity WHERE backend_type = 'checkpointer'`

const gateQuery = `SELECT json_build_object(
	'names', current_setting('synchronous_standby_names'),
	'level', current_setting('synchronous_commit'),
	'overrides', (SELECT coalesce(string_agg(coalesce(r.rolname, 'all roles') || ' in ' || coalesce(d.datname, 'all databases') || ': ' || c, ', '), '')
		FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
		WHERE (s.setrole = 0 OR r.rolname IN ('` + Superuser + `', '` + ReplicationRole + `', '` + KineRole + `'))
			AND (s.setdatabase = 0 OR d.datname IN ('` + Database + `', 'postgres'))
			AND c LIKE 'synchronous_commit=%' AND c <> 'synchronous_commit=on' AND c <> 'synchronous_commit=remote_apply'),
	'checkpointer', (SELECT json_build_object('began', pid || ' ' || backend_start,
		'idle', coalesce(wait_event IN ('CheckpointerMain', 'CheckpointWriteDelay'), false))
		FROM pg_stat_activity WHERE backend_type = 'checkpointer'))`

// mustGate returns ErrUnsafeSettings unless commits of this session, and of other sessions that do not say otherwise, wait.
//
// Waiting also needs a flag in shared memory, which the checkpointer sets when it starts, from the names on the command line.
// After a crash of a backend all memory is made anew, and before PostgreSQL's fix of 2025 a commit could come before the
// flag. A checkpointer that sleeps, or that has done a checkpoint, has set it.
func (s *Server) mustGate(ctx context.Context, conn *pgconn.PgConn) error {
	c, err := s.current()
	if err != nil {
		return err
	}
	var g gateState
	if _, err := queryJSON(ctx, conn, gateQuery, &g); err != nil {
		return err
	}
	switch {
	case g.Names != SynchronousStandbyNames:
		return fmt.Errorf("%w: synchronous_standby_names is %q", ErrUnsafeSettings, g.Names)
	case g.Level != "on":
		return fmt.Errorf("%w: synchronous_commit is %q", ErrUnsafeSettings, g.Level)
	case g.Overrides != "":
		return fmt.Errorf("%w: %s: ALTER ROLE or ALTER DATABASE … RESET synchronous_commit", ErrUnsafeSettings, g.Overrides)
	case g.Checkpointer.Began == "":
		return fmt.Errorf("%w: there is no checkpointer", ErrUnsafeSettings)
	case c.checkpointer.Load() == g.Checkpointer.Began:
		return nil
	case !g.Checkpointer.Idle:
		if err := execute(ctx, conn, `CHECKPOINT`); err != nil {
			return err
		}
	}
	c.checkpointer.Store(g.Checkpointer.Began)
	return nil
}
