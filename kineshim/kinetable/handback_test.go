package kinetable

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	_ "github.com/k3s-io/kine/pkg/drivers/pgsql" // registers postgres://
	"github.com/k3s-io/kine/pkg/server"
	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"kineshim/integration/pgtest"
)

// kine is a real one, of its public packages.
type kine struct {
	*server.KVServerBridge
	backend server.Backend
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// startKine starts kine with its own compaction off, so that a request compacts.
func startKine(t testing.TB, pg *pgtest.Server, database string) *kine {
	t.Helper()
	logrus.SetOutput(io.Discard) // for the process: kine has no other logger
	ctx, cancel := context.WithCancel(context.Background())
	k := &kine{cancel: cancel}
	t.Cleanup(k.stop)
	_, backend, err := drivers.New(ctx, &k.wg, &drivers.Config{
		Endpoint:       pg.DSN(database) + "&application_name=kine",
		CompactTimeout: 5 * time.Second, CompactBatchSize: 1000, PollBatchSize: 500,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxOpen: 5, MaxIdle: 5},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := backend.Start(ctx); err != nil {
		t.Fatal(err)
	}
	k.backend, k.KVServerBridge = backend, server.New(backend, "http", 5*time.Second, "3.6.11")
	return k
}

// stop ends kine and its connections.
func (k *kine) stop() {
	k.cancel()
	k.wg.Wait()
}

func compareMod(key string, mod int64) []*etcdserverpb.Compare {
	return []*etcdserverpb.Compare{{Key: []byte(key), Target: etcdserverpb.Compare_MOD, Result: etcdserverpb.Compare_EQUAL,
		TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: mod}}}
}

func opPut(key, value string) []*etcdserverpb.RequestOp {
	return []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{
		RequestPut: &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)}}}}
}

func opGet(key string) []*etcdserverpb.RequestOp {
	return []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestRange{
		RequestRange: &etcdserverpb.RangeRequest{Key: []byte(key)}}}}
}

func opDelete(key string) []*etcdserverpb.RequestOp {
	return []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: []byte(key)}}}}
}

// try does what Kubernetes does: create, update or delete at a mod revision.
func (k *kine) try(t testing.TB, mod int64, do []*etcdserverpb.RequestOp) (*etcdserverpb.TxnResponse, error) {
	t.Helper()
	key := string(do[0].GetRequestPut().GetKey()) + string(do[0].GetRequestDeleteRange().GetKey())
	request := &etcdserverpb.TxnRequest{Compare: compareMod(key, mod), Success: do}
	if mod != 0 {
		request.Failure = opGet(key)
	}
	return k.Txn(soon(t), request)
}

func (k *kine) do(t testing.TB, mod int64, do []*etcdserverpb.RequestOp) int64 {
	t.Helper()
	answer, err := k.try(t, mod, do)
	if err != nil || !answer.Succeeded {
		t.Fatalf("%v at %d: %v, %v", do, mod, answer, err)
	}
	return answer.Header.Revision
}

func (k *kine) create(t testing.TB, key, value string) int64 { return k.do(t, 0, opPut(key, value)) }

func (k *kine) update(t testing.TB, key, value string, mod int64) int64 {
	return k.do(t, mod, opPut(key, value))
}

// list is every key with its value, create revision and mod revision.
func (k *kine) list(t testing.TB, prefix string) map[string]string {
	t.Helper()
	end := []byte(prefix)
	end[len(end)-1]++
	answer, err := k.Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte(prefix), RangeEnd: end})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{}
	for _, kv := range answer.Kvs {
		keys[string(kv.Key)] = fmt.Sprintf("%s %d %d", kv.Value, kv.CreateRevision, kv.ModRevision)
	}
	return keys
}

// tryAll is every write that a kine does, at its keys /k and /gone. It returns those that were done.
func (k *kine) tryAll(t testing.TB) (done []string) {
	t.Helper()
	keys, err := k.Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("/k")})
	if err != nil || len(keys.Kvs) != 1 {
		t.Fatalf("%v, %v", keys, err)
	}
	mod := keys.Kvs[0].ModRevision
	for name, do := range map[string]func() (*etcdserverpb.TxnResponse, error){
		"create":         func() (*etcdserverpb.TxnResponse, error) { return k.try(t, 0, opPut("/new", "by kine")) },
		"create again":   func() (*etcdserverpb.TxnResponse, error) { return k.try(t, 0, opPut("/gone", "by kine")) },
		"update":         func() (*etcdserverpb.TxnResponse, error) { return k.try(t, mod, opPut("/k", "by kine")) },
		"delete":         func() (*etcdserverpb.TxnResponse, error) { return k.try(t, mod, opDelete("/k")) },
		"delete at once": func() (*etcdserverpb.TxnResponse, error) { return k.deleteNow(t, "/k") },
	} {
		if answer, err := do(); err == nil && answer.Succeeded && (name != "delete at once" || len(answer.Responses) > 1) {
			done = append(done, name)
		}
	}
	return done
}

// deleteNow is the deletion without a compare.
func (k *kine) deleteNow(t testing.TB, key string) (*etcdserverpb.TxnResponse, error) {
	t.Helper()
	return k.Txn(soon(t), &etcdserverpb.TxnRequest{Success: append(opGet(key), opDelete(key)...)})
}

// someRows makes the table's keys: /k updated twice, /gone deleted.
func someRows(t testing.TB, s *Store) {
	t.Helper()
	_, meta := load(t, s)
	a, r := meta.LastID+1, meta.Revision+1
	write(t, s, Batch{Rows: []Row{
		{ID: a, Revision: r, Key: "/k", Created: true, Version: 1, Value: []byte("1")},
		{ID: a + 1, Revision: r, Key: "/gone", Created: true, Version: 1, Value: []byte("g")},
	}})
	write(t, s, Batch{Rows: []Row{
		{ID: a + 2, Revision: r + 1, Key: "/k", CreateID: a, CreateRevision: r, PrevID: a, Version: 2, Value: []byte("2"), FetchOld: true},
		{ID: a + 3, Revision: r + 1, Key: "/gone", Deleted: true, PrevID: a + 1, FetchOld: true},
		{ID: a + 4, Revision: r + 2, Key: "/k", CreateID: a, CreateRevision: r, PrevID: a + 2, Version: 3, Value: []byte("3"), OldValue: []byte("2")},
	}})
}

// killWriter ends the store's writing session as the OOM killer would.
func killWriter(t testing.TB, s *Store, admin *pgx.Conn) {
	t.Helper()
	run(t, admin, "SELECT pg_terminate_backend($1)", s.pipeline.pid)
	ended(t, admin, s.pipeline.pid)
	<-s.Failed()
	_ = s.Close() // it has failed
}

func TestKineCannotWriteWhileWeServe(t *testing.T) {
	for name, leave := range map[string]func(*testing.T, *Store, *pgx.Conn){
		"killed": func(t *testing.T, s *Store, admin *pgx.Conn) { killWriter(t, s, admin) },
		"closed": func(t *testing.T, s *Store, admin *pgx.Conn) {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			ended(t, admin, s.pipeline.pid)
		},
	} {
		t.Run(name, func(t *testing.T) {
			pg, database := testDatabase(t)
			admin := pg.Admin(t, database)
			running := startKine(t, pg, database)
			s := openStore(t, pg, database)
			someRows(t, s)
			before := dump(t, admin)
			equal(t, "done by a kine that ran before", running.tryAll(t), nil)
			_, _ = running.backend.Compact(soon(t), 5) // kine does not say whether it did
			equal(t, "rows", dump(t, admin), before)

			leave(t, s, admin)
			// Its indexes are gone, and the unique one is what keeps it from losing writes.
			equal(t, "done by a kine without its indexes", running.tryAll(t), nil)
			s = openStore(t, pg, database)
			started := startKine(t, pg, database) // makes the indexes
			equal(t, "done by a kine that came later", started.tryAll(t), nil)
			equal(t, "done by a kine that ran before", running.tryAll(t), nil)
			write(t, s, Batch{Rows: []Row{{ID: 8, Revision: 6, Key: "/more", Created: true, Version: 1}}})
			equal(t, "rows", len(dump(t, admin)), len(before)+1)

			leave(t, s, admin)
			mod := running.update(t, "/k", "by one kine", 7)
			mod = started.update(t, "/k", "by another", mod)
			equal(t, "revision", started.do(t, mod, opDelete("/k")), 11)
			equal(t, "revision", running.create(t, "/gone", "back"), 12)
		})
	}
}

func TestKineGoesOnWithWhatWeLeave(t *testing.T) {
	pg, database := testDatabase(t)
	admin := pg.Admin(t, database)
	s := openStore(t, pg, database)
	someRows(t, s) // rows 2 to 6
	var rows []Row
	want := map[string]string{"/k": "3 2 6"}
	for i := int64(7); i <= 106; i++ { // a large transaction
		key := fmt.Sprintf("/many/%03d", i)
		rows = append(rows, Row{ID: i, Revision: 5, Key: key, Created: true, Version: 1, Value: []byte(key), TTL: 3600, Lease: 1 << 40})
		want[key] = fmt.Sprintf("%s %d %d", key, i, i)
	}
	write(t, s, Batch{Rows: rows, Compact: 4, CompactRevision: 4})
	write(t, s, Batch{Rows: []Row{
		{ID: 107, Revision: 6, Key: "/bytes\xff\x00", Created: true, Version: 1, Value: []byte("b")},
		{ID: 108, Revision: 7, Key: "compact_rev_key", Created: true, Version: 1, Value: []byte("100")},
		{ID: 109, Revision: 8, Key: "/gone", Created: true, PrevID: 5, Version: 1},
	}})
	want["/gone"], want["/registry/health"] = " 109 109", `{"health":"true"} 110 110` // which kine creates at once
	killWriter(t, s, admin)

	k := startKine(t, pg, database)
	equal(t, "keys", k.list(t, "/"), want)
	answer, err := k.Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("compact_rev_key")})
	if err != nil || len(answer.Kvs) != 1 || string(answer.Kvs[0].Value) != "100" || answer.Kvs[0].Version != 1 {
		t.Errorf("Kubernetes' compact_rev_key: %v, %v", answer, err)
	}
	equal(t, "kine's indexes", len(indexes(t, admin)), len(kineIndexes)+len(ourIndexes))
	watch := k.backend.Watch(soon(t), "/", "0", 110)
	mod := k.update(t, "/k", "4", 6)
	equal(t, "revision of an update", mod, 111)
	equal(t, "revision of a create", k.create(t, "/new", "n"), 112)
	mod = k.update(t, "/k", "5", mod)
	equal(t, "revision of a delete", k.do(t, 109, opDelete("/gone")), 114)
	equal(t, "revision of a create over our tombstone", k.create(t, "/gone", "g"), 115)
	var seen []int64
	begin := time.Now()
	for len(seen) < 6 {
		select {
		case events := <-watch.Events:
			for _, e := range events {
				if e != nil {
					seen = append(seen, e.KV.ModRevision)
				}
			}
		case <-time.After(patience):
			t.Fatalf("kine's watch has seen only %v", seen)
		}
	}
	equal(t, "kine's watch", seen, []int64{110, 111, 112, 113, 114, 115})
	if took := time.Since(begin); took > 5*time.Second { // it polls each second
		t.Errorf("kine's watch took %v", took)
	}
	if _, err := k.backend.Compact(soon(t), 100); err != nil {
		t.Error(err)
	}
	equal(t, "compacted by kine", one[int64](t, admin, "SELECT prev_revision FROM kine WHERE name = 'compact_rev_key'"), 100)
	equal(t, "gaps that kine filled", one[int64](t, admin, "SELECT count(*) FROM kine WHERE name LIKE 'gap-%'"), 0)
	want["/k"], want["/new"], want["/gone"] = fmt.Sprintf("5 2 %d", mod), "n 112 112", "g 115 115"
	equal(t, "keys", k.list(t, "/"), want)
	k.stop()

	s = openStore(t, pg, database)
	loaded, meta := load(t, s)
	equal(t, "meta", meta, Meta{LastID: 115, Revision: 115, Compacted: 100})
	live := map[string]string{}
	for _, r := range loaded {
		if r.Revision != r.ID {
			t.Errorf("row %d has revision %d after kine has shown its ID", r.ID, r.Revision)
		}
		if delete(live, r.Key); !r.Deleted && strings.HasPrefix(r.Key, "/") {
			create := r.CreateRevision
			if r.Created {
				create = r.ID
			}
			live[r.Key] = fmt.Sprintf("%s %d %d", valuesOf(t, s, r.ID)[r.ID], create, r.Revision)
		}
	}
	want["/bytes\xff\x00"] = "b 107 107"
	equal(t, "keys that we have again", live, want)
	write(t, s, Batch{Rows: []Row{{ID: 116, Revision: 116, Key: "/k", CreateID: 2, CreateRevision: 2, PrevID: mod, Version: 6, Value: []byte("6")}}})
}
