package watch

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

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
	// ID is the row that holds the change, PrevID the one that holds Prev; 0 if there is none. The hub only keeps them, for
	// Follow: to its watches, what is not a creation had something before.
	ID, PrevID int64
}

// Commit is all changes of one revision, in order.
type Commit struct {
	Revision int64
	Events   []Event
}

// ErrNotNow is what a Source's History and Previous return, wrapped or not, when they cannot answer at the moment but will again,
// such as during a failover. The hub goes on to ask.
var ErrNotNow = errors.New("the history cannot be read at the moment")

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

// retryPause is how long the hub waits before it asks a Source again that could not answer: a small part of a failover, and a load
// that nobody notices.
const retryPause = 20 * time.Millisecond

// pause waits for retryPause; false if ctx ends before.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(retryPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// entryOverhead is about what an event costs in memory besides its keys and values.
const entryOverhead = 300

// entry is an event as it is shared by all watchers. Only full changes.
type entry struct {
	// plain is the event as sent to watchers that do not want the previous value.
	plain mvccpb.Event
	prev  *mvccpb.KeyValue
	// id and prevID are the rows of the event and of prev.
	id, prevID int64
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
	// published is when; zero for one that was read from history.
	published time.Time
}

func newCommit(c Commit) *commit {
	made := &commit{revision: c.Revision, entries: make([]*entry, len(c.Events))}
	backing := make([]entry, len(c.Events))
	for i, event := range c.Events {
		e := &backing[i]
		e.plain.Kv, e.prev = event.Kv, event.Prev
		e.id, e.prevID = event.ID, event.PrevID
		if event.Deleted {
			e.plain.Type = mvccpb.DELETE
		}
		e.bytes = event.size()
		made.entries[i] = e
		made.bytes += e.bytes
	}
	return made
}

// size is about what the event takes, in memory and on the wire.
func (e *Event) size() int {
	n := entryOverhead + len(e.Kv.Key) + len(e.Kv.Value)
	if e.Prev != nil {
		n += len(e.Prev.Key) + len(e.Prev.Value)
	}
	return n
}

// event is the event as it was published.
func (e *entry) event() Event {
	return Event{Kv: e.plain.Kv, Prev: e.prev, Deleted: e.plain.Type == mvccpb.DELETE, ID: e.id, PrevID: e.prevID}
}

// with returns the event with the previous value. While the Source cannot answer it waits, until ctx ends.
func (e *entry) with(ctx context.Context, source Source) (*mvccpb.Event, error) {
	if e.creates() {
		return &e.plain, nil
	}
	if full := e.full.Load(); full != nil {
		return full, nil
	}
	prev := e.prev
	for prev == nil {
		var err error
		prev, err = source.Previous(ctx, string(e.key()), e.plain.Kv.ModRevision-1)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrNotNow) || !pause(ctx) {
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
