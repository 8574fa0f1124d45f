package kinetable

import (
	"cmp"
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
)

// historyNowSQL is historySQL with what else History must know, as of the same moment, behind each row: or in a row of NULLs if
// there is none. Rows above the compacted one are never deleted, so that the search for any of them is short.
const (
	historyNowSQL = `SELECT k.*, p.* FROM (SELECT s.identity_upto, c.prev_revision::bigint AS compact_upto, c.ks_revision AS compact_revision,
			c.ks_create AS compact_of,
			CASE WHEN c.prev_revision >= $2::bigint THEN true ELSE EXISTS (SELECT FROM kine WHERE id >= $2::bigint) END AS reached
			FROM kineshim_state s LEFT JOIN kine c ON c.name = '` + compactName + `') p
		LEFT JOIN LATERAL (` + historySQL + `) k ON true`
	historyNowColumns = rowColumnCount + 7
)

// Values is a Store's: each gets the value of each of the rows once, in no order. A *MissingError may mean a row that is not replayed
// yet.
func (r *Reader) Values(ctx context.Context, ids []int64, each func(id int64, value []byte) error) error {
	if len(ids) == 0 {
		return nil
	}
	v := valueReader{wanted: ids, each: each, found: make(map[int64]struct{}, len(ids))}
	var failed error
	err := r.repeat(ctx, nil, func() (bool, error) {
		before := len(v.found)
		err := r.with(ctx, v.read)
		if v.failed { // whatever it looks like
			failed, err = err, nil
		}
		return len(v.found) > before, err
	})
	if err = cmp.Or(failed, err); err != nil {
		return fmt.Errorf("read values: %w", err)
	}
	return nil
}

// History is a Store's: the rows with afterID < ID <= uptoID, ascending, at most limit of them, without those that have been compacted
// away. compacted is the table's compacted revision not before the moment that they are of: the rows of a revision before
// it may lack some. ErrBehind is in the error if the table has not come to uptoID.
func (r *Reader) History(ctx context.Context, afterID, uptoID int64, limit int) (rows []HistoryRow, compacted int64, err error) {
	args := [][]byte{encoded(afterID), encoded(uptoID), encoded(int64(limit))}
	err = r.repeat(ctx, nil, func() (bool, error) {
		return false, r.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			h := historyReader{}
			if err := query(ctx, conn, selectHistory, args, historyNowColumns, h.take); err != nil {
				return err
			}
			if err := h.check(uptoID); err != nil {
				return err
			}
			var err error
			rows, compacted = h.rows, h.compacted()
			if compacted < 0 {
				compacted, err = r.compactedByKine(ctx, conn)
			}
			return err
		})
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read history: %w", err)
	}
	return rows, compacted, nil
}

// historyReader takes the rows of historyNowSQL.
type historyReader struct {
	rows         []HistoryRow
	answered     bool
	compact      *compactRow // nil: there is none
	identityUpto int64
	reached      bool
}

func (h *historyReader) take(f [][]byte) error {
	now := f[rowColumnCount+2:]
	if !h.answered {
		h.answered = true
		h.identityUpto, h.reached = bigint(now[0]), len(now[4]) == 1 && now[4][0] != 0
		if now[1] != nil {
			h.compact = &compactRow{compacted: bigint(now[1]), revision: bigint(now[2]), revisionOf: bigint(now[3])}
		}
	}
	if f[0] == nil {
		return nil
	}
	r, err := scanVersioned(f, h.identityUpto)
	if err != nil {
		return err
	}
	if n := len(h.rows); n > 0 && h.rows[n-1].ID >= r.ID {
		return fmt.Errorf("row %d comes after row %d", r.ID, h.rows[n-1].ID)
	}
	h.rows = append(h.rows, withValues(r, f))
	return nil
}

func (h *historyReader) check(uptoID int64) error {
	switch {
	case !h.answered:
		return ErrNoTable
	case h.compact == nil:
		return errNoCompactRow
	case !h.reached:
		return fmt.Errorf("%w: row %d", ErrBehind, uptoID)
	}
	return nil
}

// compacted is the compacted revision, or -1 if kine has set it: then it depends on the newest rows.
func (h *historyReader) compacted() int64 {
	switch c := h.compact; {
	case c.compacted <= h.identityUpto:
		return c.compacted
	case c.byUs():
		return c.revision
	}
	return -1
}

// compactedByKine finds the compacted revision as Load does, without the rows before the newest.
func (r *Reader) compactedByKine(ctx context.Context, conn *pgx.Conn) (int64, error) {
	var newest int64
	err := query(ctx, conn, selectNewest, [][]byte{encoded(math.MaxInt64)}, 1, func(f [][]byte) error {
		newest = bigint(f[0])
		return nil
	})
	if err != nil {
		return 0, err
	}
	l := readerLoad{reader: r, afterID: max(0, newest-1)}
	if err := l.read(ctx, conn); err != nil {
		return 0, err
	}
	m, err := l.deliver(func(LoadedRow) error { return nil })
	return m.Compacted, err
}
