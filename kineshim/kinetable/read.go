package kinetable

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

const (
	selectValues  = "ks_values"
	selectHistory = "ks_history"
	selectAttempt = "ks_find_attempt"
	selectNewest  = "ks_newest"
	selectCompact = "ks_compact_row"

	// rowColumns are what a LoadedRow is made of, in the order in which scan takes them.
	rowColumns = `id::bigint, name, created, deleted, create_revision::bigint, prev_revision::bigint, lease,
		ks_revision, ks_version, ks_create, ks_lease, ks_key`
	rowColumnCount = 12
	// isGap is true for the rows by which kine fills holes.
	isGap = `(created = 0 AND deleted = 1 AND prev_revision = 0 AND name LIKE 'gap-%')`
	// isClients is true for the rows that are not kine's own.
	isClients = `(name <> '` + compactName + `' AND NOT ` + isGap + `)`

	valuesSQL  = `SELECT id::bigint, name = '` + compactAPIName + `', value FROM kine WHERE id = ANY ($1::bigint[])`
	historySQL = `SELECT ` + rowColumns + `, value, old_value FROM kine
		WHERE id > $1::bigint AND id <= $2::bigint AND ` + isClients + ` ORDER BY id LIMIT $3::bigint`
	newestSQL = `SELECT id::bigint FROM kine WHERE id <= $1::bigint AND ` + isClients + ` ORDER BY id DESC LIMIT 1`
)

var readStatements = map[string]string{
	selectValues:  valuesSQL,
	selectHistory: historySQL,
	selectAttempt: `SELECT ` + rowColumns + ` FROM kine WHERE id > $1::bigint AND ks_attempt = $2::bigint ORDER BY id`,
	selectNewest:  newestSQL,
	selectCompact: `SELECT ` + rowColumns + ` FROM kine WHERE name = '` + compactName + `'`,
}

// readSettings make PostgreSQL look rows up in an index, also if it has not counted them, or thinks that they are many: what is asked
// for must not take longer in a large table. For all rows Load has settings of its own.
var readSettings = map[string]string{
	"default_transaction_read_only": "on",
	"enable_seqscan":                "off",
	"enable_bitmapscan":             "off",
}

var binaryFormat = []int16{pgtype.BinaryFormatCode}

// errShort is for rows that are not what was asked for: never expected.
var errShort = errors.New("PostgreSQL's answer is not what was asked for")

// Values calls each once with the value of each of the rows, in no order; an ID that is there twice counts once. value
// is the callee's; an empty value is nil. If it returns nil, each has been called for all of them; an error is a
// *MissingError if a row is not there, or each's own, or the database's.
func (s *Store) Values(ctx context.Context, ids []int64, each func(id int64, value []byte) error) error {
	if len(ids) == 0 {
		return nil
	}
	v := valueReader{wanted: ids, each: each, found: make(map[int64]struct{}, len(ids))}
	if err := s.readers.with(ctx, v.read); err != nil {
		return fmt.Errorf("read values: %w", err)
	}
	return nil
}

// valueReader calls each once with the value of each of the wanted rows, also if read is repeated after an error.
type valueReader struct {
	wanted []int64
	each   func(id int64, value []byte) error
	found  map[int64]struct{}
	failed bool // each has returned an error
}

// read reads the rows that have not been found.
func (v *valueReader) read(ctx context.Context, conn *pgx.Conn) error {
	ids := v.missing()
	if err := query(ctx, conn, selectValues, [][]byte{bigintArray(ids)}, 3, v.take); err != nil {
		return err
	}
	if ids = v.missing(); len(ids) > 0 {
		return &MissingError{ID: ids[0]}
	}
	return nil
}

func (v *valueReader) missing() []int64 {
	if len(v.found) == 0 {
		return v.wanted
	}
	var ids []int64
	for _, id := range v.wanted {
		if _, ok := v.found[id]; !ok {
			ids = append(ids, id)
		}
	}
	return ids
}

func (v *valueReader) take(row [][]byte) error {
	id, value := bigint(row[0]), row[2]
	if _, twice := v.found[id]; twice {
		return errShort
	}
	v.found[id] = struct{}{}
	if len(row[1]) == 1 && row[1][0] != 0 && value != nil {
		_, value = decodeVersion(value)
	}
	err := v.each(id, own(value))
	v.failed = err != nil
	return err
}

// History returns the rows with afterID < ID <= uptoID, ascending, at most limit of them: rows that have been compacted
// away are not among them. It has all of them if there are fewer than limit.
func (s *Store) History(ctx context.Context, afterID, uptoID int64, limit int) ([]HistoryRow, error) {
	var rows []HistoryRow
	identityUpto := s.identityUpto.Load()
	one := func(fields [][]byte) error {
		r, err := scanVersioned(fields, identityUpto)
		rows = append(rows, withValues(r, fields))
		return err
	}
	args := [][]byte{encoded(afterID), encoded(uptoID), encoded(int64(limit))}
	err := s.readers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return query(ctx, conn, selectHistory, args, rowColumnCount+2, one)
	})
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return rows, nil
}

// withValues adds a row's values, which are behind rowColumns.
func withValues(r LoadedRow, f [][]byte) HistoryRow {
	value, old := f[rowColumnCount], f[rowColumnCount+1]
	if r.Key == compactKey && value != nil {
		_, value = decodeVersion(value)
	}
	if r.Key == compactKey && old != nil {
		_, old = decodeVersion(old)
	}
	return HistoryRow{LoadedRow: r, Value: own(value), OldValue: own(old)}
}

// FindAttempt returns the rows with an ID greater than afterID that carry the attempt, ascending. It takes as long as there are rows
// after afterID.
func (s *Store) FindAttempt(ctx context.Context, afterID, attempt int64) ([]LoadedRow, error) {
	var rows []LoadedRow
	identityUpto := s.identityUpto.Load()
	one := func(fields [][]byte) error {
		r, err := scan(fields, identityUpto)
		rows = append(rows, r)
		return err
	}
	err := s.readers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return query(ctx, conn, selectAttempt, [][]byte{encoded(afterID), encoded(attempt)}, rowColumnCount, one)
	})
	if err != nil {
		return nil, fmt.Errorf("find an attempt: %w", err)
	}
	return rows, nil
}

// query runs a prepared statement and calls one for each of its rows, whose bytes are valid during the call. It returns
// nil only if there are no more.
func query(ctx context.Context, conn *pgx.Conn, statement string, args [][]byte, columns int, one func([][]byte) error) error {
	result := conn.PgConn().ExecPrepared(ctx, statement, args, binaryFormat, binaryFormat)
	rows := int64(0)
	var failed error
	for result.NextRow() {
		rows++
		if fields := result.Values(); len(fields) != columns {
			failed = errShort
		} else {
			failed = one(fields)
		}
		if failed != nil {
			abandon(conn) // rather than read the rest
			break
		}
	}
	tag, err := result.Close()
	switch {
	case failed != nil:
		return failed
	case err != nil:
		return err
	case tag.RowsAffected() != rows:
		return errShort
	}
	return nil
}

// scan takes a row's first columns: rowColumns.
func scan(f [][]byte, identityUpto int64) (LoadedRow, error) {
	for _, i := range [...]int{0, 1, 2, 3, 4, 5, 6} {
		if f[i] == nil {
			return LoadedRow{}, fmt.Errorf("row %s has no %s", number(f[0]), [...]string{"id", "name", "created", "deleted",
				"create_revision", "prev_revision", "lease"}[i])
		}
	}
	r := LoadedRow{
		ID: bigint(f[0]), Key: keyOf(f[1], f[11]), Created: integer(f[2]) != 0, Deleted: integer(f[3]) != 0,
		CreateRevision: bigint(f[4]), CreateID: bigint(f[4]), PrevID: bigint(f[5]), TTL: integer(f[6]),
		Version: bigint(f[8]), Lease: bigint(f[10]),
	}
	r.Revision = r.ID
	if r.ID > identityUpto {
		if f[7] != nil {
			r.Revision = bigint(f[7])
		}
		if f[9] != nil {
			r.CreateRevision = bigint(f[9])
		}
	}
	if r.Created || r.Deleted {
		r.CreateRevision, r.CreateID = 0, 0
	}
	if r.Created && r.Version == 0 {
		r.Version = 1
	}
	return r, nil
}

// scanVersioned is scan for a row with its value, or what holds a version, behind rowColumns.
func scanVersioned(f [][]byte, identityUpto int64) (LoadedRow, error) {
	r, err := scan(f, identityUpto)
	if stored := f[rowColumnCount]; r.Key == compactKey && stored != nil {
		r.Version = versionOf(r, stored)
	}
	return r, err
}

// versionOf is the version of a row of Kubernetes' compact_rev_key, given the value as it is stored: kine
// keeps the version there and not in a column.
func versionOf(r LoadedRow, stored []byte) int64 {
	version, _ := decodeVersion(stored)
	if r.Version > 1 || version == 0 {
		return r.Version
	}
	return version
}

// bigint decodes an int8, integer an int4; NULL is 0.
func bigint(b []byte) int64 {
	if len(b) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}

func integer(b []byte) int64 {
	if len(b) != 4 {
		return 0
	}
	return int64(int32(binary.BigEndian.Uint32(b)))
}

func encoded(v int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(v)) }

func number(b []byte) string { return strconv.FormatInt(bigint(b), 10) }

// own copies bytes that belong to a connection; none are nil.
func own(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}

// Size returns how many bytes the table takes on disk with its indexes, and an estimate of how many of them are in use:
// what a sample of its rows takes, for all of them.
func (s *Store) Size(ctx context.Context) (total, inUse int64, err error) {
	err = s.readers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var pages, indexes int64
		err := conn.QueryRow(ctx, `SELECT pg_total_relation_size('kine'), pg_relation_size('kine') / current_setting('block_size')::bigint,
			pg_indexes_size('kine')`).Scan(&total, &pages, &indexes)
		if err != nil || pages == 0 {
			inUse = indexes
			return err
		}
		percent := min(100, 100*float64(sampledPages)/float64(pages))
		var rows int64
		err = conn.QueryRow(ctx, `SELECT count(*), COALESCE(sum(`+rowHead+` + pg_column_size(k.*)), 0) FROM kine k TABLESAMPLE SYSTEM (`+
			strconv.FormatFloat(percent, 'f', -1, 64)+`)`).Scan(&rows, &inUse)
		inUse = min(total, indexes+int64(float64(inUse)*100/percent))
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("read the size: %w", err)
	}
	return total, inUse, nil
}

const (
	// sampledPages bounds what Size reads: a few milliseconds.
	sampledPages = 200
	// rowHead is what a row takes besides its columns in each page: its pointer. Its header is in pg_column_size.
	rowHead = "4"
)
