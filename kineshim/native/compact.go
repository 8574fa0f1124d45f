package native

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"kineshim/kineshim"
	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/mvcc"
)

const (
	// deleteAtOnce bounds the rows that one deletion takes away, and with it the locks and the burst of WAL.
	deleteAtOnce = 1000
	// deletePause leaves the disk to the writes between two deletions.
	deletePause = 5 * time.Millisecond
	// readersWarn is how long a compaction waits for reads before it says so, and how often: no usual read takes that long.
	readersWarn = time.Minute
	// compactAgain is the pause after a deletion that failed.
	compactAgain = 5 * time.Second
)

// compaction is the state of the compactor, which deletes what nobody can read any more.
type compaction struct {
	wake chan struct{}

	mu      sync.Mutex // guards the fields below
	done    int64      // the revision to which everything has been deleted
	changed chan struct{}
}

// kick wakes the compactor. A kick that finds one waiting is that one.
func (c *compaction) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *compaction) finished(revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = revision
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// wait returns when everything that the compaction of the revision made unreadable has been deleted.
func (c *compaction) wait(ctx context.Context, e *Engine, revision int64) error {
	for {
		c.mu.Lock()
		done := c.done
		if c.changed == nil {
			c.changed = make(chan struct{})
		}
		changed := c.changed
		c.mu.Unlock()
		if done >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-e.failed:
			return kineshim.InDoubt(e.reason())
		}
	}
}

// compact runs until the engine ends. It begins with what an earlier engine left.
func (e *Engine) compact(ctx context.Context, d *debts) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.compaction.wake:
		case <-pause.C:
		}
		revision := e.compacted()
		err := e.sweep(ctx, d, revision)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			e.log.Warn("the compactor tries again", "error", err, "after", compactAgain)
			pause.Reset(compactAgain)
		default:
			e.compaction.finished(revision)
			e.sweptRev.Store(revision)
			e.hub.Poke()
		}
	}
}

// sweep deletes all rows that no read at the revision or later needs, when the reads that need them have ended. Rows go in the
// order of their IDs, so that none of a key's is ever without those after it, and leave the index when they are gone.
func (e *Engine) sweep(ctx context.Context, d *debts, revision int64) error {
	if err := e.settle(ctx, d, revision); err != nil {
		return fmt.Errorf("store the versions of what kine wrote: %w", err)
	}
	dead := e.index.Garbage(revision)
	if err := e.awaitReaders(ctx); err != nil {
		return err
	}
	began := time.Now()
	for n := 0; n < len(dead); n += deleteAtOnce {
		if err := e.deleteRows(ctx, dead[n:min(n+deleteAtOnce, len(dead))]); err != nil {
			return err
		}
		select {
		case <-time.After(deletePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.index.Compacted(revision)
	if len(dead) == 0 {
		return nil
	}
	e.log.Info("compacted", "revision", revision, "rows", len(dead), "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// awaitReaders waits for the reads that began before the compacted revision moved.
func (e *Engine) awaitReaders(ctx context.Context) error {
	ended := e.holds.next()
	began := time.Now()
	warn := time.NewTicker(readersWarn)
	defer warn.Stop()
	for {
		select {
		case <-ended:
			return nil
		case <-warn.C:
			e.log.Warn("compaction waits for a read that has not ended", "for", time.Since(began).Round(time.Second))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// settle stores the versions of plain kine's rows that could not be counted any more after a compaction: of each key, that of the
// row that stays. At the start it stores that of each live key too, so that a kine that has the table next can compact and no
// version goes back. All others can be counted again, and storing them would write a large table twice.
func (e *Engine) settle(ctx context.Context, d *debts, revision int64) error {
	if len(d.rows) == 0 {
		return nil
	}
	var fixes []kinetable.VersionFix
	owed := func(i mvcc.Item) bool {
		if _, found := slices.BinarySearch(d.rows, i.ID); found {
			fixes = append(fixes, kinetable.VersionFix{ID: i.ID, Version: i.Version})
		}
		return true
	}
	if !d.began {
		e.index.Ascend(mvcc.Span{Open: true}, e.committed(), owed)
	}
	if revision > 0 {
		e.index.Ascend(mvcc.Span{Open: true}, revision, owed)
	}
	slices.SortFunc(fixes, func(a, b kinetable.VersionFix) int { return cmp.Compare(a.ID, b.ID) })
	if err := e.store.Adopt(ctx, slices.Compact(fixes), nil); err != nil {
		return err
	}
	d.began = true
	if revision > 0 {
		first, _ := slices.BinarySearch(d.rows, e.index.LastID(revision)+1)
		d.rows = slices.Clone(d.rows[first:])
	}
	return nil
}

func (e *Engine) deleteRows(ctx context.Context, dead []mvcc.Dead) error {
	ids := make([]int64, len(dead))
	for n, d := range dead {
		ids[n] = d.ID
	}
	if err := e.store.Delete(ctx, ids); err != nil {
		return fmt.Errorf("delete rows: %w", err)
	}
	e.prune(dead)
	return nil
}
