package kineshim

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	pb "kineshim/proto"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// patience bounds every wait of these tests; nothing that works takes that long.
const patience = 10 * time.Second

// fakeGate is a gate that tests open, close and make blink.
type fakeGate struct {
	mu      sync.Mutex
	token   Token
	closed  error         // what Enter says
	check   error         // what Check says
	dead    bool          // the token can never hold again
	changed chan struct{} // closed at every change
}

func newFakeGate() *fakeGate {
	return &fakeGate{token: Token{Epoch: 7, Generation: 3}, changed: make(chan struct{})}
}

func (g *fakeGate) set(change func(*fakeGate)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(g)
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *fakeGate) Enter() (Token, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.token, g.closed
}

func (g *fakeGate) Check(t Token) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t != g.token {
		return ErrTokenDead
	}
	return g.check
}

func (g *fakeGate) Wait(ctx context.Context, t Token) error {
	for {
		g.mu.Lock()
		dead, check, changed := g.dead || t != g.token, g.check, g.changed
		g.mu.Unlock()
		if dead {
			return ErrTokenDead
		}
		if check == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fakeRouter routes as it is told.
type fakeRouter struct {
	mu    sync.Mutex
	route Route
	done  chan struct{}
}

// to sets the route and ends the one before.
func (r *fakeRouter) to(route Route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done != nil {
		close(r.done)
	}
	r.done = make(chan struct{})
	route.Done = r.done
	r.route = route
}

func (r *fakeRouter) Route() Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.route
}

// fakeEngine does what its functions say; what has none is refused.
type fakeEngine struct {
	etcdserverpb.UnimplementedKVServer
	etcdserverpb.UnimplementedWatchServer
	etcdserverpb.UnimplementedLeaseServer
	etcdserverpb.UnimplementedClusterServer
	etcdserverpb.UnimplementedMaintenanceServer

	onRange  func(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error)
	onPut    func(context.Context, *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error)
	onWatch  func(etcdserverpb.Watch_WatchServer) error
	onMember func(context.Context) (*etcdserverpb.MemberListResponse, error)
	failed   chan struct{}
	onClose  func()
}

func (e *fakeEngine) Range(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	return e.onRange(ctx, r)
}

func (e *fakeEngine) Put(ctx context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	return e.onPut(ctx, r)
}

func (e *fakeEngine) Watch(ws etcdserverpb.Watch_WatchServer) error { return e.onWatch(ws) }

func (e *fakeEngine) MemberList(ctx context.Context, _ *etcdserverpb.MemberListRequest) (*etcdserverpb.MemberListResponse, error) {
	return e.onMember(ctx)
}

func (e *fakeEngine) Failed() <-chan struct{} { return e.failed }

func (e *fakeEngine) Close() error {
	if e.onClose != nil {
		e.onClose()
	}
	return nil
}

// newFakeEngine answers ranges with revision 5 and echoes watch creations.
func newFakeEngine() *fakeEngine {
	return &fakeEngine{
		failed: make(chan struct{}),
		onRange: func(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
			return &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: 5}}, nil
		},
		onPut: func(context.Context, *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
			return &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: 6}}, nil
		},
		onWatch: func(ws etcdserverpb.Watch_WatchServer) error {
			for id := int64(1); ; id++ {
				if _, err := ws.Recv(); err != nil {
					return err
				}
				header := &etcdserverpb.ResponseHeader{Revision: id}
				if err := ws.Send(&etcdserverpb.WatchResponse{Header: header, Created: true, WatchId: id}); err != nil {
					return err
				}
			}
		},
	}
}

// node is an endpoint with its two servers.
type node struct {
	endpoint *Endpoint
	gate     *fakeGate
	router   *fakeRouter
	engine   *fakeEngine
	replica  *fakeReplica // nil, but in a cluster
	client   string       // client address
	peer     string       // peer address
}

// startNode starts a node on which no engine runs and nothing is routed. Unless it is told otherwise, its requests wait for nothing.
func startNode(t *testing.T, name string, change ...func(*Options)) *node {
	t.Helper()
	n := &node{gate: newFakeGate(), router: &fakeRouter{}, engine: newFakeEngine()}
	n.router.to(Route{Why: "nobody yet"})
	var err error
	options := Options{
		Node: name, MaxWait: -1, Gate: n.gate, Router: n.router, Log: testLog(t),
		Engine:     func(context.Context, Session) (Engine, error) { return n.engine, nil },
		HeaderInfo: func() HeaderInfo { return HeaderInfo{ClusterID: 11, MemberID: 12, RaftTerm: 13} },
	}
	for _, f := range change {
		f(&options)
	}
	n.endpoint, err = New(options)
	if err != nil {
		t.Fatal(err)
	}
	n.client = serve(t, n.endpoint, n.endpoint.ClientServerOptions())
	n.peer = serve(t, n.endpoint, n.endpoint.PeerServerOptions(), func(s *grpc.Server) { pb.RegisterReadsServer(s, n.endpoint.Reads()) })
	t.Cleanup(func() {
		if err := n.endpoint.Close(); err != nil {
			t.Errorf("close the endpoint: %v", err)
		}
	})
	return n
}

// startPrimary starts a node that answers.
func startPrimary(t *testing.T, name string) *node {
	t.Helper()
	n := startNode(t, name)
	n.lead(t)
	return n
}

// lead gives the node an engine and routes to it.
func (n *node) lead(t *testing.T) {
	t.Helper()
	if err := n.endpoint.StartEngine(t.Context(), Session{Epoch: 7, Generation: 3}); err != nil {
		t.Fatal(err)
	}
	n.router.to(Route{Local: true, Node: n.endpoint.opt.Node})
}

// startPair starts a primary and a node that forwards to it.
func startPair(t *testing.T) (primary, standby *node) {
	t.Helper()
	primary = startPrimary(t, "a")
	standby = startNode(t, "b")
	standby.follow(t, Route{Target: primary.peer, Node: "a"})
	return primary, standby
}

// follow routes to another node, when the connection to it is there.
func (n *node) follow(t *testing.T, route Route) {
	t.Helper()
	eventually(t, "connected to "+route.Target, func() bool { return n.endpoint.conns.reachable(route.Target) })
	n.router.to(route)
}

func serve(t *testing.T, e *Endpoint, options []grpc.ServerOption, register ...func(*grpc.Server)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	e.Register(s)
	for _, f := range register {
		f(s)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	return listener.Addr().String()
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// soon is a context that ends with the test's patience.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls a condition until it holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// testLog logs to the test, while it runs.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}
