package kineshim

import (
	"context"
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
)

const (
	// DefaultMaxRequestBytes is etcd's default of --max-request-bytes, and overheadBytes what etcd allows gRPC on top of it
	// (grpcOverheadBytes).
	DefaultMaxRequestBytes = 3 * 1024 * 1024 / 2
	overheadBytes          = 512 * 1024
	// streamWorkers are goroutines that serve calls one after the other: their stacks have grown once and for all. Calls that
	// find none free, as when all hold watches, get a goroutine of their own.
	streamWorkers = 64
	// minKeepalive is how often a client may ping; etcd's --grpc-keepalive-min-time.
	minKeepalive = 5 * time.Second
	// greetWithin bounds a connection's TLS and HTTP/2 handshakes. gRPC's two minutes are long for somebody who says nothing.
	greetWithin = 10 * time.Second
	// maxConcurrent bounds the calls and streams under way on one connection: as many as one session takes from all. More wait at the client, so it is
	// to be generous. etcd has no bound.
	maxConcurrent = maxCalls
	// maxHeaderBytes bounds a call's metadata: a token is some hundred bytes. gRPC allows 16 MB.
	maxHeaderBytes = 64 << 10
)

// ClientServerOptions are the options of the gRPC server at the client address.
func (e *Endpoint) ClientServerOptions() []grpc.ServerOption { return e.serverOptions(fromClients) }

// ControlServerOptions are those of the gRPC server on the control socket, whose callers may do everything: the operating system says who may use
// it. Other services may live on it.
func (e *Endpoint) ControlServerOptions() []grpc.ServerOption { return e.serverOptions(fromOperator) }

// PeerServerOptions are the options of the gRPC server at the peer address. Other services may live on that server: only
// etcd's are intercepted. A call that arrives there is never forwarded again.
func (e *Endpoint) PeerServerOptions() []grpc.ServerOption { return e.serverOptions(fromPeer) }

// origin says whose calls a server gets.
type origin int

const (
	fromClients origin = iota
	fromOperator
	fromPeer
)

// context is that of a call, with what its caller may say of himself and no more.
func (o origin) context(ctx context.Context) context.Context {
	switch o {
	case fromClients:
		return ownWords(ctx)
	case fromOperator:
		return asOperator(ownWords(ctx))
	}
	return ctx
}

// concurrent bounds what is under way on one connection. All that the other node forwards comes by one, and is bounded there.
func (o origin) concurrent() uint32 {
	if o == fromPeer {
		return math.MaxUint32
	}
	return maxConcurrent
}

// headerBytes bounds a call's metadata. The other node adds its own to a client's.
func (o origin) headerBytes() uint32 {
	if o == fromPeer {
		return 2 * maxHeaderBytes
	}
	return maxHeaderBytes
}

func (e *Endpoint) serverOptions(from origin) []grpc.ServerOption {
	maxRequest := e.opt.MaxRequestBytes
	if maxRequest == 0 {
		maxRequest = DefaultMaxRequestBytes
	}
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(e.codec),
		grpc.MaxRecvMsgSize(maxRequest + overheadBytes),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.ChainUnaryInterceptor(e.interceptUnary(from)),
		grpc.ChainStreamInterceptor(e.interceptStream(from)),
		// As with etcd, clients ping while something is under way only. The other node pings always.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minKeepalive, PermitWithoutStream: from == fromPeer}),
		grpc.ConnectionTimeout(greetWithin),
		grpc.MaxConcurrentStreams(from.concurrent()),
		grpc.MaxHeaderListSize(from.headerBytes()),
	}
}

// Register registers etcd's services, gRPC health and reflection on a server that was made with ClientServerOptions or
// PeerServerOptions.
func (e *Endpoint) Register(s *grpc.Server) {
	etcdserverpb.RegisterKVServer(s, services{})
	etcdserverpb.RegisterWatchServer(s, services{})
	etcdserverpb.RegisterLeaseServer(s, services{})
	etcdserverpb.RegisterClusterServer(s, services{})
	etcdserverpb.RegisterMaintenanceServer(s, services{})
	etcdserverpb.RegisterAuthServer(s, services{})
	healthpb.RegisterHealthServer(s, &health{endpoint: e})
	reflection.Register(s)
}

// engineKey is the context key under which the interceptors leave the engine that a call goes to.
type engineKey struct{}

// engineContext carries the engine that a call goes to, and the call's attempt if it has one.
type engineContext struct {
	context.Context
	engine  Engine
	attempt Attempt
	request Request
}

// Value returns the engine, the attempt and the request, and what the context around holds.
func (c *engineContext) Value(key any) any {
	switch key.(type) {
	case engineKey:
		return c.engine
	case attemptKey:
		return &c.attempt
	case requestKey:
		return &c.request
	}
	return c.Context.Value(key)
}

func withEngine(ctx context.Context, engine Engine, a Attempt) context.Context {
	return &engineContext{Context: ctx, engine: engine, attempt: a}
}

// services hand each call to the engine that the interceptors chose.
type services struct{}

// toEngine runs one method of the engine in ctx. A call that did not come through the interceptors has none, and is refused.
func toEngine[Q, R any](ctx context.Context, req Q, method func(Engine, context.Context, Q) (R, error)) (R, error) {
	engine, ok := ctx.Value(engineKey{}).(Engine)
	if !ok {
		var none R
		return none, Unavailable(errNoEngine.Error())
	}
	if access, ok := engine.(AccessEngine); ok {
		return permitted(ctx, access, req, func() (R, error) { return method(engine, ctx, req) })
	}
	return method(engine, ctx, req)
}

func (services) Range(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	return toEngine(ctx, r, Engine.Range)
}

func (services) Put(ctx context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	return toEngine(ctx, r, Engine.Put)
}

func (services) DeleteRange(ctx context.Context, r *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error) {
	return toEngine(ctx, r, Engine.DeleteRange)
}

func (services) Txn(ctx context.Context, r *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	return toEngine(ctx, r, Engine.Txn)
}

func (services) Compact(ctx context.Context, r *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error) {
	return toEngine(ctx, r, Engine.Compact)
}

func (services) LeaseGrant(ctx context.Context, r *etcdserverpb.LeaseGrantRequest) (*etcdserverpb.LeaseGrantResponse, error) {
	return toEngine(ctx, r, Engine.LeaseGrant)
}

func (services) LeaseRevoke(ctx context.Context, r *etcdserverpb.LeaseRevokeRequest) (*etcdserverpb.LeaseRevokeResponse, error) {
	return toEngine(ctx, r, Engine.LeaseRevoke)
}

func (services) LeaseTimeToLive(ctx context.Context, r *etcdserverpb.LeaseTimeToLiveRequest) (*etcdserverpb.LeaseTimeToLiveResponse, error) {
	return toEngine(ctx, r, Engine.LeaseTimeToLive)
}

func (services) LeaseLeases(ctx context.Context, r *etcdserverpb.LeaseLeasesRequest) (*etcdserverpb.LeaseLeasesResponse, error) {
	return toEngine(ctx, r, Engine.LeaseLeases)
}

func (services) MemberAdd(ctx context.Context, r *etcdserverpb.MemberAddRequest) (*etcdserverpb.MemberAddResponse, error) {
	return toEngine(ctx, r, Engine.MemberAdd)
}

func (services) MemberRemove(ctx context.Context, r *etcdserverpb.MemberRemoveRequest) (*etcdserverpb.MemberRemoveResponse, error) {
	return toEngine(ctx, r, Engine.MemberRemove)
}

func (services) MemberUpdate(ctx context.Context, r *etcdserverpb.MemberUpdateRequest) (*etcdserverpb.MemberUpdateResponse, error) {
	return toEngine(ctx, r, Engine.MemberUpdate)
}

func (services) MemberList(ctx context.Context, r *etcdserverpb.MemberListRequest) (*etcdserverpb.MemberListResponse, error) {
	return toEngine(ctx, r, Engine.MemberList)
}

func (services) MemberPromote(ctx context.Context, r *etcdserverpb.MemberPromoteRequest) (*etcdserverpb.MemberPromoteResponse, error) {
	return toEngine(ctx, r, Engine.MemberPromote)
}

func (services) Alarm(ctx context.Context, r *etcdserverpb.AlarmRequest) (*etcdserverpb.AlarmResponse, error) {
	return toEngine(ctx, r, Engine.Alarm)
}

func (services) Status(ctx context.Context, r *etcdserverpb.StatusRequest) (*etcdserverpb.StatusResponse, error) {
	return toEngine(ctx, r, Engine.Status)
}

func (services) Defragment(ctx context.Context, r *etcdserverpb.DefragmentRequest) (*etcdserverpb.DefragmentResponse, error) {
	return toEngine(ctx, r, Engine.Defragment)
}

func (services) Hash(ctx context.Context, r *etcdserverpb.HashRequest) (*etcdserverpb.HashResponse, error) {
	return toEngine(ctx, r, Engine.Hash)
}

func (services) HashKV(ctx context.Context, r *etcdserverpb.HashKVRequest) (*etcdserverpb.HashKVResponse, error) {
	return toEngine(ctx, r, Engine.HashKV)
}

func (services) MoveLeader(ctx context.Context, r *etcdserverpb.MoveLeaderRequest) (*etcdserverpb.MoveLeaderResponse, error) {
	return toEngine(ctx, r, Engine.MoveLeader)
}

func (services) Downgrade(ctx context.Context, r *etcdserverpb.DowngradeRequest) (*etcdserverpb.DowngradeResponse, error) {
	return toEngine(ctx, r, Engine.Downgrade)
}

// stream runs one streaming method of the engine that the stream's context carries.
func stream[S grpc.ServerStream](s S, method func(Engine, S) error) error {
	engine, ok := s.Context().Value(engineKey{}).(Engine)
	if !ok {
		return Unavailable(errNoEngine.Error())
	}
	return method(engine, s)
}

func (services) Watch(s etcdserverpb.Watch_WatchServer) error { return stream(s, Engine.Watch) }

func (services) LeaseKeepAlive(s etcdserverpb.Lease_LeaseKeepAliveServer) error {
	return stream(s, Engine.LeaseKeepAlive)
}

func (services) Snapshot(r *etcdserverpb.SnapshotRequest, s etcdserverpb.Maintenance_SnapshotServer) error {
	return stream(s, func(e Engine, s etcdserverpb.Maintenance_SnapshotServer) error {
		if access, ok := e.(AccessEngine); ok {
			if err := access.Permit(s.Context(), r); err != nil {
				return err
			}
		}
		return e.Snapshot(r, s)
	})
}
