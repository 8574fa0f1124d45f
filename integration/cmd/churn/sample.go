package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// sampleBound is for one sample.
const sampleBound = 30 * time.Second

// sampleSQL is what PostgreSQL says of the table and of what belongs to it. Sizes are in bytes.
const sampleSQL = `SELECT k.n_live_tup, pg_table_size('kine') - t.toast, pg_indexes_size('kine'), t.toast,
	pg_total_relation_size('kine') + pg_total_relation_size('kineshim_state') + pg_total_relation_size('kineshim_lease'),
	pg_total_relation_size('kineshim_state') + pg_total_relation_size('kineshim_lease'),
	k.n_dead_tup, k.autovacuum_count, coalesce(s.n_dead_tup, 0), coalesce(s.autovacuum_count, 0), w.wal
	FROM pg_stat_user_tables k,
		(SELECT reltoastrelid AS rel, pg_total_relation_size(reltoastrelid) AS toast FROM pg_class WHERE oid = 'kine'::regclass) t
			LEFT JOIN pg_stat_all_tables s ON s.relid = t.rel,
		(SELECT sum(wal_bytes)::bigint AS wal FROM pg_stat_wal) w
	WHERE k.relid = 'kine'::regclass`

// sample is one line.
type sample struct {
	revision, keys                              int64
	rows, heap, indexes, toast, total, side     int64
	dead, vacuums, toastDead, toastVacuums, wal int64
	rss                                         int64
	writes                                      int
	p50, p99                                    float64
	failures                                    int64
	firstFailure                                error
}

// sampler asks PostgreSQL and the endpoint.
type sampler struct {
	conn   *pgx.Conn
	client *clientv3.Client
}

func newSampler(ctx context.Context, dsn string, client *clientv3.Client) (*sampler, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	return &sampler{conn: conn, client: client}, nil
}

func (s *sampler) close() {
	ctx, cancel := context.WithTimeout(context.Background(), sampleBound)
	defer cancel()
	_ = s.conn.Close(ctx) // it has only read
}

func (s *sampler) exec(ctx context.Context, sql string) error {
	if _, err := s.conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// every prints a line for each interval until ctx ends, which is no error.
func (s *sampler) every(ctx context.Context, interval time.Duration, c *churn, v *verdict, out io.Writer) error {
	fmt.Fprintln(out, "time      min  revision  liveKeys     rows  heapMB indexMB toastMB sideMB totalMB    dead vacuums toastDead toastVacuums  walMB/min  rssMB writes/s  p50ms   p99ms errors")
	began, last := time.Now(), time.Now()
	var wal int64
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		one, err := s.take(ctx, c)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("sample: %w", err)
		}
		now := time.Now()
		at := now.Sub(began)
		v.take(at, one.total)
		passed := now.Sub(last)
		grown := one.wal - wal
		if wal == 0 {
			grown = 0
		}
		last, wal = now, one.wal
		fmt.Fprintf(out, "%s %4.0f %9d %9d %8d %7.1f %7.1f %7.1f %6.2f %7.1f %7d %7d %9d %12d %10.1f %6.0f %8.0f %6.2f %7.1f %6d\n",
			now.Format(time.TimeOnly), at.Minutes(), one.revision, one.keys, one.rows, megabytes(one.heap), megabytes(one.indexes),
			megabytes(one.toast), megabytes(one.side), megabytes(one.total), one.dead, one.vacuums, one.toastDead, one.toastVacuums,
			megabytes(grown)/passed.Minutes(), megabytes(one.rss), float64(one.writes)/passed.Seconds(), one.p50, one.p99, one.failures)
		if one.firstFailure != nil {
			fmt.Fprintln(out, "first error:", one.firstFailure)
		}
	}
}

func (s *sampler) take(ctx context.Context, c *churn) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleBound)
	defer cancel()
	var one sample
	if err := s.conn.QueryRow(ctx, sampleSQL).Scan(&one.rows, &one.heap, &one.indexes, &one.toast, &one.total, &one.side,
		&one.dead, &one.vacuums, &one.toastDead, &one.toastVacuums, &one.wal); err != nil {
		return one, err
	}
	answer, err := s.client.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	if err != nil {
		return one, err
	}
	one.revision, one.keys = answer.Header.Revision, answer.Count
	one.p50, one.p99, one.writes, one.failures, one.firstFailure = c.taken()
	one.rss, err = rss()
	return one, err
}

// rss is what this process has in memory, in bytes: the engine, the endpoint, and the clients.
func rss() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	var kilobytes int64
	if _, err := fmt.Sscan(after, &kilobytes); err != nil {
		return 0, fmt.Errorf("read VmRSS: %w", err)
	}
	return kilobytes << 10, nil
}
