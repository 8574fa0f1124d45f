package native

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Range reads at the committed revision, or at an older one. The gate makes it linearizable.
func (e *Engine) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	if err := e.usable(); err != nil {
		return nil, err
	}
	release := e.hold()
	defer release()
	found, err := e.latest().find(r)
	if err != nil {
		return nil, err
	}
	if err := e.fill(ctx, found); err != nil {
		return nil, err
	}
	return found.response, nil
}

// Put writes one key.
func (e *Engine) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	if was, err := e.earlier(ctx); err != nil {
		return nil, err
	} else if was != nil {
		return e.putAgain(ctx, was, r)
	}
	if e.noSpace() {
		return nil, rpctypes.ErrGRPCNoSpace
	}
	if err := e.checkSize(r.Size()); err != nil {
		return nil, err
	}
	w := e.work(r.Size())
	var response *pb.PutResponse
	err := w.turns(ctx, func(t *turn) error {
		// etcd looks for the lease first.
		if r.Lease != 0 {
			if _, _, ok := e.leases.Get(r.Lease); !ok {
				return rpctypes.ErrGRPCLeaseNotFound
			}
		}
		err := w.checkPut(t.view(), r)
		if err == nil {
			err = w.needs()
		}
		if err == nil {
			response, err = w.put(t, r)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}

// DeleteRange deletes the keys of a span.
func (e *Engine) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	if was, err := e.earlier(ctx); err != nil {
		return nil, err
	} else if was != nil {
		return e.deleteAgain(ctx, was, r, false)
	}
	if err := e.checkSize(r.Size()); err != nil {
		return nil, err
	}
	w := e.work(r.Size())
	var response *pb.DeleteRangeResponse
	err := w.turns(ctx, func(t *turn) error {
		response = w.delete(t, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}

// Txn does a transaction. One that changes nothing in the committed keyspace is answered from there, without a turn: that is a
// point in the order like any other, and it spares the losers of a race the wait for a commit.
func (e *Engine) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := checkTxn(r, e.cfg.MaxTxnOps); err != nil {
		return nil, err
	}
	if err := checkOverlaps(r); err != nil {
		return nil, err
	}
	if was, err := e.earlier(ctx); err != nil {
		return nil, err
	} else if was != nil {
		return e.txnAgain(ctx, was, r)
	}
	if !onlyRanges(r) {
		if err := e.checkSize(r.Size()); err != nil {
			return nil, err
		}
		if e.noSpace() && putsSomething(r) {
			return nil, rpctypes.ErrGRPCNoSpace
		}
	}
	if err := e.usable(); err != nil {
		return nil, err
	}
	// Of a hot key's transactions, those that came before this one have lost, and wait.
	response, err := e.readTxn(ctx, r, e.seq.contention.contended)
	if response != nil || err != nil {
		return response, err
	}
	w := e.work(r.Size())
	err = w.turns(ctx, func(t *turn) error {
		v := t.view()
		p := w.compare(v, r)
		if err := w.needs(); err != nil {
			return err
		}
		if t.waits(r, p) {
			return errParked
		}
		err := w.check(v, r, p)
		if err == nil {
			err = w.needs()
		}
		if err == nil {
			response, err = w.execute(t.view, t, r, p)
		}
		if err == nil {
			response.Header.Revision = t.revision()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}

// readTxn answers a transaction from the committed keyspace if the branch that it takes there only reads. Otherwise, and if
// it needs values that are not in memory to tell or is about a key for which others wait, it returns nothing.
func (k *keyspace) readTxn(ctx context.Context, r *pb.TxnRequest, contended func(key string) bool) (*pb.TxnResponse, error) {
	release := k.hold()
	defer release()
	w := &work{k: k}
	v := k.latest()
	p := w.compare(v, r)
	if w.needs() != nil || !p.reads(r) {
		return nil, nil
	}
	if key, hot := hotKey(r); hot && contended(key) {
		return nil, nil
	}
	if err := w.check(v, r, p); err != nil {
		return nil, err
	}
	response, err := w.execute(func() view { return v }, nil, r, p)
	if err != nil {
		return nil, err
	}
	if err := w.gather(ctx); err != nil {
		return nil, err
	}
	response.Header.Revision = v.now
	return response, nil
}

// reads says whether the branches of the path only read.
func (p *path) reads(r *pb.TxnRequest) bool {
	inner := p.inner
	for _, op := range p.branch(r) {
		switch {
		case op.GetRequestRange() != nil:
		case op.GetRequestTxn() != nil:
			if !inner[0].reads(op.GetRequestTxn()) {
				return false
			}
			inner = inner[1:]
		default:
			return false
		}
	}
	return true
}

// compactionKey is where API servers agree on who of them compacts: without it, a full disk would stop what makes room.
const compactionKey = "compact_rev_key"

// putsSomething says whether any branch puts a key that takes room.
func putsSomething(r *pb.TxnRequest) bool {
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if p := op.GetRequestPut(); p != nil && string(p.Key) != compactionKey || op.GetRequestTxn() != nil && putsSomething(op.GetRequestTxn()) {
				return true
			}
		}
	}
	return false
}

// Compact makes everything below the revision unreadable at once, and deletes what nobody can read any more in the
// background; physical waits for that.
func (e *Engine) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	err := e.submit(ctx, func(t *turn) error {
		switch {
		case r.Revision <= e.seq.compacted:
			return rpctypes.ErrGRPCCompacted
		case r.Revision > t.begin:
			return rpctypes.ErrGRPCFutureRev
		}
		t.compact(r.Revision)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if r.Physical {
		if err := e.compaction.wait(ctx, e, r.Revision); err != nil {
			return nil, err
		}
	}
	return &pb.CompactionResponse{Header: e.header()}, nil
}
