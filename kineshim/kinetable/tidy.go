package kinetable

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// indexFloor is the size in bytes below which the primary key's index is left alone.
	indexFloor = 16 << 20
	// indexRowBytes is what a row takes in a freshly built index of bigints, which is filled to nine tenths.
	indexRowBytes = 24
	// indexSlack is how many times as large the index may get.
	indexSlack = 3
)

// An index that REINDEX CONCURRENTLY builds may lack rows in PostgreSQL 14.0 to 14.3 (release notes of 14.4).
const firstUnsafe, firstSafe = 140000, 140004

// keyIndexSQL returns one row: kine's index on id alone, its size, and how many rows the table has, -1 if PostgreSQL has not counted them.
const keyIndexSQL = `SELECT n.nspname, c.relname, pg_relation_size(c.oid), t.reltuples::bigint, current_setting('server_version_num')::int
	FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE i.indrelid = to_regclass('kine') AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 1
		AND i.indkey[0] = (SELECT attnum FROM pg_attribute WHERE attrelid = i.indrelid AND attname = 'id' AND NOT attisdropped)
	ORDER BY NOT i.indisprimary LIMIT 1`

// leftoverSQL returns what a REINDEX CONCURRENTLY that was interrupted leaves behind: PostgreSQL keeps it up to date and never uses it.
const leftoverSQL = `SELECT n.nspname, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE i.indrelid = to_regclass('kine') AND NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$'`

// Tidy rebuilds the primary key's index, beside the writes, if it has grown to several times what its rows need: a page of it stays
// as long as one long-lived row is on it, and VACUUM does not merge pages. It also removes what an interrupted rebuild has left.
func (s *Store) Tidy(ctx context.Context) error {
	err := s.helpers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error { return s.tidy(ctx, conn, indexFloor) })
	if err != nil {
		return fmt.Errorf("tidy the index: %w", err)
	}
	return nil
}

func (s *Store) tidy(ctx context.Context, conn *pgx.Conn, floor int64) error {
	rows, _ := conn.Query(ctx, leftoverSQL) // CollectRows returns the error
	leftovers, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (pgx.Identifier, error) {
		name := make(pgx.Identifier, 2)
		return name, r.Scan(&name[0], &name[1])
	})
	if err != nil {
		return err
	}
	for _, l := range leftovers {
		if _, err := conn.Exec(ctx, "DROP INDEX CONCURRENTLY IF EXISTS "+l.Sanitize()); err != nil {
			return fmt.Errorf("drop %s, left by an interrupted rebuild: %w", l.Sanitize(), err)
		}
		s.log.Info("an index that an interrupted rebuild has left is removed", "index", l.Sanitize())
	}
	name := make(pgx.Identifier, 2)
	var size, count int64
	var version int
	if err := conn.QueryRow(ctx, keyIndexSQL).Scan(&name[0], &name[1], &size, &count, &version); err != nil {
		return fmt.Errorf("find the index: %w", err)
	}
	if size < floor || count < 0 || size < indexSlack*indexRowBytes*count || version >= firstUnsafe && version < firstSafe {
		return nil
	}
	began := time.Now()
	if _, err := conn.Exec(ctx, "REINDEX INDEX CONCURRENTLY "+name.Sanitize()); err != nil {
		return fmt.Errorf("rebuild %s: %w", name.Sanitize(), err)
	}
	var now int64
	if err := conn.QueryRow(ctx, keyIndexSQL).Scan(nil, nil, &now, nil, nil); err != nil {
		return fmt.Errorf("find the index: %w", err)
	}
	s.log.Info("the primary key's index is rebuilt", "bytes", now, "before", size, "took", time.Since(began).Round(time.Millisecond))
	return nil
}
