package kinetable

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// loadSQL streams the table. Of the values it has only those that hold a version.
const loadSQL = `COPY (SELECT ` + rowColumns + `, CASE WHEN name = '` + compactAPIName + `' THEN value END FROM kine ORDER BY id)
	TO STDOUT (FORMAT binary)`

// loadMemory is work_mem for the sort, which PostgreSQL takes only where it is cheaper than the index. A million rows
// need 150 MB.
const loadMemory = "64MB"

// Load calls each for every row that is committed, ascending by ID, but for those that are kine's own: compact_rev_key
// and what fills gaps. Rows and Meta are of one moment. An error of each ends it.
func (s *Store) Load(ctx context.Context, each func(LoadedRow) error) (Meta, error) {
	meta, err := s.atOneMoment(ctx, func(tx pgx.Tx, identityUpto int64, m *Meta) error {
		if _, err := tx.Exec(ctx, "SET LOCAL enable_seqscan = on; SET LOCAL work_mem = '"+loadMemory+"'"); err != nil {
			return err
		}
		l := loader{identityUpto: identityUpto, each: func(r LoadedRow, _ [][]byte) error { return each(r) }}
		if err := copyRows(ctx, tx, loadSQL, rowColumnCount+1, l.row); err != nil {
			return err
		}
		return l.finish(m)
	})
	if err != nil {
		return Meta{}, fmt.Errorf("load the table: %w", err)
	}
	return meta, nil
}

// atOneMoment makes a Meta in a transaction that sees the table as of one moment: rows must fill in what the rows say.
func (s *Store) atOneMoment(ctx context.Context, rows func(tx pgx.Tx, identityUpto int64, m *Meta) error) (Meta, error) {
	var meta Meta
	err := s.readers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			var clockMS, identityUpto int64
			if err := tx.QueryRow(ctx, "SELECT lease_clock_ms, identity_upto, access FROM kineshim_state").Scan(&clockMS, &identityUpto, &meta.Access); err != nil {
				return fmt.Errorf("read the state: %w", err)
			}
			meta.LeaseClock = milliseconds(clockMS)
			s.identityUpto.Store(identityUpto)
			if err := rows(tx, identityUpto, &meta); err != nil {
				return err
			}
			var err error
			meta.Leases, err = loadLeases(ctx, tx)
			return err
		})
	})
	if err == nil {
		s.pipeline.lastID.CompareAndSwap(0, meta.LastID)
	}
	return meta, err
}

// copyRows calls row for each row that a COPY in binary form returns.
func copyRows(ctx context.Context, tx pgx.Tx, sql string, columns int, row func([][]byte) error) error {
	in := copyReader{columns: columns, row: row}
	tag, err := tx.Conn().PgConn().CopyTo(ctx, &in, sql)
	if err != nil {
		return err
	}
	if !in.done || tag.RowsAffected() != in.rows {
		return fmt.Errorf("%w: %d rows of %d, at the end: %v", errShort, in.rows, tag.RowsAffected(), in.done)
	}
	return nil
}

func loadLeases(ctx context.Context, tx pgx.Tx) ([]LeaseRow, error) {
	rows, err := tx.Query(ctx, "SELECT id, ttl, expires_ms FROM kineshim_lease")
	if err != nil {
		return nil, fmt.Errorf("read the leases: %w", err)
	}
	leases, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l LeaseRow, err error) {
		var ms int64
		err = row.Scan(&l.ID, &l.TTL, &ms)
		l.Expires = milliseconds(ms)
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the leases: %w", err)
	}
	return leases, nil
}

var errNoCompactRow = errors.New("there is no row named " + compactName)

// milliseconds is how durations are stored.
func milliseconds(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

// loader makes sense of the rows.
type loader struct {
	identityUpto int64
	each         func(r LoadedRow, columns [][]byte) error // columns: rowColumns and what the statement has behind them

	lastID, revision int64 // of the newest row
	offset           int64 // ID - Revision of the newest row that is a client's
	floor            int64 // the revision that kine's own rows stand for
	compact          *compactRow
}

// compactRow is kine's own compact_rev_key.
type compactRow struct {
	id        int64
	own       int64 // the revision that the row itself stands for, if not 0
	compacted int64 // the row ID that is compacted
	// revision is that of row compacted, if revisionOf says that it is about that row. See the statement that writes it.
	revision, revisionOf int64
}

// byUs says that the compacted revision is known as it is: kine, which sets the row ID alone, has not set it since we did.
func (c *compactRow) byUs() bool { return c.revisionOf == c.compacted }

func (l *loader) row(f [][]byte) error {
	if string(f[1]) == compactName {
		return l.takeCompact(compactOf(f))
	}
	r, err := scanVersioned(f, l.identityUpto)
	if err != nil {
		return err
	}
	return l.take(r, f)
}

// take takes a row that is not named compact_rev_key.
func (l *loader) take(r LoadedRow, f [][]byte) error {
	if err := l.advance(r.ID); err != nil {
		return err
	}
	if gap(r) {
		l.floor = max(l.floor, r.ID-l.offset)
		return nil
	}
	if r.Revision < l.revision || r.Revision > r.ID {
		return fmt.Errorf("row %d has revision %d, and the one before has %d", r.ID, r.Revision, l.revision)
	}
	l.revision, l.offset = r.Revision, r.ID-r.Revision
	return l.each(r, f)
}

func (l *loader) takeCompact(c *compactRow) error {
	if err := l.advance(c.id); err != nil {
		return err
	}
	if l.compact != nil {
		return errors.New("there are several rows named " + compactName)
	}
	l.compact = c
	l.floor = max(l.floor, c.id-l.offset)
	if c.own != 0 && c.id > l.identityUpto {
		l.floor = c.own
	}
	return nil
}

func (l *loader) advance(id int64) error {
	if id <= l.lastID {
		return fmt.Errorf("row %d comes after row %d", id, l.lastID)
	}
	l.lastID = id
	return nil
}

// compactOf takes rowColumns of the row named compact_rev_key.
func compactOf(f [][]byte) *compactRow {
	return &compactRow{id: bigint(f[0]), compacted: bigint(f[5]), revision: bigint(f[7]), own: bigint(f[8]), revisionOf: bigint(f[9])}
}

// gap says whether a row is one of those by which kine fills holes.
func gap(r LoadedRow) bool {
	return !r.Created && r.Deleted && r.PrevID == 0 && strings.HasPrefix(r.Key, "gap-")
}

func (l *loader) finish(m *Meta) error {
	c := l.compact
	if c == nil {
		return errNoCompactRow
	}
	m.LastID = max(l.lastID, c.compacted)
	m.Untouched = c.compacted == 0
	m.Revision = max(l.revision, l.floor)
	switch {
	case c.compacted <= l.identityUpto || l.offset == 0 && !c.byUs():
		m.Compacted = c.compacted
	case c.byUs():
		m.Compacted = c.revision
	default:
		// kine has set it. Its revision may be gone: none less than this one is safe to read at.
		m.Compacted = min(c.compacted, m.Revision)
	}
	m.Revision = max(m.Revision, m.Compacted)
	return nil
}

// copySignature begins PostgreSQL's binary COPY format; flags and the length of an extension follow, both 0.
const copySignature = "PGCOPY\n\xff\r\n\x00"

var errCopy = errors.New("PostgreSQL's COPY cannot be read")

// copyReader calls row for each row of a binary COPY that is written to it. Rows may come in pieces.
type copyReader struct {
	columns int
	row     func([][]byte) error // the fields are valid during the call; nil: NULL

	rest   []byte // of a row whose end has not come
	began  bool
	done   bool // the end has come
	rows   int64
	fields [][]byte
}

// Write takes a piece.
func (c *copyReader) Write(p []byte) (int, error) {
	data := p
	if len(c.rest) > 0 {
		c.rest = append(c.rest, p...)
		data = c.rest
	}
	if !c.began {
		const head = len(copySignature) + 8
		if len(data) < head {
			c.rest = append([]byte(nil), data...)
			return len(p), nil
		}
		if string(data[:len(copySignature)]) != copySignature || binary.BigEndian.Uint64(data[len(copySignature):head]) != 0 {
			return 0, errCopy
		}
		c.began, data = true, data[head:]
	}
	for len(data) > 0 {
		n, err := c.next(data)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		data = data[n:]
	}
	c.rest = append(c.rest[:0], data...)
	return len(p), nil
}

// next takes a row from the front of data, and returns its length: 0 if it is not whole.
func (c *copyReader) next(data []byte) (int, error) {
	if len(data) < 2 {
		return 0, nil
	}
	n := int(int16(binary.BigEndian.Uint16(data)))
	at := 2
	if n == -1 && !c.done && len(data) == at {
		c.done = true
		return at, nil
	}
	if n != c.columns || c.done {
		return 0, errCopy
	}
	c.fields = c.fields[:0]
	for range n {
		if len(data) < at+4 {
			return 0, nil
		}
		size := int(int32(binary.BigEndian.Uint32(data[at:])))
		at += 4
		if size < 0 {
			c.fields = append(c.fields, nil)
			continue
		}
		if len(data)-at < size {
			return 0, nil
		}
		c.fields = append(c.fields, data[at:at+size:at+size])
		at += size
	}
	c.rows++
	return at, c.row(c.fields)
}
