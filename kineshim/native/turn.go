package native

import (
	"kineshim/kineshim/auth"
	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/lease"
	"kineshim/kineshim/mvcc"
	"kineshim/kineshim/watch"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// turn is what one operation may do to the keyspace when it is its turn. It belongs to the sequencer's evaluating goroutine and
// must not be used after the operation's function has returned.
type turn struct {
	e *Engine
	b *batch
	// op is whose turn it is.
	op *operation
	// begin is the revision before the turn; its changes get the next one.
	begin   int64
	changes int
	wrote   bool
	events  []watch.Event
}

// revision is what the response's header says after the changes made so far.
func (t *turn) revision() int64 {
	if t.changes > 0 {
		return t.begin + 1
	}
	return t.begin
}

// view is the keyspace with the changes made so far.
func (t *turn) view() view {
	return view{k: t.e.keyspace, at: t.revision(), now: t.revision(), compacted: t.e.seq.compacted, known: t.kv}
}

// kv is a value that is in memory, committed or not; nil if it is not.
func (t *turn) kv(id int64) *mvccpb.KeyValue {
	if kv, ok := t.e.cache.Get(id); ok {
		return kv
	}
	if kv := t.b.kv(id); kv != nil {
		return kv
	}
	t.e.seq.mu.Lock()
	defer t.e.seq.mu.Unlock()
	for _, b := range t.e.seq.flight {
		if kv := b.kv(id); kv != nil {
			return kv
		}
	}
	return nil
}

// kv is what the batch writes into the row with the ID; nil if the row is not in it, or a tombstone.
func (b *batch) kv(id int64) *mvccpb.KeyValue {
	if len(b.rows) == 0 || id < b.rows[0].ID || id > b.rows[len(b.rows)-1].ID {
		return nil
	}
	return b.kvs[id-b.rows[0].ID]
}

// put writes one key. The value is kept: nobody may change it afterwards.
func (t *turn) put(key string, value []byte, leaseID int64) {
	head, had := t.e.index.Head(key)
	i := mvcc.Item{Key: key, ID: t.e.index.HeadID() + 1, Mod: t.begin + 1, Lease: leaseID}
	row := kinetable.Row{ID: i.ID, Revision: i.Mod, Key: key, Value: value, Lease: leaseID}
	event := watch.Event{}
	if had && !head.Deleted {
		i.Create, i.CreateID, i.Version = head.Create, head.CreateID, head.Version+1
		row.CreateRevision, row.CreateID = i.Create, i.CreateID
		event.Prev, event.PrevID = t.previous(head.Item, &row), head.ID
	} else {
		i.Create, i.CreateID, i.Version = i.Mod, i.ID, 1
		row.Created = true
		if had {
			row.PrevID = head.ID
		}
	}
	row.Version = i.Version
	if head.Lease != leaseID {
		if head.Lease != 0 {
			t.e.leases.Detach(head.Lease, key)
		}
		if leaseID != 0 {
			t.e.leases.Attach(leaseID, key)
		}
	}
	if leaseID != 0 {
		if l, _, ok := t.e.leases.Get(leaseID); ok {
			row.TTL = l.TTL
		}
	}
	event.Kv = &mvccpb.KeyValue{
		Key: []byte(key), Value: value, CreateRevision: i.Create, ModRevision: i.Mod, Version: i.Version, Lease: leaseID,
	}
	t.append(mvcc.Change{Item: i}, row, event)
	t.e.cache.Add(i.ID, event.Kv)
}

// delete deletes a key that is live at the head.
func (t *turn) delete(item mvcc.Item) {
	i := mvcc.Item{Key: item.Key, ID: t.e.index.HeadID() + 1, Mod: t.begin + 1}
	row := kinetable.Row{ID: i.ID, Revision: i.Mod, Key: i.Key, Deleted: true}
	event := watch.Event{
		Deleted: true, PrevID: item.ID, Prev: t.previous(item, &row),
		Kv: &mvccpb.KeyValue{Key: []byte(i.Key), ModRevision: i.Mod},
	}
	if item.Lease != 0 {
		t.e.leases.Detach(item.Lease, item.Key)
	}
	t.append(mvcc.Change{Item: i, Deleted: true}, row, event)
}

// previous fills in what the row says of the one that it replaces, and returns that as it was if it is in memory. What is not is
// fetched by PostgreSQL, which has it: only a row of this very batch would not be there yet, and those are in memory. To
// watchers, what comes before a change is the key at the revision before: of a key that changes twice in one revision they
// ask for it.
func (t *turn) previous(head mvcc.Item, row *kinetable.Row) *mvccpb.KeyValue {
	row.PrevID = head.ID
	kv := t.kv(head.ID)
	if kv == nil {
		row.FetchOld = true
		return nil
	}
	row.OldValue = kv.Value
	if head.Mod > t.begin {
		return nil
	}
	return kv
}

func (t *turn) append(c mvcc.Change, row kinetable.Row, event watch.Event) {
	t.e.index.Append(c)
	event.ID, row.Attempt = c.ID, t.op.attempt
	t.b.rows = append(t.b.rows, row)
	if c.Deleted {
		t.b.kvs = append(t.b.kvs, nil)
	} else {
		t.b.kvs = append(t.b.kvs, event.Kv)
	}
	t.b.bytes += len(row.Key) + len(row.Value) + len(row.OldValue)
	t.events = append(t.events, event)
	t.changes++
	t.wrote = true
}

// end hands the turn's events to the batch, as one commit.
func (t *turn) end() {
	if t.changes > 0 {
		t.b.commits = append(t.b.commits, watch.Commit{Revision: t.begin + 1, Events: t.events})
	}
}

// saveLease stores a lease with the batch.
func (t *turn) saveLease(l lease.Lease) {
	row := kinetable.LeaseRow(l)
	t.lease(l.ID, &row)
}

// dropLease removes a stored lease with the batch.
func (t *turn) dropLease(id int64) { t.lease(id, nil) }

func (t *turn) lease(id int64, row *kinetable.LeaseRow) {
	if t.b.leases == nil {
		t.b.leases = map[int64]*kinetable.LeaseRow{}
	}
	t.b.leases[id] = row
	t.wrote = true
}

// changeAccess stores access control with the batch, as the next turn sees it.
func (t *turn) changeAccess(s *auth.State) error {
	wire, err := s.Marshal()
	if err != nil {
		return status.Error(codes.Internal, "etcdserver: "+err.Error())
	}
	t.e.seq.access, t.b.access, t.b.accessWire = s, s, wire
	t.wrote = true
	return nil
}

// compact moves the compacted revision with the batch.
func (t *turn) compact(revision int64) {
	t.e.seq.compacted = revision
	// kine leaves revisions out: the row of one that has none may be older.
	t.b.compacted, t.b.compactedID = revision, max(t.e.index.LastID(revision), revision, 1)
	t.wrote = true
}
