package kinetable

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// contents is what the table holds.
type contents struct {
	Last    int64 // the greatest ID; 0: there is no row
	Compact []foundCompact
	States  int // rows of the state table
}

// foundCompact is a row named compact_rev_key: its ID and the compacted revision as kine sees it.
type foundCompact struct{ ID, Revision int64 }

const contentsSQL = `SELECT json_build_object(
	'last', (SELECT coalesce(max(id), 0) FROM %[1]s),
	'compact', (SELECT json_agg(json_build_object('id', id, 'revision', coalesce(prev_revision, 0)) ORDER BY id)
		FROM %[1]s WHERE name = 'compact_rev_key'),
	'states', (SELECT count(*) FROM %[2]s))`

func (t *takeover) contents(ctx context.Context, s *survey) (contents, error) {
	var c contents
	if err := t.ask(ctx, fmt.Sprintf(contentsSQL, s.qualified("kine"), s.qualified(stateTable)), &c); err != nil {
		return c, fmt.Errorf("read the table: %w", err)
	}
	return c, nil
}

// fill puts right what the table holds: whose revisions are to be believed, exactly one compact_rev_key row, the sequence.
func (t *takeover) fill(ctx context.Context, tx pgx.Tx, before *survey) error {
	now, err := t.survey(ctx, "") // in the transaction: with the changes made
	if err != nil {
		return err
	}
	table, state := now.qualified("kine"), now.qualified(stateTable)
	if _, err := tx.Exec(ctx, "INSERT INTO "+state+" DEFAULT VALUES ON CONFLICT DO NOTHING"); err != nil {
		return err
	}
	if before.Table != nil && len(before.Table.Kine) > 0 { // kine has had the table
		if _, err := tx.Exec(ctx, "UPDATE "+state+" SET lineage = 0 WHERE lineage <> 0"); err != nil {
			return err
		}
	}
	if before.Table != nil && before.Table.has("ks_revision") { // if not, a look at all rows is saved
		if err := t.believe(ctx, tx, table, state, len(before.Table.Kine) > 0); err != nil {
			return err
		}
	}
	c, err := t.contents(ctx, now)
	if err != nil {
		return err
	}
	switch len(c.Compact) {
	case 0:
		if c.Last == 0 && now.Table.Sequence.Last != nil {
			c.Last = *now.Table.Sequence.Last // the table has been emptied: revisions never go back
		}
		c.Last++
		err = t.insertCompact(ctx, tx, table, state, c.Last)
	case 1:
	default:
		err = t.merge(ctx, tx, table, c.Compact)
	}
	if err != nil {
		return err
	}
	if last := now.Table.Sequence.Last; last == nil || *last < c.Last {
		_, err = tx.Exec(ctx, setSequence(now, c.Last))
	}
	return err
}

// believe notices that kine has had the table since an engine of ours took it. Kine shows row IDs as revisions, so from then on
// every row's revision is its ID. If kine has written, its rows have no ks_revision. (compact_rev_key has one of another meaning.)
// If it was only read from, its indexes are there: an engine drops them, and kine makes them when it starts.
func (t *takeover) believe(ctx context.Context, tx pgx.Tx, table, state string, indexed bool) error {
	if indexed {
		return t.identify(ctx, tx, table, state, "true")
	}
	return t.identify(ctx, tx, table, state, `(SELECT ks_revision IS NULL FROM `+table+`
		WHERE name <> 'compact_rev_key' ORDER BY id DESC LIMIT 1)`)
}

// identify makes every row's revision its ID, if a condition holds and it is not so yet.
func (t *takeover) identify(ctx context.Context, tx pgx.Tx, table, state, condition string) error {
	var upto int64
	err := tx.QueryRow(ctx, fmt.Sprintf(`UPDATE %[2]s SET identity_upto = (SELECT max(id) FROM %[1]s) WHERE %[3]s
		AND EXISTS (SELECT FROM %[1]s WHERE ks_revision IS NOT NULL AND id > identity_upto AND name <> 'compact_rev_key')
		RETURNING identity_upto`, table, state, condition)).Scan(&upto)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		t.log.Info("kine has had the table since kineshim last did: revisions are row IDs up to there", "upto", upto)
	}
	return err
}

// insertCompact writes what kine's compactStart writes. As with kine, the row takes a revision, which is its ID.
func (t *takeover) insertCompact(ctx context.Context, tx pgx.Tx, table, state string, id int64) error {
	_, err := tx.Exec(ctx, "INSERT INTO "+table+` (id, name, created, deleted, create_revision, prev_revision, lease, value,
		old_value) VALUES ($1, 'compact_rev_key', 1, 0, 0, 0, 0, '', NULL)`, id)
	if err != nil {
		return err
	}
	return t.identify(ctx, tx, table, state, "true")
}

// merge leaves one compact_rev_key row with the greatest revision, as kine's compactStart does. It is the youngest one, because
// the greatest ID is what kine shows as the revision. What the columns of ours say belongs to the revision.
func (t *takeover) merge(ctx context.Context, tx pgx.Tx, table string, rows []foundCompact) error {
	keep, greatest := rows[len(rows)-1], rows[len(rows)-1]
	for _, row := range rows {
		if row.Revision > greatest.Revision {
			greatest = row
		}
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf(`UPDATE %[1]s k SET prev_revision = g.prev_revision, ks_revision = g.ks_revision,
		ks_create = g.ks_create FROM %[1]s g WHERE k.id = $1 AND g.id = $2`, table), keep.ID, greatest.ID); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE name = 'compact_rev_key' AND id <> $1", keep.ID); err != nil {
		return err
	}
	t.log.Warn("kine's table had several compact_rev_key rows", "rows", len(rows), "kept", keep.ID, "compacted", greatest.Revision)
	return nil
}
