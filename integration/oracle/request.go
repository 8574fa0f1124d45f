package oracle

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// resolve says what a number is now, in the reference's revisions. What comes from somewhere is never negative, and no revision
// is below 1.
func (r *run) resolve(n Rev) (int64, error) {
	if n.From == "" {
		return n.Plus, nil
	}
	v, err := r.from(n)
	if n.From == "cur" || n.From == "base" {
		return max(v, 1), err
	}
	return max(v, 0), err
}

func (r *run) from(n Rev) (int64, error) {
	switch n.From {
	case "cur":
		return r.current + n.Plus, nil
	case "base":
		return r.base + n.Plus, nil
	case "compacted":
		return r.pair.compacted + n.Plus, nil
	}
	if n.Key == "" {
		return n.Plus, nil
	}
	answer, err := call(r.pair.ref, r.pair.ref.kv.Range, &pb.RangeRequest{Key: []byte(n.Key), Serializable: true})
	if err != nil {
		return 0, fmt.Errorf("look %s up: %w", n.Key, err)
	}
	if len(answer.Kvs) == 0 {
		if n.From == "modOrCur" {
			return r.current + n.Plus, nil
		}
		return n.Plus, nil
	}
	switch kv := answer.Kvs[0]; n.From {
	case "mod", "modOrCur":
		return kv.ModRevision + n.Plus, nil
	case "create":
		return kv.CreateRevision + n.Plus, nil
	case "version":
		return kv.Version + n.Plus, nil
	}
	return 0, fmt.Errorf("a number from %q", n.From)
}

// builder makes requests for one system. Its first error stays.
type builder struct {
	run *run
	to  *system
	err error
}

func (b *builder) number(n Rev) int64 {
	v, err := b.run.resolve(n)
	if b.err == nil {
		b.err = err
	}
	return v
}

// revision is for fields that hold revisions.
func (b *builder) revision(n Rev) int64 {
	v := b.number(n)
	if n.From == "" {
		return v // as it is written
	}
	return b.to.numbers.fromRef(v)
}

func (b *builder) ranges(o *RangeOp) *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: []byte(o.Key), RangeEnd: []byte(o.End), Limit: o.Limit, Revision: b.revision(o.Revision),
		SortOrder: pb.RangeRequest_SortOrder(o.Order), SortTarget: pb.RangeRequest_SortTarget(o.Target),
		Serializable: o.Serializable, KeysOnly: o.KeysOnly, CountOnly: o.CountOnly,
		MinModRevision: b.revision(o.MinMod), MaxModRevision: b.revision(o.MaxMod),
		MinCreateRevision: b.revision(o.MinCreate), MaxCreateRevision: b.revision(o.MaxCreate),
	}
}

func (b *builder) put(o *PutOp) *pb.PutRequest {
	return &pb.PutRequest{
		Key: []byte(o.Key), Value: []byte(o.Value), Lease: b.to.id(o.Lease),
		PrevKv: o.PrevKv, IgnoreValue: o.IgnoreValue, IgnoreLease: o.IgnoreLease,
	}
}

func (b *builder) delete(o *DeleteOp) *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: []byte(o.Key), RangeEnd: []byte(o.End), PrevKv: o.PrevKv}
}

func (b *builder) txn(o *TxnOp) *pb.TxnRequest {
	t := &pb.TxnRequest{Success: b.ops(o.Then), Failure: b.ops(o.Else)}
	for range o.Times - 1 {
		t.Success = append(t.Success, b.ops(o.Then)...)
	}
	for i := range o.If {
		t.Compare = append(t.Compare, b.compare(&o.If[i]))
	}
	return t
}

func (b *builder) ops(ops []Op) []*pb.RequestOp {
	var out []*pb.RequestOp
	for _, o := range ops {
		op := &pb.RequestOp{}
		switch {
		case o.Range != nil:
			op.Request = &pb.RequestOp_RequestRange{RequestRange: b.ranges(o.Range)}
		case o.Put != nil:
			op.Request = &pb.RequestOp_RequestPut{RequestPut: b.put(o.Put)}
		case o.Delete != nil:
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: b.delete(o.Delete)}
		case o.Txn != nil:
			op.Request = &pb.RequestOp_RequestTxn{RequestTxn: b.txn(o.Txn)}
		}
		out = append(out, op)
	}
	return out
}

func (b *builder) compare(o *Compare) *pb.Compare {
	c := &pb.Compare{
		Key: []byte(o.Key), RangeEnd: []byte(o.End),
		Target: pb.Compare_CompareTarget(o.Target), Result: pb.Compare_CompareResult(o.Result),
	}
	union := o.Target
	if o.Union != 0 {
		union = o.Union - 1
	}
	switch pb.Compare_CompareTarget(union) {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: b.number(o.Number)}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: b.revision(o.Number)}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: b.revision(o.Number)}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: []byte(o.Value)}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: b.to.id(o.Lease)}
	}
	return c
}

// unary prepares a call for one system; nil if the operation is none.
func (b *builder) unary(o Op) func() outcome {
	s := b.to
	switch {
	case o.Range != nil:
		return unary(s, s.kv.Range, b.ranges(o.Range))
	case o.Put != nil:
		return unary(s, s.kv.Put, b.put(o.Put))
	case o.Delete != nil:
		return unary(s, s.kv.DeleteRange, b.delete(o.Delete))
	case o.Txn != nil:
		return unary(s, s.kv.Txn, b.txn(o.Txn))
	case o.Compact != nil:
		return unary(s, s.kv.Compact, &pb.CompactionRequest{Revision: b.revision(o.Compact.Revision), Physical: o.Compact.Physical})
	case o.Grant != nil:
		return b.grant(o.Grant)
	case o.Revoke != nil:
		return unary(s, s.lease.LeaseRevoke, &pb.LeaseRevokeRequest{ID: s.id(o.Revoke.ID)})
	case o.TimeToLive != nil:
		return unary(s, s.lease.LeaseTimeToLive, &pb.LeaseTimeToLiveRequest{ID: s.id(o.TimeToLive.ID), Keys: o.TimeToLive.Keys})
	case o.KeepAlive != nil:
		id := s.id(o.KeepAlive.ID)
		return func() outcome { return s.keepAlive(id) }
	case o.Leases != nil:
		return unary(s, s.lease.LeaseLeases, &pb.LeaseLeasesRequest{})
	}
	return nil
}

// grant notes the ID that the endpoint has chosen.
func (b *builder) grant(o *GrantOp) func() outcome {
	s := b.to
	name := o.ID
	if name == 0 {
		name = chosenByServer
	}
	if name > chosenByServer {
		return unary(s, s.lease.LeaseGrant, &pb.LeaseGrantRequest{ID: int64(o.ID), TTL: o.TTL})
	}
	return func() outcome {
		answer, err := call(s, s.lease.LeaseGrant, &pb.LeaseGrantRequest{TTL: o.TTL})
		if err == nil {
			s.chosen[name], s.names[answer.ID] = answer.ID, name
		}
		return outcome{answer, err}
	}
}
