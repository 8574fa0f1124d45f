package kineshim

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

func wantCode(t *testing.T, err error, code codes.Code, says string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), says) {
		t.Fatalf("got %v, want code %v saying %q", err, code, says)
	}
}

func TestOpenGateAnswersWithAFullHeader(t *testing.T) {
	n := startPrimary(t, "a")
	r, err := etcdserverpb.NewKVClient(dial(t, n.client)).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	if h := r.Header; h.Revision != 5 || h.ClusterId != 11 || h.MemberId != 12 || h.RaftTerm != 13 {
		t.Errorf("header %v", h)
	}
}

func TestClosedGateRefusesAtOnce(t *testing.T) {
	n := startPrimary(t, "a")
	n.gate.set(func(g *fakeGate) { g.closed = &ClosedError{Why: "the lease has ended"} })
	begun := time.Now()
	_, err := etcdserverpb.NewKVClient(dial(t, n.client)).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
	wantCode(t, err, codes.Unavailable, "the lease has ended")
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("refused after %v", took)
	}
}

func TestNoRouteRefusesAndSaysWhy(t *testing.T) {
	n := startNode(t, "a")
	_, err := etcdserverpb.NewKVClient(dial(t, n.client)).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
	wantCode(t, err, codes.Unavailable, "nobody yet")
}

func TestRouteWithoutAnEngineRefuses(t *testing.T) {
	n := startNode(t, "a")
	n.router.to(Route{Local: true})
	_, err := etcdserverpb.NewKVClient(dial(t, n.client)).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
	wantCode(t, err, codes.Unavailable, "engine has not been started")
}

func TestEngineOfAnotherSessionIsNotAsked(t *testing.T) {
	n := startPrimary(t, "a")
	n.gate.set(func(g *fakeGate) { g.token.Generation++ })
	_, err := etcdserverpb.NewKVClient(dial(t, n.client)).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
	wantCode(t, err, codes.Unavailable, "does not belong")
}

func TestAnswerIsHeldBackWhenTheGateClosesMeanwhile(t *testing.T) {
	for _, name := range []string{"data", "error"} {
		t.Run(name, func(t *testing.T) {
			n := startPrimary(t, "a")
			asked := false
			n.engine.onRange = func(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
				asked = true
				n.gate.set(func(g *fakeGate) { g.check = errors.New("another epoch") })
				if name == "error" {
					return nil, status.Error(codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
				}
				return &etcdserverpb.RangeResponse{Count: 1}, nil
			}
			_, err := etcdserverpb.NewKVClient(dial(t, n.client)).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
			wantCode(t, err, codes.Unavailable, "another epoch")
			if !asked {
				t.Error("the engine was not asked")
			}
		})
	}
}

func TestClientCancelDoesNotCancelAWrite(t *testing.T) {
	n := startPrimary(t, "a")
	begun, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	n.engine.onPut = func(ctx context.Context, _ *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
		close(begun)
		<-goOn
		ended <- ctx.Err()
		return &etcdserverpb.PutResponse{}, nil
	}
	// A server whose outermost interceptor tells when the endpoint has let go of the client.
	returned := make(chan struct{})
	outermost := grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		defer close(returned)
		return next(ctx, req)
	})
	address := serve(t, n.endpoint, append([]grpc.ServerOption{outermost}, n.endpoint.ClientServerOptions()...))
	ctx, cancel := context.WithCancel(soon(t))
	result := make(chan error, 1)
	kv := etcdserverpb.NewKVClient(dial(t, address))
	go func() {
		_, err := kv.Put(ctx, &etcdserverpb.PutRequest{Key: []byte("k")})
		result <- err
	}()
	<-begun
	cancel()
	wantCode(t, <-result, codes.Canceled, "")
	select {
	case <-returned:
	case <-time.After(patience):
		t.Fatal("the endpoint waits for a write whose client has gone")
	}
	s := n.endpoint.current.Load()
	close(goOn)
	if err := <-ended; err != nil {
		t.Errorf("the engine's context ended with the client: %v", err)
	}
	eventually(t, "the call is counted out", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.calls == 0
	})
}

func TestClientCancelEndsARead(t *testing.T) {
	n := startPrimary(t, "a")
	begun, ended := make(chan struct{}), make(chan struct{})
	n.engine.onRange = func(ctx context.Context, _ *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
		close(begun)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(soon(t))
	kv := etcdserverpb.NewKVClient(dial(t, n.client))
	go func() {
		<-begun
		cancel()
	}()
	_, err := kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("k")})
	wantCode(t, err, codes.Canceled, "")
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the engine's context did not end")
	}
}

func TestTooManyCallsAreRefused(t *testing.T) {
	s := newSession(Session{}, newFakeEngine())
	for range maxCalls {
		if err := s.beginCall(); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, s.beginCall(), codes.ResourceExhausted, "too many requests")
	s.endCall()
	if err := s.beginCall(); err != nil {
		t.Error(err)
	}
}

func TestErrorsOfTheEngineAreMapped(t *testing.T) {
	n := startPrimary(t, "a")
	kv := etcdserverpb.NewKVClient(dial(t, n.client))
	for _, c := range []struct {
		err  error
		code codes.Code
		says string
	}{
		{errors.New("read unix @->/s: connection reset by peer"), codes.Unavailable, "connection reset"},
		{status.Error(codes.Unknown, "odd"), codes.Unavailable, "odd"},
		{errors.New("lease revoke is not supported"), codes.Unimplemented, "lease revoke"},
		{status.Error(codes.OutOfRange, "compacted"), codes.OutOfRange, "compacted"},
		{context.Canceled, codes.Unavailable, "stopped"},
		{context.DeadlineExceeded, codes.Unavailable, "not known"},
	} {
		n.engine.onPut = func(context.Context, *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) { return nil, c.err }
		_, err := kv.Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k")})
		wantCode(t, err, c.code, c.says)
	}
}

func TestStopEngineFailsCallsInFlightAndEndsStreams(t *testing.T) {
	n := startPrimary(t, "a")
	begun, closed := make(chan struct{}), make(chan struct{})
	n.engine.onPut = func(context.Context, *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
		close(begun)
		<-closed
		return nil, errors.New("conn closed")
	}
	n.engine.onClose = func() { close(closed) }
	conn := dial(t, n.client)
	watch, err := etcdserverpb.NewWatchClient(conn).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	createWatch(t, watch)
	result := make(chan error, 1)
	go func() {
		_, err := etcdserverpb.NewKVClient(conn).Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k")})
		result <- err
	}()
	<-begun
	n.endpoint.StopEngine()
	wantCode(t, <-result, codes.Unavailable, "conn closed")
	_, err = watch.Recv()
	wantCode(t, err, codes.Unavailable, errSessionEnded.Error())
	if n.endpoint.EngineFailed() != nil {
		t.Error("an engine is still there")
	}
}

func TestBrokenEngineEndsStreams(t *testing.T) {
	n := startPrimary(t, "a")
	watch, err := etcdserverpb.NewWatchClient(dial(t, n.client)).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	createWatch(t, watch)
	close(n.engine.failed)
	_, err = watch.Recv()
	wantCode(t, err, codes.Unavailable, errEngineBroken.Error())
	select {
	case <-n.endpoint.EngineFailed():
	default:
		t.Error("the endpoint does not say that the engine failed")
	}
}

func TestStreamWaitsThroughALeaseBlip(t *testing.T) {
	n := startPrimary(t, "a")
	sent := make(chan struct{})
	n.engine.onWatch = func(ws etcdserverpb.Watch_WatchServer) error {
		if _, err := ws.Recv(); err != nil {
			return err
		}
		n.gate.set(func(g *fakeGate) { g.check = errors.New("the lease has ended") })
		close(sent)
		if err := ws.Send(&etcdserverpb.WatchResponse{WatchId: 9, Header: &etcdserverpb.ResponseHeader{}}); err != nil {
			return err
		}
		<-ws.Context().Done()
		return ws.Context().Err()
	}
	watch, err := etcdserverpb.NewWatchClient(dial(t, n.client)).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Send(&etcdserverpb.WatchRequest{}); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := watch.Recv()
		got <- err
	}()
	<-sent
	select {
	case err := <-got:
		t.Fatalf("the client heard something while the gate did not hold: %v", err)
	case <-time.After(100 * time.Millisecond): // nothing to poll for: the message must not come
	}
	n.gate.set(func(g *fakeGate) { g.check = nil })
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

func TestStreamEndsWhenItsTokenDies(t *testing.T) {
	for _, how := range []string{"while sending", "while idle"} {
		t.Run(how, func(t *testing.T) {
			n := startPrimary(t, "a")
			watch, err := etcdserverpb.NewWatchClient(dial(t, n.client)).Watch(soon(t))
			if err != nil {
				t.Fatal(err)
			}
			createWatch(t, watch)
			n.gate.set(func(g *fakeGate) { g.check, g.dead = errors.New("another epoch"), true })
			if how == "while idle" {
				n.router.to(Route{Why: "electing"})
			} else if err := watch.Send(&etcdserverpb.WatchRequest{}); err != nil {
				t.Fatal(err)
			}
			_, err = watch.Recv()
			wantCode(t, err, codes.Unavailable, errTokenDead.Error())
			s := n.endpoint.current.Load()
			eventually(t, "the engine's handler is let go", func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.streams == 0
			})
		})
	}
}

func TestLocalStreamOutlivesItsRouteWhileItsTokenHolds(t *testing.T) {
	n := startPrimary(t, "a")
	watch, err := etcdserverpb.NewWatchClient(dial(t, n.client)).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	createWatch(t, watch)
	n.gate.set(func(g *fakeGate) { g.check = errors.New("blip") })
	n.router.to(Route{Why: "blip"})
	n.gate.set(func(g *fakeGate) { g.check = nil })
	createWatch(t, watch)
	n.router.to(Route{Local: true})
	createWatch(t, watch)
}

func TestHealthFollowsGateAndRoute(t *testing.T) {
	n := startPrimary(t, "a")
	client := healthpb.NewHealthClient(dial(t, n.client))
	want := func(state healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		r, err := client.Check(soon(t), &healthpb.HealthCheckRequest{})
		if err != nil || r.Status != state {
			t.Fatalf("health %v, %v; want %v", r.GetStatus(), err, state)
		}
	}
	watch, err := client.Watch(soon(t), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func(state healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		r, err := watch.Recv()
		if err != nil || r.Status != state {
			t.Fatalf("health watch %v, %v; want %v", r.GetStatus(), err, state)
		}
	}
	want(healthpb.HealthCheckResponse_SERVING)
	next(healthpb.HealthCheckResponse_SERVING)
	n.gate.set(func(g *fakeGate) { g.closed = &ClosedError{Why: "closed"} })
	want(healthpb.HealthCheckResponse_NOT_SERVING)
	next(healthpb.HealthCheckResponse_NOT_SERVING)
	n.router.to(Route{Target: "127.0.0.1:1"})
	want(healthpb.HealthCheckResponse_SERVING)
	next(healthpb.HealthCheckResponse_SERVING)
	n.router.to(Route{Why: "electing"})
	want(healthpb.HealthCheckResponse_NOT_SERVING)
	next(healthpb.HealthCheckResponse_NOT_SERVING)
}

// createWatch sends one request and waits for its echo.
func createWatch(t *testing.T, watch etcdserverpb.Watch_WatchClient) *etcdserverpb.WatchResponse {
	t.Helper()
	err := watch.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte("k")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := watch.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if !r.Created {
		t.Fatalf("got %v", r)
	}
	return r
}
