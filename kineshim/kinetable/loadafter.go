package kinetable

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ErrForeign is for a position that the table does not continue: it holds another history, or has lost the end of this one, or has
// compacted what comes after it.
var ErrForeign = errors.New("the table does not continue the history")

// Position is how far somebody knows the table's history: the ID of its newest row, or Meta's LastID, and the revision as of that. The zero
// Position is the beginning.
type Position struct{ ID, Revision int64 }

// LoadAfter is Load for somebody who has the rows up to a position: it calls each only for the rows after it, with their values, and
// returns the Meta that Load would return. It takes as long as there are rows after the position, however many are before it: but
// if the row there is compacted, it looks at what has been deleted before it and not yet vacuumed.
//
// ErrForeign is in its error, and each has not been called, if the table does not continue the position's history. What it can tell
// is a history that ends before it, one with another revision there, revisions that are row IDs since kine has had the table, and
// a table that Replace has filled, with greater IDs, since. A compaction to a later revision is that too: it may have taken away
// that keys were deleted after the position. So is the compaction of all rows up to the position.
func (s *Store) LoadAfter(ctx context.Context, at Position, each func(HistoryRow) error) (Meta, error) {
	meta, err := s.atOneMoment(ctx, func(tx pgx.Tx, identityUpto int64, m *Meta) error {
		c := continuation{at: at, each: each}
		c.rows = loader{identityUpto: identityUpto, each: c.deliver}
		return c.run(ctx, tx, m)
	})
	if err != nil {
		return Meta{}, fmt.Errorf("load the table after row %d: %w", at.ID, err)
	}
	return meta, nil
}

// continuation is a load that goes on from a position. It begins with the newest row of a client's up to there, so that
// the loader knows what it knows when it has come to the position from the beginning.
type continuation struct {
	at   Position
	each func(HistoryRow) error
	rows loader

	base    int64       // the ID of that row; 0: there is none
	there   bool        // there is a row with the position's ID
	compact *compactRow // also if it is before base; if not, it comes with the rows too
	checked bool
}

func (c *continuation) run(ctx context.Context, tx pgx.Tx, m *Meta) error {
	conn := tx.Conn()
	err := query(ctx, conn, selectNewest, [][]byte{encoded(c.at.ID)}, 1, func(f [][]byte) error {
		c.base = bigint(f[0])
		return nil
	})
	if err != nil {
		return err
	}
	err = query(ctx, conn, selectCompact, nil, rowColumnCount, func(f [][]byte) error {
		c.compact = compactOf(f)
		if c.compact.id < c.base {
			c.rows.compact = c.compact
		}
		return nil
	})
	if err != nil {
		return err
	}
	if c.compact == nil {
		return errNoCompactRow
	}
	fromBase := fmt.Sprintf("COPY (SELECT %s, value, old_value FROM kine WHERE id >= %d ORDER BY id) TO STDOUT (FORMAT binary)", rowColumns, c.base)
	if err := copyRows(ctx, tx, fromBase, rowColumnCount+2, c.row); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	if err := c.rows.finish(m); err != nil {
		return err
	}
	if m.LastID < c.at.ID || m.Revision < c.at.Revision {
		return c.foreign("it ends at row %d, revision %d", m.LastID, m.Revision)
	}
	return nil
}

func (c *continuation) row(f [][]byte) error {
	switch id := bigint(f[0]); {
	case id == c.at.ID:
		c.there = true
	case id > c.at.ID:
		if err := c.check(); err != nil {
			return err
		}
	}
	return c.rows.row(f)
}

// deliver gets the rows that are clients'.
func (c *continuation) deliver(r LoadedRow, f [][]byte) error {
	switch {
	case r.ID <= c.at.ID:
		return nil
	case r.Revision < c.at.Revision:
		return c.foreign("row %d has revision %d", r.ID, r.Revision)
	}
	return c.each(withValues(r, f))
}

// check says why the table does not continue the position's history, when all rows up to the position have been seen, and no others.
func (c *continuation) check() error {
	if c.checked {
		return nil
	}
	c.checked = true
	at := c.at
	switch {
	case at == Position{}:
		return nil
	case c.compact.compacted > at.ID:
		return c.foreign("rows are compacted up to %d", c.compact.compacted)
	case c.base == at.ID:
		if c.rows.revision != at.Revision {
			return c.foreign("the row's revision is %d", c.rows.revision)
		}
		return nil
	case !c.there && c.compact.compacted < at.ID:
		return c.foreign("the row is not there, and not compacted")
	case !c.there && c.compact.byUs() && c.compact.revision < at.Revision:
		return c.foreign("the row, which is compacted, had revision %d", c.compact.revision)
	case !c.there && c.base == 0:
		// Replace gives greater IDs than there were. A client's row from before says that it has not been.
		return c.foreign("no row up to there is left")
	case c.rows.revision > at.Revision:
		return c.foreign("row %d has revision %d", c.base, c.rows.revision)
	case c.rows.identityUpto > 0 && c.base <= c.rows.identityUpto && at.ID != at.Revision:
		return c.foreign("kine has shown row IDs as revisions up to %d", c.rows.identityUpto)
	}
	return nil
}

func (c *continuation) foreign(why string, args ...any) error {
	return fmt.Errorf("%w up to row %d, revision %d: %s", ErrForeign, c.at.ID, c.at.Revision, fmt.Sprintf(why, args...))
}
