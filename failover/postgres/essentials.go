package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// Essentials are a PostgreSQL's numbers that operators watch, primary's or standby's. The counters begin again at 0 when PostgreSQL has crashed.
type Essentials struct {
	// Sessions are those of clients, kineshim's own included, and MaxSessions is max_connections.
	Sessions, MaxSessions int64
	// DatabaseBytes are all databases' files, WALBytes those in pg_wal.
	DatabaseBytes, WALBytes int64
	// XIDAge is the age in transactions of the oldest row that is not frozen: at 2^31 less some millions PostgreSQL takes no more writes.
	XIDAge int64
	// OldestTransaction is for how long the oldest transaction of a client has been open, in seconds; vacuum cannot remove what is newer.
	OldestTransaction float64
	// SlotWALBytes is the WAL that the standby's slot keeps; -1: there is no slot.
	SlotWALBytes int64
	// Commits and Rollbacks count transactions, Deadlocks what its name says; BlocksRead and BlocksHit the blocks that were not, and were, in
	// PostgreSQL's buffers; ChecksumFailures damaged pages that were read.
	Commits, Rollbacks, Deadlocks, BlocksRead, BlocksHit, ChecksumFailures int64
}

const essentialsQuery = `SELECT json_build_object(
	'sessions', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
	'maxSessions', current_setting('max_connections')::bigint,
	'databaseBytes', (SELECT coalesce(sum(pg_database_size(oid)), 0)::bigint FROM pg_database),
	'walBytes', (SELECT coalesce(sum(size), 0)::bigint FROM pg_ls_waldir()),
	'xidAge', (SELECT max(age(datfrozenxid)) FROM pg_database),
	'oldestTransaction', (SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0) FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
	'slotWALBytes', coalesce((SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn)::bigint
		FROM pg_replication_slots WHERE slot_name = '` + StandbyName + `' AND restart_lsn IS NOT NULL), -1),
	'commits', d.commits, 'rollbacks', d.rollbacks, 'deadlocks', d.deadlocks, 'blocksRead', d.blocks_read, 'blocksHit', d.blocks_hit, 'checksumFailures', d.failures)
	FROM (SELECT coalesce(sum(xact_commit), 0)::bigint AS commits, coalesce(sum(xact_rollback), 0)::bigint AS rollbacks,
		coalesce(sum(deadlocks), 0)::bigint AS deadlocks, coalesce(sum(blks_read), 0)::bigint AS blocks_read,
		coalesce(sum(blks_hit), 0)::bigint AS blocks_hit, coalesce(sum(checksum_failures), 0)::bigint AS failures FROM pg_stat_database) d`

// Essentials asks the running server. It looks at the sizes of files, so it is not for every second.
func (s *Server) Essentials(ctx context.Context) (Essentials, error) {
	var e Essentials
	err := s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		_, err := queryJSON(ctx, conn, essentialsQuery, &e)
		return err
	})
	if err != nil {
		return Essentials{}, fmt.Errorf("ask for the essentials: %w", err)
	}
	return e, nil
}
