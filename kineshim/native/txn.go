package native

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"

	"kineshim/kineshim"
	"kineshim/kineshim/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// valueTries bounds how often a transaction whose values were not in memory is tried again with values that were fetched. Each
// further try means that the values have changed again, and what is changed is in memory as a rule.
const valueTries = 10

// needValues is why a turn could not be taken: it needs values that are not in memory. Nothing was changed.
type needValues struct{ items []mvcc.Item }

func (*needValues) Error() string { return "the turn needs values that are not in memory" }

// path is which branches a transaction takes, of itself and of those within the branch taken, in their order.
type path struct {
	succeeded bool
	inner     []*path
}

func (p *path) branch(r *pb.TxnRequest) []*pb.RequestOp {
	if p.succeeded {
		return r.Success
	}
	return r.Failure
}

// work is one transaction (a put and a deletion are small ones) on its way through the sequencer.
type work struct {
	k    *keyspace
	e    *Engine // nil if the transaction only reads
	size int     // of the request, in bytes
	// fetched holds values that were not in memory at an earlier try, and those that a put keeps: what the cache lets go of
	// between the check and the put is still here. missing is what this try lacks.
	fetched map[int64]*mvccpb.KeyValue
	missing []mvcc.Item
	// deleted is what the transaction deletes before the operation that is checked.
	deleted []mvcc.Span
	// later is what is gathered after the turn.
	ranges    []ranged
	previous  []mvcc.Item
	giveBacks []func([]*mvccpb.KeyValue)
}

// work is a transaction of size bytes.
func (e *Engine) work(size int) *work { return &work{k: e.keyspace, e: e, size: size} }

// value is the value of an item; nil if it is not at hand, and noted as missing.
func (w *work) value(v view, i mvcc.Item) *mvccpb.KeyValue {
	if kv := w.fetched[i.ID]; kv != nil {
		return kv
	}
	if kv := v.known(i.ID); kv != nil {
		return kv
	}
	w.missing = append(w.missing, i)
	return nil
}

// needs is an error if values are missing.
func (w *work) needs() error {
	if len(w.missing) == 0 {
		return nil
	}
	return &needValues{items: w.missing}
}

func (w *work) keep(id int64, kv *mvccpb.KeyValue) {
	if w.fetched == nil {
		w.fetched = map[int64]*mvccpb.KeyValue{}
	}
	w.fetched[id] = kv
}

// turns submits do, again if values must be fetched first, and then gathers what the answer needs. do must not change anything
// before it has all values that it needs. The rows are held from before the turn to the end.
func (w *work) turns(ctx context.Context, do func(*turn) error) error {
	release := w.k.hold()
	defer release()
	for range valueTries {
		err := w.e.submitSized(ctx, w.size, do)
		var need *needValues
		if !errors.As(err, &need) {
			if err != nil {
				return err
			}
			return afterTurn(w.gather(ctx))
		}
		kvs, err := w.k.values(ctx, need.items)
		if err != nil {
			return err
		}
		for n, i := range need.items {
			w.keep(i.ID, kvs[n])
		}
		*w = work{k: w.k, e: w.e, size: w.size, fetched: w.fetched}
	}
	return kineshim.Unavailable("the values that the transaction compares change too fast to be read; nothing was done")
}

// afterTurn is an error that came when the turn was over: what it wrote is written.
func afterTurn(err error) error {
	if status.Code(err) == codes.Unavailable {
		return kineshim.InDoubt(status.Convert(err).Message())
	}
	return err
}

// gather fills in the values of what the turn found.
func (w *work) gather(ctx context.Context) error {
	for _, f := range w.ranges {
		if err := w.k.fill(ctx, f); err != nil {
			return err
		}
	}
	if len(w.previous) == 0 {
		return nil
	}
	kvs, err := w.k.values(ctx, w.previous)
	if err != nil {
		return err
	}
	for _, give := range w.giveBacks {
		give(kvs)
	}
	return nil
}

// giveBack has items handed to set, with their values, when the turn is over.
func (w *work) giveBack(items []mvcc.Item, set func([]*mvccpb.KeyValue)) {
	from := len(w.previous)
	w.previous = append(w.previous, items...)
	to := len(w.previous)
	w.giveBacks = append(w.giveBacks, func(all []*mvccpb.KeyValue) { set(all[from:to]) })
}

// compare finds the path. All compares, also of transactions within, see the keyspace before the first change. If values are
// missing it is not known to be right; all that it lacks has been noted then, so that one more try is enough as a rule.
func (w *work) compare(v view, r *pb.TxnRequest) *path {
	p := &path{succeeded: true}
	for _, c := range r.Compare {
		if !w.holds(v, c) {
			p.succeeded = false
			break
		}
	}
	for _, op := range p.branch(r) {
		if inner := op.GetRequestTxn(); inner != nil {
			p.inner = append(p.inner, w.compare(v, inner))
		}
	}
	return p
}

// holds says whether a compare holds for every key that it names, or for a key that is not there if it names none. It takes a
// missing value for one that holds.
func (w *work) holds(v view, c *pb.Compare) bool {
	holds, found := true, false
	v.each(mvcc.SpanOf(c.Key, c.RangeEnd), func(i mvcc.Item) bool {
		found = true
		if c.Target != pb.Compare_VALUE {
			holds = compareItem(c, i)
		} else if kv := w.value(v, i); kv != nil {
			holds = result(c.Result, bytes.Compare(kv.Value, c.GetValue()))
		}
		return holds
	})
	if !found {
		// The value of a key that is not there is not an empty one; everything else of it is 0.
		return c.Target != pb.Compare_VALUE && compareItem(c, mvcc.Item{})
	}
	return holds
}

func compareItem(c *pb.Compare, i mvcc.Item) bool {
	n := 0
	switch c.Target {
	case pb.Compare_CREATE:
		n = cmp.Compare(i.Create, c.GetCreateRevision())
	case pb.Compare_MOD:
		n = cmp.Compare(i.Mod, c.GetModRevision())
	case pb.Compare_VERSION:
		n = cmp.Compare(i.Version, c.GetVersion())
	case pb.Compare_LEASE:
		n = cmp.Compare(i.Lease, c.GetLease())
	}
	return result(c.Result, n)
}

func result(want pb.Compare_CompareResult, n int) bool {
	switch want {
	case pb.Compare_EQUAL:
		return n == 0
	case pb.Compare_NOT_EQUAL:
		return n != 0
	case pb.Compare_GREATER:
		return n > 0
	case pb.Compare_LESS:
		return n < 0
	}
	return true // etcd's answer to a result that it does not know
}

// check refuses what cannot be done, before anything is: the transaction is done as a whole or not at all.
func (w *work) check(v view, r *pb.TxnRequest, p *path) error {
	inner := p.inner
	for _, op := range p.branch(r) {
		var err error
		switch {
		case op.GetRequestRange() != nil:
			err = v.checkInTxn(op.GetRequestRange().Revision)
		case op.GetRequestPut() != nil:
			err = w.checkPut(v, op.GetRequestPut())
		case op.GetRequestDeleteRange() != nil:
			w.deleted = append(w.deleted, mvcc.SpanOf(op.GetRequestDeleteRange().Key, op.GetRequestDeleteRange().RangeEnd))
		case op.GetRequestTxn() != nil:
			err = w.check(v, op.GetRequestTxn(), inner[0])
			inner = inner[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkPut refuses a put that keeps what is not there, or will not be there any more (etcd panics then, where it does not see
// that the deletion and the put overlap), or that names a lease that is not there. It sees to it that the value that is kept is
// at hand.
func (w *work) checkPut(v view, r *pb.PutRequest) error {
	if r.IgnoreValue || r.IgnoreLease {
		i, ok := v.get(string(r.Key))
		if !ok || slices.ContainsFunc(w.deleted, func(s mvcc.Span) bool { return s.Contains(i.Key) }) {
			return rpctypes.ErrGRPCKeyNotFound
		}
		if r.IgnoreValue {
			if kv := w.value(v, i); kv != nil {
				w.keep(i.ID, kv)
			}
		}
	}
	if r.Lease != 0 {
		if _, _, ok := w.k.leases.Get(r.Lease); !ok {
			return rpctypes.ErrGRPCLeaseNotFound
		}
	}
	return nil
}

// execute does the branches of the path. now is the keyspace with the changes made so far; t makes them, and is nil if the path
// only reads.
func (w *work) execute(now func() view, t *turn, r *pb.TxnRequest, p *path) (*pb.TxnResponse, error) {
	ops := p.branch(r)
	response := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: p.succeeded, Responses: make([]*pb.ResponseOp, len(ops))}
	inner := p.inner
	for n, op := range ops {
		one := &pb.ResponseOp{}
		response.Responses[n] = one
		switch {
		case op.GetRequestRange() != nil:
			found, err := now().find(op.GetRequestRange())
			if err != nil {
				return nil, err
			}
			w.ranges = append(w.ranges, found)
			one.Response = &pb.ResponseOp_ResponseRange{ResponseRange: found.response}
		case op.GetRequestPut() != nil:
			put, err := w.put(t, op.GetRequestPut())
			if err != nil {
				return nil, err
			}
			one.Response = &pb.ResponseOp_ResponsePut{ResponsePut: put}
		case op.GetRequestDeleteRange() != nil:
			one.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: w.delete(t, op.GetRequestDeleteRange())}
		case op.GetRequestTxn() != nil:
			txn, err := w.execute(now, t, op.GetRequestTxn(), inner[0])
			if err != nil {
				return nil, err
			}
			inner = inner[1:]
			one.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: txn}
		}
	}
	return response, nil
}

// put writes one key; the request has been checked.
func (w *work) put(t *turn, r *pb.PutRequest) (*pb.PutResponse, error) {
	value, leaseID := r.Value, r.Lease
	v := t.view()
	response := &pb.PutResponse{Header: &pb.ResponseHeader{}}
	if r.IgnoreValue || r.IgnoreLease || r.PrevKv {
		i, ok := v.get(string(r.Key))
		if !ok && (r.IgnoreValue || r.IgnoreLease) {
			return nil, rpctypes.ErrGRPCKeyNotFound
		}
		if r.IgnoreValue {
			kv := w.value(v, i)
			if kv == nil {
				return nil, w.needs() // it has been checked
			}
			value = kv.Value
		}
		if r.IgnoreLease {
			leaseID = i.Lease
		}
		if r.PrevKv && ok {
			w.giveBack([]mvcc.Item{i}, func(kvs []*mvccpb.KeyValue) { response.PrevKv = kvs[0] })
		}
	}
	t.put(string(r.Key), value, leaseID)
	response.Header.Revision = t.revision()
	return response, nil
}

// delete deletes the keys of a span.
func (w *work) delete(t *turn, r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	response := &pb.DeleteRangeResponse{Header: &pb.ResponseHeader{}}
	items := t.view().all(mvcc.SpanOf(r.Key, r.RangeEnd))
	if r.PrevKv && len(items) > 0 {
		w.giveBack(items, func(kvs []*mvccpb.KeyValue) { response.PrevKvs = kvs })
	}
	for _, i := range items {
		t.delete(i)
	}
	response.Deleted = int64(len(items))
	response.Header.Revision = t.revision()
	return response
}

// onlyRanges says whether a transaction holds nothing but ranges. As in etcd, one that holds another transaction counts as a
// write, whatever that one does.
func onlyRanges(r *pb.TxnRequest) bool {
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if op.GetRequestRange() == nil {
				return false
			}
		}
	}
	return true
}
