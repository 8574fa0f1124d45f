package watch

import (
	"context"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Event is one change of one key. What it points to is shared between goroutines and must never be changed.
type Event struct {
	// Kv is the key after the change. Of a deleted key it has Key and ModRevision only.
	Kv *mvccpb.KeyValue
	// Prev is the key before the change. Nil if there was none, or if it is not in memory; the Source is asked then, for the
	// watchers that want it.
	Prev *mvccpb.KeyValue
	// Deleted says that the change is a deletion.
	Deleted bool
	// PrevID is the row that holds Prev; 0 if there is none. The hub does not need it: what is not a creation had
	// something before.
	PrevID int64
}

// Commit is all changes of one revision, in order.
type Commit struct {
	Revision int64
	Events   []Event
}

// Source is what the hub asks for what is not in memory. Its methods are called from many goroutines, without any lock held;
// those with a context must return soon after it ends.
type Source interface {
	// History returns whole commits with after < Revision <= upto that have events, oldest first, at most about limit events
	// but never a part of a commit; more says whether there are further ones. It fails with rpctypes.ErrCompacted if
	// after+1 < Compacted().
	History(ctx context.Context, after, upto int64, limit int) (commits []Commit, more bool, err error)
	// Compacted is the compacted revision: a watch from there is allowed, one from before is not.
	Compacted() int64
	// Previous returns key as it was at the revision at; nil if it was not there, or if at is compacted.
	Previous(ctx context.Context, key string, at int64) (*mvccpb.KeyValue, error)
}

// entryOverhead is about what an event costs in memory besides its keys and values.
const entryOverhead = 300

// entry is an event as it is shared by all watchers. Only full changes.
type entry struct {
	// plain is the event as sent to watchers that do not want the previous value.
	plain mvccpb.Event
	prev  *mvccpb.KeyValue
	// full is the event with the previous value; nil until somebody wants it.
	full atomic.Pointer[mvccpb.Event]
	// bytes is about what the event takes, in memory and on the wire.
	bytes int
}

func (e *entry) key() []byte { return e.plain.Kv.Key }

// creates says that the event is a key's creation, before which there is nothing.
func (e *entry) creates() bool {
	return e.plain.Type == mvccpb.PUT && e.plain.Kv.CreateRevision == e.plain.Kv.ModRevision
}

// commit is a published commit. It never changes.
type commit struct {
	revision int64
	entries  []*entry
	bytes    int
}

func newCommit(c Commit) *commit {
	made := &commit{revision: c.Revision, entries: make([]*entry, len(c.Events))}
	backing := make([]entry, len(c.Events))
	for i, event := range c.Events {
		e := &backing[i]
		e.plain.Kv, e.prev = event.Kv, event.Prev
		if event.Deleted {
			e.plain.Type = mvccpb.DELETE
		}
		e.bytes = entryOverhead + len(event.Kv.Key) + len(event.Kv.Value)
		if event.Prev != nil {
			e.bytes += len(event.Prev.Key) + len(event.Prev.Value)
		}
		made.entries[i] = e
		made.bytes += e.bytes
	}
	return made
}

// with returns the event with the previous value.
func (e *entry) with(ctx context.Context, source Source) (*mvccpb.Event, error) {
	if e.creates() {
		return &e.plain, nil
	}
	if full := e.full.Load(); full != nil {
		return full, nil
	}
	prev := e.prev
	if prev == nil {
		var err error
		if prev, err = source.Previous(ctx, string(e.key()), e.plain.Kv.ModRevision-1); err != nil {
			return nil, err
		}
	}
	full := &mvccpb.Event{Type: e.plain.Type, Kv: e.plain.Kv, PrevKv: prev}
	e.full.Store(full)
	return full, nil
}

// part is the events of one commit that concern one span.
type part struct {
	commit  *commit
	entries []*entry
	bytes   int
}
