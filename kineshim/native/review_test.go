package native

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

	"kineshim/integration/pgtest"
	"kineshim/kineshim"
	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/mvcc"
	"kineshim/kineshim/valuecache"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// answerBound is how long a test waits for what must come at once.
const answerBound = 10 * time.Second

// bare is an engine without a table: good for turns that are never sent.
func bare(t *testing.T) *Engine {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	k := newKeyspace(Config{CacheBytes: 1 << 20}, log)
	e := &Engine{keyspace: k, log: log, failed: make(chan struct{}), clock: newLeaseClock(0)}
	e.ctx, e.cancel = context.WithCancel(t.Context())
	k.begin(kinetable.Meta{LastID: 1, Revision: 1, Untouched: true})
	e.leases.Restart(e.clock.now, nil)
	e.seq = newSequencer(e)
	t.Cleanup(func() { e.fail(errors.New("the test is over")) })
	return e
}

// queued puts operations into the queue of an engine that does not evaluate yet, so that they have their turns one after the
// other, and returns how to wait for their answers.
func queued(t *testing.T, e *Engine, do ...func(*turn) error) func() []error {
	t.Helper()
	ops := make([]*operation, len(do))
	for i, f := range do {
		ops[i] = &operation{ctx: t.Context(), do: f, done: make(chan struct{})}
		if err := e.seq.enqueue(ops[i]); err != nil {
			t.Fatal(err)
		}
	}
	return func() []error {
		t.Helper()
		errs := make([]error, len(ops))
		for i, op := range ops {
			select {
			case <-op.done:
				errs[i] = op.err
			case <-time.After(answerBound):
				t.Fatalf("operation %d is never answered", i)
			}
		}
		return errs
	}
}

func TestOperationsBehindAFullBatchAreAnsweredWhenTheEngineFails(t *testing.T) {
	e := bare(t)
	answers := queued(t, e, func(tn *turn) error {
		e.fail(errors.New("a commit is in doubt"))
		tn.put("k", make([]byte, maxBatchBytes), 0)
		return nil
	}, func(*turn) error { return nil })
	go e.seq.evaluate()
	for i, err := range answers() {
		if status.Code(err) != codes.Unavailable {
			t.Errorf("operation %d: %v", i, err)
		}
	}
}

func TestOperationsThatAreParkedWhenTheEngineFailsAreAnswered(t *testing.T) {
	e := bare(t)
	answers := queued(t, e, func(tn *turn) error {
		e.fail(errors.New("a commit is in doubt"))
		tn.op.key = "k"
		return errParked
	}, func(tn *turn) error {
		// The receiver may still hear of a commit, and lets the parked one go.
		q := e.seq
		q.mu.Lock()
		q.queue = append(q.contention.changed(&batch{rows: keyRows("k")}, time.Now()), q.queue...)
		q.mu.Unlock()
		return nil
	})
	go e.seq.evaluate()
	for i, err := range answers() {
		if status.Code(err) != codes.Unavailable {
			t.Errorf("operation %d: %v", i, err)
		}
	}
}

func TestWhatFailedEngineSawInDoubtIsNotAnswered(t *testing.T) {
	e := bare(t)
	e.index.Append(mvcc.Change{Item: mvcc.Item{Key: "k", ID: 2, Mod: 2, Create: 2, CreateID: 2, Version: 1}}) // on its way
	e.seq.flight = []*batch{{rows: keyRows("k"), revision: 2}}
	answers := queued(t, e, func(*turn) error {
		e.fail(errors.New("a commit is in doubt"))
		e.seq.receive() // ends, and abandons the batch
		return nil
	}, func(tn *turn) error {
		if _, ok := tn.view().get("k"); !ok {
			return errors.New("the test does not show what it should")
		}
		return nil
	})
	go e.seq.evaluate()
	for i, err := range answers() {
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), kineshim.OutcomeUnknown) {
			t.Errorf("operation %d, which saw what may never have been: %v", i, err)
		}
	}
}

func TestEngineOnPostgreSQL(t *testing.T) {
	pg := pgtest.New(t)
	n := 0
	for name, f := range map[string]func(*testing.T, *pgtest.Server, string){
		"close under load":                       closesUnderLoad,
		"deleted key kept":                       refusesToKeepWhatItDeletes,
		"kept value evicted meanwhile":           keepsAValueThatIsEvicted,
		"many values compared from a cold cache": comparesManyColdValues,
		"answer lost after the write":            saysThatAWriteMayBeDone,
		"compaction between kine's rows":         compactsAtARevisionWithoutARow,
		"start while commits hang":               startEndsWithItsContext,
		"start is a barrier":                     startIsABarrier,
	} {
		n++
		database := fmt.Sprintf("review%d", n)
		t.Run(name, func(t *testing.T) { f(t, pg, database) })
	}
}

// load is reached when so many writes are done.
type load struct {
	left    atomic.Int64
	reached chan struct{}
}

func newLoad(writes int64) *load {
	l := &load{reached: make(chan struct{})}
	l.left.Store(writes)
	return l
}

func (l *load) done() {
	if l.left.Add(-1) == 0 {
		close(l.reached)
	}
}

func (l *load) wait(t *testing.T) {
	t.Helper()
	select {
	case <-l.reached:
	case <-time.After(answerBound):
		t.Fatal("the writes are too slow, or hang")
	}
}

func closesUnderLoad(t *testing.T, pg *pgtest.Server, database string) {
	k := openBackedUp(t, pg, database)
	load := newLoad(100)
	var clients sync.WaitGroup
	for c := range 16 {
		clients.Go(func() {
			value := make([]byte, 100_000)
			for {
				_, err := k.Put(t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", c), Value: value})
				if err != nil {
					if status.Code(err) != codes.Unavailable {
						t.Errorf("put: %v", err)
					}
					return
				}
				load.done()
			}
		})
	}
	load.wait(t)
	if err := k.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	clients.Wait()
}

func TestPostgreSQLDiesUnderLoad(t *testing.T) {
	pg := pgtest.New(t, "fsync=on")
	k := openBackedUp(t, pg, "dies")
	const clients = 16
	load := newLoad(200)
	var acknowledged, tried [clients]int
	var running sync.WaitGroup
	for c := range clients {
		running.Go(func() {
			for tried[c] = 1; ; tried[c]++ {
				_, err := k.Put(t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "k%02d", c), Value: fmt.Append(nil, tried[c])})
				if err != nil {
					if status.Code(err) != codes.Unavailable {
						t.Errorf("put: %v", err)
					}
					return
				}
				acknowledged[c] = tried[c]
				load.done()
			}
		})
	}
	load.wait(t)
	pg.Kill()
	answered := make(chan struct{})
	go func() {
		running.Wait()
		close(answered)
	}()
	select {
	case <-answered:
	case <-time.After(answerBound):
		t.Fatal("a put is never answered")
	}
	if err := k.Close(); err != nil {
		t.Logf("close: %v", err)
	}
	if err := pg.Resume(); err != nil {
		t.Fatal(err)
	}
	k.open()
	kvs := k.all(0)
	if len(kvs) != clients {
		t.Fatalf("%d keys", len(kvs))
	}
	versions := int64(0)
	for c, kv := range kvs {
		var value int
		if _, err := fmt.Sscan(string(kv.Value), &value); err != nil {
			t.Fatal(err)
		}
		if value < acknowledged[c] || value > tried[c] || kv.Version != int64(value) {
			t.Errorf("%s is %d at version %d: %d was acknowledged, %d tried", kv.Key, value, kv.Version, acknowledged[c], tried[c])
		}
		versions += kv.Version
	}
	if k.committed() != 1+versions {
		t.Errorf("revision %d after %d changes", k.committed(), versions)
	}
}

func refusesToKeepWhatItDeletes(t *testing.T, pg *pgtest.Server, database string) {
	k := openBackedUp(t, pg, database)
	before := k.put("a", "1", 0)
	_, err := k.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{
		deleteOp("a", "\x00"), putOp(&pb.PutRequest{Key: []byte("a"), IgnoreValue: true}),
	}})
	if !errors.Is(err, rpctypes.ErrGRPCKeyNotFound) {
		t.Errorf("a put that keeps the value of a key that is deleted before it: %v", err)
	}
	if rev := k.put("b", "1", 0); rev != before+1 {
		t.Errorf("revision %d after %d: the transaction was not refused as a whole", rev, before)
	}
}

func keepsAValueThatIsEvicted(t *testing.T, pg *pgtest.Server, database string) {
	k := openBackedUp(t, pg, database)
	k.cache = valuecache.New(64 << 10)
	big := strings.Repeat("x", 5000)
	k.put("kept", big, 0)
	var ops []*pb.RequestOp
	for i := range 40 {
		ops = append(ops, putOp(&pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: []byte(big)}))
	}
	ops = append(ops, putOp(&pb.PutRequest{Key: []byte("kept"), IgnoreValue: true}))
	if _, err := k.Txn(t.Context(), &pb.TxnRequest{Success: ops}); err != nil {
		t.Fatalf("txn: %v", err)
	}
	r, err := k.Range(t.Context(), &pb.RangeRequest{Key: []byte("kept")})
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Kvs[0].Value) != big || r.Kvs[0].Version != 2 {
		t.Errorf("kept: version %d, %d bytes", r.Kvs[0].Version, len(r.Kvs[0].Value))
	}
}

func comparesManyColdValues(t *testing.T, pg *pgtest.Server, database string) {
	k := openBackedUp(t, pg, database)
	const keys = 3 * valueTries
	r := &pb.TxnRequest{Compare: []*pb.Compare{{
		Key: []byte("k"), RangeEnd: []byte("l"), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_Value{Value: []byte("v")},
	}}}
	nested := &pb.TxnRequest{}
	for i := range keys {
		key := fmt.Appendf(nil, "k%02d", i)
		k.put(string(key), "v", 0)
		r.Compare = append(r.Compare, &pb.Compare{
			Key: key, Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Value{Value: []byte("v")},
		})
		nested.Success = append(nested.Success, putOp(&pb.PutRequest{Key: key, IgnoreValue: true}))
	}
	r.Success = []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: nested}}}
	k.cache = valuecache.New(0)
	got, err := k.Txn(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Succeeded {
		t.Error("a compare of what is there failed")
	}
	for _, kv := range k.all(0) {
		if string(kv.Value) != "v" || kv.Version != 2 {
			t.Errorf("%s: %q, version %d", kv.Key, kv.Value, kv.Version)
		}
	}
}

func saysThatAWriteMayBeDone(t *testing.T, pg *pgtest.Server, database string) {
	k := openBackedUp(t, pg, database)
	k.put("k", "1", 0)
	k.cache = valuecache.New(0)
	admin := pg.Admin(t, database)
	for _, sql := range []string{
		"ALTER ROLE " + pgtest.Role + " CONNECTION LIMIT 1",
		`SELECT pg_terminate_backend(a.pid, 10000) FROM pg_stat_activity a WHERE usename = '` + pgtest.Role + `' AND datname = current_database()
			AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND l.granted)`,
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	_, err := k.Put(t.Context(), &pb.PutRequest{Key: []byte("k"), Value: []byte("2"), PrevKv: true})
	if _, e := admin.Exec(t.Context(), "ALTER ROLE "+pgtest.Role+" CONNECTION LIMIT -1"); e != nil {
		t.Fatal(e)
	}
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), kineshim.OutcomeUnknown) {
		t.Errorf("a put that was done and whose answer could not be gathered: %v", err)
	}
	if kv := k.all(0)[0]; string(kv.Value) != "2" {
		t.Errorf("the test does not show what it should: %q", kv.Value)
	}
}

// compactsAtARevisionWithoutARow: kine leaves revisions out.
func compactsAtARevisionWithoutARow(t *testing.T, pg *pgtest.Server, database string) {
	k := openBackedUp(t, pg, database)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	admin := pg.Admin(t, database)
	if _, err := admin.Exec(t.Context(), `CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);
		INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value) VALUES
		(2, 'a', 1, 0, 0, 0, 0, 'v', NULL), (3, 'a', 0, 1, 0, 2, 0, NULL, 'v'), (6, 'b', 1, 0, 0, 0, 0, 'v', NULL)`); err != nil {
		t.Fatal(err)
	}
	k.open()
	for _, rev := range []int64{4, 5} {
		if _, err := k.Compact(t.Context(), &pb.CompactionRequest{Revision: rev, Physical: true}); err != nil {
			t.Fatal(err)
		}
	}
	k.again()
	if _, err := k.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Revision: 2}); !errors.Is(err, rpctypes.ErrGRPCCompacted) {
		t.Errorf("a, which was there at revision 2, after a compaction at 5 and a restart: %v", err)
	}
	if got := k.compacted(); got != 5 {
		t.Errorf("compacted at 5, and at %d after a restart", got)
	}
}

func startEndsWithItsContext(t *testing.T, pg *pgtest.Server, database string) {
	k := openBackedUp(t, pg, database)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	admin := pg.Admin(t, database)
	standby := func(name string) {
		t.Helper()
		for _, sql := range []string{"ALTER SYSTEM SET synchronous_standby_names = '" + name + "'", "SELECT pg_reload_conf()"} {
			if _, err := admin.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := admin.Exec(t.Context(), "SET synchronous_commit = local"); err != nil {
		t.Fatal(err)
	}
	standby("nobody")
	defer k.open()
	defer standby("")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		e, err := Open(ctx, Config{}, k.session)
		if err == nil {
			_ = e.Close()
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("start while nothing can be committed: %v", err)
		}
	case <-time.After(answerBound):
		t.Error("the start does not end with its context")
	}
}

// startIsABarrier: what the engine before left in doubt is durable before it is read.
func startIsABarrier(t *testing.T, pg *pgtest.Server, database string) {
	k := openBackedUp(t, pg, database)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	admin := pg.Admin(t, database)
	wal := func() (at string) {
		t.Helper()
		if err := admin.QueryRow(t.Context(), "SELECT pg_current_wal_flush_lsn()").Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	if _, err := admin.Exec(t.Context(), "CHECKPOINT"); err != nil {
		t.Fatal(err)
	}
	before := wal()
	k.open()
	if wal() == before {
		t.Error("the engine serves what it has loaded without having committed anything")
	}
}

func putOp(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func deleteOp(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)},
	}}
}
