package kineshim

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const (
	// maxRedial is the longest pause between two attempts to reach the primary: a failover takes a tenth of a second, and
	// clients are refused meanwhile. An attempt at a port that nobody listens on costs nothing. To ask gRPC for one at once, by ResetConnectBackoff, is not safe: that
	// walks over a map which an attempt under way may write to (grpc v1.85.0), and Go ends the process then.
	maxRedial = 50 * time.Millisecond
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

// reachable says whether the connection to a target is there. If not, it is being made when this returns.
func (c *conns) reachable(target string) bool {
	conn, err := c.get(target)
	if err != nil {
		return false
	}
	state := conn.GetState()
	if state == connectivity.Idle {
		conn.Connect()
	}
	return state == connectivity.Ready
}

// PeerConn returns the connection to another node's peer address, which the forwarded requests share; it does not wait for it. The endpoint
// closes it.
func (e *Endpoint) PeerConn(target string) (grpc.ClientConnInterface, error) {
	conn, err := e.conns.get(target)
	if err != nil {
		return nil, err
	}
	return conn, nil
}
