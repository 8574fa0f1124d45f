package native

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/pkg/v3/adt"
)

// checkRange, checkPut, checkDelete and checkTxn refuse what etcd's v3rpc layer refuses, in its order.
func checkRange(r *pb.RangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if _, ok := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	if _, ok := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDelete(r *pb.DeleteRangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkTxn checks a transaction and all below it. Each level takes its largest list from the operations that are allowed.
func checkTxn(r *pb.TxnRequest, maxOps int) error {
	ops := max(len(r.Compare), len(r.Success), len(r.Failure))
	if ops > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if err := checkOp(op, maxOps-ops); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch {
	case op.GetRequestRange() != nil:
		return checkRange(op.GetRequestRange())
	case op.GetRequestPut() != nil:
		return checkPut(op.GetRequestPut())
	case op.GetRequestDeleteRange() != nil:
		return checkDelete(op.GetRequestDeleteRange())
	case op.GetRequestTxn() != nil:
		return checkTxn(op.GetRequestTxn(), maxOps)
	}
	return rpctypes.ErrGRPCKeyNotFound // etcd's answer to an operation that is none
}

// checkOverlaps refuses a transaction that puts a key twice, or puts and deletes it, as far as etcd refuses it: not, for
// instance, if the deletion has no end, or if it stands in a later branch than the put.
func checkOverlaps(r *pb.TxnRequest) error {
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if len(branch) == 1 && branch[0].GetRequestTxn() == nil {
			continue
		}
		if _, _, err := overlaps(branch); err != nil {
			return err
		}
	}
	return nil
}

// overlaps returns the keys that a branch puts and the intervals that it deletes.
func overlaps(ops []*pb.RequestOp) (map[string]bool, adt.IntervalTree, error) {
	deletes := adt.NewIntervalTree()
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			deletes.Insert(interval(d), struct{}{})
		}
	}
	puts := map[string]bool{}
	refuse := func(key string) bool { return deletes.Intersects(adt.NewStringAffinePoint(key)) }
	for _, op := range ops {
		inner := op.GetRequestTxn()
		if inner == nil {
			continue
		}
		thenPuts, thenDeletes, err := overlaps(inner.Success)
		if err != nil {
			return nil, nil, err
		}
		elsePuts, elseDeletes, err := overlaps(inner.Failure)
		if err != nil {
			return nil, nil, err
		}
		for key := range thenPuts {
			if puts[key] || refuse(key) {
				return nil, nil, rpctypes.ErrGRPCDuplicateKey
			}
			puts[key] = true
		}
		for key := range elsePuts {
			// Only one of the two branches is taken: both may put the key.
			if puts[key] && !thenPuts[key] || refuse(key) {
				return nil, nil, rpctypes.ErrGRPCDuplicateKey
			}
			puts[key] = true
		}
		everything := adt.NewStringAffineInterval("\x00", "")
		deletes.Union(thenDeletes, everything)
		deletes.Union(elseDeletes, everything)
	}
	for _, op := range ops {
		p := op.GetRequestPut()
		if p == nil {
			continue
		}
		if key := string(p.Key); puts[key] || refuse(key) {
			return nil, nil, rpctypes.ErrGRPCDuplicateKey
		} else {
			puts[key] = true
		}
	}
	return puts, deletes, nil
}

func interval(d *pb.DeleteRangeRequest) adt.Interval {
	if len(d.RangeEnd) != 0 {
		return adt.NewStringAffineInterval(string(d.Key), string(d.RangeEnd))
	}
	return adt.NewStringAffinePoint(string(d.Key))
}

// raftOverhead is what etcd's size limit counts besides the request: the envelope in which Raft carries it, with a 64-bit ID.
const raftOverhead = 14

// checkSize refuses a write that is larger than etcd would take.
func (e *Engine) checkSize(size int) error {
	if size+raftOverhead > e.cfg.MaxRequestBytes {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}
