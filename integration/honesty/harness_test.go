package honesty

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"kineshim/integration/enginehost"
	"kineshim/integration/pgtest"
	"kineshim/kineshim"
	"kineshim/kineshim/native"
)

const (
	// callBound is for one call: one that is not answered by then hangs.
	callBound = 30 * time.Second
	// recoverBound is for the engine to serve again when the database does.
	recoverBound = 30 * time.Second
	// answerBytes bounds an answer: more than the longest list of these tests.
	answerBytes = 64 << 20
	// retryPause is between two looks at something that should change soon.
	retryPause = 2 * time.Millisecond
)

// shared is the server of the tests that leave it alive, each with a database of its own.
var shared = sync.OnceValues(func() (*pgtest.Server, error) { return pgtest.Start("max_connections=200") })

var databases atomic.Int64

func TestMain(m *testing.M) {
	code := m.Run()
	if sharedUsed.Load() {
		if server, err := shared(); err == nil {
			_ = server.Remove() // what is left is below /tmp
		}
	}
	os.Exit(code)
}

var sharedUsed atomic.Bool

// kine says that kine is tried, and not the native engine.
func kine() bool { return os.Getenv("HONESTY_ENGINE") == "kine" }

// engine is the one that is tried; cacheBytes bounds the values that it keeps, 0 is its default.
func engine(cacheBytes int64) kineshim.EngineFactory {
	if kine() {
		return kineshim.KineEngine
	}
	return native.Factory(native.Config{CacheBytes: cacheBytes})
}

// needNative skips what kine has no API for.
func needNative(t *testing.T) {
	t.Helper()
	if kine() {
		t.Skip("kine does not have what this needs")
	}
}

// number is a count from the environment.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// seconds is how long something goes on.
func seconds(otherwise int) time.Duration {
	return time.Duration(number("HONESTY_SECONDS", otherwise)) * time.Second
}

// random returns a source of random numbers whose seed is printed.
func random(t *testing.T) *rand.Rand {
	seed := uint64(number("HONESTY_SEED", int(time.Now().UnixNano()&0xffffffff)))
	t.Logf("HONESTY_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// between draws a duration.
func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Int64N(int64(most-least)))
}

// tester is a test, or one of rapid's tries.
type tester interface {
	Helper()
	Logf(format string, args ...any)
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Skip(args ...any)
	Cleanup(func())
	Context() context.Context
}

// rig is an endpoint with an engine on a database.
type rig struct {
	t    tester
	host *enginehost.Host
	pg   *pgtest.Server
	// proxy is between the engine and pg, if the test asked for one.
	proxy *proxy
	// admin is a superuser's session in another database, for one goroutine at a time.
	admin *pgx.Conn
}

type options struct {
	pg         *pgtest.Server // nil: the shared one
	proxy      *proxy         // of pg; nil: none
	cacheBytes int64
}

func start(t tester, o options) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	if o.pg == nil {
		var err error
		sharedUsed.Store(true)
		if o.pg, err = shared(); err != nil {
			t.Fatal(err)
		}
	}
	var log *slog.Logger
	if os.Getenv("HONESTY_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	at := o.pg
	if o.proxy != nil {
		at = &pgtest.Server{Dir: o.proxy.dir} // a place to connect to
	}
	host, err := enginehost.Start(enginehost.Options{
		Engine: engine(o.cacheBytes), PG: at, Database: "honesty" + strconv.FormatInt(databases.Add(1), 10), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	return &rig{t: t, host: host, pg: o.pg, proxy: o.proxy, admin: admin(t, o.pg, "postgres")}
}

// reconnect replaces the admin's session, of a server that was restarted.
func (r *rig) reconnect() {
	r.t.Helper()
	r.admin = admin(r.t, r.pg, "postgres")
}

// admin opens a superuser's session that ends with the test.
func admin(t tester, pg *pgtest.Server, database string) *pgx.Conn {
	t.Helper()
	ctx, cancel := call()
	defer cancel()
	conn, err := pgx.Connect(ctx, pg.SuperDSN(database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// sql runs a superuser's statement.
func (r *rig) sql(statement string, args ...any) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	if _, err := r.admin.Exec(ctx, statement, args...); err != nil {
		r.t.Fatalf("%s: %v", statement, err)
	}
}

// count runs a superuser's query that returns one number.
func (r *rig) count(query string, args ...any) int64 {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	var n int64
	if err := r.admin.QueryRow(ctx, query, args...).Scan(&n); err != nil {
		r.t.Fatalf("%s: %v", query, err)
	}
	return n
}

// terminate ends all sessions of the engine.
func (r *rig) terminate() {
	r.t.Helper()
	r.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", r.host.Database)
}

// client is one connection. It tries nothing again by itself, as clientv3 does.
type client struct {
	pb.KVClient
	pb.WatchClient
	pb.LeaseClient
	pb.MaintenanceClient
}

func (r *rig) client() client {
	r.t.Helper()
	conn, err := grpc.NewClient(r.host.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithDisableRetry(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerBytes)))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return client{pb.NewKVClient(conn), pb.NewWatchClient(conn), pb.NewLeaseClient(conn), pb.NewMaintenanceClient(conn)}
}

// call is the context of one call.
func call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callBound)
}

// do makes one call within its bound.
func do[Q, A any](f func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	ctx, cancel := call()
	defer cancel()
	return f(ctx, request)
}

// must makes a call that nothing keeps from being answered.
func must[Q, A any](t tester, f func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) A {
	t.Helper()
	answer, err := do(f, request)
	if err != nil {
		t.Fatalf("%v: %v", request, err)
	}
	return answer
}

// refused says whether an error is the one that may be given while the database fails; any other fails the test.
func refused(t tester, what string, err error) bool {
	t.Helper()
	if status.Code(err) == codes.Unavailable {
		return true
	}
	t.Errorf("%s was refused with %v", what, err)
	return false
}

// unknown says whether a refusal admits that the request may have been done.
func unknown(err error) bool { return strings.Contains(err.Error(), kineshim.OutcomeUnknown) }
