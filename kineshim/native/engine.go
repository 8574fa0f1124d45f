package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"kineshim/kineshim"
	"kineshim/kineshim/auth"
	"kineshim/kineshim/kinetable"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// defaultCacheBytes holds the values of a Kubernetes of some hundred nodes.
	defaultCacheBytes = 128 << 20
	// defaultMaxTxnOps is etcd's --max-txn-ops.
	defaultMaxTxnOps = 128
	// closeBound is how long the end of an engine waits for its own goroutines.
	closeBound = 5 * time.Second
	// clockBound is how long it waits for the lease clock to be stored.
	clockBound = 300 * time.Millisecond
	// writeBound is how long it waits for a batch to be sent, which takes milliseconds unless PostgreSQL hangs.
	writeBound = time.Second
)

// Config is what an engine needs to know besides its session. The zero Config serves alone, with etcd's limits.
type Config struct {
	// Cluster says who the members are; nil: a single member that leads.
	Cluster Cluster
	// CacheBytes bounds the values kept in memory; 0 is 128 MiB.
	CacheBytes int64
	// MaxRequestBytes bounds a write request as etcd's --max-request-bytes does; 0 is 1.5 MiB.
	MaxRequestBytes int
	// MaxTxnOps bounds the operations of a transaction as etcd's --max-txn-ops does; 0 is 128.
	MaxTxnOps int
	// DataDir is where PostgreSQL keeps its data: the alarm NOSPACE is raised before its file system is full. "" means never.
	DataDir string
	// WatchProgressEvery is how often an idle watch that asked for progress is told of it; 0 is the hub's default.
	WatchProgressEvery time.Duration
	// Retention is how long superseded revisions are kept at least before the engine compacts by itself; 0 leaves compaction to
	// the clients, as etcd does by default and as Kubernetes expects.
	Retention time.Duration
	// AskPrimary reads at the primary what this node's copy cannot tell, on the node's own behalf; nil: that cannot be done.
	AskPrimary func(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error)
	// Measures are told how long things take.
	Measures Measures
}

// Cluster is the membership behind the engine, as etcd's Cluster and Maintenance services show it.
type Cluster interface {
	Members() []Member
	// Leader is the ID of the member that serves, 0 if none does.
	Leader() uint64
	// Raft is the index of the last entry in the Raft log, of the last one applied, and the term.
	Raft() (index, applied, term uint64)
	// MoveLeader is a switchover to the member with the ID.
	MoveLeader(ctx context.Context, target uint64) error
}

// Member is one voter.
type Member struct {
	ID                   uint64
	Name                 string
	PeerURLs, ClientURLs []string
}

// Engine is one serving session; see kineshim.Engine.
type Engine struct {
	*keyspace
	cfg        Config
	serves     func() bool // Session.Serves
	epoch      uint64      // Session.Epoch
	log        *slog.Logger
	store      *kinetable.Store
	clock      *leaseClock
	seq        *sequencer
	space      space
	sizes      sizes
	compaction compaction
	passwords  *passwords
	said       *voice
	// loaded is what the table says of access control; nil: nothing. It is shown to nobody before it is durable.
	loaded *auth.State

	// ctx ends with the engine; running counts its goroutines.
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	closing atomic.Bool
	once    sync.Once // closes the engine

	broken sync.Once // closes failed
	// spoiled: what the keyspace holds may not be what it should be.
	spoiled atomic.Bool
	failed  chan struct{}
	why     atomic.Pointer[string]
}

var (
	_ kineshim.InlineEngine = (*Engine)(nil)
	_ kineshim.AccessEngine = (*Engine)(nil)
)

// Inline: the end of a context never ends a write.
func (e *Engine) Inline() {}

// Factory returns an EngineFactory whose engines have a keyspace of their own each, which ends with them. A node that keeps its copy
// of the keys through all changes of role has a Replica.
func Factory(c Config) kineshim.EngineFactory {
	return func(ctx context.Context, s kineshim.Session) (kineshim.Engine, error) {
		e, err := Open(ctx, c, s)
		if err != nil {
			return nil, err
		}
		return single{e}, nil
	}
}

// single is an engine whose keyspace ends with it.
type single struct{ *Engine }

// Close ends the watches too.
func (s single) Close() error {
	s.abandon()
	return s.Engine.Close()
}

// Open takes the table over, loads all of it and starts to serve. ctx bounds the start, not the engine.
func Open(ctx context.Context, c Config, s kineshim.Session) (*Engine, error) {
	return open(ctx, c, s, nil)
}

// open goes on with a copy if there is one: errForeign says that it does not fit the table.
func open(ctx context.Context, c Config, s kineshim.Session, k *keyspace) (*Engine, error) {
	c.setDefaults()
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	began := time.Now()
	store, err := kinetable.Open(ctx, kinetable.Config{DSN: s.DSN(s.SocketDir), Log: log})
	if err != nil {
		return nil, fmt.Errorf("start the native engine: %w", err)
	}
	warm := k != nil
	if !warm {
		k = newKeyspace(c, log)
	}
	e := &Engine{keyspace: k, cfg: c, serves: s.Serves, epoch: s.Epoch, log: log, store: store, passwords: newPasswords(), said: newVoice(), failed: make(chan struct{})}
	if e.serves == nil {
		e.serves = func() bool { return true }
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.compaction.wake = make(chan struct{}, 1)
	from := k.committed()
	if warm {
		err = e.catchUp(ctx)
	} else {
		err = e.load(ctx, s.Forced)
	}
	if err != nil {
		e.cancel()
		return nil, fmt.Errorf("start the native engine: %w", errors.Join(err, store.Close()))
	}
	if e.loaded != nil {
		e.setAccess(e.loaded)
	}
	e.rows.Store(new(rows(ownTable{e})))
	e.seq = newSequencer(e)
	e.start()
	log.Info("the native engine serves", "revision", e.committed(), "compacted", e.compacted(), "keys", e.index.Keys(),
		"revisions", e.index.Revisions(), "warm", warm, "caughtUp", e.committed()-from, "took", time.Since(began).Round(time.Millisecond))
	return e, nil
}

func (c *Config) setDefaults() {
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCacheBytes
	}
	if c.MaxRequestBytes == 0 {
		c.MaxRequestBytes = kineshim.DefaultMaxRequestBytes
	}
	if c.MaxTxnOps == 0 {
		c.MaxTxnOps = defaultMaxTxnOps
	}
	if c.Cluster == nil {
		c.Cluster = alone{}
	}
}

// start starts what Close waits for.
func (e *Engine) start() {
	e.running.Go(func() {
		defer close(e.seq.evaluated)
		e.seq.evaluate()
	})
	e.running.Go(e.seq.receive)
	e.running.Go(func() { e.compact(e.ctx, &e.debts) })
	e.running.Go(func() { e.runLeases(e.ctx) })
	e.running.Go(func() { e.runSpace(e.ctx) })
	e.running.Go(func() { e.runRetention(e.ctx) })
	e.running.Go(func() { e.runTidy(e.ctx) })
	e.running.Go(func() {
		select {
		case <-e.store.Failed():
			e.fail(fmt.Errorf("the table: %w", e.store.Why()))
		case <-e.ctx.Done():
		}
	})
}

// Failed is closed when the engine is broken for good: a commit's outcome is in doubt, a connection is lost.
func (e *Engine) Failed() <-chan struct{} { return e.failed }

// spoil is fail when the keyspace cannot be relied on either.
func (e *Engine) spoil(why error) {
	e.spoiled.Store(true)
	e.fail(why)
}

// fail ends the engine's service. What waits is refused, its outcome unknown.
func (e *Engine) fail(why error) {
	e.broken.Do(func() {
		text := why.Error()
		e.why.Store(&text)
		close(e.failed)
		switch {
		case e.closing.Load():
		case errors.Is(why, errRestored):
			e.log.Info("the native engine starts anew", "why", why)
		default:
			e.log.Warn("the native engine ends, and is started anew", "why", why)
		}
		e.cancel()
		e.seq.stop()
	})
}

// Close ends the session: what is in flight is refused. Nobody waits for a commit that waits for its standby. What was not committed
// is taken back, so that the keyspace is of use to the next engine, or to following another node's.
func (e *Engine) Close() error {
	var err error
	e.once.Do(func() {
		e.closing.Store(true)
		e.fail(errors.New("this node stopped serving"))
		select {
		case <-e.seq.evaluated:
		case <-time.After(writeBound):
			e.store.Cut() // PostgreSQL takes nothing
			<-e.seq.evaluated
		}
		e.saveClock()
		err = e.store.Close()
		ended := make(chan struct{})
		go func() { // ends with what it waits for
			e.running.Wait()
			close(ended)
		}()
		timeout := time.NewTimer(closeBound)
		defer timeout.Stop()
		select {
		case <-ended:
		case <-timeout.C:
			e.spoiled.Store(true) // somebody may still change it
			err = errors.Join(err, fmt.Errorf("close the native engine: still busy %v after its end", closeBound))
		}
		if !e.spoiled.Load() {
			e.rollback(e.seq.lost())
		}
	})
	return err
}

// saveClock stores the lease clock, so that an end that was planned makes no lease longer. Nothing is lost if it fails.
func (e *Engine) saveClock() {
	if _, any := e.leases.Next(); !any {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), clockBound)
	defer cancel()
	if err := e.store.SaveLeaseClock(ctx, e.clock.now()); err != nil {
		e.log.Debug("the lease clock was not stored at the end", "error", err)
	}
}

// usable says why the engine must not be asked.
func (e *Engine) usable() error {
	select {
	case <-e.failed:
		return kineshim.Unavailable(e.reason())
	default:
		return nil
	}
}

func (e *Engine) reason() string {
	if why := e.why.Load(); why != nil {
		return *why
	}
	return "the engine has ended"
}

// Revision is the newest durable revision.
func (e *Engine) Revision() int64 { return e.committed() }

// header is a response's header of now; the endpoint fills what else it carries.
func (e *Engine) header() *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{Revision: e.committed()}
}

// alone is the Cluster of an engine that has none.
type alone struct{}

func (alone) Members() []Member                   { return []Member{{ID: 1, Name: "default"}} }
func (alone) Leader() uint64                      { return 1 }
func (alone) Raft() (index, applied, term uint64) { return 1, 1, 1 }
func (alone) MoveLeader(context.Context, uint64) error {
	return errors.New("there is no other member")
}
