package kineshim

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// maxWaits bounds how often in a row a gate may say that a token holds again and then that it does not, for one message. A
// gate that does so more often contradicts itself.
const maxWaits = 100

// answerStream runs a stream in the local engine. It ends when the engine ends it, when the client goes, when the session ends
// or when the token is dead, whichever is first; the engine's handler, which may hang in a receive, is then let go by gRPC
// and is waited for by the session. epoch is the one that is meant, 0 any. If the stream has not begun, nothing was received from ss.
func (e *Endpoint) answerStream(srv any, ss grpc.ServerStream, route Route, epoch uint64, handler grpc.StreamHandler) (begun bool, err error) {
	token, s, err := e.enter()
	if err != nil {
		return false, err
	}
	if epoch != 0 && epoch != token.Epoch {
		return false, Unavailable(errOtherEpoch.Error())
	}
	if err := s.beginStream(); err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	unhook := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	defer unhook()
	local := &localStream{ServerStream: ss, endpoint: e, token: token, cancel: cancel,
		ctx: withEngine(clientAuthority(ctx), s.engine, Attempt{})}
	result := make(chan error, 1)
	go func() {
		defer s.endStream()
		err := Unavailable(errEngineBroken.Error())
		defer func() {
			result <- err
			cancel(nil)
		}()
		err = handler(srv, local)
	}()
	e.untilRouteEnds(ctx, cancel, token, route)
	select {
	case err := <-result:
		return true, streamError(ss.Context(), ctx, err)
	default:
		return true, streamError(ss.Context(), ctx, context.Cause(ctx))
	}
}

// untilRouteEnds returns when ctx ends. When the route ends it asks the gate whether the stream may go on, and ends ctx if not.
func (e *Endpoint) untilRouteEnds(ctx context.Context, cancel context.CancelCauseFunc, token Token, route Route) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-route.Done:
		}
		if err := e.opt.Gate.Wait(ctx, token); err != nil {
			cancel(errTokenDead)
			return
		}
		// The token holds, and every message asks for it again: the stream may go on even if the router, which learns of an
		// opened gate a little later, has no new route yet.
		next := e.opt.Router.Route()
		if next.Done == route.Done {
			cancel(errRouteEnded)
			return
		}
		route = next
	}
}

// streamError maps the end of a stream. inner is the context that the endpoint ends; its cause says why.
func streamError(client, inner context.Context, err error) error {
	if client.Err() != nil {
		return contextError(client.Err())
	}
	if cause := context.Cause(inner); errors.Is(cause, rpctypes.ErrGRPCNoLeader) {
		return cause
	}
	for _, cause := range []error{errTokenDead, errRouteEnded, errSessionEnded, errEngineBroken} {
		if errors.Is(context.Cause(inner), cause) {
			return Unavailable(cause.Error())
		}
	}
	if errors.Is(err, context.Canceled) {
		return Unavailable(errSessionEnded.Error())
	}
	return engineError(err)
}

// localStream is a stream whose every message passes the gate. SendMsg must not be called concurrently with itself, as with
// every gRPC stream.
type localStream struct {
	grpc.ServerStream
	endpoint *Endpoint
	token    Token
	ctx      context.Context
	cancel   context.CancelCauseFunc
}

// Context carries the engine, and ends when the stream must.
func (s *localStream) Context() context.Context { return s.ctx }

// SendMsg sends a message whose data have been gathered, if the gate still holds; if not, it waits until the gate holds again
// or never can, and ends the stream then.
func (s *localStream) SendMsg(m any) error {
	if err := s.pass(); err != nil {
		return err
	}
	s.endpoint.fillHeader(m)
	return s.ServerStream.SendMsg(m)
}

func (s *localStream) pass() error {
	for range maxWaits {
		if s.ctx.Err() != nil {
			return Unavailable(errSessionEnded.Error())
		}
		gate := s.endpoint.opt.Gate
		if gate.Check(s.token) == nil {
			return nil
		}
		if gate.Wait(s.ctx, s.token) != nil {
			break
		}
	}
	s.cancel(errTokenDead)
	return Unavailable(errTokenDead.Error())
}
