package kineshim

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// kind says what may be done about a call whose outcome is not known.
type kind uint8

const (
	// writes: nothing, the client is told.
	writes kind = iota
	// reads: it is repeated, since it changes nothing. It ends with its client; all others run on to their end.
	reads
	// proves: the store can tell what became of it, once it can come into effect no more.
	proves
	// forgets: it is repeated, since nobody knows of what an attempt before has made, and that goes by itself.
	forgets
)

// kinds are the methods that are not all writes.
var kinds = map[string]kind{
	"/etcdserverpb.KV/Range":              reads,
	"/etcdserverpb.KV/Put":                proves,
	"/etcdserverpb.KV/DeleteRange":        proves,
	"/etcdserverpb.KV/Txn":                proves, // or reads
	"/etcdserverpb.Lease/LeaseTimeToLive": reads,
	"/etcdserverpb.Lease/LeaseLeases":     reads,
	"/etcdserverpb.Cluster/MemberList":    reads,
	"/etcdserverpb.Maintenance/Status":    reads,
	"/etcdserverpb.Maintenance/Hash":      reads,
	"/etcdserverpb.Maintenance/HashKV":    reads,
	"/etcdserverpb.Auth/Authenticate":     reads,
	"/etcdserverpb.Auth/AuthStatus":       reads,
	"/etcdserverpb.Auth/UserGet":          reads,
	"/etcdserverpb.Auth/UserList":         reads,
	"/etcdserverpb.Auth/RoleGet":          reads,
	"/etcdserverpb.Auth/RoleList":         reads,
}

// call is one unary call of a client, through all attempts at it. It belongs to the goroutine of the request.
type call struct {
	req     any
	method  string
	handler grpc.UnaryHandler
	kind    kind
	// copyable: a copy can answer it, if it is new enough; serializable: it need not be.
	copyable, serializable bool
	// epoch is that of the primary that is meant, if the call was forwarded; 0: any.
	epoch   uint64
	attempt Attempt
	visit   visit

	// Of the last attempt that went anywhere: the session, if it was this node's, and the epoch.
	session *session
	ranIn   uint64
	// unknown: an attempt may have been done, and none since has told. It is never true of a read.
	unknown bool
	// header and trailer are the primary's, if the last attempt was forwarded.
	header, trailer metadata.MD
}

// newCall is a call that arrives now.
func (e *Endpoint) newCall(req any, method string, handler grpc.UnaryHandler) call {
	c := call{req: req, method: method, handler: handler, kind: kinds[method], visit: e.visit(req)}
	switch r := req.(type) {
	case *etcdserverpb.RangeRequest:
		c.copyable, c.serializable = true, r.Serializable
	case *etcdserverpb.TxnRequest:
		if changes(r) {
			break
		}
		c.kind, c.copyable, c.serializable = reads, true, serializable(r)
	case *etcdserverpb.LeaseGrantRequest:
		if r.ID == 0 {
			c.kind = forgets
		}
	}
	return c
}

// changes says whether a transaction could change something.
func changes(r *etcdserverpb.TxnRequest) bool {
	return anyOp(r, func(op *etcdserverpb.RequestOp) bool {
		return op.GetRequestPut() != nil || op.GetRequestDeleteRange() != nil
	})
}

// serializable says whether all that a transaction reads may be old. It compares with what may be old, then.
func serializable(r *etcdserverpb.TxnRequest) bool {
	ranges := false
	return !anyOp(r, func(op *etcdserverpb.RequestOp) bool {
		ranges = ranges || op.GetRequestRange() != nil
		return op.GetRequestRange() != nil && !op.GetRequestRange().Serializable
	}) && ranges
}

// anyOp says whether there is such an operation in a transaction, or in one within it.
func anyOp(r *etcdserverpb.TxnRequest, such func(*etcdserverpb.RequestOp) bool) bool {
	for _, branch := range [2][]*etcdserverpb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if inner := op.GetRequestTxn(); such(op) || inner != nil && anyOp(inner, such) {
				return true
			}
		}
	}
	return false
}

// answerClient answers a client's call. If nobody can now, or what became of an attempt is not known, it waits as far as that helps.
func (e *Endpoint) answerClient(ctx context.Context, c *call) (any, error) {
	if c.kind == proves {
		c.attempt = e.newAttempt()
	}
	response, err := e.try(ctx, c)
	if NotDone(err) || doubtful(err) {
		response, err = e.persist(ctx, c, err)
	}
	e.room.leave(&c.visit)
	c.passBack(ctx)
	return response, err
}

// try is one attempt at a call.
func (e *Endpoint) try(ctx context.Context, c *call) (any, error) {
	route := e.opt.Router.Route()
	copyable := c.copyable && e.opt.Replica != nil
	switch {
	case route.Local:
		response, err := e.answer(ctx, c)
		if copyable && c.serializable && NotDone(err) {
			return e.answerFromCopy(ctx, c, route)
		}
		return response, err
	case copyable && (c.serializable || route.Target != ""):
		return e.answerFromCopy(ctx, c, route)
	case route.Target != "":
		return e.forward(ctx, c, route)
	}
	return nil, Unavailable(noRoute(route))
}

// persist goes on with a call whose attempt came to err, until it is answered or its time is over.
func (e *Endpoint) persist(ctx context.Context, c *call, err error) (any, error) {
	for {
		var due func(place) bool
		if doubtful(err) {
			c.unknown = c.kind != reads
			if c.kind == writes || c.kind == proves && c.attempt.ID == 0 || forGood(err) {
				return nil, e.ended(c, err)
			}
			if c.kind == proves {
				due = over(c.session, c.ranIn)
			}
		}
		gaveUp := e.room.wait(ctx, &c.visit, due)
		if gaveUp == nil {
			gaveUp = e.room.comeBack(ctx, &c.visit)
		}
		if gaveUp != nil {
			return nil, e.ended(c, c.visit.refuse(err, c.unknown, gaveUp))
		}
		switch {
		case due != nil:
			c.attempt.Again = true
		case c.kind == proves && c.attempt.ID == 0: // nothing was begun yet, and there may be a copy by now
			c.attempt = e.newAttempt()
		}
		var response any
		response, err = e.try(ctx, c)
		e.room.goOn()
		switch {
		case NotDone(err) || doubtful(err):
		case crowded(err): // those who have waited come back all at once
			err = Unavailable(status.Convert(err).Message())
		case err != nil && (ctx.Err() != nil || status.Code(err) == codes.Canceled || status.Code(err) == codes.DeadlineExceeded):
			return nil, e.ended(c, err)
		default:
			e.room.flow()
			return response, err
		}
	}
}

// over says when an attempt whose outcome is not known can have no effect any more that it has not had already.
//
// An attempt in a session of this node: when its call has returned, which is so before this is asked, and another session serves here, which
// has begun with all that the one before it has made. Any attempt: when the epoch has moved on. Whoever serves in a later epoch has all that was
// ever durable in an earlier one, and refuses what is still on its way there.
func over(ranIn *session, epoch uint64) func(place) bool {
	return func(p place) bool {
		if ranIn != nil && p.session != nil {
			return p.session != ranIn
		}
		return p.open && epoch != 0 && p.epoch > epoch
	}
}

// ended counts a call that ends without an answer if it may have been done.
func (e *Endpoint) ended(c *call, err error) error {
	if c.unknown {
		e.unknownOutcomes.Add(1)
	}
	return err
}

// UnknownOutcomes counts the requests of clients that ended without saying whether they were done, for another reason than that the client had
// gone before anything else happened.
func (e *Endpoint) UnknownOutcomes() uint64 { return e.unknownOutcomes.Load() }
