package native

import (
	"context"
	"fmt"
	"time"

	"kineshim/kineshim"
	"kineshim/kineshim/auth"
	"kineshim/kineshim/watch"
	rpc "kineshim/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// behindBound is how long the primary waits until it has committed the newest row that the other node's PostgreSQL has shown: a commit
// that is on its way takes milliseconds.
const behindBound = 2 * time.Second

// followPace is the least time between two messages to the other node. What is committed meanwhile goes with the next one: each costs both
// nodes as much CPU time as some tens of commits in it.
const followPace = 2 * time.Millisecond

// Follow serves the other node's Replica, while an engine serves here. What it sends is durable, so that it may be sent whatever the
// gate says.
func (r *Replica) Follow(q *rpc.FollowRequest, stream grpc.ServerStreamingServer[rpc.FollowResponse]) error {
	e := r.serving.Load()
	if e == nil {
		return kineshim.Unavailable("this node is not the primary")
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	why, err := e.continues(ctx, q)
	if err != nil {
		return err
	}
	if why != "" {
		r.log.Info("the other node makes its copy of the keys anew", "why", why)
		return stream.Send(&rpc.FollowResponse{Refused: why})
	}
	var told *auth.State
	first := e.followed(watch.Followed{Revision: q.Revision})
	if told, err = e.describeAccess(first, told); err != nil {
		return err
	}
	if err := stream.Send(first); err != nil {
		return err
	}
	err = e.hub.Follow(ctx, q.Revision, func(f watch.Followed) error {
		m, err := encodeFollowed(f)
		if err != nil {
			return err
		}
		e.describe(m)
		if told, err = e.describeAccess(m, told); err != nil {
			return err
		}
		if err := stream.Send(m); err != nil {
			return err
		}
		sleep(ctx, followPace)
		return nil
	})
	if e.ctx.Err() != nil {
		return kineshim.Unavailable("this node is not the primary any more")
	}
	return err
}

// continues says why the copy is not a part of this keyspace's history that can be continued; "" if it is.
func (e *Engine) continues(ctx context.Context, q *rpc.FollowRequest) (why string, err error) {
	if q.Lineage != 0 && q.Lineage != e.lineage.Load() {
		return "it is a copy of another keyspace", nil
	}
	bounded, cancel := context.WithTimeout(ctx, behindBound)
	defer cancel()
	switch err := e.reach(bounded, q.Revision); {
	case ctx.Err() != nil:
		return "", status.FromContextError(ctx.Err()).Err()
	case err != nil:
		return fmt.Sprintf("it is at revision %d, this node at %d", q.Revision, e.committed()), nil
	case q.Revision+1 < e.compacted():
		return fmt.Sprintf("it is at revision %d, and what follows is compacted", q.Revision), nil
	}
	if row := e.index.LastID(q.Revision); row != q.Row {
		return fmt.Sprintf("its revision %d ends with row %d, here with %d", q.Revision, q.Row, row), nil
	}
	return "", nil
}

// followed is the first message.
func (e *Engine) followed(f watch.Followed) *rpc.FollowResponse {
	m := &rpc.FollowResponse{Lineage: e.lineage.Load(), Revision: f.Revision}
	e.describe(m)
	return m
}

func (e *Engine) describe(m *rpc.FollowResponse) {
	m.Compacted, m.Swept = e.compacted(), e.sweptRev.Load()
}

// describeAccess has the message tell of access control, if it is not what was told before, and returns what has been told then. It is at least as
// new as the commits in the message.
func (e *Engine) describeAccess(m *rpc.FollowResponse, told *auth.State) (*auth.State, error) {
	s := e.access.Load()
	if s == told {
		return told, nil
	}
	wire, err := s.Marshal()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "access control: %v", err)
	}
	m.Access = wire
	return s, nil
}

func encodeFollowed(f watch.Followed) (*rpc.FollowResponse, error) {
	m := &rpc.FollowResponse{Revision: f.Revision, Commits: make([]*rpc.FollowCommit, len(f.Commits))}
	for n, c := range f.Commits {
		commit := &rpc.FollowCommit{Revision: c.Revision, Events: make([]*rpc.FollowEvent, len(c.Events))}
		for i, e := range c.Events {
			event := mvccpb.Event{Kv: e.Kv}
			if e.Deleted {
				event.Type = mvccpb.DELETE
			}
			wire, err := event.Marshal()
			if err != nil {
				return nil, status.Errorf(codes.Internal, "revision %d: %v", c.Revision, err)
			}
			commit.Events[i] = &rpc.FollowEvent{Row: e.ID, Event: wire}
		}
		m.Commits[n] = commit
	}
	return m, nil
}
