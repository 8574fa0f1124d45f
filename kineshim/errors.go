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
	errTooManyCalls = rpctypes.ErrGRPCRequestTooManyRequests
)

// OutcomeUnknown is appended to what a client reads when its request may have been done.
const OutcomeUnknown = "; whether the request was done is not known"

// Unavailable is how every request is refused that cannot be answered now. It has the code and the first words of etcd's
// ErrGRPCNoLeader, on which clients retry reads but not writes, and then says why.
func Unavailable(why string) error {
	return status.Error(codes.Unavailable, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader)+": "+why)
}

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
	return status.Error(codes.Unavailable, "etcdserver: the database could not answer: "+err.Error()+OutcomeUnknown)
}

// contextError is the status of a request whose own context has ended.
func contextError(err error) error { return status.FromContextError(err).Err() }

// forwardError maps the error of a forwarded call. An error that the other node's endpoint gave is passed on with its details;
// what the transport made of a lost connection becomes Unavailable.
func forwardError(ctx context.Context, err error, answered bool, target string, routeEnded bool) error {
	if err == nil {
		return nil
	}
	s, _ := status.FromError(err)
	if answered && s.Code() != codes.Unknown {
		return err
	}
	if routeEnded {
		return Unavailable(errRouteEnded.Error() + OutcomeUnknown)
	}
	if cause := ctx.Err(); cause != nil {
		return contextError(cause)
	}
	switch s.Code() {
	case codes.ResourceExhausted, codes.Unimplemented, codes.DeadlineExceeded:
		return err // refused by the other server before any handler ran, or the client's own deadline
	}
	return Unavailable("forwarding to " + target + ": " + s.Message() + OutcomeUnknown)
}
