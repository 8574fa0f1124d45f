package failover

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	pb "kineshim/proto"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// fakeRestorer restores as its function says.
type fakeRestorer func(context.Context, io.Reader, RestoreOptions) (keys, revision int64, err error)

func (f fakeRestorer) Restore(ctx context.Context, r io.Reader, o RestoreOptions) (keys, revision int64, err error) {
	return f(ctx, r, o)
}

// dialControl serves s in this process.
func dialControl(t *testing.T, s ControlServer) pb.ControlClient {
	t.Helper()
	ln := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	pb.RegisterControlServer(server, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ln) }()
	conn, err := grpc.NewClient("passthrough:///control", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-done
	})
	return pb.NewControlClient(conn)
}

// upload restores what the parts make together.
func upload(t *testing.T, c pb.ControlClient, parts ...*pb.RestoreRequest) (*pb.RestoreResponse, error) {
	t.Helper()
	s, err := c.Restore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if s.Send(p) != nil {
			break // the end's error says why
		}
	}
	return s.CloseAndRecv()
}

func TestRestoreHandsTheSnapshotOnAsItWasSent(t *testing.T) {
	f := newAgent(t, "a", pairedRecord())
	c := dialControl(t, ControlServer{Agent: f.Agent, Restorer: fakeRestorer(func(_ context.Context, r io.Reader, o RestoreOptions) (int64, int64, error) {
		b, err := io.ReadAll(r)
		if err != nil || string(b) != "one two three" || o != (RestoreOptions{Replace: true, KeepRevision: true}) {
			t.Errorf("%q, %+v, %v", b, o, err)
		}
		return 5, 77, nil
	})})
	r, err := upload(t, c, &pb.RestoreRequest{Replace: true, KeepRevision: true, Data: []byte("one ")}, &pb.RestoreRequest{}, &pb.RestoreRequest{Data: []byte("two three")})
	if err != nil || r.Keys != 5 || r.Revision != 77 {
		t.Errorf("%v, %v", r, err)
	}
}

func TestAnUploadThatIsBrokenOffIsNotTakenForItsEnd(t *testing.T) {
	f := newAgent(t, "a", pairedRecord())
	began, got := make(chan struct{}), make(chan error, 1)
	c := dialControl(t, ControlServer{Agent: f.Agent, Restorer: fakeRestorer(func(_ context.Context, r io.Reader, _ RestoreOptions) (int64, int64, error) {
		close(began)
		_, err := io.ReadAll(r)
		got <- err
		return 0, 0, err
	})})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Restore(ctx)
	if err == nil {
		err = s.Send(&pb.RestoreRequest{Data: []byte("half of it")})
	}
	if err != nil {
		t.Fatal(err)
	}
	<-began
	cancel()
	if err := <-got; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the snapshot ended with %v", err)
	}
}

func TestRestoreKeepsTheRefusal(t *testing.T) {
	f := newAgent(t, "b", pairedRecord())
	c := dialControl(t, ControlServer{Agent: f.Agent, Restorer: fakeRestorer(func(context.Context, io.Reader, RestoreOptions) (int64, int64, error) {
		return 0, 0, status.Error(codes.FailedPrecondition, "b is not the primary: restore on a")
	})})
	if _, err := upload(t, c, &pb.RestoreRequest{}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "restore on a") {
		t.Error(err)
	}
	if _, err := upload(t, dialControl(t, ControlServer{Agent: f.Agent}), &pb.RestoreRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a node that restores nothing: %v", err)
	}
}
