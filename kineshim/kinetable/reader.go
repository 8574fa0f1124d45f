package kinetable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// readerConnections bounds a Reader's: one for a load, and some for reads beside it.
	readerConnections = 4
	// readerName is its sessions' application_name: with that beginning, a takeover does not warn of them.
	readerName = "kineshim_reader"
	// maxConflicts bounds how often in a row a statement that has read nothing is cancelled by replay and repeated: with the pauses, some
	// seconds, in which a standby that lags works off the WAL that is in conflict.
	maxConflicts = 100
	// conflictPause lets replay go on before a statement is repeated.
	conflictPause = 20 * time.Millisecond
)

var (
	// ErrNoTable is for a database in which no engine has ever taken kine's table: it is not there, or is plain kine's.
	ErrNoTable = errors.New("kineshim's tables are not there")
	// ErrBehind is for rows that this PostgreSQL does not have yet.
	ErrBehind = errors.New("the table is not as far yet")
)

// Reader reads kine's table beside the engine that has it: on a standby what has been replayed there, or on the primary itself, also if the
// one becomes the other meanwhile. It takes no lock, and each statement is short, because a standby cancels those that are in the way
// of replay: they are repeated. All methods are for any goroutine.
//
// It knows nothing of the PostgreSQL that it reads from, and connects again if that is restarted: that its rows are those of the
// primary, and which ones of them are durable, the caller must know.
type Reader struct {
	log  *slog.Logger
	pool *pool // nil if unusable
	// unusable is why the connection string is.
	unusable error

	piece     int          // rows that one statement of Load reads
	conflicts atomic.Int64 // statements that were cancelled by replay
}

// OpenReader makes a reader, which connects when it is needed. c.DSN may lead to a hot standby or to a primary.
func OpenReader(c Config) *Reader {
	r := &Reader{log: c.Log, piece: pieceRows}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	config, err := sessionConfig(c.DSN)
	if err != nil {
		r.unusable = err
		return r
	}
	config.RuntimeParams["application_name"] = readerName
	never := func() error { return nil }
	anyServer := func(context.Context, *pgx.Conn) error { return nil }
	r.pool = newPool(config, readerConnections, never, anyServer, readSettings, map[string]string{
		selectValues: valuesSQL, selectHistory: historyNowSQL, selectNewest: newestSQL, selectPiece: pieceSQL,
	})
	return r
}

// Close ends what runs, and the connections. It takes at most about five seconds. All other calls return an error in which ErrClosed
// is after that.
func (r *Reader) Close() {
	if r.pool != nil {
		r.pool.close(time.Now().Add(closeBound))
	}
}

// with calls f with a connection.
func (r *Reader) with(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	if r.unusable != nil {
		return r.unusable
	}
	err := r.pool.with(ctx, f)
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		switch refused.Code {
		case "42P01", "42703", "3D000": // undefined table, undefined column, no such database
			return fmt.Errorf("%w: %w", ErrNoTable, err)
		}
	}
	return err
}

// repeat calls read again when replay has cancelled it, unless it has been in vain too often in a row, or conn, on which it reads if that is
// not nil, has ended with it.
func (r *Reader) repeat(ctx context.Context, conn *pgx.Conn, read func() (more bool, err error)) error {
	for vain := 0; ; {
		more, err := read()
		if !isConflict(err) {
			return err
		}
		r.conflicts.Add(1)
		if conn != nil && conn.IsClosed() {
			return err
		}
		if vain++; more {
			vain = 0
		}
		if vain == maxConflicts {
			return fmt.Errorf("cancelled by replay %d times in a row: %w", vain, err)
		}
		if stopped := pause(ctx, conflictPause); stopped != nil {
			return fmt.Errorf("%w: %w", stopped, err)
		}
	}
}

// isConflict says whether a statement was cancelled because WAL could not be replayed beside it, or by somebody with pg_cancel_backend:
// nothing else cancels one.
func isConflict(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && (refused.Code == "40001" || refused.Code == "57014")
}
