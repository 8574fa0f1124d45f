package kineshim

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// forward passes a unary call on to the primary. The answer is passed back unread.
func (e *Endpoint) forward(ctx context.Context, c *call, route Route) (any, error) {
	c.session, c.ranIn = nil, route.Epoch
	conn, err := e.connected(route.Target)
	if err != nil {
		return nil, err
	}
	out, cancel := e.outgoing(ctx, route, c.attempt)
	defer cancel(nil)
	// gRPC fills this in when the call is over if it had a stream, which is when its headers were given to the connection. Streams of which it
	// knows that the server has not looked at them it replaces, once, by itself.
	var stream peer.Peer
	var header, trailer metadata.MD
	reply := new(frame)
	err = conn.Invoke(out, c.method, c.req, reply, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&stream))
	c.header, c.trailer = header, trailer
	if err != nil {
		f := forwarded{target: route.Target, sent: stream.Addr != nil, routeEnded: routeEnded(out)}
		f.answered, f.notDone = answeredBy(c.trailer)
		return nil, f.error(ctx, err)
	}
	return reply, nil
}

// AskPrimary reads at the primary, on this node's own behalf: what it may read is not asked.
func (e *Endpoint) AskPrimary(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	route := e.opt.Router.Route()
	if route.Target == "" {
		return nil, Unavailable(noRoute(route))
	}
	conn, err := e.connected(route.Target)
	if err != nil {
		return nil, err
	}
	out, cancel := e.outgoing(asOperator(ctx), route, Attempt{})
	defer cancel(nil)
	return etcdserverpb.NewKVClient(conn).Range(out, r)
}

// connected returns the connection to a target, unless it is still being made: who waits for that waits where it is bounded.
func (e *Endpoint) connected(target string) (*grpc.ClientConn, error) {
	conn, err := e.conns.get(target)
	if err != nil {
		return nil, Unavailable("forwarding to " + target + ": " + err.Error())
	}
	switch conn.GetState() {
	case connectivity.Idle:
		conn.Connect()
		fallthrough
	case connectivity.Connecting:
		return nil, Unavailable("forwarding to " + target + ": there is no connection yet")
	}
	return conn, nil
}

// answeredBy reads the trailer of a forwarded call.
func answeredBy(trailer metadata.MD) (answered, notDone bool) {
	return len(trailer.Get(answeredKey)) > 0, len(trailer.Get(notDoneKey)) > 0
}

// passBack gives the client the metadata of the primary's answer, if the call was forwarded. It fails only when the call is over.
func (c *call) passBack(ctx context.Context) {
	if c.header != nil {
		_ = grpc.SetHeader(ctx, passedBack(c.header))
	}
	if c.trailer != nil {
		_ = grpc.SetTrailer(ctx, passedBack(c.trailer))
	}
}

// forwardStream passes a stream on to the primary, frame by frame in both directions. If it has not begun, nothing was received from ss.
func (e *Endpoint) forwardStream(ss grpc.ServerStream, info *grpc.StreamServerInfo, route Route) (begun bool, err error) {
	conn, err := e.connected(route.Target)
	if err != nil {
		return false, err
	}
	out, cancel := e.outgoing(ss.Context(), route, Attempt{})
	defer cancel(nil)
	// Both directions always: a request of one message is followed by the end of the client's side, on the wire too.
	desc := &grpc.StreamDesc{StreamName: info.FullMethod, ServerStreams: true, ClientStreams: true}
	cs, err := conn.NewStream(out, desc, info.FullMethod)
	if err != nil {
		return false, forwarded{target: route.Target, routeEnded: routeEnded(out)}.error(ss.Context(), err)
	}
	// Ends with the stream: gRPC ends the receive of a server stream when its handler has returned.
	go pumpRequests(ss, cs, cancel)
	err = pumpAnswers(cs, ss)
	trailer := cs.Trailer()
	ss.SetTrailer(passedBack(trailer))
	if cause := context.Cause(out); err != nil && ss.Context().Err() == nil && isStatus(cause) {
		return true, cause // what the client sent could not be received, for instance because it is too large
	}
	f := forwarded{target: route.Target, sent: true, routeEnded: routeEnded(out)}
	f.answered, f.notDone = answeredBy(trailer)
	return true, f.error(ss.Context(), err)
}

// pumpRequests passes the client's messages on until it closes its side, or the stream ends.
func pumpRequests(ss grpc.ServerStream, cs grpc.ClientStream, cancel context.CancelCauseFunc) {
	for {
		f := new(frame)
		switch err := ss.RecvMsg(f); {
		case err == io.EOF:
			_ = cs.CloseSend() // always nil
			return
		case err != nil:
			cancel(err)
			return
		}
		if cs.SendMsg(f) != nil {
			return // the reason comes out of the other direction
		}
	}
}

// pumpAnswers passes the primary's messages back until its stream ends; nil means that it ended well.
func pumpAnswers(cs grpc.ClientStream, ss grpc.ServerStream) error {
	header, err := cs.Header()
	if err != nil {
		return err
	}
	if err := ss.SetHeader(passedBack(header)); err != nil {
		return err
	}
	for {
		f := new(frame)
		switch err := cs.RecvMsg(f); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := ss.SendMsg(f); err != nil {
			return err
		}
	}
}

// outgoing is the context of a forwarded call: the client's metadata and deadline and the marks for the primary, ended with the route.
func (e *Endpoint) outgoing(ctx context.Context, route Route, a Attempt) (context.Context, context.CancelCauseFunc) {
	in, _ := metadata.FromIncomingContext(ctx)
	out := metadata.MD{}
	for k, v := range in {
		if !strings.HasPrefix(k, "grpc-") && !strings.HasPrefix(k, ":") {
			out[k] = v
		}
	}
	if authority := in.Get(":authority"); len(authority) > 0 {
		out.Set(authorityKey, authority...)
	}
	if OverTLS(ctx) {
		out.Set(tlsKey, "true")
	}
	if since := CredentialsOf(ctx).Since; !since.IsZero() {
		out.Set(ageKey, strconv.FormatInt(time.Since(since).Milliseconds(), 10))
	}
	out.Set(forwardedKey, e.opt.Node)
	CredentialsOf(ctx).passOn(out)
	mark(out, route.Epoch, a)
	return e.withRoute(metadata.NewOutgoingContext(ctx, out), route)
}

func isStatus(err error) bool {
	_, ok := status.FromError(err)
	return err != nil && ok
}

func routeEnded(out context.Context) bool { return errors.Is(context.Cause(out), errRouteEnded) }

// passedBack is the metadata of the primary's answer without what belongs to the hop between the nodes.
func passedBack(in metadata.MD) metadata.MD {
	out := metadata.MD{}
	for k, v := range in {
		if strings.HasPrefix(k, "grpc-") || strings.HasPrefix(k, ":") || k == "content-type" || k == answeredKey || k == notDoneKey {
			continue
		}
		out[k] = v
	}
	return out
}
