// Package kinetable keeps the keyspace in kine's own PostgreSQL table, so that kine can take the table over as it is
// and hand it back. It takes the table from whoever has it, loads it, and writes to it in batches, each one synchronous
// commit, on one connection that holds the table's lock for as long as it lives.
//
// It assumes that it is the only writer, which the guard in the database makes true, and that every answer it gives is
// thrown away when Failed is closed before the answer is used: after that the table may hold what was never
// acknowledged.
//
// A Reader reads the table on a standby, or on a primary beside its engine.
package kinetable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// closeBound is how long Close waits for PostgreSQL.
	closeBound = 5 * time.Second
	// readers bounds the connections for reads: more than that would not be quicker on the machines this is for.
	readers = 8
	// helpers bounds the connections for what goes on beside the writes: deletes and the lease clock do not wait for
	// one another, nor for VACUUM and REINDEX.
	helpers = 5
)

// ErrClosed is why a closed Store has failed.
var ErrClosed = errors.New("the table is closed")

// ErrInDoubt is in Why's error if a batch may or may not have been committed, or is committed but may be lost in a
// failover.
var ErrInDoubt = errors.New("whether the batch is committed for good is not known")

// Config says which table.
type Config struct {
	// DSN is a connection string to PostgreSQL's unix socket.
	DSN string
	// Log may be nil.
	Log *slog.Logger
}

// Store is kine's table while it is ours. Write and Done are for one goroutine each; the other methods for any.
type Store struct {
	log      *slog.Logger
	shape    shape
	naming   naming
	pipeline *pipeline
	readers  *pool // read-only
	helpers  *pool // what they commit is not waited for unless they say so

	// identityUpto is the greatest ID of the rows whose revision is their ID whatever ks_revision says, because kine
	// has shown it so.
	identityUpto atomic.Int64

	lineage    int64
	closeBound time.Duration

	failed  chan struct{} // closed by fail
	failing sync.Once
	why     error // written before failed is closed
	closing sync.Once
	closed  error // what Close returned
}

// Open takes the table over and returns when it is ours. ctx bounds that, not the Store. It is an error if another
// engine has the table and does not let go of it within a bound.
func Open(ctx context.Context, c Config) (*Store, error) {
	s, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open the table: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, c Config) (*Store, error) {
	s := &Store{log: c.Log, closeBound: closeBound, failed: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	config, err := sessionConfig(c.DSN)
	if err != nil {
		return nil, err
	}
	ownSession(config)
	conn, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return nil, err
	}
	if err := s.begin(ctx, conn); err != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeBound)
		defer cancel()
		_ = conn.Close(closing) // the error that counts is the one before
		return nil, err
	}
	s.readers = newPool(config, readers, s.Why, s.writerLives, readSettings, readStatements)
	s.helpers = newPool(config, helpers, s.Why, s.writerLives, map[string]string{
		"synchronous_commit": "off", "max_parallel_maintenance_workers": "0", // the other cores are k3s's
	}, nil)
	return s, nil
}

// begin takes the table over on conn and makes conn the writing connection.
func (s *Store) begin(ctx context.Context, conn *pgx.Conn) error {
	var err error
	if s.shape, err = takeOver(ctx, conn, s.log); err != nil {
		return err
	}
	s.naming = naming{maxChars: s.shape.maxNameBytes, utf8: s.shape.utf8}
	var identityUpto int64
	if err := conn.QueryRow(ctx, "SELECT identity_upto, lineage FROM kineshim_state").Scan(&identityUpto, &s.lineage); err != nil {
		return fmt.Errorf("read the state: %w", err)
	}
	s.identityUpto.Store(identityUpto)
	s.pipeline, err = newPipeline(ctx, conn, s.shape.sequence, s)
	return err
}

// sessionConfig is what all sessions have in common. A session's own settings beat those of its role and of its database.
func sessionConfig(dsn string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("the connection string cannot be parsed") // the error could show the password
	}
	for name, value := range map[string]string{
		"client_encoding":                     "UTF8",
		"synchronous_commit":                  "on",
		"default_transaction_isolation":       "read committed",
		"default_transaction_read_only":       "off",
		"default_transaction_deferrable":      "off",
		"statement_timeout":                   "0",
		"lock_timeout":                        "0",
		"idle_in_transaction_session_timeout": "0",
		"idle_session_timeout":                "0",
		"bytea_output":                        "hex",
		"jit":                                 "off",                // it would take longer than the statements
		"plan_cache_mode":                     "force_generic_plan", // so would planning; and an index scan is right for any number of IDs
	} {
		config.RuntimeParams[name] = value
	}
	return config, nil
}

// writerLives says whether conn is a session of the PostgreSQL in which the writing connection lives: after a crash of
// one of its processes PostgreSQL begins anew, with rows that a synchronous standby may never have seen.
func (s *Store) writerLives(ctx context.Context, conn *pgx.Conn) error {
	var lives bool
	err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND extract(epoch FROM backend_start)::text = $2)",
		s.pipeline.pid, s.pipeline.started).Scan(&lives)
	if err == nil && !lives {
		err = errors.New("the writing connection is lost")
	}
	return err
}

// Failed is closed when the writing connection is lost, a batch was not committed or a commit is in doubt, or the Store
// is closed. Nothing that was read or written and not yet reported may be relied on after that; the Store must be
// replaced.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Why says why the Store has failed: nil until Failed is closed.
func (s *Store) Why() error {
	select {
	case <-s.failed:
		return s.why
	default:
		return nil
	}
}

// MaxID is the greatest row ID that the table can hold: less than an int64 in old tables. A batch with a greater one
// fails, and with it the Store.
func (s *Store) MaxID() int64 { return s.shape.idMax }

func (s *Store) fail(err error) {
	s.failing.Do(func() {
		s.why = err
		close(s.failed)
	})
}

// Cut ends the writing connection at once, so that a Write that PostgreSQL does not take returns. Any goroutine may call it.
func (s *Store) Cut() {
	s.fail(ErrClosed)
	_ = s.pipeline.conn.Close() // nothing is to be saved
}

// Close sets the sequence, so that kine can go on, and ends the connections, with which the lock goes. It waits for the
// batches that are in flight. It takes at most about five seconds, whatever PostgreSQL does; after Failed it only cuts
// the connections. Write and Done must have returned, but for a Done that waits: it gets ErrClosed.
func (s *Store) Close() error {
	s.closing.Do(func() {
		deadline := time.Now().Add(s.closeBound)
		var err error
		if s.Why() == nil {
			err = s.pipeline.finish(deadline)
		}
		s.fail(ErrClosed)
		s.pipeline.cut()
		s.readers.close(deadline)
		s.helpers.close(deadline)
		if err != nil {
			s.closed = fmt.Errorf("close the table: %w", err)
		}
	})
	return s.closed
}

// decimal is a number as the chain of batches has it.
func decimal(buf []byte, n int64) []byte { return strconv.AppendInt(buf, n, 10) }
