package native

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"kineshim/integration/pgtest"
	"kineshim/kineshim"
	"kineshim/kineshim/mvcc"
	rpc "kineshim/proto"
)

// replicaNode is a Replica beside a PostgreSQL, with the peer server that serves its followers.
type replicaNode struct {
	rpc.UnimplementedReplicationServer
	t       *testing.T
	pg      *pgtest.Server
	replica *Replica
	address string
	// primary is the peer address to follow; streams: PostgreSQL is a standby that streams.
	primary atomic.Pointer[string]
	streams atomic.Bool
	session kineshim.Session
	engine  kineshim.Engine
	// asked is whom the node asks for what its table cannot tell; nil: nobody.
	asked atomic.Pointer[replicaNode]
}

func (n *replicaNode) askPrimary(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	other := n.asked.Load()
	if other == nil {
		return nil, kineshim.Unavailable("nobody is asked")
	}
	return other.engine.Range(ctx, r)
}

func (n *replicaNode) Follow(q *rpc.FollowRequest, s grpc.ServerStreamingServer[rpc.FollowResponse]) error {
	return n.replica.Follow(q, s)
}

func newReplicaNode(t *testing.T, pg *pgtest.Server, database string) *replicaNode {
	n := &replicaNode{t: t, pg: pg}
	n.primary.Store(new(""))
	n.session = kineshim.Session{
		SocketDir: pg.Dir, Port: pgtest.Port, DSN: func(dir string) string { return pg.DSNAt(database, dir) },
		Log: slog.New(slog.NewTextHandler(testOutput{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	conns := map[string]*grpc.ClientConn{}
	var mu sync.Mutex
	n.replica = NewReplica(ReplicaConfig{
		Engine: Config{AskPrimary: n.askPrimary}, DSN: pg.DSN(database), Log: n.session.Log,
		StandbyLife: func() (uint64, bool) { return 1, n.streams.Load() },
		Primary: func() (string, <-chan struct{}) {
			changed := make(chan struct{})
			time.AfterFunc(10*time.Millisecond, func() { close(changed) })
			return *n.primary.Load(), changed
		},
		Conn: func(target string) (grpc.ClientConnInterface, error) {
			mu.Lock()
			defer mu.Unlock()
			if conns[target] == nil {
				conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()))
				if err != nil {
					return nil, err
				}
				conns[target] = conn
			}
			return conns[target], nil
		},
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	rpc.RegisterReplicationServer(server, n)
	go server.Serve(ln)
	n.address = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = n.replica.Run(ctx)
	}()
	t.Cleanup(func() {
		n.stop()
		cancel()
		<-ended
		server.Stop()
		for _, c := range conns {
			c.Close()
		}
		n.replica.Close()
	})
	return n
}

type testOutput struct{ t *testing.T }

func (o testOutput) Write(p []byte) (int, error) {
	if o.t.Context().Err() == nil {
		o.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// serve starts an engine on the node's copy.
func (n *replicaNode) serve() {
	n.t.Helper()
	n.primary.Store(new(""))
	n.streams.Store(false)
	n.session.Epoch++
	engine, err := n.replica.Factory()(n.t.Context(), n.session)
	if err != nil {
		n.t.Fatal(err)
	}
	n.engine = engine
}

func (n *replicaNode) stop() {
	if n.engine != nil {
		_ = n.engine.Close() // of an engine that was killed
		n.engine = nil
	}
}

// follow has the node follow another one.
func (n *replicaNode) follow(other *replicaNode) { n.primary.Store(&other.address) }

func (n *replicaNode) copy() *keyspace {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if k := n.replica.copy.Load(); k != nil {
			return k
		}
	}
	n.t.Fatal("there is no copy")
	return nil
}

// reach waits until the copy has reached a revision.
func (n *replicaNode) reach(revision int64) *keyspace {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	k := n.copy()
	if err := k.reach(ctx, revision); err != nil {
		n.t.Fatalf("the copy is at revision %d, not %d: %v", k.committed(), revision, err)
	}
	return k
}

// watcher collects the events of one watch of everything.
type watcher struct {
	grpc.ServerStream
	ctx context.Context

	from  int64 // 0: the beginning
	asked bool
	mu    sync.Mutex
	seen  []string
	last  int64
	bad   string
}

func watchAll(t *testing.T, n *replicaNode) *watcher {
	w := &watcher{ctx: t.Context()}
	n.copy()
	go func() {
		if err := n.replica.Watch(w); err != nil && t.Context().Err() == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.bad = "the stream ended: " + err.Error()
		}
	}()
	return w
}

func (w *watcher) Context() context.Context { return w.ctx }

func (w *watcher) Recv() (*pb.WatchRequest, error) {
	if !w.asked {
		w.asked = true
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: max(w.from, 2), PrevKv: true,
		}}}, nil
	}
	<-w.ctx.Done()
	return nil, w.ctx.Err()
}

func (w *watcher) Send(r *pb.WatchResponse) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Canceled {
		w.bad = fmt.Sprintf("cancelled at %d: %s", r.CompactRevision, r.CancelReason)
	}
	for _, e := range r.Events {
		if e.Kv.ModRevision < w.last {
			w.bad = fmt.Sprintf("revision %d after %d", e.Kv.ModRevision, w.last)
		}
		w.last = e.Kv.ModRevision
		w.seen = append(w.seen, fmt.Sprintf("%v %s@%d v%d c%d l%d %x prev %v", e.Type, e.Kv.Key, e.Kv.ModRevision, e.Kv.Version,
			e.Kv.CreateRevision, e.Kv.Lease, e.Kv.Value, e.PrevKv))
	}
	return nil
}

// cancelled waits until the watch is, because of a compaction.
func (w *watcher) cancelled(t *testing.T, compacted int64) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		w.mu.Lock()
		bad := w.bad
		w.mu.Unlock()
		switch {
		case strings.HasPrefix(bad, fmt.Sprintf("cancelled at %d:", compacted)):
			return
		case bad != "" || time.Now().After(end):
			t.Fatalf("the watch from %d was not cancelled at %d: %q", w.from, compacted, bad)
		}
	}
}

// upto waits for the events up to a revision, and returns all.
func (w *watcher) upto(t *testing.T, revision int64) []string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		w.mu.Lock()
		last, bad, seen := w.last, w.bad, w.seen
		w.mu.Unlock()
		if bad != "" {
			t.Fatal(bad)
		}
		if last >= revision {
			return seen
		}
		if time.Now().After(end) {
			t.Fatalf("the watch is at revision %d, not %d", last, revision)
		}
	}
}

// dump is everything that a copy says of its committed keys.
func dump(k *keyspace) []string {
	var all []string
	k.index.Ascend(mvcc.Span{Open: true}, k.committed(), func(i mvcc.Item) bool {
		all = append(all, fmt.Sprintf("%+v", i))
		return true
	})
	for _, id := range []int64{testLease, testLease + 1} {
		all = append(all, fmt.Sprintf("lease %d: %v", id, k.leases.Keys(id)))
	}
	return append(all, fmt.Sprintf("%d keys, revision %d, row %d", k.index.Count(mvcc.Span{Open: true}, k.committed()), k.committed(), k.committedID.Load()))
}

const testLease = 4711

// someWrites does random writes, one after the other, and returns the last revision. Errors are the caller's business: they end it.
func someWrites(ctx context.Context, e kineshim.Engine, r *rand.Rand, count int) (int64, error) {
	last := int64(0)
	for range count {
		key := []byte(fmt.Sprintf("key-%02d", r.IntN(40)))
		var err error
		var header *pb.ResponseHeader
		switch r.IntN(5) {
		case 0:
			var a *pb.DeleteRangeResponse
			a, err = e.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key, RangeEnd: append(key[:len(key):len(key)], '0')})
			header = a.GetHeader()
		case 1:
			var a *pb.TxnResponse
			a, err = e.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
				{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte{byte(r.Int())}}}},
				{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: append(key[:len(key):len(key)], 'x'), Value: []byte("both")}}},
			}})
			header = a.GetHeader()
		default:
			var a *pb.PutResponse
			a, err = e.Put(ctx, &pb.PutRequest{Key: key, Value: []byte(fmt.Sprint(r.Int())), Lease: []int64{0, testLease, testLease + 1}[r.IntN(3)]})
			header = a.GetHeader()
		}
		if err != nil {
			return last, err
		}
		last = header.Revision
	}
	return last, nil
}

func grantTestLeases(t *testing.T, e kineshim.Engine) {
	t.Helper()
	for id := int64(testLease); id < testLease+2; id++ {
		if _, err := e.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: 3600}); err != nil {
			t.Fatal(err)
		}
	}
}

// startPair has a directory that PostgreSQL's user can come through.
func startPair(t *testing.T) *pgtest.Pair {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ks-pair-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	runtime.LockOSThread() // with it the servers would die
	pair, err := pgtest.StartPair(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pair.Remove() })
	return pair
}

// TestCopiesSurviveAFailover: the primary's PostgreSQL is killed under load; the standby's is promoted, and the roles change.
func TestCopiesSurviveAFailover(t *testing.T) {
	t.Run("to a node with a copy", func(t *testing.T) { copiesSurvive(t, true) })
	t.Run("to a node that has to load the table", func(t *testing.T) { copiesSurvive(t, false) })
}

func copiesSurvive(t *testing.T, warm bool) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pair := startPair(t)
	if err := pair.Primary.CreateDatabase("copies"); err != nil {
		t.Fatal(err)
	}
	a, b := newReplicaNode(t, pair.Primary, "copies"), newReplicaNode(t, pair.Standby, "copies")
	a.serve()
	grantTestLeases(t, a.engine)
	if _, err := someWrites(t.Context(), a.engine, r, 100); err != nil {
		t.Fatal(err)
	}
	watchers := map[string]*watcher{"the old primary": watchAll(t, a)}
	if warm {
		b.streams.Store(true)
		b.follow(a)
		watchers["the new primary"] = watchAll(t, b)
	}
	last, err := someWrites(t.Context(), a.engine, r, 200)
	if err != nil {
		t.Fatal(err)
	}
	if warm {
		sameCopies(t, a.reach(last), b.reach(last))
	}

	var acknowledged atomic.Int64
	var writers sync.WaitGroup
	for range 4 {
		w := rand.New(rand.NewPCG(r.Uint64(), 0))
		writers.Go(func() {
			for {
				rev, err := someWrites(t.Context(), a.engine, w, 1)
				if err != nil {
					return
				}
				for old := acknowledged.Load(); rev > old && !acknowledged.CompareAndSwap(old, rev); old = acknowledged.Load() {
				}
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	pair.Primary.Kill()
	writers.Wait()
	a.stop()
	promote(t, pair.Standby)
	b.serve()
	if now := b.copy().committed(); now < acknowledged.Load() {
		t.Fatalf("revision %d was acknowledged, and %d is all that is left", acknowledged.Load(), now)
	}
	a.follow(b)
	last, err = someWrites(t.Context(), b.engine, r, 200)
	if err != nil {
		t.Fatal(err)
	}
	sameCopies(t, a.reach(last), b.reach(last))

	fresh := watchAll(t, b).upto(t, last)
	for name, w := range watchers {
		if diff := cmp.Diff(fresh, w.upto(t, last)); diff != "" {
			t.Errorf("the watch on %s differs from the history:\n%s", name, diff)
		}
	}
}

func sameCopies(t *testing.T, a, b *keyspace) {
	t.Helper()
	if diff := cmp.Diff(dump(a), dump(b)); diff != "" {
		t.Fatalf("the copies differ:\n%s", diff)
	}
}

func promote(t *testing.T, pg *pgtest.Server) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pg.SuperDSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), "SELECT pg_promote()"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "ALTER SYSTEM SET synchronous_standby_names = ''"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT pg_reload_conf()"); err != nil {
		t.Fatal(err)
	}
}

// TestCopySurvivesACrashOfItsOwnPostgreSQL: what was in flight is found in the table, or not, and nothing else has changed.
func TestCopySurvivesACrashOfItsOwnPostgreSQL(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pg := pgtest.New(t)
	if err := pg.CreateDatabase("crashes"); err != nil {
		t.Fatal(err)
	}
	n := newReplicaNode(t, pg, "crashes")
	n.serve()
	grantTestLeases(t, n.engine)
	if _, err := someWrites(t.Context(), n.engine, r, 50); err != nil {
		t.Fatal(err)
	}
	w := watchAll(t, n)
	for range 5 {
		var writers sync.WaitGroup
		for range 4 {
			own := rand.New(rand.NewPCG(r.Uint64(), 0))
			writers.Go(func() { _, _ = someWrites(t.Context(), n.engine, own, 1<<30) })
		}
		time.Sleep(time.Duration(20+r.IntN(100)) * time.Millisecond)
		pg.Kill()
		writers.Wait()
		n.stop()
		if err := pg.Resume(); err != nil {
			t.Fatal(err)
		}
		copy := n.copy()
		n.serve()
		if n.copy() != copy {
			t.Fatal("the copy was made anew")
		}
		// What the engine has in memory is what one that loads everything would have.
		n.stop()
		cold := newKeyspace(n.replica.cfg.Engine, n.session.Log)
		if _, _, err := cold.load(t.Context(), n.replica.table.Load); err != nil {
			t.Fatal(err)
		}
		sameCopies(t, cold, n.copy())
		cold.abandon()
		n.serve()
	}
	last, err := someWrites(t.Context(), n.engine, r, 20)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(watchAll(t, n).upto(t, last), w.upto(t, last)); diff != "" {
		t.Errorf("the watch differs from the history:\n%s", diff)
	}
}

// One event whose previous value is not in memory must not hold up a stream for as long as the standby's PostgreSQL is made anew.
func TestPreviousValuesComeFromThePrimaryWhenTheTableCannotTell(t *testing.T) {
	pg := pgtest.New(t)
	if err := pg.CreateDatabase("previous"); err != nil {
		t.Fatal(err)
	}
	a := newReplicaNode(t, pg, "previous")
	a.serve()
	put := func(value string) int64 {
		t.Helper()
		r, err := a.engine.Put(t.Context(), &pb.PutRequest{Key: []byte("k"), Value: []byte(value)})
		if err != nil {
			t.Fatal(err)
		}
		return r.Header.Revision
	}
	first := put("one")
	b := newReplicaNode(t, pg, "previous") // it loads no values
	b.follow(a)
	b.streams.Store(true)
	b.reach(first)
	b.streams.Store(false)
	w := &watcher{ctx: t.Context(), from: first + 1}
	go func() { _ = b.replica.Watch(w) }() // until the test's end
	second := put("two")
	b.reach(second)
	time.Sleep(200 * time.Millisecond)
	w.mu.Lock()
	if len(w.seen) != 0 {
		t.Errorf("%q: its previous value was in memory, so nothing is tried", w.seen)
	}
	w.mu.Unlock()
	b.asked.Store(a)
	if seen := w.upto(t, second); len(seen) != 1 || !strings.Contains(seen[0], `value:"one"`) {
		t.Errorf("%q", seen)
	}
}
