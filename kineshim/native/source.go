package native

import (
	"context"
	"fmt"
	"slices"
	"time"

	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/mvcc"
	"kineshim/kineshim/watch"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Watch serves one stream of watches.
func (k *keyspace) Watch(s pb.Watch_WatchServer) error { return k.hub.Serve(s) }

// source gives the hub what it has no longer, or never had, in memory.
type source struct{ k *keyspace }

// Compacted is the compacted revision.
func (s source) Compacted() int64 { return s.k.compacted() }

// Previous is a key as it was at a revision; nil if it was not there, or if that can no longer be said.
func (s source) Previous(ctx context.Context, key string, at int64) (*mvccpb.KeyValue, error) {
	release := s.k.hold()
	defer release()
	if at < s.k.compacted() {
		return nil, nil
	}
	i, ok := s.k.index.Get(key, at)
	if !ok {
		return nil, nil
	}
	kvs, err := s.k.values(ctx, []mvcc.Item{i})
	if err == nil {
		return kvs[0], nil
	}
	if unreadable(err) && s.k.ask != nil {
		if kv := s.k.askPrevious(ctx, i, at); kv != nil {
			return kv, nil
		}
	}
	return nil, notNow(err)
}

// askPreviousBound ends one question.
const askPreviousBound = 5 * time.Second

// askPrevious asks the primary for what this node's PostgreSQL cannot tell, as while it is being made anew: one event whose previous value is not in memory would
// hold up all that comes after it on its stream. Nil: the primary did not tell.
func (k *keyspace) askPrevious(ctx context.Context, i mvcc.Item, at int64) *mvccpb.KeyValue {
	ctx, cancel := context.WithTimeout(ctx, askPreviousBound)
	defer cancel()
	r, err := k.ask(ctx, &pb.RangeRequest{Key: []byte(i.Key), Revision: at})
	if err != nil || len(r.Kvs) != 1 || r.Kvs[0].ModRevision != i.Mod {
		return nil
	}
	return r.Kvs[0]
}

// History reads commits from the table. A commit is returned whole or not at all.
func (s source) History(ctx context.Context, after, upto int64, limit int) ([]watch.Commit, bool, error) {
	k := s.k
	release := k.hold()
	defer release()
	if after+1 < k.compacted() {
		return nil, false, rpctypes.ErrGRPCCompacted
	}
	from, to := k.index.LastID(after), k.index.LastID(upto)
	for {
		table := *k.rows.Load()
		rows, compacted, err := table.History(ctx, from, to, limit)
		if err != nil {
			return nil, false, notNow(table.fail(ctx, err))
		}
		compacted = max(compacted, k.compacted())
		if after+1 < compacted {
			// Rows may be missing. This copy will hear of the compaction, and then say so as etcd does.
			return nil, false, fmt.Errorf("%w: %w", watch.ErrNotNow, rpctypes.ErrGRPCCompacted)
		}
		more := len(rows) == limit && rows[limit-1].ID < to
		commits := s.commits(rows, compacted)
		if !more {
			return commits, false, nil
		}
		if n := len(commits) - 1; n > 0 {
			return commits[:n], true, nil // the last one may lack some of its events
		}
		limit *= 2
	}
}

// notNow marks the errors after which the table can be read again, by this engine or by whoever is next.
func notNow(err error) error {
	if unreadable(err) {
		return fmt.Errorf("%w: %w", watch.ErrNotNow, err)
	}
	return err
}

// commits groups rows by their revision.
func (s source) commits(rows []kinetable.HistoryRow, compacted int64) []watch.Commit {
	var commits []watch.Commit
	for i, r := range rows {
		if r.Revision == compacted && slices.ContainsFunc(rows[i+1:], func(later kinetable.HistoryRow) bool {
			return later.Revision == r.Revision && later.Key == r.Key
		}) {
			continue // changed again in the compacted revision: the row is garbage, deleted or not
		}
		if n := len(commits); n == 0 || commits[n-1].Revision != r.Revision {
			commits = append(commits, watch.Commit{Revision: r.Revision})
		}
		last := &commits[len(commits)-1]
		last.Events = append(last.Events, s.event(r, compacted))
	}
	return commits
}

// event is what happened to a key with a row. What plain kine does not write into a row, the index knows.
func (s source) event(r kinetable.HistoryRow, compacted int64) watch.Event {
	index := s.k.index
	event := watch.Event{ID: r.ID, Deleted: r.Deleted}
	if r.Deleted {
		event.Kv = &mvccpb.KeyValue{Key: []byte(r.Key), ModRevision: r.Revision}
	} else {
		i, ok := index.Get(r.Key, r.Revision)
		if !ok || i.ID != r.ID { // changed again within its own revision
			i = mvcc.Item{Key: r.Key, ID: r.ID, Mod: r.Revision, Create: r.CreateRevision, Version: max(r.Version, 1), Lease: r.Lease}
			if r.Created {
				i.Create = r.Revision
			}
		}
		event.Kv = keyValue(i, r.Value)
	}
	if before := r.Revision - 1; !r.Created && before >= compacted {
		// The row's old value is another's if the key changed twice in the revision: the hub asks for the right one then.
		if i, ok := index.Get(r.Key, before); ok && i.ID == r.PrevID {
			event.Prev, event.PrevID = keyValue(i, r.OldValue), i.ID
		}
	}
	return event
}
