package native

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"kineshim/kineshim/auth"
	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/lease"
	"kineshim/kineshim/mvcc"
	"kineshim/kineshim/valuecache"
	"kineshim/kineshim/watch"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// keyspace is one node's copy of the keys: the index, values as far as they are in memory, and the watches. It outlives the engines
// that extend it, and the following of another node's in between. One at a time extends it: an engine's sequencer, or a follower.
//
// Everything up to the committed revision is durable for good and has been published; only an engine appends more to the index, of which
// rollback makes an end.
type keyspace struct {
	// lineage names the history of which this is a copy, as the table does; 0: it has no name yet.
	lineage atomic.Int64
	index   *mvcc.Index
	cache   *valuecache.Cache
	hub     *watch.Hub
	// leases has all attachments of keys; the leases themselves only while an engine serves.
	leases *lease.Book
	// access says who may do what, as of the last change that is durable.
	access atomic.Pointer[auth.State]
	// ahead is primaryAhead's; 0 on the primary.
	ahead atomic.Int64
	holds holds
	log   *slog.Logger
	// rows is where values and history are read.
	rows atomic.Pointer[rows]
	// ask is Config.AskPrimary.
	ask func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error)
	// debts belongs to the compactor, or while no engine serves to nobody.
	debts debts

	// committedRev is the newest durable revision and committedID its last row, compactedRev the revision below which reads are refused,
	// -1 for none; sweptRev is the one to which the rows have been deleted.
	committedRev, committedID, compactedRev, sweptRev atomic.Int64

	mu       sync.Mutex    // guards advanced
	advanced chan struct{} // closed when the committed revision moves; nil: nobody waits
	// gone is closed when the copy is given up.
	gone     chan struct{}
	giveUp   sync.Once
	watchCfg watch.Config
}

// rows reads the table, for an engine or for a copy beside a standby.
type rows interface {
	// Values is kinetable.Store's.
	Values(ctx context.Context, ids []int64, each func(id int64, value []byte) error) error
	// History is kinetable.Store's, with a compacted revision below which rows may be missing.
	History(ctx context.Context, afterID, uptoID int64, limit int) (found []kinetable.HistoryRow, compacted int64, err error)
	// fail is what whoever asked is told of an error of the other two.
	fail(ctx context.Context, err error) error
}

// newKeyspace returns an empty copy, which must be loaded before begin.
func newKeyspace(c Config, log *slog.Logger) *keyspace {
	k := &keyspace{index: mvcc.New(), cache: valuecache.New(c.CacheBytes), log: log, ask: c.AskPrimary, gone: make(chan struct{})}
	k.leases = lease.New(func() time.Duration { return 0 })
	k.access.Store(auth.New())
	k.watchCfg = watch.Config{
		Source: source{k}, Committed: k.committed, Permit: k.permitWatch, ProgressEvery: c.WatchProgressEvery, MaxRequestBytes: c.MaxRequestBytes, Log: log,
		Lag: c.Measures.WatchLag,
	}
	return k
}

// newLineage is never 0.
func newLineage() int64 { return rand.Int64() | 1 }

// begin makes a copy that has been loaded ready to be read and watched.
func (k *keyspace) begin(meta kinetable.Meta) {
	k.index.Advance(meta.LastID, meta.Revision)
	k.index.Compacted(meta.Compacted)
	k.committedID.Store(meta.LastID)
	k.committedRev.Store(meta.Revision)
	k.setCompacted(meta)
	k.sweptRev.Store(-1)
	k.index.AscendHead(mvcc.Span{Open: true}, func(i mvcc.Item) bool {
		if i.Lease != 0 {
			k.leases.Attach(i.Lease, i.Key)
		}
		return true
	})
	k.watchCfg.Revision = meta.Revision
	k.hub = watch.NewHub(k.watchCfg)
}

func (k *keyspace) setCompacted(meta kinetable.Meta) {
	if meta.Untouched {
		k.compactedRev.Store(-1) // etcd's: even revision 0 can be compacted once
		return
	}
	k.compactedRev.Store(meta.Compacted)
}

// committed is the newest durable revision.
func (k *keyspace) committed() int64 { return k.committedRev.Load() }

// compacted is the revision below which reads are refused, -1 for none.
func (k *keyspace) compacted() int64 { return k.compactedRev.Load() }

// hold keeps every row that is readable at or after the compacted revision of now, until release is called.
func (k *keyspace) hold() (release func()) {
	g := k.holds.enter()
	return func() { k.holds.leave(g) }
}

// commit makes what has been appended up to a row and revision visible, and publishes it. It is called in order, never concurrently.
func (k *keyspace) commit(id, revision int64) {
	k.committedID.Store(id)
	k.committedRev.Store(revision)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.advanced != nil {
		close(k.advanced)
		k.advanced = nil
	}
}

// reach waits until a revision is committed here. It returns ctx's error, or errGone when the copy has been given up.
func (k *keyspace) reach(ctx context.Context, revision int64) error {
	for k.committed() < revision {
		k.mu.Lock()
		if k.advanced == nil {
			k.advanced = make(chan struct{})
		}
		advanced := k.advanced
		k.mu.Unlock()
		if k.committed() >= revision { // moved before the channel was there
			break
		}
		select {
		case <-advanced:
		case <-k.gone:
			return errGone
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// rollback forgets what an engine that has ended appended and did not commit. What of it is in the table all the same is read from
// there again, by whoever serves next.
func (k *keyspace) rollback(lost []kinetable.Row) {
	keys := make([]string, 0, len(lost))
	seen := make(map[string]struct{}, len(lost))
	for _, r := range lost {
		k.cache.Remove(r.ID) // another row will have the ID
		if _, twice := seen[r.Key]; !twice {
			seen[r.Key] = struct{}{}
			keys = append(keys, r.Key)
		}
	}
	for _, key := range keys {
		if head, ok := k.index.Head(key); ok && !head.Deleted && head.Lease != 0 {
			k.leases.Detach(head.Lease, key)
		}
	}
	k.index.Rollback(k.committedID.Load(), k.committed(), keys)
	for _, key := range keys {
		if head, ok := k.index.Head(key); ok && !head.Deleted && head.Lease != 0 {
			k.leases.Attach(head.Lease, key)
		}
	}
}

// prune forgets the rows that have been deleted from the table because nobody may read them after the revision.
func (k *keyspace) prune(dead []mvcc.Dead) {
	k.index.Prune(dead)
	for _, d := range dead {
		k.cache.Remove(d.ID)
	}
}

// abandon gives the copy up: its watches end, and their clients begin them again with the next one.
func (k *keyspace) abandon() {
	k.giveUp.Do(func() {
		close(k.gone)
		if k.hub != nil {
			k.hub.Close()
		}
	})
}
