package kineshim

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// ErrTokenDead is what a Gate's Wait returns for a token under which no answer can ever be given again: the epoch or the
// PostgreSQL generation has moved on. The endpoint treats every error of Wait as the end of the token; the sentinel is
// there for a Gate to name it.
var ErrTokenDead = errors.New("the serving session of this request has ended")

// ClosedError says that a node may not answer, and why. Why is shown to clients and operators.
type ClosedError struct{ Why string }

// Error returns Why.
func (e *ClosedError) Error() string { return e.Why }

// Token stands for the serving session under which a request began. The zero Token belongs to no session.
type Token struct {
	// Epoch is the cluster record's epoch in which this node is the primary.
	Epoch uint64
	// Generation counts the lives of PostgreSQL's shared memory on this node: a restart or a crash-reinit starts a new one.
	Generation uint64
}

// Gate says whether this node may answer. It is called on every request, from many goroutines.
type Gate interface {
	// Enter returns a token for a request that begins now, or why this node may not answer (a *ClosedError, or any error).
	Enter() (Token, error)
	// Check says whether an answer whose data were gathered under the token may still be given: same epoch, same
	// generation, and the right to serve holds now. It is called after the data have been gathered; nil means yes.
	Check(Token) error
	// Wait blocks until Check(t) holds again (nil), or can never hold again for this token (an error), or ctx ends (an
	// error).
	Wait(ctx context.Context, t Token) error
}

// Route says who answers. The zero Route answers nobody.
type Route struct {
	// Local: this node's engine answers, behind the gate.
	Local bool
	// Target is the peer address (host:port) of the primary when requests are forwarded; empty when there is none.
	Target string
	// Node is the name of the node that answers, for messages.
	Node string
	// Why says why nobody answers, when neither Local nor Target is set.
	Why string
	// Epoch is the epoch of the primary that the route leads to; 0 when it is not known.
	Epoch uint64
	// Done is closed when this route is no longer valid. Forwarded calls and streams end with Unavailable then; local
	// streams ask the gate whether they may go on. Nil means that the route never ends.
	Done <-chan struct{}
}

// Router says who answers now. It is called on every request, from many goroutines, and must not block.
type Router interface {
	Route() Route
}

// HeaderInfo is what response headers carry besides the revision. Zero fields are left as the engine set them.
type HeaderInfo struct {
	ClusterID uint64
	MemberID  uint64
	RaftTerm  uint64
}

// Engine is one serving session on the local primary. Its methods are called behind the gate, with contexts that a client's
// cancel does not end for anything that writes. They answer only what they can stand for: an answer that may be incomplete
// is an error. An error says whether anything may have been done: see Unavailable and InDoubt. When Close has returned, or
// another engine has started, nothing that was asked of this one is done any more.
//
// Contexts of puts, deletions and transactions may carry an Attempt. If it is made Again, the engine answers what an attempt
// before has done, and does it only if none has; if it cannot tell, it is InDoubt.
//
// An engine that also has the method Revision() int64, the newest durable revision, lets the other node answer linearizable reads
// from its copy. If it has the method AccessVersion() uint64 too, the other node knows of access control at least what was known in that version.
type Engine interface {
	etcdserverpb.KVServer
	etcdserverpb.WatchServer
	etcdserverpb.LeaseServer
	etcdserverpb.ClusterServer
	etcdserverpb.MaintenanceServer

	// Failed is closed when the engine is broken for good and must be replaced. Nil means that it never breaks.
	Failed() <-chan struct{}
	// Close ends the session: calls in flight fail, streams end. It returns within a bounded time; the error says what
	// was left behind.
	Close() error
}

// AccessEngine is an Engine with users, who may ask for what they are permitted to. Without it, everybody may ask for everything.
type AccessEngine interface {
	Engine
	etcdserverpb.AuthServer
	// Permit says why the caller of ctx may not ask for it now, as etcd's error; nil: he may. Unary requests are asked about before they
	// are passed on, and again afterwards unless the engine has done so in between: see Request. The engine asks by itself about each
	// watch and each keep-alive of a stream.
	Permit(ctx context.Context, request any) error
}

// InlineEngine is an Engine whose unary calls run in the goroutine of their request, with its context: none of them ends its
// goroutine, and a context that ends, ends the wait for a write and never a write that has begun. Calls of other engines run in goroutines
// of their own, writes with contexts that no client ends.
type InlineEngine interface {
	Engine
	// Inline does nothing: it is the engine's word.
	Inline()
}

// ErrNotHere is what a Replica returns for what its copy cannot tell: it is being made, or lacks what is asked for. The primary can.
var ErrNotHere = errors.New("this node's copy cannot tell")

// Replica is this node's copy of the data, which lives through all changes of role. Its methods may be called from any goroutine, and without
// the gate: what it shows is durable, but may be old.
type Replica interface {
	// Range answers from the copy once that has reached the revision atLeast; 0 is as it is. ErrNotHere if the copy cannot tell.
	Range(ctx context.Context, r *etcdserverpb.RangeRequest, atLeast int64) (*etcdserverpb.RangeResponse, error)
	// Txn does the same for a transaction that only reads; ErrNotHere also if it could change something.
	Txn(ctx context.Context, r *etcdserverpb.TxnRequest, atLeast int64) (*etcdserverpb.TxnResponse, error)
	// Watch serves a stream to its end, through all changes of role. ErrNotHere, before anything was received from s, if there is no copy yet.
	Watch(s etcdserverpb.Watch_WatchServer) error
	// Permit is AccessEngine's, by what the copy knows, once that has come to the point; the zero AccessPoint: as it is. ErrNotHere if it does not get there.
	Permit(ctx context.Context, request any, at AccessPoint) error
	// Guarded says whether callers need permission, as far as the copy knows.
	Guarded() bool
	// Position is the newest row ID of the copy; 0: there is no copy.
	Position() int64
}

// AccessPoint is what the primary has said of access control.
type AccessPoint struct {
	// Version is that of the newest durable change.
	Version uint64
	// Clock is how far the primary's clock is ahead of this node's. Tokens end by the primary's.
	Clock time.Duration
}

// EngineFactory starts an engine on a PostgreSQL that serves the session's epoch. ctx bounds the start, not the engine.
type EngineFactory func(ctx context.Context, s Session) (Engine, error)

// Session is what an engine is started with.
type Session struct {
	// Epoch and Generation are those of the tokens that the gate will hand out while this engine serves: a request whose
	// token has others is refused.
	Epoch      uint64
	Generation uint64
	// Forced says that the epoch was begun by a forced promotion: this node's history may differ from what was acknowledged before.
	Forced bool
	// SocketDir and Port name PostgreSQL's unix socket: SocketDir/.s.PGSQL.Port.
	SocketDir string
	Port      int
	// DSN returns the connection string (postgres://user:password@/database?host=DIR&port=PORT) for a socket directory.
	DSN func(socketDir string) string
	// Serves says whether this session's answers may be given now. What an engine does by itself with time, as ending leases, it does only then: nobody can renew
	// one otherwise. Nil means always.
	Serves func() bool
	// Log is where the engine logs; nil means the endpoint's own.
	Log *slog.Logger
}
