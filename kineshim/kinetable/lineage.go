package kinetable

import (
	"context"
	"fmt"

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
