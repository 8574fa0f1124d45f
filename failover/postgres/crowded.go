package postgres

import (
	"context"
	"path/filepath"

	"github.com/jackc/pgx/v5/pgconn"
)

// timelinesOfSegment is on how many timelines a WAL segment may be there before the next promotion leaves it. More than two failovers within a segment are
// rare, and so is then the cost of leaving it: what is left of it, at most walSegmentMB, is written and sent.
const timelinesOfSegment = 2

// leaveCrowdedSegment goes on in the next segment if the present one is there on many timelines. PostgreSQL keeps and removes WAL by the numbers of
// segments, and each promotion begins with a copy of the present one: without this, a cluster that fails over again and again and writes little keeps a
// segment more for each time, until wal_keep_size of WAL has been written, and pg_rewind copies them all. With it there are at most three times
// wal_keep_size, and a little.
func (s *Server) leaveCrowdedSegment(ctx context.Context, conn *pgconn.PgConn) error {
	var name string
	if _, err := queryJSON(ctx, conn, `SELECT to_json(pg_walfile_name(pg_current_wal_lsn()))`, &name); err != nil {
		return err
	}
	const digitsOfTimeline = 8
	copies, err := filepath.Glob(filepath.Join(s.cfg.DataDir, "pg_wal", "????????"+name[min(digitsOfTimeline, len(name)):]))
	if err != nil || len(copies) <= timelinesOfSegment {
		return err
	}
	s.log.Info("leaving a WAL segment that is there on many timelines", "segment", name, "timelines", len(copies))
	return execute(ctx, conn, `SELECT pg_switch_wal()`)
}
