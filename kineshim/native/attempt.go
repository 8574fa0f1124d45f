package native

import (
	"context"
	"slices"

	"kineshim/kineshim"
	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

var errDoneCompacted = kineshim.InDoubtForGood("the write was done, but what was before it is compacted")

// done is what became of a write that was attempted before.
type done struct {
	rows []kinetable.LoadedRow
	// before is the keyspace as the write found it.
	before view
}

func (d *done) revision() int64 { return d.rows[0].Revision }

// earlier says what an earlier attempt at a write has done: nil if there was none, or if it did nothing, which an attempt never
// comes to later: whoever repeats one knows that its engine has ended. What cannot be told any more is in doubt.
func (e *Engine) earlier(ctx context.Context) (*done, error) {
	a, ok := kineshim.AttemptOf(ctx)
	if !ok || !a.Again {
		return nil, nil
	}
	if err := e.usable(); err != nil {
		return nil, kineshim.InDoubt(e.reason())
	}
	rows, err := e.store.FindAttempt(ctx, a.After, a.ID)
	if err != nil {
		return nil, kineshim.InDoubt("whether an earlier attempt was done could not be read: " + err.Error())
	}
	compacted := e.compacted()
	if len(rows) == 0 {
		if compacted > 0 && e.index.LastID(compacted) > a.After {
			return nil, kineshim.InDoubtForGood("whether an earlier attempt was done is compacted")
		}
		return nil, nil
	}
	before := rows[0].Revision - 1
	if before < compacted {
		return nil, errDoneCompacted
	}
	return &done{rows: rows, before: view{k: e.keyspace, at: before, now: before, compacted: compacted, known: e.cached}}, nil
}

// putAgain is the answer to a put that was done.
func (e *Engine) putAgain(ctx context.Context, d *done, r *pb.PutRequest) (*pb.PutResponse, error) {
	response := &pb.PutResponse{Header: &pb.ResponseHeader{Revision: d.revision()}}
	if !r.PrevKv {
		return response, nil
	}
	kvs, err := e.previously(ctx, d, mvcc.Single(string(r.Key)))
	if err == nil && len(kvs) > 0 {
		response.PrevKv = kvs[0]
	}
	return response, err
}

// deleteAgain is the answer to a deletion that was done. In a transaction that has changed nothing before it, one that finds nothing says the
// revision from before.
func (e *Engine) deleteAgain(ctx context.Context, d *done, r *pb.DeleteRangeRequest, changed bool) (*pb.DeleteRangeResponse, error) {
	span := mvcc.SpanOf(r.Key, r.RangeEnd)
	response := &pb.DeleteRangeResponse{Header: &pb.ResponseHeader{Revision: d.revision()}, Deleted: d.before.count(span)}
	if response.Deleted == 0 && !changed {
		response.Header.Revision = d.before.at
	}
	var err error
	if r.PrevKv && response.Deleted > 0 {
		response.PrevKvs, err = e.previously(ctx, d, span)
	}
	return response, err
}

var errDoneUnanswered = kineshim.InDoubtForGood("the transaction was done, but what it answered cannot be told any more")

// txnAgain is the answer to a transaction that was done. Which branch it took follows from what it compared. If that reads, or changes
// what it has changed before, there is no telling what it saw: Kubernetes has no such branches.
func (e *Engine) txnAgain(ctx context.Context, d *done, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	release, err := e.holdBefore(d)
	if err != nil {
		return nil, err
	}
	defer release()
	w := e.work(0)
	p := w.compare(d.before, r)
	if len(w.missing) > 0 {
		kvs, err := e.values(ctx, w.missing)
		if err != nil {
			return nil, inDoubt(err)
		}
		for n, i := range w.missing {
			w.keep(i.ID, kvs[n])
		}
		p = w.compare(d.before, r)
	}
	response := &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: d.revision()}, Succeeded: p.succeeded}
	var changed []mvcc.Span
	for _, op := range p.branch(r) {
		one, span, err := e.opAgain(ctx, d, op, len(changed) > 0)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(changed, func(s mvcc.Span) bool { return overlap(s, span) }) {
			return nil, errDoneUnanswered
		}
		if one.GetResponseDeleteRange() == nil || one.GetResponseDeleteRange().Deleted > 0 {
			changed = append(changed, span)
		}
		response.Responses = append(response.Responses, one)
	}
	return response, nil
}

// opAgain is the answer to one operation of a transaction that was done, and what it was about.
func (e *Engine) opAgain(ctx context.Context, d *done, op *pb.RequestOp, changed bool) (*pb.ResponseOp, mvcc.Span, error) {
	if r := op.GetRequestPut(); r != nil {
		put, err := e.putAgain(ctx, d, r)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: put}}, mvcc.Single(string(r.Key)), err
	}
	if r := op.GetRequestDeleteRange(); r != nil {
		deleted, err := e.deleteAgain(ctx, d, r, changed)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: deleted}}, mvcc.SpanOf(r.Key, r.RangeEnd), err
	}
	return nil, mvcc.Span{}, errDoneUnanswered
}

// overlap says whether a key may be in both spans.
func overlap(a, b mvcc.Span) bool {
	return !a.Empty() && !b.Empty() && (a.Open || b.From < a.To) && (b.Open || a.From < b.To)
}

// previously is the keys of a span as the write found them.
func (e *Engine) previously(ctx context.Context, d *done, s mvcc.Span) ([]*mvccpb.KeyValue, error) {
	release, err := e.holdBefore(d)
	if err != nil {
		return nil, err
	}
	defer release()
	kvs, err := e.values(ctx, d.before.all(s))
	if err != nil {
		return nil, inDoubt(err)
	}
	return kvs, nil
}

// holdBefore keeps the rows of the keyspace as the write found it.
func (e *Engine) holdBefore(d *done) (release func(), err error) {
	release = e.hold()
	if d.before.at < e.compacted() {
		release()
		return nil, errDoneCompacted
	}
	return release, nil
}

// inDoubt is an error on the way to an answer about what was done.
func inDoubt(err error) error {
	return kineshim.InDoubt("the write was done, but its answer could not be made: " + err.Error())
}
