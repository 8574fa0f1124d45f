package native

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"kineshim/kineshim/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// ranged is a range whose keys have been looked up and whose values have not.
type ranged struct {
	request  *pb.RangeRequest
	response *pb.RangeResponse
	items    []mvcc.Item
}

// find looks up what the request asks for. What its response lacks then is the values, and the cut to its limit if they are
// sorted by value.
func (v view) find(r *pb.RangeRequest) (ranged, error) {
	if err := v.check(r.Revision); err != nil {
		return ranged{}, err
	}
	if r.Revision > 0 {
		v.at = r.Revision
	}
	span := mvcc.SpanOf(r.Key, r.RangeEnd)
	found := ranged{request: r, response: &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: v.now}}}
	if r.CountOnly {
		found.response.Count = v.count(span)
		return found, nil
	}
	filter := filtered(r)
	whole := filter || r.Limit <= 0 || r.SortOrder != pb.RangeRequest_NONE
	v.each(span, func(i mvcc.Item) bool {
		found.items = append(found.items, i)
		return whole || int64(len(found.items)) <= r.Limit
	})
	found.response.Count = int64(len(found.items))
	if !whole && found.response.Count > r.Limit {
		found.response.Count = v.count(span)
	}
	if filter {
		found.items = slices.DeleteFunc(found.items, func(i mvcc.Item) bool { return excluded(r, i) })
	}
	if order := sortOrder(r); order != pb.RangeRequest_NONE && r.SortTarget != pb.RangeRequest_VALUE {
		sortItems(found.items, r.SortTarget, order)
	}
	if r.SortTarget != pb.RangeRequest_VALUE {
		found.items = cut(found.items, r.Limit, found.response)
	}
	return found, nil
}

func cut[T any](items []T, limit int64, response *pb.RangeResponse) []T {
	if limit > 0 && int64(len(items)) > limit {
		response.More = true
		return items[:limit]
	}
	return items
}

// fill gathers the values of a range that was found.
func (k *keyspace) fill(ctx context.Context, f ranged) error {
	if f.request.KeysOnly && f.request.SortTarget != pb.RangeRequest_VALUE {
		f.response.Kvs = make([]*mvccpb.KeyValue, len(f.items))
		for n, i := range f.items {
			f.response.Kvs[n] = keyValue(i, nil)
		}
		return nil
	}
	if len(f.items) == 0 {
		return nil
	}
	kvs, err := k.values(ctx, f.items)
	if err != nil {
		return err
	}
	if f.request.SortTarget == pb.RangeRequest_VALUE {
		sortValues(kvs, sortOrder(f.request))
		kvs = cut(kvs, f.request.Limit, f.response)
	}
	if f.request.KeysOnly {
		for n, kv := range kvs {
			bare := *kv // the cache's own is never changed
			bare.Value = nil
			kvs[n] = &bare
		}
	}
	f.response.Kvs = kvs
	return nil
}

func filtered(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

func excluded(r *pb.RangeRequest, i mvcc.Item) bool {
	return r.MaxModRevision != 0 && i.Mod > r.MaxModRevision || r.MinModRevision != 0 && i.Mod < r.MinModRevision ||
		r.MaxCreateRevision != 0 && i.Create > r.MaxCreateRevision || r.MinCreateRevision != 0 && i.Create < r.MinCreateRevision
}

// sortOrder is the order that is left to make: keys come in ascending order, and a target that is not the key is ascending
// unless the request says otherwise (etcd's executeRange).
func sortOrder(r *pb.RangeRequest) pb.RangeRequest_SortOrder {
	switch {
	case r.SortTarget != pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_NONE:
		return pb.RangeRequest_ASCEND
	case r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND:
		return pb.RangeRequest_NONE
	}
	return r.SortOrder
}

// sortItems sorts stably: what is equal stays in the order of the keys.
func sortItems(items []mvcc.Item, target pb.RangeRequest_SortTarget, order pb.RangeRequest_SortOrder) {
	by := func(a, b mvcc.Item) int { return cmp.Compare(a.Key, b.Key) }
	switch target {
	case pb.RangeRequest_VERSION:
		by = func(a, b mvcc.Item) int { return cmp.Compare(a.Version, b.Version) }
	case pb.RangeRequest_CREATE:
		by = func(a, b mvcc.Item) int { return cmp.Compare(a.Create, b.Create) }
	case pb.RangeRequest_MOD:
		by = func(a, b mvcc.Item) int { return cmp.Compare(a.Mod, b.Mod) }
	}
	slices.SortStableFunc(items, ordered(order, by))
}

func sortValues(kvs []*mvccpb.KeyValue, order pb.RangeRequest_SortOrder) {
	slices.SortStableFunc(kvs, ordered(order, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) }))
}

func ordered[T any](order pb.RangeRequest_SortOrder, by func(a, b T) int) func(a, b T) int {
	if order == pb.RangeRequest_DESCEND {
		return func(a, b T) int { return by(b, a) }
	}
	return by
}
