package kineshim

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"kineshim/integration/pgtest"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// postgres is a throw-away server whose databases engines use.
type postgres struct{ *pgtest.Server }

// pgPort is in the name of the server's socket.
const pgPort = pgtest.Port

// shared is one server for all tests that do not kill it.
var shared struct {
	once sync.Once
	pg   *pgtest.Server
	err  error
	n    int
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.pg != nil {
		if err := shared.pg.Remove(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// sharedDatabase returns the shared server and the name of a database of the test's own.
func sharedDatabase(t *testing.T) (*postgres, string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	shared.once.Do(func() { shared.pg, shared.err = pgtest.Start() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	shared.n++
	name := fmt.Sprintf("test%d", shared.n)
	if err := shared.pg.CreateDatabase(name); err != nil {
		t.Fatal(err)
	}
	return &postgres{shared.pg}, name
}

// ownPostgres returns a server that the test may kill.
func ownPostgres(t *testing.T) (*postgres, string) {
	t.Helper()
	pg := pgtest.New(t)
	if err := pg.CreateDatabase("own"); err != nil {
		t.Fatal(err)
	}
	return &postgres{pg}, "own"
}

// admin opens a superuser's session that does not pass through a relay.
func (pg *postgres) admin(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	return pg.Admin(t, database)
}

func exec1(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(soon(t), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// session is what an engine for the database is started with.
func (pg *postgres) session(t *testing.T, database string) Session {
	return Session{
		Epoch: 7, Generation: 3, SocketDir: pg.Dir, Port: pgPort, Log: testLog(t),
		DSN: func(dir string) string { return pg.DSNAt(database, dir) },
	}
}

// startKine starts a node whose engine is kine on the database, and a client of it.
func startKine(t *testing.T, pg *postgres, database string) (*node, *clientv3.Client) {
	t.Helper()
	n := &node{gate: newFakeGate(), router: &fakeRouter{}}
	n.router.to(Route{Why: "nobody yet"})
	var err error
	n.endpoint, err = New(Options{Node: "a", MaxWait: -1, Gate: n.gate, Router: n.router, Engine: KineEngine, Log: testLog(t),
		HeaderInfo: func() HeaderInfo { return HeaderInfo{ClusterID: 11, MemberID: 12, RaftTerm: 13} }})
	if err != nil {
		t.Fatal(err)
	}
	n.client = serve(t, n.endpoint, n.endpoint.ClientServerOptions())
	n.peer = serve(t, n.endpoint, n.endpoint.PeerServerOptions())
	t.Cleanup(func() {
		if err := n.endpoint.Close(); err != nil {
			t.Errorf("close the endpoint: %v", err)
		}
	})
	n.leadKine(t, pg, database)
	return n, newClient(t, n.client)
}

func (n *node) leadKine(t *testing.T, pg *postgres, database string) {
	t.Helper()
	if err := n.endpoint.StartEngine(soon(t), pg.session(t, database)); err != nil {
		t.Fatal(err)
	}
	n.router.to(Route{Local: true, Node: "a"})
}

func newClient(t *testing.T, address string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: patience, MaxUnaryRetries: 1,
		Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}
