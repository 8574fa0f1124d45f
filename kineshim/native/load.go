package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"kineshim/kineshim/auth"
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

// load fills the keyspace from the whole table. forced: clients, and the copy that the other node has, may hold what this table never had, at revisions that
// it would use for something else.
func (e *Engine) load(ctx context.Context, forced bool) error {
	read := e.store.Load
	if forced {
		read = e.loadForked
	}
	l, meta, err := e.keyspace.load(ctx, read)
	if err != nil {
		return err
	}
	if e.store.Lineage() == 0 {
		if err := e.store.SetLineage(ctx, newLineage()); err != nil {
			return err
		}
	}
	e.lineage.Store(e.store.Lineage())
	if err := e.resume(meta); err != nil {
		return err
	}
	adopted, err := l.adopt(ctx, e.store, e.clock.now())
	if err != nil {
		return err
	}
	e.leases.Restore(adopted)
	return nil
}

// epochRevisions is how many revisions an epoch has, if it begins a history of its own: more than a cluster writes in its life, and few enough for 2¹⁷ epochs below
// 2⁵³, to which some clients count.
const epochRevisions = 1 << 36

// forkAt is where a history of its own begins that is served in the epoch. Two nodes that have gone on alone, each by an operator's word, may have the same epoch: so
// the place in it is random.
func forkAt(epoch uint64) int64 { return int64(epoch)*epochRevisions + rand.Int64N(epochRevisions/2) }

// loadForked is Load of a table whose history goes on as another one: ahead of all that clients may have seen of any other, so that their watches begin again and
// nothing that they know is taken for this history's. Raft never gives an epoch twice: so its number says where no other history is, however long they have
// been apart.
func (e *Engine) loadForked(ctx context.Context, each func(kinetable.LoadedRow) error) (kinetable.Meta, error) {
	meta, err := e.store.Load(ctx, each)
	if err != nil {
		return meta, err
	}
	forked, err := e.store.Fork(ctx, meta, newLineage(), max(forkAt(e.epoch), meta.Revision+revisionJump))
	if err == nil && forked.Revision != meta.Revision {
		e.log.Warn("an operator's decision, or one that is not known of any more, may have lost writes: revisions jump ahead of all that were seen, and watches begin again",
			"revision", meta.Revision, "now", forked.Revision)
	}
	return forked, err
}

// load fills an empty copy by what reads the table.
func (k *keyspace) load(ctx context.Context, read func(context.Context, func(kinetable.LoadedRow) error) (kinetable.Meta, error)) (*loader, kinetable.Meta, error) {
	l := &loader{index: k.index, log: k.log, said: time.Now(), ttls: map[string]ttl{}}
	meta, err := read(ctx, l.row)
	if err != nil {
		return nil, meta, err
	}
	if meta.LastID < k.index.HeadID() || meta.Revision < k.index.HeadRevision() {
		return nil, meta, fmt.Errorf("the table ends at row %d, revision %d, but holds row %d, revision %d",
			meta.LastID, meta.Revision, k.index.HeadID(), k.index.HeadRevision())
	}
	k.begin(meta)
	k.debts = l.debts
	return l, meta, nil
}

// resume continues the lease clock and access control where the engine before this one left them.
func (e *Engine) resume(meta kinetable.Meta) error {
	if meta.Access != nil {
		var err error
		if e.loaded, err = auth.Unmarshal(meta.Access); err != nil {
			return err
		}
	}
	e.clock = newLeaseClock(meta.LeaseClock)
	leases := make([]lease.Lease, 0, len(meta.Leases))
	for _, r := range meta.Leases {
		leases = append(leases, lease.Lease(r))
	}
	e.leases.Restart(e.clock.now, leases)
	return nil
}

const (
	// maxCaughtUp bounds the rows that are read on top of a copy, which are all in memory for a moment with their values. Beyond it the
	// whole table is loaded, without values.
	maxCaughtUp = 100_000
)

// errForeign is for a copy that is not a part of the table's history, or is too far behind.
var errForeign = errors.New("the copy in memory cannot be continued from the table")

// catchUp reads what the table has on top of the copy. Nothing of it is shown to anybody before it is durable: an engine before may have
// left rows that are visible here and not yet at the standby. After a failure the copy is as it was.
func (e *Engine) catchUp(ctx context.Context) error {
	k := e.keyspace
	if k.lineage.Load() != e.store.Lineage() {
		return fmt.Errorf("%w: the table has another history", errForeign)
	}
	var fresh []change
	at := kinetable.Position{ID: k.committedID.Load(), Revision: k.committed()}
	meta, err := e.store.LoadAfter(ctx, at, func(r kinetable.HistoryRow) error {
		if len(fresh) == maxCaughtUp {
			return fmt.Errorf("%w: more than %d rows", errForeign, maxCaughtUp)
		}
		fresh = append(fresh, changeOf(r))
		return nil
	})
	switch {
	case errors.Is(err, kinetable.ErrForeign):
		return fmt.Errorf("%w: %w", errForeign, err)
	case err != nil:
		return err
	}
	if err := e.resume(meta); err != nil {
		return err
	}
	if err := makeDurable(ctx, e.store, kinetable.Batch{Revoked: []int64{noLease}, LeaseClock: e.clock.now()}); err != nil {
		return err
	}
	x := extension{k: k}
	for _, c := range fresh {
		if err := x.append(c); err != nil {
			x.undo()
			return fmt.Errorf("%w: %w", errForeign, err)
		}
	}
	if meta.LastID < k.index.HeadID() || meta.Revision < k.index.HeadRevision() {
		x.undo()
		return fmt.Errorf("%w: the table ends at row %d, revision %d", errForeign, meta.LastID, meta.Revision)
	}
	k.index.Advance(meta.LastID, meta.Revision)
	x.id = meta.LastID
	x.commit(meta.Revision)
	k.setCompacted(meta)
	return nil
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
// not yet at the standby.
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
	if err := makeDurable(ctx, store, kinetable.Batch{Leases: rows, Revoked: []int64{noLease}, LeaseClock: now}); err != nil {
		return nil, err
	}
	if len(fixes) > 0 {
		if err := store.Adopt(ctx, nil, fixes); err != nil {
			return nil, fmt.Errorf("make what was loaded durable: %w", err)
		}
	}
	return leases, nil
}

// makeDurable commits a batch, and with it all that was visible before: WAL is a sequence.
func makeDurable(ctx context.Context, store *kinetable.Store, b kinetable.Batch) error {
	if err := commit(ctx, store, b); err != nil {
		return fmt.Errorf("make what was loaded durable: %w", err)
	}
	return nil
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
