package kineshim

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// etcdServices is the prefix of the methods that are gated and forwarded; health, reflection and the peer's own services
	// are neither.
	etcdServices = "/etcdserverpb."
	// forwardedKey marks a forwarded call with the name of the node that forwarded it.
	forwardedKey = "kineshim-forwarded"
	// authorityKey carries the address that the client asked, which an engine may name to it as a member's.
	authorityKey = "kineshim-authority"
	// tlsKey says that he asked by TLS.
	tlsKey = "kineshim-tls"
	// ageKey is for how long a stream had lasted when it was forwarded, in milliseconds.
	ageKey = "kineshim-stream-age"
	// answeredKey is a trailer of the peer address: this error was given by the endpoint, not by the transport. notDoneKey: and nothing was begun.
	answeredKey = "kineshim-answered"
	notDoneKey  = "kineshim-not-done"
)

// interceptUnary answers, forwards or refuses each unary call of etcd's services.
func (e *Endpoint) interceptUnary(from origin) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if !strings.HasPrefix(info.FullMethod, etcdServices) {
			return handler(ctx, req)
		}
		ctx = from.context(ctx)
		c := e.newCall(req, info.FullMethod, handler)
		if from == fromPeer || wasForwarded(ctx) {
			return e.answerPeer(ctx, &c)
		}
		response, err := e.answerClient(ctx, &c)
		if e.opt.Answered != nil {
			e.opt.Answered(c.method, status.Code(err), time.Since(c.visit.arrived))
		}
		return response, err
	}
}

// answerPeer answers a call that another node has forwarded, or refuses it at once: the waiting is that node's.
func (e *Endpoint) answerPeer(ctx context.Context, c *call) (any, error) {
	// An error means that the call is over already; its client reads no trailer then.
	_ = grpc.SetTrailer(ctx, metadata.Pairs(answeredKey, e.opt.Node))
	var err error
	if c.epoch, c.attempt, err = marks(ctx); err != nil {
		return nil, err
	}
	if !e.opt.Router.Route().Local {
		err = Unavailable(errNotPrimary.Error())
	}
	var response any
	if err == nil {
		response, err = e.answer(ctx, c)
	}
	e.room.leave(&c.visit)
	if NotDone(err) {
		_ = grpc.SetTrailer(ctx, metadata.Pairs(notDoneKey, e.opt.Node))
	}
	return response, err
}

// interceptStream does for streams what interceptUnary does for calls.
func (e *Endpoint) interceptStream(from origin) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if from == fromClients {
			if err := e.streams.enter(); err != nil {
				return err
			}
			defer e.streams.leave()
		}
		ctx := from.context(ss.Context())
		ss = &strippedStream{ss, StreamSince(ctx, time.Now().Add(-streamAge(ctx)))}
		switch {
		case !strings.HasPrefix(info.FullMethod, etcdServices):
			return handler(srv, ss)
		case from == fromPeer || wasForwarded(ss.Context()):
			return e.answerPeerStream(srv, ss, handler)
		case e.opt.Replica != nil && info.FullMethod == watchMethod:
			return e.watchCopy(ss)
		case e.opt.Replica != nil && info.FullMethod == keepAliveMethod:
			return e.keepAlive(srv, ss, info, handler)
		}
		return e.answerClientStream(srv, ss, info, handler)
	}
}

// answerPeerStream is answerPeer for a stream.
func (e *Endpoint) answerPeerStream(srv any, ss grpc.ServerStream, handler grpc.StreamHandler) error {
	ss.SetTrailer(metadata.Pairs(answeredKey, e.opt.Node))
	epoch, _, err := marks(ss.Context())
	if err != nil {
		return err
	}
	begun := false
	if route := e.opt.Router.Route(); route.Local {
		begun, err = e.answerStream(srv, ss, route, epoch, handler)
	} else {
		err = Unavailable(errNotPrimary.Error())
	}
	if !begun && NotDone(err) {
		ss.SetTrailer(metadata.Pairs(notDoneKey, e.opt.Node))
	}
	return err
}

// answerClientStream answers or forwards a stream. One that cannot begin waits, like a call; one that has begun ends with what it began on.
func (e *Endpoint) answerClientStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	v := e.visit(nil)
	defer e.room.leave(&v)
	for {
		begun, err := e.tryStream(srv, ss, info, handler)
		if begun || !NotDone(err) {
			return err
		}
		if ended := e.room.wait(ss.Context(), &v, nil); ended != nil {
			return v.refuse(err, false, ended)
		}
	}
}

// tryStream runs a stream where the route leads. If it has not begun, nothing was received from ss.
func (e *Endpoint) tryStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (begun bool, err error) {
	route := e.opt.Router.Route()
	switch {
	case route.Local:
		return e.answerStream(srv, ss, route, 0, handler)
	case route.Target != "":
		return e.forwardStream(ss, info, route)
	}
	return false, Unavailable(noRoute(route))
}

func wasForwarded(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, forwardedKey)) > 0
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
