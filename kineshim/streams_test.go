package kineshim

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestStreamsOfClientsAreBoundedAndTheOtherNodesAreNot(t *testing.T) {
	e := &Endpoint{}
	e.streams.open.Store(maxStreams - 1)
	info := &grpc.StreamServerInfo{FullMethod: "/other.Service/Method"}
	ran := 0
	var inner func() error
	call := func(from origin) error {
		return e.interceptStream(from)(nil, contextStream{ctx: t.Context()}, info, func(any, grpc.ServerStream) error {
			ran++
			return inner()
		})
	}
	inner = func() error {
		inner = func() error { return nil }
		return errors.Join(call(fromPeer), call(fromOperator), call(fromClients)) // the last one is one too many
	}
	if err := call(fromClients); !errors.Is(err, errTooManyStreams) || ran != 3 {
		t.Errorf("%v, %d ran", err, ran)
	}
	if err := call(fromClients); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
	if n := e.streams.open.Load(); n != maxStreams-1 {
		t.Errorf("%d are counted", n)
	}
}

// contextStream has a context and nothing else.
type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s contextStream) Context() context.Context { return s.ctx }

// serveHealth is a server with a client port's options, on loopback, that answers one service.
func serveHealth(t *testing.T, from origin) string {
	t.Helper()
	e := &Endpoint{codec: newFrameCodec()}
	s := grpc.NewServer(e.serverOptions(from)...)
	healthpb.RegisterHealthServer(s, healthpb.UnimplementedHealthServer{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(ln)
	t.Cleanup(s.Stop)
	return ln.Addr().String()
}

func TestMetadataOfACallIsBounded(t *testing.T) {
	conn, err := grpc.NewClient(serveHealth(t, fromClients), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(bytes int) error {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "token", strings.Repeat("x", bytes))
		_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		return err
	}
	if err := ask(maxHeaderBytes / 2); status.Code(err) != codes.Unimplemented { // it came to the service, which has no methods
		t.Errorf("half of it: %v", err)
	}
	if err := ask(2 * maxHeaderBytes); status.Code(err) != codes.Internal {
		t.Errorf("twice as much: %v", err)
	}
}

// One who connects and says nothing, or speaks half of a handshake, is cut off.
func TestASilentConnectionIsClosed(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for as long as a handshake may take")
	}
	t.Parallel()
	at := serveHealth(t, fromClients)
	for name, say := range map[string]string{"nothing": "", "half of HTTP/2's preface": "PRI * HTTP/2.0\r\n", "TLS": tlsHello(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte(say)); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(3 * greetWithin))
			_, err = io.Copy(io.Discard, c)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("still open after %v", 3*greetWithin)
			}
		})
	}
}

// tlsHello is how a TLS client begins.
func tlsHello(t *testing.T) string {
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		_ = tls.Client(far, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context())
		far.Close()
	}()
	b := make([]byte, 64)
	n, err := near.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}
