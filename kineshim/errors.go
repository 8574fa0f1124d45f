package kineshim

import (
	"context"
	"errors"
	"io"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	errSessionEnded = errors.New("this node stopped serving")
	errRouteEnded   = errors.New("the primary has changed or cannot be reached")
	errTokenDead    = errors.New("this node stopped being the primary")
	errEngineBroken = errors.New("the engine broke and is being started anew")
	errOtherSession = errors.New("the engine does not belong to the serving session")
	errNoEngine     = errors.New("the engine has not been started")
	errNotPrimary   = errors.New("this node is not the primary, and a forwarded request is not forwarded again")
	errNoRoute      = errors.New("no primary is known")
	errOtherEpoch   = errors.New("the request is meant for the primary of another epoch")
	errTooManyCalls = rpctypes.ErrGRPCRequestTooManyRequests
)

// engineError maps what an engine returned to what the client gets:
//
//	a gRPC status with a code          as it is
//	the call's own context error       Canceled, DeadlineExceeded
//	text ends in "is not supported"    Unimplemented (kine's way to say so)
//	io.EOF at the end of a stream      no error: the client has closed its side
//	anything else                      Unavailable: the database could not be asked, or its answer was not heard
func engineError(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return contextError(err)
	}
	if strings.HasSuffix(err.Error(), "is not supported") {
		return status.Error(codes.Unimplemented, "etcdserver: "+err.Error())
	}
	return &refusal{status: status.New(codes.Unavailable, "etcdserver: the database could not answer: "+err.Error()+OutcomeUnknown)}
}

// contextError is the status of a request whose own context has ended.
func contextError(err error) error { return status.FromContextError(err).Err() }

// forwarded is what is known of a forwarded call that failed.
type forwarded struct {
	target string
	// sent: it may have reached the other node. answered: the other node's endpoint gave the error; notDone: and says that nothing was begun.
	sent, answered, notDone bool
	// routeEnded: it was ended because the route did.
	routeEnded bool
}

// error maps the error of the call. One that the other node's endpoint gave is passed on with its details; what the transport made of a lost
// connection becomes Unavailable.
func (f forwarded) error(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	s, _ := status.FromError(err)
	switch {
	case f.answered && f.notDone && s.Code() == codes.Unavailable:
		return &refusal{status: s, notDone: true}
	case f.answered && s.Code() != codes.Unknown:
		return err
	case f.routeEnded:
		return f.refuse(errRouteEnded.Error())
	case ctx.Err() != nil:
		return contextError(ctx.Err())
	}
	switch s.Code() {
	case codes.ResourceExhausted, codes.Unimplemented, codes.DeadlineExceeded:
		return err // refused by the other server before any handler ran, or the client's own deadline
	}
	return f.refuse("forwarding to " + f.target + ": " + s.Message())
}

func (f forwarded) refuse(why string) error {
	if f.sent {
		return InDoubt(why)
	}
	return Unavailable(why)
}
