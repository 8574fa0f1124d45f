package kinetable

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// maxFixes bounds one transaction of Adopt: a part of a second.
const maxFixes = 2000

// Delete removes rows, in one statement. It does not wait for the disk: what is lost in a crash comes back as garbage,
// always the newest deletes first, since deletes and writes are in one log.
func (s *Store) Delete(ctx context.Context, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	err := s.helpers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `DELETE FROM kine WHERE id = ANY ($1::bigint[]) AND name <> '`+compactName+`'`, ids)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete rows: %w", err)
	}
	return nil
}

// SaveLeaseClock stores the lease clock unless the stored one is later. It does not wait for the disk.
func (s *Store) SaveLeaseClock(ctx context.Context, d time.Duration) error {
	err := s.helpers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `UPDATE kineshim_state SET lease_clock_ms = $1 WHERE lease_clock_ms < $1`, d.Milliseconds())
		return err
	})
	if err != nil {
		return fmt.Errorf("save the lease clock: %w", err)
	}
	return nil
}

// Vacuum makes the room of deleted rows usable again at once, beside the writes, and tidies up.
func (s *Store) Vacuum(ctx context.Context) error {
	err := s.helpers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "VACUUM (ANALYZE) kine, kineshim_lease"); err != nil {
			return err
		}
		return s.tidy(ctx, conn, indexFloor)
	})
	if err != nil {
		return fmt.Errorf("vacuum: %w", err)
	}
	return nil
}

// Adopt gives rows that kine wrote what kine does not know: versions and leases. It commits in batches, and may be
// repeated after an error. When it returns nil, all of it is committed as surely as what Write commits.
func (s *Store) Adopt(ctx context.Context, versions []VersionFix, leases []LeaseFix) error {
	err := s.helpers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		for first := 0; first < len(versions); first += maxFixes {
			part := versions[first:min(first+maxFixes, len(versions))]
			ids, values := make([]int64, len(part)), make([]int64, len(part))
			for i, v := range part {
				ids[i], values[i] = v.ID, v.Version
			}
			if err := adopt(ctx, conn, "ks_version", ids, values); err != nil {
				return err
			}
		}
		for first := 0; first < len(leases); first += maxFixes {
			part := leases[first:min(first+maxFixes, len(leases))]
			ids, values := make([]int64, len(part)), make([]int64, len(part))
			for i, l := range part {
				ids[i], values[i] = l.ID, l.Lease
			}
			if err := adopt(ctx, conn, "ks_lease", ids, values); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("adopt rows: %w", err)
	}
	return nil
}

func adopt(ctx context.Context, conn *pgx.Conn, column string, ids, values []int64) error {
	return synchronously(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE kine SET `+column+` = u.value FROM unnest($1::bigint[], $2::bigint[]) AS u(id, value)
			WHERE kine.id = u.id AND `+column+` IS DISTINCT FROM u.value`, ids, values)
		return err
	})
}
