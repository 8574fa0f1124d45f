package kineshim

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

const (
	// etcdServices is the prefix of the methods that are gated and forwarded; health, reflection and the peer's own services
	// are neither.
	etcdServices = "/etcdserverpb."
	// forwardedKey marks a forwarded call with the name of the node that forwarded it.
	forwardedKey = "kineshim-forwarded"
	// authorityKey carries the address that the client asked, which an engine may name to it as a member's.
	authorityKey = "kineshim-authority"
	// answeredKey is a trailer of the peer address: this error was given by the endpoint, not by the transport.
	answeredKey = "kineshim-answered"
)

// reads are the methods that change nothing: they end with their client. All others run on to their end.
var reads = map[string]bool{
	"/etcdserverpb.KV/Range":              true,
	"/etcdserverpb.Lease/LeaseTimeToLive": true,
	"/etcdserverpb.Lease/LeaseLeases":     true,
	"/etcdserverpb.Cluster/MemberList":    true,
	"/etcdserverpb.Maintenance/Status":    true,
	"/etcdserverpb.Maintenance/Hash":      true,
	"/etcdserverpb.Maintenance/HashKV":    true,
}

// interceptUnary answers, forwards or refuses each unary call of etcd's services.
func (e *Endpoint) interceptUnary(peer bool) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if !strings.HasPrefix(info.FullMethod, etcdServices) {
			return handler(ctx, req)
		}
		forwarded := peer || len(metadata.ValueFromIncomingContext(ctx, forwardedKey)) > 0
		if forwarded {
			// An error means that the call is over already; its client reads no trailer then.
			_ = grpc.SetTrailer(ctx, metadata.Pairs(answeredKey, e.opt.Node))
		}
		route := e.opt.Router.Route()
		switch {
		case route.Local:
			return e.answer(ctx, req, info.FullMethod, handler)
		case forwarded:
			return nil, Unavailable(errNotPrimary.Error())
		case route.Target != "":
			return e.forward(ctx, req, info.FullMethod, route)
		}
		return nil, Unavailable(noRoute(route))
	}
}

// interceptStream does the same for streams.
func (e *Endpoint) interceptStream(peer bool) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if !strings.HasPrefix(info.FullMethod, etcdServices) {
			return handler(srv, ss)
		}
		forwarded := peer || len(metadata.ValueFromIncomingContext(ss.Context(), forwardedKey)) > 0
		if forwarded {
			ss.SetTrailer(metadata.Pairs(answeredKey, e.opt.Node))
		}
		route := e.opt.Router.Route()
		switch {
		case route.Local:
			return e.answerStream(srv, ss, route, handler)
		case forwarded:
			return Unavailable(errNotPrimary.Error())
		case route.Target != "":
			return e.forwardStream(ss, info, route)
		}
		return Unavailable(noRoute(route))
	}
}

func noRoute(r Route) string {
	if r.Why != "" {
		return r.Why
	}
	return errNoRoute.Error()
}

// clientAuthority gives a forwarded call the authority that its client used, in place of the peer address.
func clientAuthority(ctx context.Context) context.Context {
	asked := metadata.ValueFromIncomingContext(ctx, authorityKey)
	if len(asked) == 0 {
		return ctx
	}
	md, _ := metadata.FromIncomingContext(ctx) // a copy
	md.Set(":authority", asked...)
	return metadata.NewIncomingContext(ctx, md)
}
