package native

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"kineshim/kineshim"
	"kineshim/kineshim/kinetable"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// ReplicaConfig is what a Replica needs. All fields but Log are required.
type ReplicaConfig struct {
	// Engine is for the engines that serve from the copy.
	Engine Config
	// DSN is a connection string to this node's PostgreSQL, by its unix socket.
	DSN string
	// StandbyLife names the life of this node's PostgreSQL in which it has been streaming from the primary without interruption; ok is
	// false if it does not. What such a PostgreSQL shows is a part of the primary's history.
	StandbyLife func() (life uint64, ok bool)
	// Primary is the peer address of the primary to follow, "" if there is none or if it is this node; changed is closed when it may
	// be another one.
	Primary func() (target string, changed <-chan struct{})
	// Conn returns a connection to a peer address, which it does not wait for.
	Conn func(target string) (grpc.ClientConnInterface, error)
	Log  *slog.Logger
}

// Replica is a node's copy of the keys, for as long as the process lives. While this node is the primary, an engine serves from it and
// extends it; otherwise it follows the primary. It answers reads and watches in both roles. Call Run once.
type Replica struct {
	cfg   ReplicaConfig
	log   *slog.Logger
	table *kinetable.Reader // what this node's PostgreSQL shows as a standby

	// copy is what is read and watched; nil: there is none yet.
	copy atomic.Pointer[keyspace]
	// serving is the engine that serves; nil: none.
	serving atomic.Pointer[Engine]

	// role is held by whoever extends the copy: an engine, from its start to its end, or a round of following.
	role chan struct{}
	mu   sync.Mutex // guards the fields below
	// wanted counts engines that want the role, for which the follower makes way: stop ends its round.
	wanted int
	stop   context.CancelFunc
	idle   chan struct{} // closed when no engine wants the role
}

var _ kineshim.Replica = (*Replica)(nil)

// NewReplica starts nothing.
func NewReplica(c ReplicaConfig) *Replica {
	c.Engine.setDefaults()
	r := &Replica{cfg: c, log: c.Log, role: make(chan struct{}, 1), idle: make(chan struct{})}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	close(r.idle)
	r.table = kinetable.OpenReader(kinetable.Config{DSN: c.DSN, Log: r.log})
	return r
}

// Close gives the copy up and ends its watches. Engines and Run must have ended.
func (r *Replica) Close() {
	if k := r.copy.Swap(nil); k != nil {
		k.abandon()
	}
	r.table.Close()
}

// Factory returns an EngineFactory whose engines go on with the copy.
func (r *Replica) Factory() kineshim.EngineFactory {
	return func(ctx context.Context, s kineshim.Session) (kineshim.Engine, error) {
		if err := r.claim(ctx); err != nil {
			return nil, err
		}
		e, err := r.open(ctx, s)
		if err != nil {
			r.release()
			return nil, err
		}
		engine := &served{Engine: e, r: r}
		go engine.closeBroken()
		return engine, nil
	}
}

// claim takes the role from the follower.
func (r *Replica) claim(ctx context.Context) error {
	r.mu.Lock()
	if r.wanted == 0 {
		r.idle = make(chan struct{})
	}
	r.wanted++
	if r.stop != nil {
		r.stop()
	}
	r.mu.Unlock()
	select {
	case r.role <- struct{}{}:
		return nil
	case <-ctx.Done():
		r.unwant()
		return ctx.Err()
	}
}

func (r *Replica) release() {
	<-r.role
	r.unwant()
}

func (r *Replica) unwant() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wanted--; r.wanted == 0 {
		close(r.idle)
	}
}

// open starts an engine on the copy, or on a new one if there is none that fits. After a forced promotion the copy may hold what the
// new primary's PostgreSQL never had.
func (r *Replica) open(ctx context.Context, s kineshim.Session) (*Engine, error) {
	k := r.copy.Load()
	if k != nil && s.Forced {
		r.drop(k, errors.New("the promotion was forced"))
		k = nil
	}
	e, err := open(ctx, r.cfg.Engine, s, k)
	if errors.Is(err, errForeign) {
		r.drop(k, err)
		e, err = open(ctx, r.cfg.Engine, s, nil)
	}
	if err != nil {
		return nil, err
	}
	r.serving.Store(e)
	e.ahead.Store(0)
	r.copy.Store(e.keyspace)
	return e, nil
}

// drop gives a copy up that is of no use.
func (r *Replica) drop(k *keyspace, why error) {
	if r.copy.CompareAndSwap(k, nil) {
		r.log.Warn("the copy of the keys is made anew; watches begin again", "why", why)
	}
	k.abandon()
}

// served is an engine that has the role.
type served struct {
	*Engine
	r    *Replica
	once sync.Once
}

// closeBroken closes an engine that broke by itself, so that the copy can follow whoever serves next. It ends with the engine.
func (s *served) closeBroken() {
	<-s.Failed()
	if err := s.Close(); err != nil {
		s.log.Warn("close a broken engine", "error", err)
	}
}

// Close ends the engine and leaves the copy to the follower, if it can be relied on.
func (s *served) Close() error {
	var err error
	s.once.Do(func() {
		s.r.serving.CompareAndSwap(s.Engine, nil)
		err = s.Engine.Close()
		if s.spoiled.Load() {
			s.r.drop(s.keyspace, errors.New(s.reason()))
		} else {
			s.rows.Store(new(s.r.standbyRows()))
		}
		s.r.release()
	})
	return err
}

// Position is the newest row of the copy that is durable; 0: there is no copy.
func (r *Replica) Position() int64 {
	if k := r.copy.Load(); k != nil {
		return k.committedID.Load()
	}
	return 0
}

// Watch serves one stream of watches.
func (r *Replica) Watch(s pb.Watch_WatchServer) error {
	k := r.copy.Load()
	if k == nil {
		return kineshim.ErrNotHere
	}
	return k.Watch(s)
}

// Range reads the copy when it has reached a revision.
func (r *Replica) Range(ctx context.Context, q *pb.RangeRequest, atLeast int64) (*pb.RangeResponse, error) {
	if err := checkRange(q); err != nil {
		return nil, err
	}
	k, err := r.reach(ctx, atLeast)
	if err != nil {
		return nil, err
	}
	release := k.hold()
	defer release()
	found, err := k.latest().find(q)
	if err == nil {
		err = k.fill(ctx, found)
	}
	if err != nil {
		return nil, notHere(ctx, err)
	}
	return found.response, nil
}

// Txn is Range for a transaction that only reads.
func (r *Replica) Txn(ctx context.Context, q *pb.TxnRequest, atLeast int64) (*pb.TxnResponse, error) {
	if err := checkTxn(q, r.cfg.Engine.MaxTxnOps); err != nil {
		return nil, err
	}
	if err := checkOverlaps(q); err != nil {
		return nil, err
	}
	k, err := r.reach(ctx, atLeast)
	if err != nil {
		return nil, err
	}
	response, err := k.readTxn(ctx, q, func(string) bool { return false })
	switch {
	case err != nil:
		return nil, notHere(ctx, err)
	case response == nil:
		return nil, kineshim.ErrNotHere
	}
	return response, nil
}

// reachBound is how long a read waits for the copy before the primary is asked: far longer than the copy is behind as a rule.
const reachBound = 500 * time.Millisecond

func (r *Replica) reach(ctx context.Context, revision int64) (*keyspace, error) {
	k := r.copy.Load()
	if k == nil {
		return nil, kineshim.ErrNotHere
	}
	if k.committed() >= revision {
		return k, nil
	}
	bounded, cancel := context.WithTimeout(ctx, reachBound)
	defer cancel()
	err := k.reach(bounded, revision)
	switch {
	case err == nil:
		return k, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, kineshim.ErrNotHere
}

// standbyRows reads the table beside the standby that this node is.
func (r *Replica) standbyRows() rows { return standbyTable{reader: r.table, life: r.cfg.StandbyLife} }

// notHere turns what only says that this copy cannot tell into ErrNotHere. Errors that are answers, such as a compacted revision, are
// the primary's as well.
func notHere(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errGone), unreadable(err):
		return kineshim.ErrNotHere
	}
	return err
}
