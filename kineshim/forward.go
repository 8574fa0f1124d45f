package kineshim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// maxRedial is the longest pause between two attempts to reach the primary: a failover takes about a second, and
	// clients are refused meanwhile.
	maxRedial = 200 * time.Millisecond
	// connectBound ends one attempt.
	connectBound = time.Second
	// pingEvery and pingBound find a connection that died without a word. The route ends earlier as a rule; gRPC sends no
	// ping more often than every 10 s.
	pingEvery = 10 * time.Second
	pingBound = 2 * time.Second
)

// conns are the connections to other nodes, one for each target. Targets come from the configuration, so they are few.
type conns struct {
	codec   frameCodec
	options []grpc.DialOption

	mu     sync.Mutex // guards the fields below
	open   map[string]*grpc.ClientConn
	closed bool
}

// get returns the connection to a target; it does not wait for it.
func (c *conns) get(target string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errSessionEnded
	}
	if conn := c.open[target]; conn != nil {
		return conn, nil
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxRedial},
			MinConnectTimeout: connectBound,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingBound, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(c.codec),
			grpc.MaxCallRecvMsgSize(math.MaxInt32),
			grpc.MaxCallSendMsgSize(math.MaxInt32),
		),
	}
	// The address is taken as it is: no resolver, no proxy from the environment stands between the two nodes.
	conn, err := grpc.NewClient("passthrough:///"+target, append(append(options, grpc.WithNoProxy()), c.options...)...)
	if err != nil {
		return nil, err
	}
	if c.open == nil {
		c.open = map[string]*grpc.ClientConn{}
	}
	c.open[target] = conn
	return conn, nil
}

func (c *conns) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for _, conn := range c.open {
		errs = append(errs, conn.Close())
	}
	c.open = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the connections to other nodes: %w", err)
	}
	return nil
}

// forward passes a unary call on to the primary. The answer is passed back unread.
func (e *Endpoint) forward(ctx context.Context, req any, method string, route Route) (any, error) {
	conn, err := e.conns.get(route.Target)
	if err != nil {
		return nil, Unavailable("forwarding to " + route.Target + ": " + err.Error())
	}
	out, cancel := e.outgoing(ctx, route)
	defer cancel(nil)
	var header, trailer metadata.MD
	reply := new(frame)
	err = conn.Invoke(out, method, req, reply, grpc.Header(&header), grpc.Trailer(&trailer))
	answered := len(trailer.Get(answeredKey)) > 0
	_ = grpc.SetHeader(ctx, passedBack(header)) // fails only when the call is over
	_ = grpc.SetTrailer(ctx, passedBack(trailer))
	if err != nil {
		return nil, forwardError(ctx, err, answered, route.Target, routeEnded(out))
	}
	return reply, nil
}

// forwardStream passes a stream on to the primary, frame by frame in both directions.
func (e *Endpoint) forwardStream(ss grpc.ServerStream, info *grpc.StreamServerInfo, route Route) error {
	conn, err := e.conns.get(route.Target)
	if err != nil {
		return Unavailable("forwarding to " + route.Target + ": " + err.Error())
	}
	out, cancel := e.outgoing(ss.Context(), route)
	defer cancel(nil)
	// Both directions always: a request of one message is followed by the end of the client's side, on the wire too.
	desc := &grpc.StreamDesc{StreamName: info.FullMethod, ServerStreams: true, ClientStreams: true}
	cs, err := conn.NewStream(out, desc, info.FullMethod)
	if err != nil {
		return forwardError(ss.Context(), err, false, route.Target, routeEnded(out))
	}
	// Ends with the stream: gRPC ends the receive of a server stream when its handler has returned.
	go pumpRequests(ss, cs, cancel)
	err = pumpAnswers(cs, ss)
	trailer := cs.Trailer()
	ss.SetTrailer(passedBack(trailer))
	if cause := context.Cause(out); err != nil && ss.Context().Err() == nil && isStatus(cause) {
		return cause // what the client sent could not be received, for instance because it is too large
	}
	return forwardError(ss.Context(), err, len(trailer.Get(answeredKey)) > 0, route.Target, routeEnded(out))
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

// outgoing is the context of a forwarded call: the client's metadata and deadline, ended with the route.
func (e *Endpoint) outgoing(ctx context.Context, route Route) (context.Context, context.CancelCauseFunc) {
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
	out.Set(forwardedKey, e.opt.Node)
	ctx, cancel := context.WithCancelCause(metadata.NewOutgoingContext(ctx, out))
	if route.Done != nil {
		// Ends with ctx, which every caller cancels.
		go func() {
			select {
			case <-route.Done:
				cancel(errRouteEnded)
			case <-ctx.Done():
			}
		}()
	}
	return ctx, cancel
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
		if strings.HasPrefix(k, "grpc-") || strings.HasPrefix(k, ":") || k == "content-type" || k == answeredKey {
			continue
		}
		out[k] = v
	}
	return out
}
