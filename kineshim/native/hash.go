package native

import (
	"context"
	"encoding/binary"
	"hash"
	"hash/crc32"

	"kineshim/kineshim/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// hashRows bounds the rows that a hash or a snapshot has in memory at the same time: 192 MiB of the largest there are.
const hashRows = 128

// Hash is HashKV of now. etcd's covers more of its own files, and is for tests, as this one.
func (e *Engine) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	h, err := e.HashKV(ctx, &pb.HashKVRequest{})
	if err != nil {
		return nil, err
	}
	return &pb.HashResponse{Header: h.Header, Hash: h.Hash}, nil
}

// HashKV is a checksum of all that can be read of the revisions from the compacted one to the given one, 0 for the newest. It is
// the same on every node, however far a compaction has got with its rows: two hashes differ only if the revision, the compacted
// revision or the data do.
func (e *Engine) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	release := e.hold()
	defer release()
	v := e.latest()
	if err := v.check(r.Revision); err != nil {
		return nil, err
	}
	if r.Revision > 0 {
		v.at = r.Revision
	}
	h := newHasher()
	if r.Revision >= 0 { // etcd sees nothing at a negative revision
		if err := e.hashKept(ctx, h, v); err != nil {
			return nil, err
		}
		if err := e.hashHistory(ctx, h, v); err != nil {
			return nil, err
		}
	} else {
		v.at = r.Revision
	}
	return &pb.HashKVResponse{Header: e.header(), Hash: h.sum.Sum32(), CompactRevision: v.compacted, HashRevision: v.at}, nil
}

// hashKept takes in the keys that are live at the view's revision and older than its compacted one, in key order. Others that lived
// when it was compacted may be gone from the table, or not.
func (e *Engine) hashKept(ctx context.Context, h *hasher, v view) error {
	kept := func(i mvcc.Item) bool { return i.Mod <= v.compacted }
	err := e.stream(ctx, v.at, kept, func(i mvcc.Item, value []byte) error {
		h.change(keyValue(i, value), false)
		return nil
	})
	if err != nil {
		return e.tableError(ctx, err)
	}
	return nil
}

// hashHistory takes in all changes after the compacted revision up to the view's, in their order.
func (e *Engine) hashHistory(ctx context.Context, h *hasher, v view) error {
	after := max(v.compacted, 0)
	from, to := e.index.LastID(after), e.index.LastID(v.at)
	for from < to {
		rows, err := e.store.History(ctx, from, to, hashRows)
		if err != nil {
			return e.tableError(ctx, err)
		}
		for _, c := range (source{e.keyspace}).commits(rows, v.compacted) {
			for _, event := range c.Events {
				h.change(event.Kv, event.Deleted)
			}
		}
		if len(rows) < hashRows {
			return nil
		}
		from = rows[len(rows)-1].ID
	}
	return nil
}

// stream calls f with each key that is live at the revision, if want wants it, and its value, in key order. It goes past the cache
// without filling it. The caller has held the rows since before it chose the revision; the error is f's or the table's own.
func (e *Engine) stream(ctx context.Context, revision int64, want func(mvcc.Item) bool, f func(mvcc.Item, []byte) error) error {
	var err error
	var chunk []mvcc.Item
	flush := func() bool {
		var values map[int64][]byte
		if values, err = e.read(ctx, chunk); err != nil {
			return false
		}
		for _, i := range chunk {
			if err = f(i, values[i.ID]); err != nil {
				return false
			}
		}
		chunk = chunk[:0]
		return true
	}
	e.index.Ascend(mvcc.Span{Open: true}, revision, func(i mvcc.Item) bool {
		if want(i) {
			chunk = append(chunk, i)
		}
		return len(chunk) < hashRows || flush()
	})
	if err == nil && len(chunk) > 0 {
		flush()
	}
	return err
}

// read returns the values of the items by row ID, all of them or an error, and leaves the cache as it is.
func (e *Engine) read(ctx context.Context, items []mvcc.Item) (map[int64][]byte, error) {
	values := make(map[int64][]byte, len(items))
	ids := make([]int64, 0, len(items))
	for _, i := range items {
		if kv, ok := e.cache.Get(i.ID); ok {
			values[i.ID] = kv.Value
		} else {
			ids = append(ids, i.ID)
		}
	}
	if len(ids) == 0 {
		return values, nil
	}
	return values, e.store.Values(ctx, ids, func(id int64, value []byte) error {
		values[id] = value
		return nil
	})
}

// hasher is a CRC-32C, as etcd's, over changes in which every part says how long it is.
type hasher struct {
	sum hash.Hash32
	buf []byte // reused
}

func newHasher() *hasher { return &hasher{sum: crc32.New(crc32.MakeTable(crc32.Castagnoli))} }

// change takes in a change. Row IDs are no part of it: they are the table's own.
func (h *hasher) change(kv *mvccpb.KeyValue, deleted bool) {
	b := h.buf[:0]
	for _, n := range []int64{kv.ModRevision, kv.CreateRevision, kv.Version, kv.Lease, int64(len(kv.Key)), int64(len(kv.Value))} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if deleted {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = append(b, kv.Key...)
	h.buf = b
	h.sum.Write(b)
	h.sum.Write(kv.Value)
}
