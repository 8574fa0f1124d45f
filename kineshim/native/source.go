package native

import (
	"context"
	"slices"

	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/mvcc"
	"kineshim/kineshim/watch"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Watch serves one stream of watches.
func (e *Engine) Watch(s pb.Watch_WatchServer) error { return e.hub.Serve(s) }

// source gives the hub what it has no longer, or never had, in memory.
type source struct{ e *Engine }

// Compacted is the compacted revision.
func (s source) Compacted() int64 { return s.e.compacted() }

// Previous is a key as it was at a revision; nil if it was not there, or if that can no longer be said.
func (s source) Previous(ctx context.Context, key string, at int64) (*mvccpb.KeyValue, error) {
	release := s.e.hold()
	defer release()
	if at < s.e.compacted() {
		return nil, nil
	}
	i, ok := s.e.index.Get(key, at)
	if !ok {
		return nil, nil
	}
	kvs, err := s.e.values(ctx, []mvcc.Item{i})
	if err != nil {
		return nil, err
	}
	return kvs[0], nil
}

// History reads commits from the table. A commit is returned whole or not at all.
func (s source) History(ctx context.Context, after, upto int64, limit int) ([]watch.Commit, bool, error) {
	e := s.e
	release := e.hold()
	defer release()
	compacted := e.compacted()
	if after+1 < compacted {
		return nil, false, rpctypes.ErrGRPCCompacted
	}
	from, to := e.index.LastID(after), e.index.LastID(upto)
	for {
		rows, err := e.store.History(ctx, from, to, limit)
		if err != nil {
			return nil, false, e.tableError(ctx, err)
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
	index := s.e.index
	event := watch.Event{Deleted: r.Deleted}
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
