package kinetable

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
)

// Lineage is a number that whoever writes the table gives its history, as it was when the Store was opened; 0: it has none, because it is
// new, or because it is no continuation of what was there before: after Replace, or after kine has had the table.
func (s *Store) Lineage() int64 { return s.lineage }

// SetLineage gives the history a number, as surely as what Write commits. It is for the time before anything is written.
func (s *Store) SetLineage(ctx context.Context, lineage int64) error {
	err := s.helpers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return synchronously(ctx, conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE kineshim_state SET lineage = $1", lineage)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("name the history: %w", err)
	}
	s.lineage = lineage
	return nil
}

// oldTablesJump is how far a fork goes ahead where the columns do not reach further.
const oldTablesJump = 1_000_000

// Fork gives the history a number and a place of its own: it goes on at the revision, and as many rows further, from meta, which is what Load has returned, and
// everything before that is compacted. Who knows a history that has parted from this one is never taken for somebody who knows this one, if no other history
// reaches there. It returns what Load would return now. Like SetLineage, it is for the time before anything is written. Tables of old versions of kine cannot
// count further than 2³¹: those go on a million ahead instead, and if that does not fit any more either, only the number is new.
func (s *Store) Fork(ctx context.Context, meta Meta, lineage, revision int64) (Meta, error) {
	to := meta
	by := revision - meta.Revision
	if s.shape.idMax < math.MaxInt64 {
		by = oldTablesJump
	}
	if fits := by > 0 && meta.LastID <= s.shape.idMax-2*by; fits {
		to.LastID, to.Revision = meta.LastID+by, meta.Revision+by
		to.Compacted, to.Untouched = to.Revision, false
	}
	err := s.helpers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return synchronously(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "UPDATE kineshim_state SET lineage = $1", lineage); err != nil {
				return err
			}
			if to.LastID == meta.LastID {
				s.log.Warn("revisions cannot jump any more, as the table's columns end, so that some may be used again: restart k3s on both servers", "lastID", meta.LastID, "most", s.shape.idMax)
				return nil
			}
			tag, err := tx.Exec(ctx, "UPDATE kine SET id = $1::bigint, prev_revision = $1::bigint, ks_create = $1::bigint, ks_revision = $2::bigint, ks_version = $2::bigint WHERE name = '"+compactName+"'", to.LastID, to.Revision)
			if err == nil && tag.RowsAffected() != 1 {
				err = errNoCompactRow
			}
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, "SELECT setval("+quote(s.shape.sequence)+", $1::bigint)", to.LastID)
			return err
		})
	})
	if err != nil {
		return meta, fmt.Errorf("begin a history of its own: %w", err)
	}
	s.lineage = lineage
	s.pipeline.lastID.Store(to.LastID)
	return to, nil
}

// Lineage is the Store's, as it is now.
func (r *Reader) Lineage(ctx context.Context) (lineage int64, err error) {
	err = r.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return r.repeat(ctx, conn, func() (bool, error) {
			return false, conn.QueryRow(ctx, "SELECT lineage FROM kineshim_state").Scan(&lineage)
		})
	})
	if err != nil {
		return 0, fmt.Errorf("read which history it is: %w", err)
	}
	return lineage, nil
}
