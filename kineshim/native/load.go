package native

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/lease"
	"kineshim/kineshim/mvcc"
)

// debts are the rows of plain kine's whose version is not stored, by ascending ID: it has been counted from the rows before them,
// and must be stored before those go. See settle.
type debts struct {
	rows []int64
	// began: the versions of the keys as they were at the start are stored.
	began bool
}

// load fills the index, the leases and the revisions from the table.
func (e *Engine) load(ctx context.Context) (debts, error) {
	l := loader{index: e.index, log: e.log, said: time.Now(), ttls: map[string]ttl{}}
	meta, err := e.store.Load(ctx, l.row)
	if err != nil {
		return debts{}, err
	}
	if meta.LastID < e.index.HeadID() || meta.Revision < e.index.HeadRevision() {
		return debts{}, fmt.Errorf("the table ends at row %d, revision %d, but holds row %d, revision %d",
			meta.LastID, meta.Revision, e.index.HeadID(), e.index.HeadRevision())
	}
	e.index.Advance(meta.LastID, meta.Revision)
	e.index.Compacted(meta.Compacted)
	e.committedRev.Store(meta.Revision)
	e.compactedRev.Store(meta.Compacted)
	if meta.Untouched {
		e.compactedRev.Store(-1) // etcd's: even revision 0 can be compacted once
	}
	e.clock = newLeaseClock(meta.LeaseClock)
	e.leases = lease.New(e.clock.now)
	leases := make([]lease.Lease, 0, len(meta.Leases)+len(l.ttls))
	for _, r := range meta.Leases {
		leases = append(leases, lease.Lease(r))
	}
	adopted, err := l.adopt(ctx, e.store, e.clock.now())
	if err != nil {
		return debts{}, err
	}
	e.leases.Restore(append(leases, adopted...))
	e.index.AscendHead(mvcc.Span{Open: true}, func(i mvcc.Item) bool {
		if i.Lease != 0 {
			e.leases.Attach(i.Lease, i.Key)
		}
		return true
	})
	return l.debts, nil
}

// adoptedLease plus the ID of a row is the ID of the lease of a key that plain kine gave a time to live: kine has no lease
// IDs, and each of its keys expires by itself.
const adoptedLease = 1 << 62

const (
	// loadSay is how often a load tells how far it is; every loadLook rows it looks at the clock.
	loadSay  = 5 * time.Second
	loadLook = 10_000
)

// ttl is a live key that plain kine gave a time to live.
type ttl struct{ row, seconds int64 }

// loader turns rows into changes.
type loader struct {
	index *mvcc.Index
	log   *slog.Logger
	rows  int64
	said  time.Time // when progress was told last
	ttls  map[string]ttl
	debts debts
}

func (l *loader) row(r kinetable.LoadedRow) error {
	if l.rows++; l.rows%loadLook == 0 && time.Since(l.said) >= loadSay {
		l.said = time.Now()
		l.log.Info("the table is being loaded", "rows", l.rows, "row", r.ID)
	}
	head, had := l.index.Head(r.Key)
	live := had && !head.Deleted
	delete(l.ttls, r.Key)
	if r.Deleted {
		l.index.Append(mvcc.Change{Item: mvcc.Item{Key: r.Key, ID: r.ID, Mod: r.Revision}, Deleted: true})
		return nil
	}
	i := mvcc.Item{Key: r.Key, ID: r.ID, Mod: r.Revision, Create: r.CreateRevision, CreateID: r.CreateID, Version: r.Version, Lease: r.Lease}
	switch {
	case r.Created:
		i.Create, i.CreateID, i.Version = r.Revision, r.ID, 1
	case live:
		i.Create, i.CreateID = head.Create, head.CreateID
	}
	if i.Version == 0 { // kine counts none
		i.Version = 2
		if live {
			i.Version = head.Version + 1
		}
		l.debts.rows = append(l.debts.rows, r.ID)
	}
	if r.TTL > 0 && r.Lease == 0 {
		i.Lease = adoptedLease + r.ID
		l.ttls[r.Key] = ttl{row: r.ID, seconds: r.TTL}
	}
	if i.Create <= 0 || i.Create > i.Mod {
		return fmt.Errorf("row %d of the table kine: create revision %d does not fit revision %d", r.ID, i.Create, i.Mod)
	}
	l.index.Append(mvcc.Change{Item: i})
	return nil
}

// noLease is an ID that no lease has.
const noLease = 0

// adopt stores a lease for each key that plain kine left with a time to live. It begins now, as it would in kine, and keeps its
// remaining time from now on. In any case it commits something: an engine before may have left rows that are visible here and
// not yet at the standby. WAL is a sequence, so that after this commit all that has been loaded is durable.
func (l *loader) adopt(ctx context.Context, store *kinetable.Store, now time.Duration) ([]lease.Lease, error) {
	var leases []lease.Lease
	var rows []kinetable.LeaseRow
	var fixes []kinetable.LeaseFix
	for _, t := range l.ttls {
		granted := lease.Lease{ID: adoptedLease + t.row, TTL: t.seconds, Expires: now + time.Duration(t.seconds)*time.Second}
		leases = append(leases, granted)
		rows = append(rows, kinetable.LeaseRow(granted))
		fixes = append(fixes, kinetable.LeaseFix{ID: t.row, Lease: granted.ID})
	}
	// The leases first: a row that names one which is not there would never expire.
	err := commit(ctx, store, kinetable.Batch{Leases: rows, Revoked: []int64{noLease}, LeaseClock: now})
	if err == nil && len(fixes) > 0 {
		err = store.Adopt(ctx, nil, fixes)
	}
	if err != nil {
		return nil, fmt.Errorf("make what was loaded durable: %w", err)
	}
	return leases, nil
}

// commit writes a batch and waits for it. If ctx ends first the store must be closed: only that ends the wait for PostgreSQL,
// which may wait for a standby.
func commit(ctx context.Context, store *kinetable.Store, b kinetable.Batch) error {
	if err := store.Write(b); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- store.Done() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
