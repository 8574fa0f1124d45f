package kinetable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// lockBound is how long a takeover waits for another engine, or for those who write, to end: an engine that was told to
	// end needs five seconds at most.
	lockBound = 20 * time.Second
	// lockTry is one try for the engine lock: between two of them it is looked up who has it.
	lockTry = 500 * time.Millisecond
	// tableBound is how long a takeover waits for kine's table to be free of readers too, when there is something to change.
	tableBound = 60 * time.Second
	// tableTry is one try for kine's table, during which all others wait behind it. PostgreSQL's deadlock_timeout of a second
	// must fit in: only after that does autovacuum give way.
	tableTry = 3 * time.Second
	// tablePause lets the others go on between two tries.
	tablePause = 500 * time.Millisecond
	// pollEvery is how often a takeover looks whether a writer has ended.
	pollEvery = 20 * time.Millisecond
	// answerReserve is kept of the caller's time, so that who is in the way can still be said.
	answerReserve = 200 * time.Millisecond
	// rounds bounds how often the catalog is mended: once, and again if a kine that was just starting has changed it meanwhile.
	rounds = 3
	// warnShare of the IDs used up is worth a warning.
	warnShare = 0.8
)

// Of PostgreSQL.
const lockNotAvailable = "55P03"

// enterSQL sets what the writing session must have, whatever the role and the database say, and takes the locks if they are
// free. transaction_timeout came with PostgreSQL 17; lz4, which compresses ten times as fast as PostgreSQL's own method, is
// there if PostgreSQL was built with it.
var enterSQL = fmt.Sprintf(`SET synchronous_commit = on;
	SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('transaction_timeout', true) IS NOT NULL;
	SELECT set_config(name, 'lz4', false) FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals);
	SELECT CASE WHEN pg_try_advisory_lock(%[1]d) THEN %[2]s END;`, engineLock, sessionLockSQL)

// sessionLockSQL is done only with the engine lock held, so that it does not wait for long.
var sessionLockSQL = fmt.Sprintf("concat(pg_advisory_lock(%d, nullif(current_setting('%s', true), '')::integer), "+
	"set_config('%s', 'on', false))", sessionLockClass, sessionSetting, writerSetting)

// takeOver makes kine's table ours on conn, the connection that will write, before it is hijacked. It returns when the session
// holds the engine lock, nobody else is writing, and all is in place. The locks go with the session: after an error the
// caller closes it. Changes are made in one transaction, so that a takeover that fails leaves the table to kine as it was.
//
// Whoever asks for the row compact_rev_key writes the name as a literal: a partial index serves that, and no scan of the table.
func takeOver(ctx context.Context, conn *pgx.Conn, log *slog.Logger) (shape, error) {
	t := &takeover{conn: conn, log: log}
	sh, err := t.run(ctx)
	if err != nil {
		return shape{}, fmt.Errorf("take the table over: %w", err)
	}
	return sh, nil
}

// takeover is one takeover at work.
type takeover struct {
	conn *pgx.Conn
	log  *slog.Logger
}

func (t *takeover) run(ctx context.Context) (shape, error) {
	s, err := t.survey(ctx, enterSQL)
	if err != nil {
		return shape{}, err
	}
	if s.InRecovery || s.Session == 0 {
		return shape{}, s.check()
	}
	if !s.Locked {
		if s, err = t.waitForLock(ctx); err != nil {
			return shape{}, err
		}
	}
	t.warnOfOthers(s)
	for range rounds {
		if err := s.check(); err != nil {
			return shape{}, err
		}
		todo := s.pending()
		if len(todo) == 0 {
			if err := t.waitForWriters(ctx, s); err != nil {
				return shape{}, err
			}
			c, err := t.contents(ctx, s)
			if err != nil {
				return shape{}, err
			}
			if c.States == 1 && len(c.Compact) == 1 {
				return t.finish(ctx, s, c)
			}
		}
		if err := t.change(ctx, s, todo); err != nil {
			return shape{}, err
		}
		if s, err = t.survey(ctx, ""); err != nil {
			return shape{}, err
		}
	}
	return shape{}, fmt.Errorf("somebody keeps changing the table: %s", strings.Join(s.pending(), "; "))
}

// finish raises the sequence if it is behind, so that kine could go on. It never lowers it: the newest rows may have been
// compacted.
func (t *takeover) finish(ctx context.Context, s *survey, c contents) (shape, error) {
	sh := s.shape()
	if last := s.Table.Sequence.Last; last == nil || *last < c.Last {
		if _, err := t.conn.Exec(ctx, setSequence(s, c.Last)); err != nil {
			return shape{}, fmt.Errorf("set the sequence: %w", err)
		}
	}
	if float64(c.Last) > warnShare*float64(sh.idMax) {
		t.log.Warn("the table's IDs run out", "last", c.Last, "greatest", sh.idMax, "do", fmt.Sprintf(
			"stop kineshim and run: ALTER TABLE %s ALTER COLUMN id SET DATA TYPE BIGINT, ALTER COLUMN create_revision SET DATA TYPE "+
				"BIGINT, ALTER COLUMN prev_revision SET DATA TYPE BIGINT; ALTER SEQUENCE %s AS BIGINT;", s.qualified("kine"), sh.sequence))
	}
	return sh, nil
}

func setSequence(s *survey, last int64) string {
	return fmt.Sprintf("SELECT setval(%s, %d)", quote(s.Table.Sequence.qualified()), last)
}

// survey runs statements and reads the catalog after them, in one round trip.
func (t *takeover) survey(ctx context.Context, before string) (*survey, error) {
	s := new(survey)
	if err := t.ask(ctx, before+surveySQL, s); err != nil {
		return nil, fmt.Errorf("read the catalog: %w", err)
	}
	return s, nil
}

// ask runs statements of which the last returns one row with JSON.
func (t *takeover) ask(ctx context.Context, sql string, to any) error {
	results, err := t.conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return err
	}
	last := results[len(results)-1]
	if len(last.Rows) != 1 {
		return errors.New("no answer")
	}
	return json.Unmarshal(last.Rows[0][0], to)
}

// until is when a wait of at most bound ends.
func until(ctx context.Context, bound time.Duration) time.Time {
	end := time.Now().Add(bound)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-answerReserve).Before(end) {
		end = deadline.Add(-answerReserve)
	}
	return end
}

// waitForLock waits for the engine lock in PostgreSQL's queue, so that those who come later wait, or are refused, behind it.
func (t *takeover) waitForLock(ctx context.Context) (*survey, error) {
	begin, end := time.Now(), until(ctx, lockBound)
	var said []int
	for {
		holders, err := t.backends(ctx, "granted AND "+isEngineLock)
		if err != nil {
			return nil, err
		}
		who := describe(holders)
		if now := pids(holders); !slices.Equal(now, said) {
			t.log.Warn("waiting for the lock on kine's table", "holder", who)
			said = now
		}
		left := time.Until(end)
		if left <= 0 {
			return nil, fmt.Errorf("kine's table is in use by %s: waited %v for the lock", who,
				time.Since(begin).Round(100*time.Millisecond))
		}
		s, err := t.survey(ctx, fmt.Sprintf("SET lock_timeout = %d; SELECT pg_advisory_lock(%d); SET lock_timeout = 0; SELECT %s; ",
			max(1, min(left, lockTry).Milliseconds()), engineLock, sessionLockSQL))
		if !isLockTimeout(err) {
			return s, err
		}
	}
}

func isLockTimeout(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == lockNotAvailable
}

// backends are the other sessions whose locks a condition on pg_locks selects.
func (t *takeover) backends(ctx context.Context, condition string) ([]backend, error) {
	var found []backend
	err := t.ask(ctx, `SELECT coalesce(json_agg(json_build_object('pid', coalesce(l.pid, 0), 'application',
		coalesce(a.application_name, ''), 'user', coalesce(a.usename, ''), 'state', coalesce(a.state, ''), 'mode', l.mode,
		'transaction', l.virtualtransaction)), '[]')
		FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
		WHERE l.pid IS DISTINCT FROM pg_backend_pid() AND `+condition, &found)
	if err != nil {
		return nil, fmt.Errorf("ask who holds a lock: %w", err)
	}
	return found, nil
}

func describe(sessions []backend) string {
	var names []string
	for _, b := range sessions {
		names = append(names, b.String())
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) == 0 {
		return "somebody who has just ended"
	}
	return strings.Join(names, ", ")
}

// pids tells whether a log line would say anything new.
func pids(sessions []backend) []int {
	var all []int
	for _, b := range sessions {
		all = append(all, b.PID)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// warnOfOthers: a session that is not ours need not be a fault, but nobody else has business in this database.
func (t *takeover) warnOfOthers(s *survey) {
	if len(s.Others) > 0 {
		t.log.Warn("others are connected to the database", "sessions", describe(s.Others))
	}
}

// waitForWriters waits for those who were writing when the survey was made, with the engine lock held: an old engine's
// other sessions. Whoever has come later has been refused.
func (t *takeover) waitForWriters(ctx context.Context, s *survey) error {
	if len(s.Writers) == 0 {
		return nil
	}
	var transactions []string
	for _, w := range s.Writers {
		transactions = append(transactions, quote(w.Transaction))
	}
	condition := isWriter + " AND locktype = 'relation' AND relation = to_regclass('kine') AND virtualtransaction IN (" +
		strings.Join(transactions, ", ") + ")"
	for begin, end := time.Now(), until(ctx, lockBound); ; {
		writers, err := t.backends(ctx, condition)
		if err != nil || len(writers) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("kine's table is being written to by %s: waited %v", describe(writers),
				time.Since(begin).Round(100*time.Millisecond))
		}
		if err := pause(ctx, pollEvery); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// change makes the table ours, or leaves everything as it is. It needs the table for itself.
func (t *takeover) change(ctx context.Context, s *survey, todo []string) error {
	begin, end := time.Now(), until(ctx, tableBound)
	var said []int
	for {
		left := time.Until(end)
		err := t.changeOnce(ctx, s, todo, max(time.Millisecond, min(left, tableTry)))
		if !isLockTimeout(err) {
			return err
		}
		users, whoErr := t.backends(ctx, "granted AND locktype = 'relation' AND relation = to_regclass('kine')")
		if whoErr != nil {
			return whoErr
		}
		who := describe(users)
		if left <= tableTry {
			return fmt.Errorf("kine's table must be changed, but it is in use by %s: waited %v", who,
				time.Since(begin).Round(100*time.Millisecond))
		}
		if now := pids(users); !slices.Equal(now, said) {
			t.log.Warn("waiting for those who use kine's table", "sessions", who)
			said = now
		}
		if err := pause(ctx, tablePause); err != nil {
			return err
		}
	}
}

func (t *takeover) changeOnce(ctx context.Context, s *survey, todo []string, wait time.Duration) error {
	tx, err := t.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after a commit there is nothing to roll back
	prepare := []string{fmt.Sprintf("SET LOCAL lock_timeout = %d", wait.Milliseconds())}
	if s.Table != nil {
		prepare = append(prepare, fmt.Sprintf("LOCK TABLE %s IN ACCESS EXCLUSIVE MODE", s.qualified("kine")))
	}
	if _, err := tx.Exec(ctx, strings.Join(append(prepare, todo...), ";\n")); err != nil {
		return fmt.Errorf("change kine's table: %w", err)
	}
	if err := t.fill(ctx, tx, s); err != nil {
		return fmt.Errorf("fill kine's table: %w", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("change kine's table: %w", err)
	}
	for _, statement := range todo {
		t.log.Info("kine's table is changed", "sql", firstLine(statement))
	}
	return nil
}

func firstLine(statement string) string {
	line, _, _ := strings.Cut(statement, "\n")
	return line
}
