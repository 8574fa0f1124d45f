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

	// rowColumns are what a LoadedRow is made of, in the order in which scan takes them.
	rowColumns = `id::bigint, name, created, deleted, create_revision::bigint, prev_revision::bigint, lease,
		ks_revision, ks_version, ks_create, ks_lease, ks_key`
	rowColumnCount = 12
	// isGap is true for the rows by which kine fills holes.
	isGap = `(created = 0 AND deleted = 1 AND prev_revision = 0 AND name LIKE 'gap-%')`
)

var readStatements = map[string]string{
	selectValues: `SELECT id::bigint, name = '` + compactAPIName + `', value FROM kine WHERE id = ANY ($1::bigint[])`,
	selectHistory: `SELECT ` + rowColumns + `, value, old_value FROM kine
		WHERE id > $1::bigint AND id <= $2::bigint AND name <> '` + compactName + `' AND NOT ` + isGap + ` ORDER BY id LIMIT $3::bigint`,
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
	err := s.readers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		found := make(map[int64]struct{}, len(ids))
		one := func(row [][]byte) error {
			id, value := bigint(row[0]), row[2]
			if _, twice := found[id]; twice {
				return errShort
			}
			found[id] = struct{}{}
			if row[1][0] != 0 && value != nil {
				_, value = decodeVersion(value)
			}
			return each(id, own(value))
		}
		if err := query(ctx, conn, selectValues, [][]byte{bigintArray(ids)}, 3, one); err != nil {
			return err
		}
		for _, id := range ids {
			if _, ok := found[id]; !ok {
				return &MissingError{ID: id}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read values: %w", err)
	}
	return nil
}

// History returns the rows with afterID < ID <= uptoID, ascending, at most limit of them: rows that have been compacted
// away are not among them. It has all of them if there are fewer than limit.
func (s *Store) History(ctx context.Context, afterID, uptoID int64, limit int) ([]HistoryRow, error) {
	var rows []HistoryRow
	identityUpto := s.identityUpto.Load()
	one := func(fields [][]byte) error {
		r := HistoryRow{Value: fields[rowColumnCount], OldValue: fields[rowColumnCount+1]}
		var err error
		if r.LoadedRow, err = scan(fields, identityUpto); err != nil {
			return err
		}
		if r.Key == compactKey {
			if r.Value != nil {
				r.Version, r.Value = versionOf(r.LoadedRow, r.Value)
			}
			if r.OldValue != nil {
				_, r.OldValue = decodeVersion(r.OldValue)
			}
		}
		r.Value, r.OldValue = own(r.Value), own(r.OldValue)
		rows = append(rows, r)
		return nil
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

// versionOf is the version and the value of a row of Kubernetes' compact_rev_key, given the value as it is stored: kine
// keeps the version there and not in a column.
func versionOf(r LoadedRow, stored []byte) (version int64, value []byte) {
	version, value = decodeVersion(stored)
	if r.Version > 1 || version == 0 {
		version = r.Version
	}
	return version, value
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
