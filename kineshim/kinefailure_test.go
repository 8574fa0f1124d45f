package kineshim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const manyKeys = 20_000

// fillWithKeys stores manyKeys keys below /many/ as kine does, with values of a kilobyte.
func fillWithKeys(t *testing.T, pg *postgres, database string) {
	t.Helper()
	exec1(t, pg.admin(t, database), `INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value)
		SELECT '/many/' || to_char(i, 'FM000000'), 1, 0, 0, 0, 0, decode(repeat('5a', 1000), 'hex') FROM generate_series(1, $1::int) AS i`, manyKeys)
}

// killWhile ends the first backend that runs a query that looks like this, as soon as it is seen sending rows, while f runs.
// It says whether there was one.
func killWhile(t *testing.T, admin *pgx.Conn, like string, f func()) (killed bool) {
	t.Helper()
	done, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		for !killed {
			select {
			case <-done:
				return
			default:
			}
			err := admin.QueryRow(context.Background(), `SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'
				AND wait_event = 'ClientWrite' AND query LIKE $1`, like).Scan(&killed)
			if err != nil {
				t.Errorf("terminate a backend: %v", err)
				return
			}
		}
	}()
	f()
	close(done)
	<-finished
	return killed
}

func TestKineListIsCompleteOrAnError(t *testing.T) {
	pg, database := sharedDatabase(t)
	n, _ := startKine(t, pg, database)
	fillWithKeys(t, pg, database)
	admin := pg.admin(t, database)
	engine := n.endpoint.current.Load().engine.(*kineEngine)
	request := func() *etcdserverpb.RangeRequest {
		return &etcdserverpb.RangeRequest{Key: []byte("/many/"), RangeEnd: []byte("/many0")}
	}
	const like = "%ORDER BY name ASC%"

	// That this test finds what it looks for: kine itself gives a part of the list for the whole.
	truncated := false
	for range 50 {
		killWhile(t, admin, like, func() {
			r, err := engine.KVServerBridge.Range(soon(t), request())
			truncated = truncated || err == nil && len(r.Kvs) < manyKeys
		})
		if truncated {
			break
		}
	}
	if !truncated {
		t.Error("kine was never caught with a truncated list: this test proves nothing")
	}

	kv := etcdserverpb.NewKVClient(dial(t, n.client))
	kills, refusals := 0, 0
	for range 20 {
		killed := killWhile(t, admin, like, func() {
			r, err := kv.Range(soon(t), request())
			switch {
			case err == nil && (len(r.Kvs) != manyKeys || r.Count != manyKeys):
				t.Errorf("a list of %d keys, count %d, was given for all", len(r.Kvs), r.Count)
			case err != nil:
				wantCode(t, err, codes.Unavailable, "")
				refusals++
			}
		})
		if killed {
			kills++
		}
	}
	t.Logf("20 lists, %d backends killed, %d refused", kills, refusals)
	if kills < 10 || refusals < 10 {
		t.Errorf("%d kills, %d refusals: this test hardly proves anything", kills, refusals)
	}
	r, err := kv.Range(soon(t), request())
	if err != nil || len(r.Kvs) != manyKeys {
		t.Errorf("afterwards: %d keys, %v", len(r.GetKvs()), err)
	}
}

func TestKineWatchCatchesUpWithoutAGapWhenItsBackendIsKilled(t *testing.T) {
	pg, database := sharedDatabase(t)
	_, c := startKine(t, pg, database)
	first := mustCreate(t, c, "/first", "v")
	fillWithKeys(t, pg, database)
	admin := pg.admin(t, database)
	kills := 0
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		seen, last := 0, int64(0)
		killed := killWhile(t, admin, "%ORDER BY id ASC%", func() {
			for r := range c.Watch(ctx, "/many/", clientv3.WithPrefix(), clientv3.WithRev(first)) {
				if r.Err() != nil {
					t.Errorf("watch: %v", r.Err())
				}
				for _, event := range r.Events {
					if event.Kv.ModRevision <= last {
						t.Errorf("revision %d after %d", event.Kv.ModRevision, last)
					}
					last = event.Kv.ModRevision
					seen++
				}
				if seen >= manyKeys {
					break
				}
			}
		})
		cancel()
		if killed {
			kills++
		}
		if seen != manyKeys {
			t.Errorf("%d events, want %d", seen, manyKeys)
		}
	}
	if kills == 0 {
		t.Error("no backend was killed: this test proves nothing")
	}
}

func TestKineFailureEndsWatchStreams(t *testing.T) {
	pg, database := sharedDatabase(t)
	n, _ := startKine(t, pg, database)
	watch, err := etcdserverpb.NewWatchClient(dial(t, n.client)).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	createWatch(t, watch)
	terminateAll(t, pg.admin(t, database))
	for err == nil {
		_, err = watch.Recv()
	}
	wantCode(t, err, codes.Unavailable, "during the watch")
}

// terminateAll ends kine's backends.
func terminateAll(t *testing.T, admin *pgx.Conn) {
	t.Helper()
	exec1(t, admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'kine'")
}

// updaters run updates of a key each, compared with the revision that they know, until one of them fails; an answer that the
// compare failed is false, because nobody else writes these keys.
func updaters(t *testing.T, address, prefix string, workers int) (stop func() (done, failed int64)) {
	t.Helper()
	var all sync.WaitGroup
	var done, failed atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	for w := range workers {
		c := newClient(t, address)
		key := fmt.Sprintf("%s/%d", prefix, w)
		var revision int64
		eventually(t, "create "+key, func() bool { // a connection may still be found dead from before
			if _, err := create(key, "0")(c, soon(t)); err != nil {
				return false
			}
			got, err := c.Get(soon(t), key)
			if err != nil || len(got.Kvs) != 1 {
				return false
			}
			revision = got.Kvs[0].ModRevision
			return true
		})
		all.Go(func() {
			for i := 1; ctx.Err() == nil; i++ {
				r, err := update(c, ctx, key, revision, fmt.Sprint(i))
				if err != nil {
					if ctx.Err() == nil && status.Code(err) != codes.Unavailable {
						t.Errorf("update %s: %v", key, err)
					}
					failed.Add(1)
					return
				}
				if !r.Succeeded {
					t.Errorf("false compare failure of %s at %d: %v", key, revision, r)
					return
				}
				revision = r.Header.Revision
				done.Add(1)
			}
		})
	}
	return func() (int64, int64) {
		deadline := time.AfterFunc(patience, cancel)
		defer deadline.Stop()
		defer cancel()
		all.Wait()
		return done.Load(), failed.Load()
	}
}

func TestKineNoFalseCompareFailureWhenPostgreSQLIsKilled(t *testing.T) {
	pg, database := ownPostgres(t)
	n, _ := startKine(t, pg, database)
	for round := range 4 {
		stop := updaters(t, n.client, fmt.Sprintf("/kill%d", round), 8)
		time.Sleep(100 * time.Millisecond) // load, for long enough to hit it at any point
		pg.Kill()
		done, failed := stop()
		if failed != 8 {
			t.Errorf("round %d: %d updates done, %d of 8 workers saw an error", round, done, failed)
		}
		n.router.to(Route{Why: "PostgreSQL has died"})
		n.endpoint.StopEngine()
		if err := pg.Resume(); err != nil {
			t.Fatal(err)
		}
		n.leadKine(t, pg, database)
	}
}

func TestKineNoFalseCompareFailureWhenBackendsAreTerminated(t *testing.T) {
	pg, database := sharedDatabase(t)
	n, _ := startKine(t, pg, database)
	admin := pg.admin(t, database)
	for round := range 10 {
		stop := updaters(t, n.client, fmt.Sprintf("/terminate%d", round), 8)
		time.Sleep(20 * time.Millisecond) // as above
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			stop()
		}()
		for ended := false; !ended; {
			select {
			case <-finished:
				ended = true
			default:
				terminateAll(t, admin)
			}
		}
	}
}

func TestKineReadOnlyPostgreSQLIsUnavailable(t *testing.T) {
	pg, database := sharedDatabase(t)
	n, c := startKine(t, pg, database)
	revision := mustCreate(t, c, "/a", "1")
	admin := pg.admin(t, database)
	exec1(t, admin, "ALTER DATABASE "+database+" SET default_transaction_read_only = on")
	terminateAll(t, admin)
	eventually(t, "kine connects again", func() bool {
		_, err := c.Get(soon(t), "/a")
		return err == nil
	})
	// That this test finds what it looks for.
	engine := n.endpoint.current.Load().engine.(*kineEngine)
	raw, err := engine.KVServerBridge.Txn(soon(t), &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{Key: []byte("/a"), Target: etcdserverpb.Compare_MOD, TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: revision}}},
		Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: []byte("/a")}}}},
		Failure: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: []byte("/a")}}}},
	})
	if err != nil || raw.Succeeded || raw.Responses[0].GetResponseRange().Kvs[0].ModRevision != revision {
		t.Errorf("kine itself: %v, %v; want a false compare failure", raw, err)
	}
	for name, write := range map[string]func() (any, error){
		"create": func() (any, error) { return create("/b", "1")(c, soon(t)) },
		"update": func() (any, error) { return update(c, soon(t), "/a", revision, "2") },
		"delete": func() (any, error) { return remove(c, soon(t), "/a", revision) },
		"put":    func() (any, error) { return c.Put(soon(t), "/a", "2") },
	} {
		r, err := write()
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	if got := mustGet(t, c, "/a"); string(got.Kvs[0].Value) != "1" {
		t.Errorf("got %v", got.Kvs)
	}
}

// countingLog counts the log's messages.
type countingLog struct {
	slog.Handler
	mu sync.Mutex
	n  map[string]int
}

func (l *countingLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *countingLog) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n[r.Message]++
	return nil
}

func (l *countingLog) count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n[message]
}

// gate makes PostgreSQL's commits wait for a standby that does not exist, or lets them go.
func (pg *postgres) gate(t *testing.T, admin *pgx.Conn, closed bool) {
	t.Helper()
	names := ""
	if closed {
		names = "nobody"
	}
	exec1(t, admin, "ALTER SYSTEM SET synchronous_standby_names = '"+names+"'")
	exec1(t, admin, "SELECT pg_reload_conf()")
	eventually(t, "the checkpointer has seen it", func() bool {
		// A commit waits only once the checkpointer has set the shared flag, and goes only once it has cleared it.
		probe := pg.admin(t, "postgres")
		exec1(t, probe, "SET synchronous_commit = on")
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := probe.Exec(ctx, "CREATE TEMP TABLE probe ()")
		probe.Close(context.Background())
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		return (err != nil) == closed
	})
}

// waiting is how many of kine's commits wait for a standby.
func waiting(t *testing.T, admin *pgx.Conn) (n int) {
	t.Helper()
	err := admin.QueryRow(soon(t), "SELECT count(*) FROM pg_stat_activity WHERE usename = 'kine' AND wait_event = 'SyncRep'").Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKineWaitingCommitIsNeverCancelled(t *testing.T) {
	pg, database := ownPostgres(t)
	log := &countingLog{Handler: slog.DiscardHandler, n: map[string]int{}}
	s := pg.session(t, database)
	s.Log = slog.New(log)
	n, c := startKine(t, pg, database)
	if err := n.endpoint.StartEngine(soon(t), s); err != nil {
		t.Fatal(err)
	}
	revision := mustCreate(t, c, "/a", "1")
	admin := pg.admin(t, database)
	pg.gate(t, admin, true)

	// The client gives up: its commit goes on waiting.
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := update(c, ctx, "/a", revision, "2")
		result <- err
	}()
	eventually(t, "the commit waits", func() bool { return waiting(t, admin) == 1 })
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) && status.Code(err) != codes.Canceled {
		t.Errorf("the client got %v", err)
	}

	// The engine's own context ends, so that the driver asks PostgreSQL to cancel: that goes on waiting too.
	engine := n.endpoint.current.Load().engine.(*kineEngine)
	engineCtx, cancelEngine := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancelEngine()
	if r, err := engine.Put(engineCtx, &etcdserverpb.PutRequest{Key: []byte("/b")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("put: %v, %v", r, err)
	}
	eventually(t, "the driver asks to cancel", func() bool { return log.count("dropped a cancel request of the engine") > 0 })
	var seen int
	if err := admin.QueryRow(soon(t), "SELECT count(*) FROM kine WHERE name = '/b' OR name = '/a' AND prev_revision <> 0").Scan(&seen); err != nil {
		t.Fatal(err)
	}
	if w := waiting(t, admin); w != 2 || seen != 0 {
		t.Errorf("%d commits wait, %d of their rows are visible; want 2 and 0", w, seen)
	}

	pg.gate(t, admin, false)
	eventually(t, "both are done", func() bool {
		got, err := c.Get(soon(t), "/a")
		return err == nil && string(got.Kvs[0].Value) == "2" && len(mustGet(t, c, "/b").Kvs) == 1
	})
}

func TestKineCommitThatDidNotWaitBreaksTheEngine(t *testing.T) {
	pg, database := ownPostgres(t)
	n, c := startKine(t, pg, database)
	admin := pg.admin(t, database)
	pg.gate(t, admin, true)
	result := make(chan error, 1)
	go func() {
		r, err := create("/a", "1")(c, soon(t))
		if err == nil {
			err = fmt.Errorf("answered %v", r)
		}
		result <- err
	}()
	eventually(t, "the commit waits", func() bool { return waiting(t, admin) == 1 })
	// An operator does what nobody must: the commit returns, visible and not replicated.
	exec1(t, admin, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'kine' AND wait_event = 'SyncRep'")
	err := <-result
	wantCode(t, err, codes.Unavailable, "not known")
	select {
	case <-n.endpoint.EngineFailed():
	case <-time.After(patience):
		t.Fatal("the engine does not say that it is broken")
	}
	_, err = c.Get(soon(t), "/a")
	wantCode(t, err, codes.Unavailable, errEngineBroken.Error())
}

func TestKineStopsWhileCommitsWait(t *testing.T) {
	pg, database := ownPostgres(t)
	n, c := startKine(t, pg, database)
	admin := pg.admin(t, database)
	pg.gate(t, admin, true)
	result := make(chan error, 1)
	go func() {
		r, err := create("/a", "1")(c, soon(t))
		if err == nil {
			err = fmt.Errorf("answered %v", r)
		}
		result <- err
	}()
	eventually(t, "the commit waits", func() bool { return waiting(t, admin) == 1 })
	begun := time.Now()
	n.endpoint.StopEngine()
	if took := time.Since(begun); took > kineCloseBound {
		t.Errorf("stopped after %v", took)
	}
	err := <-result
	wantCode(t, err, codes.Unavailable, "")
	if !strings.Contains(err.Error(), "not known") {
		t.Errorf("the client is not told that the outcome is unknown: %v", err)
	}
	if w := waiting(t, admin); w != 1 {
		t.Errorf("%d commits wait, want 1: its end cancelled it", w)
	}
	// A start that cannot commit ends with its context.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	exec1(t, admin, "SET synchronous_commit = local")
	exec1(t, admin, "DELETE FROM kine WHERE name = '/registry/health'")
	if err := n.endpoint.StartEngine(ctx, pg.session(t, database)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start: %v", err)
	}
}
