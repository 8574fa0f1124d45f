package kineshim

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const watchMethod = "/etcdserverpb.Watch/Watch"

// answerFromCopy answers a read on a node that does not serve as primary: as the copy is, or once it has reached what the primary had made
// durable when the read had arrived. What the copy cannot tell is forwarded.
func (e *Endpoint) answerFromCopy(ctx context.Context, c *call, route Route) (any, error) {
	var atLeast int64
	if !c.serializable {
		revision, err := e.asker.revision(ctx)
		if status.Code(err) == codes.Unimplemented {
			return e.forward(ctx, c, route) // a primary that has no revision to tell
		}
		if err != nil {
			return nil, err
		}
		atLeast = revision
	}
	c.header, c.trailer = nil, nil
	response, err := e.readCopy(ctx, c.req, atLeast)
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
	return r, nil
}
