package kineshim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	_ "github.com/k3s-io/kine/pkg/drivers/pgsql" // registers postgres://
	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// kineEtcdVersion is the etcd version that Status names: Kubernetes asks for progress from 3.5.13 on.
	kineEtcdVersion = "3.6.11"
	// kineProgressEvery is how often a watch that asked for progress is told of it.
	kineProgressEvery = 5 * time.Second
	// kineConnections is kine's pool. Unbounded, as it is by default, it runs into max_connections and gets slower.
	kineConnections = 20
	// kineCloseBound is how long the end of an engine waits for kine's own goroutines.
	kineCloseBound = 5 * time.Second
)

// kineEngine is kine's PostgreSQL driver and etcd bridge in this process, behind a relay and behind checks of what kine gets
// wrong.
//
// BUG(kine): events can be lost under concurrent writers, and lists are not repeatable at their own revision: ids commit out of
// order and kine trusts the highest. Versions are 0, a lease's ID is its TTL, and TTLs start again with every engine; a key
// whose TTL was not read, or whose deletion failed, because a connection failed, stays until the next engine starts.
type kineEngine struct {
	*server.KVServerBridge
	backend  *kineBackend
	relay    *relay
	failures *failures
	log      *slog.Logger
	// acked is the highest revision that a write was answered with.
	acked atomic.Int64

	cancel  context.CancelFunc // ends kine
	driver  sync.WaitGroup     // kine's own
	running sync.WaitGroup     // watches, and the start
	closing sync.Mutex         // orders what joins running with Close
	closed  chan struct{}
	once    sync.Once // closes closed
	failed  chan struct{}
	broken  sync.Once // closes failed
}

// KineEngine is the EngineFactory of --engine=kine. It returns when kine serves, or why it does not.
func KineEngine(ctx context.Context, s Session) (Engine, error) {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	captureLogrus(log)
	e := &kineEngine{
		failures: new(failures), log: log,
		closed: make(chan struct{}), failed: make(chan struct{}),
	}
	relay, err := newRelay(s.SocketDir, s.Port, e.failures, e.fail, log)
	if err != nil {
		return nil, fmt.Errorf("kine: %w", err)
	}
	e.relay = relay
	dsn, err := kineDSN(s.DSN(relay.dir), s.Port)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("kine: %w", err), relay.close())
	}
	engines.add(e)
	engineCtx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	_, failed := e.failures.watch()
	started := make(chan error, 1)
	e.running.Go(func() {
		// Replaced below unless kine ends this goroutine.
		err := errors.New("kine gave up")
		defer func() { started <- err }()
		err = e.start(engineCtx, dsn)
	})
	select {
	case err = <-started:
	case <-failed: // kine would try for minutes
	case <-ctx.Done():
		err = ctx.Err()
	}
	if e.failures.count() > 0 {
		// kine may also have gone on with what it took for an answer, for instance to a second compact_rev_key.
		err = errors.Join(err, errors.New(e.failures.why()))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start kine: %w", err), e.Close())
	}
	relay.starting.Store(false)
	return e, nil
}

// kineDSN names the relay's socket, which has PostgreSQL's port in its name, and makes every session of kine's commit synchronously, whatever the role or the database say: a session's own setting
// beats theirs.
func kineDSN(dsn string, port int) (string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return "", errors.New("the connection string cannot be parsed") // the error would show the password
	}
	q := u.Query()
	q.Set("port", strconv.Itoa(port))
	q.Set("synchronous_commit", "on")
	if !q.Has("application_name") {
		q.Set("application_name", "kineshim_engine")
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// start brings kine up. Its last step proves that kine's poll loop runs: without it watches would hang without an event and
// without an error.
func (e *kineEngine) start(ctx context.Context, dsn string) error {
	_, inner, err := drivers.New(ctx, &e.driver, &drivers.Config{
		Endpoint:              dsn,
		CompactInterval:       5 * time.Minute,
		CompactIntervalJitter: 5,
		CompactTimeout:        5 * time.Second,
		CompactMinRetain:      1000,
		CompactBatchSize:      1000,
		PollBatchSize:         500,
		ConnectionPoolConfig:  generic.ConnectionPoolConfig{MaxOpen: kineConnections, MaxIdle: kineConnections},
	})
	if err != nil {
		return err
	}
	if err := inner.Start(ctx); err != nil {
		return err
	}
	e.backend = newKineBackend(inner, e)
	e.KVServerBridge = server.New(e.backend, "http", kineProgressEvery, kineEtcdVersion)
	return proveWatches(ctx, inner)
}

// proveWatches starts a watch and cancels it. Its events end at once if the poll loop runs, and never if it could not be started.
func proveWatches(ctx context.Context, backend server.Backend) error {
	revision, err := backend.CurrentRevision(ctx)
	if err != nil {
		return err
	}
	watchCtx, cancel := context.WithCancel(ctx)
	result := backend.Watch(watchCtx, server.HealthKey, "", revision+1)
	cancel()
	timeout := time.NewTimer(kineCloseBound)
	defer timeout.Stop()
	for {
		select {
		case _, more := <-result.Events:
			if !more {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			return errors.New("kine could not start to poll for events")
		}
	}
}

// Failed is closed when kine has ended a goroutine of its own, or when PostgreSQL says that a commit did not wait for its
// standby.
func (e *kineEngine) Failed() <-chan struct{} { return e.failed }

// fail marks the engine as broken: it answers nothing more.
func (e *kineEngine) fail(why string) {
	e.broken.Do(func() {
		close(e.failed)
		e.log.Error("the kine engine is broken", "why", why)
	})
}

// Close ends kine and its connections. Of kine's goroutines, one that waits for a revision that its poll loop never reached
// cannot be ended and is left behind; it holds no connection.
func (e *kineEngine) Close() error {
	var err error
	e.once.Do(func() {
		e.closing.Lock()
		close(e.closed)
		e.closing.Unlock()
		e.cancel()
		err = e.relay.close()
		ended := make(chan struct{})
		go func() { // ends with what it waits for
			e.running.Wait()
			e.driver.Wait()
			close(ended)
		}()
		timeout := time.NewTimer(kineCloseBound)
		defer timeout.Stop()
		select {
		case <-ended:
		case <-timeout.C:
			err = errors.Join(err, fmt.Errorf("kine is still busy %v after its end", kineCloseBound))
		}
		engines.remove(e)
	})
	if err != nil {
		return fmt.Errorf("close kine: %w", err)
	}
	return nil
}

// usable says why the engine must not be asked.
func (e *kineEngine) usable() error {
	select {
	case <-e.closed:
		return Unavailable(errSessionEnded.Error())
	case <-e.failed:
		return Unavailable(errEngineBroken.Error())
	default:
		return nil
	}
}

// begin runs f in a goroutine that Close waits for, unless the engine must not be asked.
func (e *kineEngine) begin(f func()) error {
	e.closing.Lock()
	defer e.closing.Unlock()
	if err := e.usable(); err != nil {
		return err
	}
	e.running.Go(f)
	return nil
}

// asked runs one call of kine and returns its answer only if nothing failed between kine and the database meanwhile, whoever's
// call it hit: kine does not check whether a list was read to its end, and takes every failed insert for a lost race. For
// the same reason an answer is not taken when its context has ended: kine's list ends early then, without an error.
func asked[R any](ctx context.Context, e *kineEngine, write bool, call func() (R, error)) (R, error) {
	var none R
	if a, _ := AttemptOf(ctx); a.Again && write {
		return none, InDoubt("kine cannot tell what became of a request")
	}
	if err := e.usable(); err != nil {
		return none, err
	}
	refuse := Unavailable
	if write {
		refuse = InDoubt
	}
	before := e.failures.count()
	answer, err := call()
	if ctx.Err() != nil {
		return none, ctx.Err()
	}
	if e.failures.count() != before {
		return none, refuse("the database failed during the request: " + e.failures.why())
	}
	if e.usable() != nil {
		return none, refuse(errSessionEnded.Error())
	}
	if err != nil {
		return none, err
	}
	return answer, nil
}

// Range reads. A revision that a write was answered with before is never missing from the header: kine takes the header of an
// empty answer from a counter that can lag behind.
func (e *kineEngine) Range(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	// A linearizable answer is right for a serializable request too.
	r.Serializable = false
	acked := e.acked.Load()
	answer, err := asked(ctx, e, false, func() (*etcdserverpb.RangeResponse, error) {
		answer, err := e.KVServerBridge.Range(ctx, r)
		if err == server.ErrFutureRev && r.Revision <= acked {
			return e.emptyRange(ctx, r)
		}
		return answer, err
	})
	if err != nil {
		return nil, err
	}
	if answer.Header != nil && answer.Header.Revision < acked {
		answer.Header.Revision = acked
	}
	return answer, nil
}

// emptyRange answers a range at a revision that exists and that kine calls a future one, by the same counter: it does so only
// when it has found nothing. A count asks the database instead.
func (e *kineEngine) emptyRange(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	end := string(r.RangeEnd)
	if end == "" {
		end = string(r.Key) + "\x01" // no key lies between: none holds a zero byte
	}
	revision, n, err := e.backend.Count(ctx, string(r.Key), end, r.Revision)
	if err != nil {
		return nil, err
	}
	if n != 0 {
		return nil, Unavailable("kine's answers contradict one another")
	}
	return &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: revision}}, nil
}

// Txn does the transactions that Kubernetes uses; kine answers others with an error.
func (e *kineEngine) Txn(ctx context.Context, r *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	if err := checkTxn(r); err != nil {
		return nil, err
	}
	r, added := withElse(r)
	answer, err := asked(ctx, e, true, func() (*etcdserverpb.TxnResponse, error) { return e.KVServerBridge.Txn(ctx, r) })
	if err != nil {
		return nil, err
	}
	if answer, err = trueTxn(r, answer); err != nil {
		return nil, err
	}
	if answer.Succeeded {
		e.ack(answer.Header)
	} else if added {
		answer.Responses = nil
	}
	return answer, nil
}

// Compact is kine's, which compacts by itself.
func (e *kineEngine) Compact(ctx context.Context, r *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error) {
	return asked(ctx, e, true, func() (*etcdserverpb.CompactionResponse, error) { return e.KVServerBridge.Compact(ctx, r) })
}

// Status is kine's.
func (e *kineEngine) Status(ctx context.Context, r *etcdserverpb.StatusRequest) (*etcdserverpb.StatusResponse, error) {
	return asked(ctx, e, false, func() (*etcdserverpb.StatusResponse, error) { return e.KVServerBridge.Status(ctx, r) })
}

// LeaseGrant is kine's, for TTLs that its column can hold.
func (e *kineEngine) LeaseGrant(ctx context.Context, r *etcdserverpb.LeaseGrantRequest) (*etcdserverpb.LeaseGrantResponse, error) {
	if err := checkTTL(r.TTL); err != nil {
		return nil, err
	}
	return e.KVServerBridge.LeaseGrant(ctx, r)
}

// ack notes the revision of a write that is about to be answered.
func (e *kineEngine) ack(h *etcdserverpb.ResponseHeader) {
	revision := h.GetRevision()
	for {
		acked := e.acked.Load()
		if revision <= acked || e.acked.CompareAndSwap(acked, revision) {
			return
		}
	}
}
