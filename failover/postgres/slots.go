package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// slotLost is true of a slot that keeps nothing any more, in pg_replication_slots and the function behind it.
const slotLost = `(wal_status IS NOT DISTINCT FROM 'lost' OR restart_lsn IS NULL)`

// slotState asks for the standby's slot.
const slotState = `SELECT json_build_object('lost', ` + slotLost + `, 'active', active)
	FROM pg_replication_slots WHERE slot_name = '` + StandbyName + `'`

// EnsureSlot makes the standby's replication slot on a primary, so that WAL which the standby has not received is kept, up
// to Config.SlotKeep. A slot that has lost WAL is made anew: a standby that needs the lost WAL cannot follow either way.
func (s *Server) EnsureSlot(ctx context.Context) error {
	err := s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		if err := mustBePrimary(ctx, conn); err != nil {
			return err
		}
		var slot struct{ Lost, Active bool }
		there, err := queryJSON(ctx, conn, slotState, &slot)
		switch {
		case err != nil:
			return err
		case there && (!slot.Lost || slot.Active):
			return nil
		case there:
			s.log.Warn("replication slot has lost WAL, making it anew", "slot", StandbyName)
			if err := execute(ctx, conn, `SELECT pg_drop_replication_slot('`+StandbyName+`')`); err != nil {
				return err
			}
		}
		return execute(ctx, conn, `SELECT pg_create_physical_replication_slot('`+StandbyName+`', true)`)
	})
	if err != nil {
		return fmt.Errorf("ensure slot: %w", err)
	}
	return nil
}

// DropSlots drops every replication slot that is not in use. It works on primary and standby.
func (s *Server) DropSlots(ctx context.Context) error {
	err := s.withLocal(ctx, func(conn *pgconn.PgConn) error { return dropAllSlots(ctx, conn) })
	if err != nil {
		return fmt.Errorf("drop slots: %w", err)
	}
	return nil
}

func dropAllSlots(ctx context.Context, conn *pgconn.PgConn) error {
	return execute(ctx, conn, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active AND NOT temporary`)
}

// DropStaleWalsenders ends the standby's connections that have been silent for longer than silentFor, and returns how many:
// a dead one would keep the slot busy. Silence is measured as in Standby.ReplyAge, so Observe must have been called for that
// long already.
func (s *Server) DropStaleWalsenders(ctx context.Context, silentFor time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, observeWithin)
	defer cancel()
	s.monitor.busy.Lock()
	defer s.monitor.busy.Unlock()
	n, err := s.dropStale(ctx, silentFor)
	if err != nil {
		s.monitor.drop()
		return n, fmt.Errorf("drop stale walsenders: %w", err)
	}
	return n, nil
}

func (s *Server) dropStale(ctx context.Context, silentFor time.Duration) (int, error) {
	o, err := s.observe(ctx)
	if err != nil {
		return 0, err
	}
	var n int
	var errs []error
	for _, st := range o.Standbys {
		if st.AppName != StandbyName || st.ReplyAge <= silentFor {
			continue
		}
		s.log.Warn("ending a silent walsender", "pid", st.PID, "silentFor", st.ReplyAge)
		if err := terminateBackend(ctx, s.monitor.conn, st.PID, StandbyName); err != nil {
			errs = append(errs, err)
			continue
		}
		n++
	}
	return n, errors.Join(errs...)
}

// terminateBackend ends a walsender, provided that it still is the one with this name.
func terminateBackend(ctx context.Context, conn *pgconn.PgConn, pid int, appName string) error {
	return execute(ctx, conn, fmt.Sprintf(
		`SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE pid = %d AND application_name = '%s'`, pid, appName))
}
