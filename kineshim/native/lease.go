package native

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"kineshim/kineshim/lease"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// maxKeepAlives is how many keep-alives of one stream are on their way at the same time, each until its commit. Further ones
// are not read until the first of them is answered: a stream costs no more than this many goroutines.
const maxKeepAlives = 256

// LeaseGrant grants a lease; its time is counted from the turn on, and it is answered when it is durable. The errors are
// etcd's ErrGRPCLeaseExist, ErrGRPCLeaseTTLTooLarge and ErrGRPCNoSpace, and those of a turn.
func (e *Engine) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if e.noSpace() {
		return nil, rpctypes.ErrGRPCNoSpace
	}
	var resp *pb.LeaseGrantResponse
	err := e.submit(ctx, func(t *turn) error {
		l, err := e.leases.Grant(r.ID, r.TTL)
		if err != nil {
			return leaseError(err)
		}
		t.saveLease(l)
		resp = &pb.LeaseGrantResponse{Header: headerOf(t), ID: l.ID, TTL: l.TTL}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// LeaseRevoke deletes the lease and, as one revision, the keys that go with it. The error is etcd's ErrGRPCLeaseNotFound, or
// one of a turn.
func (e *Engine) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	var resp *pb.LeaseRevokeResponse
	err := e.submit(ctx, func(t *turn) error {
		if err := e.revoke(t, r.ID); err != nil {
			return leaseError(err)
		}
		resp = &pb.LeaseRevokeResponse{Header: headerOf(t)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// revoke is called within a turn that has made no change yet. The keys are deleted in their order, as etcd does. The error
// is lease.ErrNotFound.
func (e *Engine) revoke(t *turn, id int64) error {
	if _, _, ok := e.leases.Get(id); !ok {
		return lease.ErrNotFound
	}
	for _, key := range e.leases.Keys(id) {
		// A key is only ever deleted if the key itself says that it goes with this lease.
		if head, ok := e.index.Head(key); ok && !head.Deleted && head.Lease == id {
			t.delete(head.Item)
		}
	}
	if err := e.leases.Revoke(id); err != nil {
		return err
	}
	t.dropLease(id)
	return nil
}

// LeaseTimeToLive says how much time a lease has left, in whole seconds, rounded down; -1 if there is no such lease, which
// is not an error. A lease whose time is over and that has not been revoked yet has 0.
func (e *Engine) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	var resp *pb.LeaseTimeToLiveResponse
	err := e.submit(ctx, func(t *turn) error {
		resp = &pb.LeaseTimeToLiveResponse{Header: headerOf(t), ID: r.ID, TTL: -1}
		l, remaining, ok := e.leases.Get(r.ID)
		if !ok {
			return nil
		}
		resp.TTL, resp.GrantedTTL = int64(max(0, remaining)/time.Second), l.TTL
		if !r.Keys {
			return nil
		}
		for _, key := range e.leases.Keys(r.ID) {
			resp.Keys = append(resp.Keys, []byte(key))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// LeaseLeases lists all leases, those that expire first first.
func (e *Engine) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	// Gathered before the turn, which waits until all that was seen here is durable: sorting them must not hold up the
	// writes.
	leases := e.leases.All()
	resp := &pb.LeaseLeasesResponse{Leases: make([]*pb.LeaseStatus, 0, len(leases))}
	for _, l := range leases {
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: l.ID})
	}
	err := e.submit(ctx, func(t *turn) error {
		resp.Header = headerOf(t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// LeaseKeepAlive renews a lease for each request, and answers in their order. A renewal is durable before it is answered, so
// that no other engine can let the lease expire earlier than its client was told. A lease that is not there, or whose time
// is over, is answered with TTL 0.
func (e *Engine) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error {
	return serveKeepAlives(s, e.keepAlive)
}

// keepAlive renews one lease. One whose time is over is revoked here and now: when its client reads TTL 0, its keys are
// gone.
func (e *Engine) keepAlive(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
	if err := e.Permit(ctx, &pb.LeaseKeepAliveRequest{ID: id}); err != nil {
		return nil, err
	}
	var resp *pb.LeaseKeepAliveResponse
	err := e.submit(ctx, func(t *turn) error {
		// As in etcd, the revision from before: it is never above that of the revocation which ends the lease.
		resp = &pb.LeaseKeepAliveResponse{Header: headerOf(t), ID: id}
		l, err := e.leases.Renew(id)
		switch {
		case err == nil:
			t.saveLease(l)
			resp.TTL = l.TTL
		case errors.Is(err, lease.ErrExpired):
			return e.revoke(t, id)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// keepAliveFunc renews one lease and returns the answer, whose TTL is 0 if there is no such lease. An error ends the stream.
type keepAliveFunc func(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error)

// answer is a keep-alive on its way. Its fields may be read when done is closed.
type answer struct {
	done chan struct{}
	resp *pb.LeaseKeepAliveResponse
	err  error
}

// serveKeepAlives answers a stream's requests in their order while up to maxKeepAlives of them are on their way. It returns
// when the client has said that no more come and all are answered, when an answer is an error, or when the stream ends.
func serveKeepAlives(s pb.Lease_LeaseKeepAliveServer, renew keepAliveFunc) error {
	ctx, cancel := context.WithCancel(s.Context())
	received := receiveKeepAlives(ctx, s)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel() // which ends those that run
	var waiting []*answer
	for {
		requests := received.requests
		if len(waiting) == maxKeepAlives {
			requests = nil
		}
		var first chan struct{}
		if len(waiting) > 0 {
			first = waiting[0].done
		}
		ended := received.ended
		if len(waiting) > 0 {
			ended = nil // after the answers
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-requests:
			a := &answer{done: make(chan struct{})}
			waiting = append(waiting, a)
			running.Go(func() {
				defer close(a.done)
				a.resp, a.err = renew(ctx, r.ID)
			})
		case <-first:
			a := waiting[0]
			waiting[0], waiting = nil, waiting[1:]
			if a.err != nil {
				return a.err
			}
			if err := s.Send(a.resp); err != nil {
				return err
			}
		case err := <-ended:
			return err
		}
	}
}

// keepAliveRequests is what a stream receives: its requests, then why there are no more, nil if the client has said so.
type keepAliveRequests struct {
	requests <-chan *pb.LeaseKeepAliveRequest
	ended    <-chan error
}

// receiveKeepAlives receives until the stream or ctx ends. Nobody can wait for it before the handler has returned: only that
// ends a Recv. It touches nothing but the stream.
func receiveKeepAlives(ctx context.Context, s pb.Lease_LeaseKeepAliveServer) keepAliveRequests {
	requests, ended := make(chan *pb.LeaseKeepAliveRequest), make(chan error, 1)
	go func() {
		for {
			r, err := s.Recv()
			if errors.Is(err, io.EOF) {
				ended <- nil
				return
			}
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	return keepAliveRequests{requests, ended}
}

// headerOf is the header of an answer that rests on a turn; the endpoint fills what else it carries.
func headerOf(t *turn) *pb.ResponseHeader {
	return &pb.ResponseHeader{Revision: t.revision()}
}

// leaseError maps the book's errors to etcd's.
func leaseError(err error) error {
	switch {
	case errors.Is(err, lease.ErrNotFound):
		return rpctypes.ErrGRPCLeaseNotFound
	case errors.Is(err, lease.ErrExists):
		return rpctypes.ErrGRPCLeaseExist
	case errors.Is(err, lease.ErrTTLTooLarge):
		return rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	return err
}
