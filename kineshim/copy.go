package kineshim

import (
	"context"
	"errors"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const watchMethod = "/etcdserverpb.Watch/Watch"

// answerFromCopy answers a read on a node that does not serve as primary: as the copy is, or once it has reached what the primary had made
// durable when the read had arrived. What the copy cannot tell is forwarded.
func (e *Endpoint) answerFromCopy(ctx context.Context, c *call, route Route) (any, error) {
	var atLeast position
	if !c.serializable {
		at, err := e.asker.revision(ctx)
		if status.Code(err) == codes.Unimplemented {
			return e.forward(ctx, c, route) // a primary that has no revision to tell
		}
		if err != nil {
			return nil, err
		}
		atLeast = at
	}
	c.header, c.trailer = nil, nil
	response, err := e.readPermitted(ctx, c.req, atLeast)
	switch {
	case errors.Is(err, ErrNotHere) && route.Target != "":
		return e.forward(ctx, c, route)
	case errors.Is(err, ErrNotHere):
		return nil, Unavailable(noRoute(route) + ", and " + err.Error())
	case err != nil:
		return nil, answerError(ctx, err, false)
	}
	e.fillHeader(response)
	return response, nil
}

// readPermitted is readCopy for a caller who may read that. He is asked after twice, as what he may not read any more may have been written since
// he was permitted to.
func (e *Endpoint) readPermitted(ctx context.Context, req any, at position) (any, error) {
	if err := e.opt.Replica.Permit(ctx, req, at.access); err != nil {
		return nil, err
	}
	response, err := e.readCopy(ctx, req, at.revision)
	if err != nil {
		return nil, err
	}
	if err := e.opt.Replica.Permit(ctx, req, at.access); err != nil {
		return nil, err
	}
	return response, nil
}

func (e *Endpoint) readCopy(ctx context.Context, req any, atLeast int64) (any, error) {
	switch r := req.(type) {
	case *etcdserverpb.RangeRequest:
		return e.opt.Replica.Range(ctx, r, atLeast)
	case *etcdserverpb.TxnRequest:
		return e.opt.Replica.Txn(ctx, r, atLeast)
	}
	return nil, ErrNotHere
}

// watchCopy serves a watch stream from the copy, whoever the primary is. It waits for the copy.
func (e *Endpoint) watchCopy(ss grpc.ServerStream) error {
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	unhook := context.AfterFunc(e.life, func() { cancel(errSessionEnded) })
	defer unhook()
	v := e.visit(nil)
	defer e.room.leave(&v)
	if wantsLeader(ctx) {
		var looking sync.WaitGroup
		defer looking.Wait()
		defer cancel(nil)
		looking.Go(func() { e.endWithoutLeader(ctx, cancel) })
	}
	stream := &copyStream{ServerStream: ss, endpoint: e, ctx: ctx}
	for {
		err := e.opt.Replica.Watch(stream)
		if !errors.Is(err, ErrNotHere) {
			return streamError(ss.Context(), ctx, err)
		}
		if gaveUp := e.room.wait(ctx, &v, func(place) bool { return e.opt.Replica.Position() > 0 }); gaveUp != nil {
			return v.refuse(Unavailable(err.Error()), false, gaveUp)
		}
	}
}

// copyStream is a watch stream that is served from the copy. No gate is asked: the copy publishes what is durable.
type copyStream struct {
	grpc.ServerStream
	endpoint *Endpoint
	ctx      context.Context
}

var _ etcdserverpb.Watch_WatchServer = (*copyStream)(nil)

// Context ends with the stream, or with the endpoint.
func (s *copyStream) Context() context.Context { return s.ctx }

// Send sends a response with a full header.
func (s *copyStream) Send(r *etcdserverpb.WatchResponse) error { return s.SendMsg(r) }

// SendMsg is Send.
func (s *copyStream) SendMsg(m any) error {
	s.endpoint.fillHeader(m)
	return s.ServerStream.SendMsg(m)
}

// Recv receives the client's next request.
func (s *copyStream) Recv() (*etcdserverpb.WatchRequest, error) {
	r := new(etcdserverpb.WatchRequest)
	if err := s.ServerStream.RecvMsg(r); err != nil {
		return nil, err
	}
	if r.GetCreateRequest() != nil && s.endpoint.opt.Replica.Guarded() {
		s.endpoint.learnAccess(s.ctx)
	}
	return r, nil
}

// learnAccess waits until the copy knows of access control what the primary has made durable, so that a watch is not permitted any more by what was
// taken back before. If the primary cannot be asked, the copy goes by what it knows, as etcd does always.
func (e *Endpoint) learnAccess(ctx context.Context) {
	if e.opt.Router.Route().Target == "" {
		return
	}
	if at, err := e.asker.revision(ctx); err == nil {
		_ = e.opt.Replica.Permit(ctx, nil, at.access) // only the wait counts: whether the watch is permitted is asked when it is made
	}
}
