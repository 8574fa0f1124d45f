package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"kineshim/proto"
)

// node is a data node that has answered. Close it.
type node struct {
	// socket is where it was asked: a path, or host:port from afar.
	socket  string
	conn    *grpc.ClientConn
	control proto.ControlClient
	// status is its first answer.
	status *proto.StatusResponse
	// skipped says which sockets were tried before and why they were of no use.
	skipped []error
}

func (n *node) close() { _ = n.conn.Close() }

// socketPaths are the sockets to try, in order.
func (a *app) socketPaths() []string {
	if len(a.sockets) > 0 {
		return a.sockets
	}
	if paths := filepath.SplitList(os.Getenv(socketEnv)); len(paths) > 0 {
		return paths
	}
	return []string{defaultSocket}
}

// connect returns the first node that answers and satisfies want; a nil want takes any. The error names each path that was
// tried and what to do about it.
func (a *app) connect(ctx context.Context, want func(*proto.StatusResponse) error) (*node, error) {
	var tried []error
	for _, path := range a.ways() {
		n, err := a.ask(ctx, path)
		if err == nil && want != nil {
			if err = want(n.status); err != nil {
				n.close()
				err = fmt.Errorf("%s: %w", path, err)
			}
		}
		if ctx.Err() != nil {
			if err == nil {
				n.close()
			}
			return nil, errors.New("interrupted")
		}
		if err == nil {
			n.skipped = tried
			return n, nil
		}
		tried = append(tried, err)
	}
	return nil, errors.Join(tried...)
}

// open is connect for commands that run once: what was skipped is said on stderr.
func (a *app) open(ctx context.Context) (*node, error) {
	n, err := a.connect(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("no node answers\n%s", indent(err.Error()))
	}
	for _, err := range n.skipped {
		fmt.Fprintf(a.stderr, "shimctl: %v\n", err)
	}
	if len(n.skipped) > 0 {
		fmt.Fprintf(a.stderr, "shimctl: asking %s through %s instead\n", n.status.GetNode(), n.socket)
	}
	return n, nil
}

// ask connects to the node behind one socket and gets its status.
func (a *app) ask(ctx context.Context, path string) (*node, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	conn, err := a.dial(ctx, path)
	if err != nil {
		return nil, err
	}
	n := &node{socket: path, conn: conn, control: proto.NewControlClient(conn)}
	if n.status, err = n.control.Status(ctx, &proto.StatusRequest{}); err != nil {
		n.close()
		if status.Code(err) == codes.DeadlineExceeded {
			return nil, fmt.Errorf("%s: no answer within %v: kineshim is frozen or overloaded; see its log, or give it longer with --timeout",
				path, a.timeout)
		}
		return nil, explainCall(path, err)
	}
	return n, nil
}

// dial connects to a node: through its socket, or from afar.
func (a *app) dial(ctx context.Context, way string) (*grpc.ClientConn, error) {
	if a.pass != nil {
		return a.dialAfar(ctx, way)
	}
	dialer := func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", way) }
	// gRPC would wrap the reason in its own words and try again: look at the socket first.
	probe, err := dialer(ctx)
	if err != nil {
		return nil, explainDial(way, err)
	}
	_ = probe.Close()
	return client(insecure.NewCredentials(), dialer)
}

func client(creds credentials.TransportCredentials, dial func(context.Context) (net.Conn, error)) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///kineshim", grpc.WithTransportCredentials(creds), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
}

// explainDial says why a socket can't be used, and what to do.
func explainDial(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: there is no such socket: is kineshim running on this machine (systemctl status kineshim)? "+
			"If its data_dir or control_socket is another one, say so with --socket PATH or %s", path, socketEnv)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: permission denied: run it as the user that kineshim runs as (sudo shimctl ...)", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: nobody listens there: kineshim has stopped or crashed; see its log (journalctl -u kineshim)", path)
	default:
		return fmt.Errorf("%s: %w", path, err)
	}
}

// explainCall puts a node's answer that is an error into an operator's words.
func explainCall(path string, err error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.Unimplemented:
		return fmt.Errorf("%s: this node's kineshim does not know this command: give all nodes the same version (shimctl version)", path)
	case codes.DeadlineExceeded:
		return fmt.Errorf("%s: no answer in time; see shimctl status", path)
	case codes.Canceled:
		return errors.New("interrupted")
	case codes.PermissionDenied, codes.Unauthenticated:
		return exitWith(exitUnsafe, "%s: refused: %s", path, s.Message())
	case codes.Unavailable:
		return fmt.Errorf("%s: the connection to kineshim was lost (%s); see its log (journalctl -u kineshim)", path, s.Message())
	default:
		return fmt.Errorf("%s: %s", path, s.Message())
	}
}

// indent puts two spaces before each line.
func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }
