package native

import (
	"fmt"

	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/mvcc"
	"kineshim/kineshim/watch"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// change is one durable row that another engine has written.
type change struct {
	id      int64
	deleted bool
	kv      *mvccpb.KeyValue // of a deletion the key and the revision only
}

// changeOf is a row of the table.
func changeOf(r kinetable.HistoryRow) change {
	c := change{id: r.ID, deleted: r.Deleted, kv: &mvccpb.KeyValue{Key: []byte(r.Key), ModRevision: r.Revision}}
	if r.Deleted {
		return c
	}
	c.kv.Value, c.kv.Version, c.kv.Lease, c.kv.CreateRevision = r.Value, r.Version, r.Lease, r.CreateRevision
	if r.Created {
		c.kv.CreateRevision = r.Revision
	}
	return c
}

// extension collects changes that follow the committed ones, and then commits them all.
type extension struct {
	k       *keyspace
	commits []watch.Commit
	rows    []kinetable.Row // for a rollback
	id      int64
}

// append takes the next change. An error means that it does not continue what is here.
func (x *extension) append(c change) error {
	k, key, revision := x.k, string(c.kv.Key), c.kv.ModRevision
	if c.id <= k.index.HeadID() || revision < k.index.HeadRevision() || revision <= k.committed() {
		return fmt.Errorf("row %d of revision %d after row %d of revision %d", c.id, revision, k.index.HeadID(), k.index.HeadRevision())
	}
	head, had := k.index.Head(key)
	live := had && !head.Deleted
	event := watch.Event{ID: c.id, Kv: c.kv, Deleted: c.deleted}
	i := mvcc.Item{Key: key, ID: c.id, Mod: revision}
	switch {
	case c.deleted && !live:
		return fmt.Errorf("row %d deletes a key that is not there", c.id)
	case c.deleted:
	case live && c.kv.Version == head.Version+1 && c.kv.CreateRevision == head.Create:
		i.Create, i.CreateID, i.Version, i.Lease = head.Create, head.CreateID, c.kv.Version, c.kv.Lease
	case !live && c.kv.Version == 1 && c.kv.CreateRevision == revision:
		i.Create, i.CreateID, i.Version, i.Lease = revision, c.id, 1, c.kv.Lease
	default:
		return fmt.Errorf("row %d has version %d and create revision %d, after version %d", c.id, c.kv.Version, c.kv.CreateRevision, head.Version)
	}
	if live {
		event.PrevID = head.ID
		if head.Mod < revision {
			event.Prev, _ = k.cache.Get(head.ID)
		}
		if head.Lease != i.Lease && head.Lease != 0 {
			k.leases.Detach(head.Lease, key)
		}
	}
	if i.Lease != 0 && (!live || head.Lease != i.Lease) {
		k.leases.Attach(i.Lease, key)
	}
	k.index.Append(mvcc.Change{Item: i, Deleted: c.deleted})
	if !c.deleted {
		k.cache.Add(c.id, c.kv)
	}
	x.rows = append(x.rows, kinetable.Row{ID: c.id, Key: key})
	x.id = c.id
	if n := len(x.commits); n == 0 || x.commits[n-1].Revision != revision {
		x.commits = append(x.commits, watch.Commit{Revision: revision})
	}
	last := &x.commits[len(x.commits)-1]
	last.Events = append(last.Events, event)
	return nil
}

// commit makes the changes visible, up to a revision that is at least the last one's.
func (x *extension) commit(revision int64) {
	id := max(x.id, x.k.committedID.Load())
	x.k.commit(id, revision)
	x.k.hub.Publish(x.commits, revision)
}

// undo forgets the changes.
func (x *extension) undo() { x.k.rollback(x.rows) }
