package kineshim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestForwardedRangeOfManyMegabytes(t *testing.T) {
	primary, standby := startPair(t)
	kvs := make([]*mvccpb.KeyValue, 24)
	for i := range kvs {
		kvs[i] = &mvccpb.KeyValue{Key: fmt.Appendf(nil, "k%d", i), Value: bytes.Repeat([]byte{byte(i)}, 1<<20)}
	}
	primary.engine.onRange = func(_ context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
		if string(r.Key) != "k" || r.Limit != 42 {
			return nil, status.Errorf(codes.InvalidArgument, "got %v", r)
		}
		return &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: 5}, Kvs: kvs, Count: 24}, nil
	}
	r, err := etcdserverpb.NewKVClient(dial(t, standby.client)).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k"), Limit: 42})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) != 24 || !bytes.Equal(r.Kvs[23].Value, kvs[23].Value) || r.Header.MemberId != 12 {
		t.Errorf("got %d keys, header %v", len(r.Kvs), r.Header)
	}
}

func TestRequestAboveEtcdsLimitIsRefused(t *testing.T) {
	_, standby := startPair(t)
	conn := dial(t, standby.client)
	kv := etcdserverpb.NewKVClient(conn)
	if _, err := kv.Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k"), Value: make([]byte, 3<<19)}); err != nil {
		t.Errorf("1.5 MiB: %v", err)
	}
	_, err := kv.Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k"), Value: make([]byte, 5<<19)})
	wantCode(t, err, codes.ResourceExhausted, "")
	watch, err := etcdserverpb.NewWatchClient(conn).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	createWatch(t, watch)
	_ = watch.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: make([]byte, 5<<19)},
	}})
	_, err = watch.Recv()
	wantCode(t, err, codes.ResourceExhausted, "")
}

func TestForwardedErrorKeepsItsDetails(t *testing.T) {
	primary, standby := startPair(t)
	for _, code := range []codes.Code{codes.OutOfRange, codes.Unavailable} {
		want, err := status.New(code, "etcdserver: odd").WithDetails(&errdetails.ErrorInfo{Reason: "because"})
		if err != nil {
			t.Fatal(err)
		}
		primary.engine.onRange = func(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
			return nil, want.Err()
		}
		_, err = etcdserverpb.NewKVClient(dial(t, standby.client)).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
		got := status.Convert(err)
		if got.Code() != code || got.Message() != "etcdserver: odd" || len(got.Details()) != 1 ||
			got.Details()[0].(*errdetails.ErrorInfo).Reason != "because" {
			t.Errorf("got %v with %v", got, got.Details())
		}
	}
}

func TestMetadataPassesBothWays(t *testing.T) {
	primary, standby := startPair(t)
	var seen metadata.MD
	primary.engine.onRange = func(ctx context.Context, _ *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
		seen, _ = metadata.FromIncomingContext(ctx)
		if err := grpc.SetHeader(ctx, metadata.Pairs("to-client", "header")); err != nil {
			return nil, err
		}
		return &etcdserverpb.RangeResponse{}, grpc.SetTrailer(ctx, metadata.Pairs("to-client", "trailer"))
	}
	ctx := metadata.AppendToOutgoingContext(soon(t), "hasleader", "true", "token", "1", "token", "2")
	var header, trailer metadata.MD
	_, err := etcdserverpb.NewKVClient(dial(t, standby.client)).Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("k")},
		grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(seen["hasleader"], seen["token"], seen[forwardedKey]); got != "[true] [1 2] [b]" {
		t.Errorf("the primary saw %s", got)
	}
	if got := fmt.Sprint(header["to-client"], trailer["to-client"], trailer[answeredKey]); got != "[header] [trailer] []" {
		t.Errorf("the client saw %s", got)
	}
}

func TestMemberListNamesTheAddressThatTheClientAsked(t *testing.T) {
	primary, standby := startPair(t)
	primary.engine.onMember = func(ctx context.Context) (*etcdserverpb.MemberListResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		return &etcdserverpb.MemberListResponse{Members: []*etcdserverpb.Member{{ClientURLs: md.Get(":authority")}}}, nil
	}
	r, err := etcdserverpb.NewClusterClient(dial(t, standby.client)).MemberList(soon(t), &etcdserverpb.MemberListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Members[0].ClientURLs; len(got) != 1 || got[0] != standby.client {
		t.Errorf("got %v, want %s", got, standby.client)
	}
}

func TestForwardedWatch(t *testing.T) {
	_, standby := startPair(t)
	watch, err := etcdserverpb.NewWatchClient(dial(t, standby.client)).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	for want := int64(1); want <= 3; want++ {
		if r := createWatch(t, watch); r.WatchId != want || r.Header.ClusterId != 11 {
			t.Errorf("got %v, want watch %d", r, want)
		}
	}
	if err := watch.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err == nil {
		t.Errorf("got %v after the end", r)
	}
}

func TestClientCancelReachesThePrimary(t *testing.T) {
	primary, standby := startPair(t)
	ended := make(chan struct{})
	primary.engine.onWatch = func(ws etcdserverpb.Watch_WatchServer) error {
		if err := ws.Send(&etcdserverpb.WatchResponse{}); err != nil {
			return err
		}
		<-ws.Context().Done()
		close(ended)
		return ws.Context().Err()
	}
	ctx, cancel := context.WithCancel(soon(t))
	watch, err := etcdserverpb.NewWatchClient(dial(t, standby.client)).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-ended:
	case <-soon(t).Done():
		t.Fatal("the primary's stream did not end")
	}
	_, err = watch.Recv()
	wantCode(t, err, codes.Canceled, "")
}

func TestEndOfTheRouteEndsForwardedCallsAndStreams(t *testing.T) {
	primary, standby := startPair(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	defer close(goOn)
	primary.engine.onPut = func(context.Context, *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
		close(begun)
		<-goOn
		return &etcdserverpb.PutResponse{}, nil
	}
	conn := dial(t, standby.client)
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
	standby.router.to(Route{Why: "electing"})
	wantCode(t, <-result, codes.Unavailable, "not known")
	_, err = watch.Recv()
	wantCode(t, err, codes.Unavailable, errRouteEnded.Error())
}

func TestForwardedCallIsNotForwardedAgain(t *testing.T) {
	a, b := startNode(t, "a"), startNode(t, "b")
	a.follow(t, Route{Target: b.peer})
	b.follow(t, Route{Target: a.peer})
	conn := dial(t, a.client)
	_, err := etcdserverpb.NewKVClient(conn).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
	wantCode(t, err, codes.Unavailable, errNotPrimary.Error())
	watch, err := etcdserverpb.NewWatchClient(conn).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = watch.Recv()
	wantCode(t, err, codes.Unavailable, errNotPrimary.Error())
}

func TestUnreachablePrimaryIsUnavailable(t *testing.T) {
	n := startNode(t, "b")
	n.router.to(Route{Target: "127.0.0.1:1"}) // reserved, nobody listens there
	link, err := n.endpoint.conns.get("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	link.Connect()
	eventually(t, "the connection has failed", func() bool { return link.GetState() == connectivity.TransientFailure })
	conn := dial(t, n.client)
	_, err = etcdserverpb.NewKVClient(conn).Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k")})
	wantCode(t, err, codes.Unavailable, "forwarding to 127.0.0.1:1")
	if strings.Contains(err.Error(), OutcomeUnknown) {
		t.Errorf("what was sent nowhere may have been done: %v", err)
	}
	watch, err := etcdserverpb.NewWatchClient(conn).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = watch.Recv()
	wantCode(t, err, codes.Unavailable, "forwarding to 127.0.0.1:1")
}

func TestUnknownServiceStaysUnimplemented(t *testing.T) {
	_, standby := startPair(t)
	_, err := etcdserverpb.NewAuthClient(dial(t, standby.client)).AuthStatus(soon(t), &etcdserverpb.AuthStatusRequest{})
	wantCode(t, err, codes.Unimplemented, "")
}

func TestForwardErrorTable(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name       string
		ctx        context.Context
		err        error
		answered   bool
		routeEnded bool
		want       codes.Code
	}{
		{"nothing", t.Context(), nil, false, false, codes.OK},
		{"the primary's answer", t.Context(), status.Error(codes.NotFound, ""), true, true, codes.NotFound},
		{"the connection broke", t.Context(), status.Error(codes.Internal, "RST_STREAM"), false, false, codes.Unavailable},
		{"no status", t.Context(), errors.New("EOF"), false, false, codes.Unavailable},
		{"the connection was closed", t.Context(), status.Error(codes.Canceled, "closing"), false, false, codes.Unavailable},
		{"the route ended", t.Context(), status.Error(codes.Canceled, ""), false, true, codes.Unavailable},
		{"the client has gone", gone, status.Error(codes.Canceled, ""), false, false, codes.Canceled},
		{"too large", t.Context(), status.Error(codes.ResourceExhausted, ""), false, false, codes.ResourceExhausted},
	} {
		if got := status.Code(forwarded{target: "b:1", sent: true, answered: c.answered, routeEnded: c.routeEnded}.error(c.ctx, c.err)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestTheNodeItselfAsksThePrimary(t *testing.T) {
	seen := make(chan Credentials, 1)
	c := startCluster(t, func(o *Options) {
		o.Engine = func(context.Context, Session) (Engine, error) {
			e := newFakeEngine()
			e.onRange = func(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
				select {
				case seen <- CredentialsOf(ctx):
				default:
				}
				return &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: r.Revision}}, nil
			}
			return e, nil
		}
	})
	ask := func() (r *etcdserverpb.RangeResponse, err error) {
		return c.b.endpoint.AskPrimary(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k"), Revision: 3})
	}
	eventually(t, "the primary answers", func() bool { // once there is a connection
		r, err := ask()
		return err == nil && r.Header.Revision == 3
	})
	if who := <-seen; !who.Operator {
		t.Errorf("it is asked by %+v", who)
	}
	c.nobody(c.a, true)
	if _, err := ask(); status.Code(err) != codes.Unavailable {
		t.Errorf("without a primary: %v", err)
	}
}
