package handover

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"kineshim/integration/enginehost"
	"kineshim/integration/pgtest"
	"kineshim/kineshim"
	"kineshim/kineshim/native"
)

// patience is for whatever should take a moment.
const patience = 20 * time.Second

// tester is a test, or rapid's part of one.
type tester interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

func soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func waitFor(t tester, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// seeded is a source of random numbers whose seed the test's log shows.
func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// place is a database that engines take from one another.
type place struct {
	t        tester
	pg       *pgtest.Server
	database string
}

var places atomic.Int64

// newPlace makes a database in the common server.
func newPlace(t *testing.T) *place {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	pg, err := postgres()
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, pg: pg}
	p.create()
	t.Cleanup(p.drop)
	return p
}

// create makes a database of a new name.
func (p *place) create() {
	p.t.Helper()
	p.database = fmt.Sprintf("handover_%d", places.Add(1))
	if err := p.pg.CreateDatabase(p.database); err != nil {
		p.t.Fatalf("%v", err)
	}
}

func (p *place) drop() {
	p.t.Helper()
	if err := p.pg.DropDatabase(p.database); err != nil {
		p.t.Errorf("%v", err)
	}
}

// ask runs one statement as the superuser, and returns its one value.
func ask[T any](p *place, sql string, args ...any) T {
	p.t.Helper()
	ctx, cancel := soon()
	defer cancel()
	conn, err := pgx.Connect(ctx, p.pg.SuperDSN(p.database))
	if err != nil {
		p.t.Fatalf("%v", err)
	}
	defer conn.Close(ctx)
	var value T
	if err := conn.QueryRow(ctx, sql, args...).Scan(&value); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// gaps counts the rows by which kine has filled holes.
func (p *place) gaps() int64 {
	p.t.Helper()
	return ask[int64](p, "SELECT count(*) FROM kine WHERE name LIKE 'gap-%'")
}

// burn makes a hole in the row IDs, as a lost race of kine's does.
func (p *place) burn() { ask[int64](p, "SELECT nextval('kine_id_seq')") }

// endSessions ends the native engine's sessions as if its process had been killed, and returns when they are gone.
func (p *place) endSessions() {
	p.t.Helper()
	const ours = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'kineshim%'"
	if n := ask[int64](p, "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) "+ours+") s"); n == 0 {
		p.t.Fatalf("the native engine has no sessions")
	}
	waitFor(p.t, "the sessions are gone", func() bool { return ask[int64](p, "SELECT count(*) "+ours) == 0 })
}

// running is an engine that answers.
type running struct {
	*clientv3.Client
	t    tester
	kind string
	host *enginehost.Host // nil: plain kine
	end  func()
}

// The kinds of engines.
const (
	nativeEngine = "native"
	kineEngine   = "kine engine" // kineshim --engine=kine
	plainKine    = "plain kine"
)

func (p *place) start(kind string) *running {
	p.t.Helper()
	switch kind {
	case nativeEngine:
		return p.startHost(kind, native.Factory(native.Config{}))
	case kineEngine:
		return p.startHost(kind, kineshim.KineEngine)
	}
	return p.startPlain()
}

func (p *place) startHost(kind string, factory kineshim.EngineFactory) *running {
	p.t.Helper()
	host, err := enginehost.Start(enginehost.Options{Engine: factory, PG: p.pg, Database: p.database})
	if err != nil {
		p.t.Fatalf("start %s: %v", kind, err)
	}
	r := p.connect(kind, host.Address(), func() {
		if err := host.Close(); err != nil {
			p.t.Logf("close %s: %v", kind, err) // it may have been killed
		}
	})
	r.host = host
	return r
}

// connect does not let the client try anything twice behind the test's back.
func (p *place) connect(kind, address string, end func()) *running {
	p.t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{address}, Logger: zap.NewNop(), MaxUnaryRetries: 1,
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		end()
		p.t.Fatalf("%v", err)
	}
	return &running{Client: client, t: p.t, kind: kind, end: end}
}

// stop ends the engine in order. It may be called again.
func (r *running) stop() {
	if r.end == nil {
		return
	}
	_ = r.Client.Close() // says that its context has ended
	r.end()
	r.end = nil
}

// listen is a listener for one more server of this process.
func listen(t tester) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v", err)
	}
	return l
}

// object is a key as Kubernetes sees it, or as an engine shows it.
type object struct {
	value       string
	create, mod int64
	version     int64 // 0 from kine
	lease       int64
}

// everything lists all keys with a prefix, and returns the header's revision with them.
func (r *running) everything(prefix string) (map[string]object, int64) {
	r.t.Helper()
	return r.everythingAt(prefix, 0)
}

// everythingAt is everything at a revision.
func (r *running) everythingAt(prefix string, revision int64) (map[string]object, int64) {
	r.t.Helper()
	ctx, cancel := soon()
	defer cancel()
	answer, err := r.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(revision))
	if err != nil {
		r.t.Fatalf("list on %s: %v", r.kind, err)
	}
	all := map[string]object{}
	for _, kv := range answer.Kvs {
		all[string(kv.Key)] = object{string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease}
	}
	if int64(len(all)) != answer.Count {
		r.t.Fatalf("%s lists %d keys and counts %d", r.kind, len(all), answer.Count)
	}
	return all, answer.Header.Revision
}

// try is a create (mod 0), update or deletion of Kubernetes'.
func (r *running) try(ctx context.Context, mod int64, op clientv3.Op) (*clientv3.TxnResponse, error) {
	key := string(op.KeyBytes())
	txn := r.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", mod)).Then(op)
	if mod != 0 {
		txn = txn.Else(clientv3.OpGet(key))
	}
	return txn.Commit()
}

// do is try, which must be done. It returns the revision.
func (r *running) do(mod int64, op clientv3.Op) int64 {
	r.t.Helper()
	ctx, cancel := soon()
	defer cancel()
	answer, err := r.try(ctx, mod, op)
	if err != nil || !answer.Succeeded {
		r.t.Fatalf("%s: %q at %d: %v, %v", r.kind, op.KeyBytes(), mod, answer, err)
	}
	return answer.Header.Revision
}

// same compares what is shown of each key; what is not, the caller has made equal.
func same(t tester, what string, got, want map[string]object) {
	t.Helper()
	var wrong []string
	for key, w := range want {
		if g, ok := got[key]; !ok {
			wrong = append(wrong, fmt.Sprintf("%q is lost, it was %+v", key, w))
		} else if g != w {
			wrong = append(wrong, fmt.Sprintf("%q is %+v, not %+v", key, g, w))
		}
	}
	for key, g := range got {
		if _, ok := want[key]; !ok {
			wrong = append(wrong, fmt.Sprintf("%q is there: %+v", key, g))
		}
	}
	if len(wrong) > 0 {
		t.Fatalf("%s: %d keys are wrong:\n%s", what, len(wrong), strings.Join(wrong[:min(len(wrong), 10)], "\n"))
	}
}

// with returns a copy of objects, each changed.
func with(objects map[string]object, change func(*object)) map[string]object {
	changed := map[string]object{}
	for key, o := range objects {
		change(&o)
		changed[key] = o
	}
	return changed
}

// asKine leaves out what kine does not show, or not the same way.
func asKine(objects map[string]object) map[string]object {
	return with(objects, func(o *object) { o.version, o.lease = 0, 0 })
}
