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
	var meta Meta
	err := s.readers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			var err error
			meta, err = s.load(ctx, tx, each)
			return err
		})
	})
	if err != nil {
		return Meta{}, fmt.Errorf("load the table: %w", err)
	}
	s.pipeline.lastID.CompareAndSwap(0, meta.LastID)
	return meta, nil
}

func (s *Store) load(ctx context.Context, tx pgx.Tx, each func(LoadedRow) error) (Meta, error) {
	var meta Meta
	var clockMS, identityUpto int64
	if err := tx.QueryRow(ctx, "SELECT lease_clock_ms, identity_upto FROM kineshim_state").Scan(&clockMS, &identityUpto); err != nil {
		return meta, fmt.Errorf("read the state: %w", err)
	}
	meta.LeaseClock = time.Duration(clockMS) * time.Millisecond
	s.identityUpto.Store(identityUpto)
	if _, err := tx.Exec(ctx, "SET LOCAL work_mem = '"+loadMemory+"'"); err != nil {
		return meta, err
	}
	l := loader{identityUpto: identityUpto, each: each}
	in := copyReader{columns: rowColumnCount + 1, row: l.row}
	tag, err := tx.Conn().PgConn().CopyTo(ctx, &in, loadSQL)
	if err != nil {
		return meta, err
	}
	if !in.done || tag.RowsAffected() != in.rows {
		return meta, fmt.Errorf("%w: %d rows of %d, at the end: %v", errShort, in.rows, tag.RowsAffected(), in.done)
	}
	if err := l.finish(&meta); err != nil {
		return meta, err
	}
	meta.Leases, err = loadLeases(ctx, tx)
	return meta, err
}

func loadLeases(ctx context.Context, tx pgx.Tx) ([]LeaseRow, error) {
	rows, err := tx.Query(ctx, "SELECT id, ttl, expires_ms FROM kineshim_lease")
	if err != nil {
		return nil, fmt.Errorf("read the leases: %w", err)
	}
	leases, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l LeaseRow, err error) {
		var ms int64
		err = row.Scan(&l.ID, &l.TTL, &ms)
		l.Expires = time.Duration(ms) * time.Millisecond
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the leases: %w", err)
	}
	return leases, nil
}

// loader makes sense of the rows.
type loader struct {
	identityUpto int64
	each         func(LoadedRow) error

	lastID, revision int64 // of the newest row
	offset           int64 // ID - Revision of the newest row that is a client's
	floor            int64 // the revision that kine's own rows stand for
	compact          *compactRow
}

// compactRow is kine's own compact_rev_key.
type compactRow struct {
	compacted int64 // the row ID that is compacted
	// revision is that of row compacted, if revisionOf says that it is about that row. See the statement that writes it.
	revision, revisionOf int64
}

func (l *loader) row(f [][]byte) error {
	r, err := scan(f, l.identityUpto)
	if err != nil {
		return err
	}
	if r.ID <= l.lastID {
		return fmt.Errorf("row %d comes after row %d", r.ID, l.lastID)
	}
	l.lastID = r.ID
	if string(f[1]) == compactName {
		if l.compact != nil {
			return errors.New("there are several rows named " + compactName)
		}
		l.compact = &compactRow{compacted: r.PrevID, revision: bigint(f[7]), revisionOf: bigint(f[9])}
		l.floor = max(l.floor, r.ID-l.offset)
		if own := bigint(f[8]); own != 0 && r.ID > l.identityUpto {
			l.floor = own
		}
		return nil
	}
	if gap(r) {
		l.floor = max(l.floor, r.ID-l.offset)
		return nil
	}
	if r.Revision < l.revision || r.Revision > r.ID {
		return fmt.Errorf("row %d has revision %d, and the one before has %d", r.ID, r.Revision, l.revision)
	}
	l.revision, l.offset = r.Revision, r.ID-r.Revision
	if r.Key == compactKey && f[rowColumnCount] != nil {
		r.Version, _ = versionOf(r, f[rowColumnCount])
	}
	return l.each(r)
}

// gap says whether a row is one of those by which kine fills holes.
func gap(r LoadedRow) bool {
	return !r.Created && r.Deleted && r.PrevID == 0 && strings.HasPrefix(r.Key, "gap-")
}

func (l *loader) finish(m *Meta) error {
	c := l.compact
	if c == nil {
		return errors.New("there is no row named " + compactName)
	}
	m.LastID = max(l.lastID, c.compacted)
	m.Untouched = c.compacted == 0
	m.Revision = max(l.revision, l.floor)
	switch {
	case c.compacted <= l.identityUpto || l.offset == 0 && c.revisionOf != c.compacted:
		m.Compacted = c.compacted
	case c.revisionOf == c.compacted:
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
