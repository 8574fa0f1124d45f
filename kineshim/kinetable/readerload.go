package kinetable

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
)

const (
	selectPiece = "ks_piece"

	pieceSQL = `SELECT ` + rowColumns + `, CASE WHEN name = '` + compactAPIName + `' THEN value END FROM kine
		WHERE id > $1::bigint AND id < $2::bigint AND name <> '` + compactName + `' ORDER BY id DESC LIMIT $3::bigint`
	// pieceRows is how many rows one statement of a Reader's Load reads: about 50 ms, where a standby waits a quarter of a second before
	// it cancels a statement.
	pieceRows = 20_000
	// maxLoads bounds how often a Load begins again.
	maxLoads = 20

	// booksSQL returns what is in the table besides clients' rows, as of one moment: in one statement, because a standby ends the session
	// of a transaction that is in the way between two of them.
	booksSQL = `SELECT s.lease_clock_ms, s.identity_upto, coalesce(pg_relation_filenode('kine'), 0)::bigint,
		coalesce(c.id, 0)::bigint, coalesce(c.prev_revision, 0)::bigint, coalesce(c.ks_revision, 0), coalesce(c.ks_create, 0),
		coalesce(c.ks_version, 0), l.ids, l.ttls, l.expires
		FROM kineshim_state s LEFT JOIN kine c ON c.name = '` + compactName + `',
		(SELECT coalesce(array_agg(id), '{}') AS ids, coalesce(array_agg(ttl), '{}') AS ttls,
			coalesce(array_agg(expires_ms), '{}') AS expires FROM kineshim_lease) l`
)

// errMoved is for a Load that must begin again: its compacted revision is beyond what it has read, or the table is not the same.
var errMoved = errors.New("the table has moved on, or was replaced, while it was read")

// books is what is in the table besides clients' rows.
type books struct {
	identityUpto int64
	file         int64 // another one after Replace
	compact      compactRow
	clockMS      int64
	leases       []LeaseRow
}

// Load calls each for the rows, ascending by ID, as a Store's Load does, but reads them in pieces, in each of which later changes are seen:
// rows that are garbage at Meta's Compacted, which no read at that revision or later needs, may be there or not. Meta's LastID and
// Revision are about what was delivered: all rows up to there, but for such garbage, and none after. Compacted, which is not
// after Revision, LeaseClock and Leases are of a moment after the last row was read: a row's lease may be gone from Leases, and
// there may be leases that no row has yet.
//
// All rows are in memory before each is called for the first time, and are let go of one piece after the other.
//
// It assumes what an engine sees to: rows become visible in the order of their IDs, and those of a key are deleted oldest
// first. The pieces are read from the newest row to the oldest: so no row is there without the tombstone that has ended it, because
// where a tombstone is gone, so is what was before it. ErrNoTable is in the error if there is no table of ours.
func (r *Reader) Load(ctx context.Context, each func(LoadedRow) error) (Meta, error) {
	l, err := r.load(ctx, 0)
	if err != nil {
		return Meta{}, fmt.Errorf("load the table in pieces: %w", err)
	}
	meta, err := l.deliver(each)
	if err != nil {
		return Meta{}, fmt.Errorf("load the table in pieces: %w", err)
	}
	return meta, nil
}

// load reads the rows after an ID, and begins again if it must.
func (r *Reader) load(ctx context.Context, afterID int64) (*readerLoad, error) {
	var err error
	for range maxLoads {
		l := &readerLoad{reader: r, afterID: afterID}
		err = r.with(ctx, l.read)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, errMoved) && !isConflict(err) || ctx.Err() != nil {
			return nil, err
		}
		r.log.Debug("the load of the table begins again", "why", err)
	}
	return nil, fmt.Errorf("%d times: %w", maxLoads, err)
}

// readerLoad is a load in pieces.
type readerLoad struct {
	reader  *Reader
	afterID int64

	books  books         // of after the last piece
	pieces [][]LoadedRow // descending, as the rows in them are
	before int64         // the ID before which the next piece begins
}

// read is on one connection: a load ends with the PostgreSQL that it has begun with.
func (l *readerLoad) read(ctx context.Context, conn *pgx.Conn) error {
	began, err := l.reader.books(ctx, conn)
	if err != nil {
		return err
	}
	l.before = math.MaxInt64
	for all := false; !all; {
		err := l.reader.repeat(ctx, conn, func() (more bool, err error) {
			before := l.before
			all, err = l.piece(ctx, conn, began.identityUpto)
			return l.before < before, err
		})
		if err != nil {
			return err
		}
	}
	now, err := l.reader.books(ctx, conn)
	if err != nil {
		return err
	}
	// What was compacted when the load began was all to be seen, if the rows are gone or not.
	reached := max(l.newest(), now.compact.id, began.compact.compacted)
	if now.identityUpto != began.identityUpto || now.file != began.file || now.compact.compacted > reached {
		return errMoved
	}
	l.books = *now
	return nil
}

func (l *readerLoad) newest() int64 {
	if len(l.pieces) == 0 {
		return l.afterID
	}
	return l.pieces[0][0].ID
}

// piece reads the next piece. It is in memory before anything is done with it: a statement that waits for its client holds up
// replay, and cannot be cancelled. What a cancelled statement has returned is right, and the next one goes on behind it.
func (l *readerLoad) piece(ctx context.Context, conn *pgx.Conn, identityUpto int64) (all bool, err error) {
	limit := l.reader.piece
	var rows []LoadedRow
	if n := len(l.pieces); n > 0 {
		rows = make([]LoadedRow, 0, len(l.pieces[n-1])) // this one will be as long
	}
	args := [][]byte{encoded(l.afterID), encoded(l.before), encoded(int64(limit))}
	err = query(ctx, conn, selectPiece, args, rowColumnCount+1, func(f [][]byte) error {
		r, err := scanVersioned(f, identityUpto)
		if err != nil {
			return err
		}
		if r.ID >= l.before {
			return fmt.Errorf("row %d comes before row %d", l.before, r.ID)
		}
		l.before = r.ID
		rows = append(rows, r)
		return nil
	})
	if len(rows) > 0 {
		l.pieces = append(l.pieces, rows)
	}
	return err == nil && len(rows) < limit, err
}

// deliver calls each for the rows, and lets go of them.
func (l *readerLoad) deliver(each func(LoadedRow) error) (Meta, error) {
	compact := &l.books.compact
	rows := loader{identityUpto: l.books.identityUpto, lastID: l.afterID, each: func(r LoadedRow, _ [][]byte) error { return each(r) }}
	if compact.id <= l.afterID {
		rows.compact = compact
	}
	for n := len(l.pieces) - 1; n >= 0; n-- {
		piece := l.pieces[n]
		for i := len(piece) - 1; i >= 0; i-- {
			if rows.compact == nil && piece[i].ID > compact.id {
				if err := rows.takeCompact(compact); err != nil {
					return Meta{}, err
				}
			}
			if err := rows.take(piece[i], nil); err != nil {
				return Meta{}, err
			}
		}
		l.pieces = l.pieces[:n]
		clear(l.pieces[n : n+1])
	}
	if rows.compact == nil {
		if err := rows.takeCompact(compact); err != nil {
			return Meta{}, err
		}
	}
	m := Meta{LeaseClock: milliseconds(l.books.clockMS), Leases: l.books.leases}
	err := rows.finish(&m)
	return m, err
}

func (r *Reader) books(ctx context.Context, conn *pgx.Conn) (*books, error) {
	b := new(books)
	err := r.repeat(ctx, conn, func() (bool, error) {
		var ids, ttls, expires []int64
		c := &b.compact
		err := conn.QueryRow(ctx, booksSQL).Scan(&b.clockMS, &b.identityUpto, &b.file, &c.id, &c.compacted, &c.revision, &c.revisionOf, &c.own,
			&ids, &ttls, &expires)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return false, ErrNoTable
		case err != nil:
			return false, err
		case c.id == 0:
			return false, errNoCompactRow
		}
		b.leases = nil
		for i, id := range ids {
			b.leases = append(b.leases, LeaseRow{ID: id, TTL: ttls[i], Expires: milliseconds(expires[i])})
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	return b, nil
}
