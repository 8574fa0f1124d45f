package native

import (
	"context"
	"errors"
	"fmt"

	"kineshim/kineshim"
	"kineshim/kineshim/kinetable"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// errGone is for a copy that was given up.
	errGone = errors.New("the copy of the keys is made anew")
	// errElsewhere is for what cannot be read from the standby's PostgreSQL at the moment, or not at all.
	errElsewhere    = errors.New("the standby's table cannot tell")
	errNotStreaming = errors.New("PostgreSQL does not stream from the primary")
)

// ownTable is the table that an engine writes.
type ownTable struct{ e *Engine }

func (t ownTable) Values(ctx context.Context, ids []int64, each func(id int64, value []byte) error) error {
	return t.e.store.Values(ctx, ids, each)
}

// History: what readers hold, nobody deletes.
func (t ownTable) History(ctx context.Context, afterID, uptoID int64, limit int) ([]kinetable.HistoryRow, int64, error) {
	rows, err := t.e.store.History(ctx, afterID, uptoID, limit)
	return rows, 0, err
}

func (t ownTable) fail(ctx context.Context, err error) error { return t.e.tableError(ctx, err) }

// tableError is what a client reads when the table could not be read.
func (e *Engine) tableError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, kinetable.ErrMissing) {
		// A row that nobody may delete is gone: what else is, nobody knows.
		e.spoil(fmt.Errorf("the table lacks a row that it must have: %w", err))
	}
	return kineshim.Unavailable("the database could not be read: " + err.Error())
}

// standbyTable is the table as PostgreSQL on the standby has replayed it. It is read only while that streams from the primary: the rows of
// one that has yet to be rewound may be others than the primary's with the same IDs.
type standbyTable struct {
	reader *kinetable.Reader
	life   func() (uint64, bool) // ReplicaConfig.StandbyLife
}

func (t standbyTable) Values(ctx context.Context, ids []int64, each func(id int64, value []byte) error) error {
	type row struct {
		id    int64
		value []byte
	}
	found := make([]row, 0, len(ids))
	err := t.streaming(func() error {
		return t.reader.Values(ctx, ids, func(id int64, value []byte) error {
			found = append(found, row{id, value})
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, f := range found {
		if err := each(f.id, f.value); err != nil {
			return err
		}
	}
	return nil
}

func (t standbyTable) History(ctx context.Context, afterID, uptoID int64, limit int) (found []kinetable.HistoryRow, compacted int64, err error) {
	err = t.streaming(func() error {
		found, compacted, err = t.reader.History(ctx, afterID, uptoID, limit)
		return err
	})
	return found, compacted, err
}

// streaming fails unless PostgreSQL streams from the primary before and after read, without interruption.
func (t standbyTable) streaming(read func() error) error {
	before, ok := t.life()
	if !ok {
		return errNotStreaming
	}
	if err := read(); err != nil {
		return err
	}
	if now, ok := t.life(); !ok || now != before {
		return errNotStreaming
	}
	return nil
}

func (t standbyTable) fail(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", errElsewhere, err)
}

// unreadable says that an error is about the table that this node reads, and not an answer.
func unreadable(err error) bool {
	return errors.Is(err, errElsewhere) || errors.Is(err, kinetable.ErrClosed) || status.Code(err) == codes.Unavailable
}
