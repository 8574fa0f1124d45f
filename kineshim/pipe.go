package kineshim

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// pipe is a stream of keep-alives as a server sees it, whose client is in this process.
type pipe struct {
	ctx    context.Context
	cancel context.CancelFunc
	// requests has room for all that may be unanswered.
	requests  chan *etcdserverpb.LeaseKeepAliveRequest
	responses chan *etcdserverpb.LeaseKeepAliveResponse
	ended     chan error // has one element when nobody serves it any more
}

var _ grpc.ServerStream = (*pipe)(nil)

func newPipe(ctx context.Context) *pipe {
	p := &pipe{
		requests:  make(chan *etcdserverpb.LeaseKeepAliveRequest, maxUnanswered),
		responses: make(chan *etcdserverpb.LeaseKeepAliveResponse),
		ended:     make(chan error, 1),
	}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

// Context has the client's metadata, and ends with the pipe.
func (p *pipe) Context() context.Context { return p.ctx }

// RecvMsg receives a request, decoded or as a frame.
func (p *pipe) RecvMsg(m any) error {
	var r *etcdserverpb.LeaseKeepAliveRequest
	select {
	case r = <-p.requests:
	case <-p.ctx.Done():
		return contextError(p.ctx.Err())
	}
	if to, ok := m.(*etcdserverpb.LeaseKeepAliveRequest); ok {
		to.ID = r.ID
		return nil
	}
	wire, err := r.Marshal()
	if err != nil {
		return status.Errorf(codes.Internal, "encode a keep-alive: %v", err)
	}
	m.(*frame).wire = wire
	return nil
}

// SendMsg sends a response, decoded or as a frame.
func (p *pipe) SendMsg(m any) error {
	r, ok := m.(*etcdserverpb.LeaseKeepAliveResponse)
	if !ok {
		r = new(etcdserverpb.LeaseKeepAliveResponse)
		if err := r.Unmarshal(m.(*frame).wire); err != nil {
			return status.Errorf(codes.Internal, "decode the answer to a keep-alive: %v", err)
		}
	}
	select {
	case p.responses <- r:
		return nil
	case <-p.ctx.Done():
		return contextError(p.ctx.Err())
	}
}

// SetHeader does nothing: the client's stream outlives this one. So do SendHeader and SetTrailer.
func (p *pipe) SetHeader(metadata.MD) error { return nil }

// SendHeader does nothing.
func (p *pipe) SendHeader(metadata.MD) error { return nil }

// SetTrailer does nothing.
func (p *pipe) SetTrailer(metadata.MD) {}
