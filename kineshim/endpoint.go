// Package kineshim is the etcd endpoint of a data node: it answers the etcd v3 API through an Engine while this node is the
// primary, and forwards calls to the primary while it is not.
//
// What is answered, and when, is decided by two seams that the endpoint only consults: the Router says who answers, the Gate
// whether this node may. A request is answered only if the gate still holds after its data have been gathered. A request that
// nobody can answer waits for a primary, for a bounded time, and is then refused as Unavailable: never an empty database, never
// a false compare failure. With a Replica, a node that is not the primary answers reads and watches from its copy.
package kineshim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// Options configure an Endpoint. Gate, Router, Engine and Log are required.
type Options struct {
	// Node is this node's name, for messages and for the mark on forwarded calls.
	Node   string
	Gate   Gate
	Router Router
	// Engine starts an engine for a serving session; KineEngine is one.
	Engine EngineFactory
	// Replica is this node's copy of the data; nil means that there is none: watches and reads are forwarded like everything else.
	Replica Replica
	// MaxWait bounds how long a request waits for a primary; 0 is DefaultMaxWait, and less than 0 lets none wait.
	MaxWait time.Duration
	// HeaderInfo fills response headers; nil leaves them as the engine made them. It is called on every answer.
	HeaderInfo func() HeaderInfo
	// MaxRequestBytes bounds a request as etcd's --max-request-bytes does; 0 is etcd's default, 1.5 MiB.
	MaxRequestBytes int
	// DialOptions are for the connection to the other node's peer address, above all its transport credentials. None means
	// a connection without credentials.
	DialOptions []grpc.DialOption
	// Answered, if not nil, is told of each client's unary call of etcd's services, by its full method, how it ended and how long that took. It
	// must neither block nor cost much.
	Answered func(method string, code codes.Code, took time.Duration)
	Log      *slog.Logger
}

// Endpoint serves etcd's API on a data node. Its methods may be called from any goroutine; StartEngine and StopEngine
// exclude one another.
type Endpoint struct {
	opt   Options
	codec frameCodec
	conns conns

	// current is the session whose engine answers; nil when there is none.
	current atomic.Pointer[session]
	// changing is held while the session changes.
	changing sync.Mutex

	room    room
	asker   asker
	streams streams
	// leaderless is for streams that require a leader.
	leaderless leaderless
	// lastRoute is that of the last forwarded call.
	lastRoute       atomic.Pointer[routeLife]
	unknownOutcomes atomic.Uint64

	// background counts the goroutines that are neither a call nor a stream.
	background sync.WaitGroup
	// life ends when the endpoint is closed; closing is its Done.
	life     context.Context
	endLife  context.CancelFunc
	closing  <-chan struct{}
	spawning sync.Mutex // orders spawn with the end of life
}

// New returns an endpoint that has no engine yet and starts nothing.
func New(opt Options) (*Endpoint, error) {
	var errs []error
	for _, need := range []struct {
		missing bool
		what    string
	}{
		{opt.Gate == nil, "gate"}, {opt.Router == nil, "router"}, {opt.Engine == nil, "engine"}, {opt.Log == nil, "log"},
	} {
		if need.missing {
			errs = append(errs, fmt.Errorf("endpoint: no %s", need.what))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if opt.MaxWait == 0 {
		opt.MaxWait = DefaultMaxWait
	}
	codec := newFrameCodec()
	e := &Endpoint{opt: opt, codec: codec.counting(), conns: conns{codec: codec, options: opt.DialOptions}}
	e.life, e.endLife = context.WithCancel(context.Background())
	e.closing = e.life.Done()
	e.room = newRoom(e)
	e.asker.endpoint = e
	return e, nil
}

// spawn runs f in a goroutine that Close waits for, unless the endpoint is closed.
func (e *Endpoint) spawn(f func()) bool {
	e.spawning.Lock()
	defer e.spawning.Unlock()
	if e.life.Err() != nil {
		return false
	}
	e.background.Go(f)
	return true
}

// StartEngine starts an engine for the session, in place of the one before, which it stops first. It is called when PostgreSQL
// serves the epoch and before the gate opens. ctx bounds the start. On an error there is no engine.
func (e *Endpoint) StartEngine(ctx context.Context, s Session) error {
	e.changing.Lock()
	defer e.changing.Unlock()
	e.stop()
	if e.life.Err() != nil {
		return errors.New("start engine: the endpoint is closed")
	}
	if s.Log == nil {
		s.Log = e.opt.Log
	}
	if s.Serves == nil {
		token := Token{Epoch: s.Epoch, Generation: s.Generation}
		s.Serves = func() bool { return e.opt.Gate.Check(token) == nil }
	}
	engine, err := e.opt.Engine(ctx, s)
	if err != nil {
		return fmt.Errorf("start engine: %w", err)
	}
	next := newSession(s, engine)
	if !e.spawn(next.watchFailure) {
		return errors.Join(errors.New("start engine: the endpoint is closed"), engine.Close())
	}
	e.current.Store(next)
	return nil
}

// StopEngine ends the current session, if any: calls in flight fail with Unavailable, local streams end. It returns when the
// engine is closed, within a bounded time.
func (e *Endpoint) StopEngine() {
	e.changing.Lock()
	defer e.changing.Unlock()
	e.stop()
}

// stop is StopEngine with changing held.
func (e *Endpoint) stop() {
	old := e.current.Swap(nil)
	if old == nil {
		return
	}
	left, err := old.end(errSessionEnded)
	if err != nil || left > 0 {
		e.opt.Log.Warn("the engine left work behind when it was closed", "epoch", old.Epoch, "calls", left, "error", err)
	}
}

// EngineFailed returns a channel that is closed when the current engine is broken and must be started anew; nil when there is
// no engine.
func (e *Endpoint) EngineFailed() <-chan struct{} {
	if s := e.current.Load(); s != nil {
		return s.engine.Failed()
	}
	return nil
}

// Close stops the engine and the connections to the other node, refuses what waits, and ends health watches and watches of the copy. It is
// called before the gRPC servers are stopped or after; afterwards every request is refused.
func (e *Endpoint) Close() error {
	e.spawning.Lock()
	e.endLife()
	e.spawning.Unlock()
	e.StopEngine()
	e.background.Wait()
	return e.conns.close()
}
