package native

import (
	"context"

	"kineshim/kineshim/mvcc"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// fetchAtOnce bounds the values that one query asks for, and with it its memory on both sides.
const fetchAtOnce = 1000

// view is the keyspace at a revision.
type view struct {
	k *keyspace
	// at is the revision that is seen, now the one that headers say, compacted the one below which nothing may be read.
	at, now, compacted int64
	// known returns values that are in memory.
	known func(id int64) *mvccpb.KeyValue
}

// latest is the committed keyspace. The caller holds the rows.
func (k *keyspace) latest() view {
	// compacted is never ahead of committed: the order of these two reads, and of the stores when a batch is durable, keeps it so.
	compacted := k.compacted()
	now := k.committed()
	return view{k: k, at: now, now: now, compacted: compacted, known: k.cached}
}

func (k *keyspace) cached(id int64) *mvccpb.KeyValue {
	kv, _ := k.cache.Get(id)
	return kv
}

// check says why a range at the revision cannot be answered; 0 and less is the newest.
func (v view) check(revision int64) error {
	switch {
	case revision > v.now:
		return rpctypes.ErrGRPCFutureRev
	case revision > 0 && revision < v.compacted:
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

// checkInTxn is check for a range in a transaction, where etcd takes only 0 for the newest.
func (v view) checkInTxn(revision int64) error {
	if revision < 0 && revision < v.compacted {
		return rpctypes.ErrGRPCCompacted
	}
	return v.check(revision)
}

func (v view) get(key string) (mvcc.Item, bool) { return v.k.index.Get(key, v.at) }

// each calls f for the live keys of the span in order until it returns false.
func (v view) each(s mvcc.Span, f func(mvcc.Item) bool) {
	if key, ok := s.Single(); ok {
		if i, ok := v.get(key); ok {
			f(i)
		}
		return
	}
	v.k.index.Ascend(s, v.at, f)
}

// all is the live keys of the span in order.
func (v view) all(s mvcc.Span) []mvcc.Item {
	var items []mvcc.Item
	v.each(s, func(i mvcc.Item) bool {
		items = append(items, i)
		return true
	})
	return items
}

func (v view) count(s mvcc.Span) int64 {
	if key, ok := s.Single(); ok {
		if _, ok := v.get(key); ok {
			return 1
		}
		return 0
	}
	return v.k.index.Count(s, v.at)
}

// keyValue is the item with a value.
func keyValue(i mvcc.Item, value []byte) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: []byte(i.Key), Value: value, CreateRevision: i.Create, ModRevision: i.Mod, Version: i.Version, Lease: i.Lease,
	}
}

// values returns the items with their values, in order, from memory or from the table: all, or an error. The caller has held
// the rows since before it looked the items up.
func (k *keyspace) values(ctx context.Context, items []mvcc.Item) ([]*mvccpb.KeyValue, error) {
	kvs := make([]*mvccpb.KeyValue, len(items))
	var ids []int64
	var missing map[int64]int
	for n, i := range items {
		kv, ok := k.cache.Get(i.ID)
		if !ok {
			if missing == nil {
				missing = map[int64]int{}
			}
			missing[i.ID] = n
			ids = append(ids, i.ID)
			continue
		}
		kvs[n] = kv
	}
	for len(ids) > 0 {
		n := min(len(ids), fetchAtOnce)
		table := *k.rows.Load()
		err := table.Values(ctx, ids[:n], func(id int64, value []byte) error {
			at := missing[id]
			kvs[at] = keyValue(items[at], value)
			k.cache.Add(id, kvs[at])
			return nil
		})
		if err != nil {
			return nil, table.fail(ctx, err)
		}
		ids = ids[n:]
	}
	for n, kv := range kvs {
		if kv == nil { // twice in items
			kvs[n] = kvs[missing[items[n].ID]]
		}
	}
	return kvs, nil
}
