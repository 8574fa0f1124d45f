package kinetable

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// nineColumns are kine's, byte for byte.
type nineColumns struct {
	ID, Created, Deleted, CreateRevision, PrevRevision, Lease int64
	Name                                                      string
	Value, OldValue                                           *[]byte // nil: NULL
}

func allColumns(t testing.TB, conn *pgx.Conn) []nineColumns {
	t.Helper()
	rows, err := conn.Query(t.Context(), "SELECT * FROM (SELECT "+kineColumns+" FROM kine) k ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c nineColumns, err error) {
		err = row.Scan(&c.ID, &c.Name, &c.Created, &c.Deleted, &c.CreateRevision, &c.PrevRevision, &c.Lease, &c.Value, &c.OldValue)
		return c, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// mirror does to a kine what it puts down as rows.
type mirror struct {
	t       testing.TB
	kine    *kine
	rows    []Row
	heads   map[string]Row
	creates map[string]int64
}

func (m *mirror) create(key string, value []byte, ttl int64) {
	m.t.Helper()
	name, stored := key, value
	if key == compactKey { // what kine's server does
		name, stored = compactAPIName, server.EncodeVersion(1, value)
	}
	id, err := m.kine.backend.Create(soon(m.t), name, stored, ttl)
	if err != nil {
		m.t.Fatalf("create %q: %v", key, err)
	}
	row := Row{ID: id, Revision: id, Key: key, Created: true, Version: 1, Value: value, TTL: ttl, PrevID: m.heads[key].ID}
	m.put(row)
	m.creates[key] = id
}

func (m *mirror) update(key string, value []byte, ttl int64, fetch bool) {
	m.t.Helper()
	old := m.heads[key]
	name, stored := key, value
	if key == compactKey {
		name, stored = compactAPIName, server.EncodeVersion(old.Version+1, value)
	}
	id, _, done, err := m.kine.backend.Update(soon(m.t), name, stored, old.ID, ttl)
	if err != nil || !done {
		m.t.Fatalf("update %q: %v, %v", key, done, err)
	}
	row := Row{ID: id, Revision: id, Key: key, Version: old.Version + 1, Value: value, TTL: ttl, PrevID: old.ID,
		CreateID: m.creates[key], CreateRevision: m.creates[key], FetchOld: fetch}
	if !fetch {
		row.OldValue = old.Value
	}
	m.put(row)
}

func (m *mirror) delete(key string, fetch bool) {
	m.t.Helper()
	old := m.heads[key]
	name := key
	if key == compactKey {
		name = compactAPIName
	}
	id, _, done, err := m.kine.backend.Delete(soon(m.t), name, old.ID)
	if err != nil || !done {
		m.t.Fatalf("delete %q: %v, %v", key, done, err)
	}
	row := Row{ID: id, Revision: id, Key: key, Deleted: true, PrevID: old.ID, FetchOld: fetch}
	if !fetch {
		row.OldValue = old.Value
	}
	m.put(row)
}

func (m *mirror) put(row Row) {
	m.rows = append(m.rows, row)
	m.heads[row.Key] = row
}

// TestRowsAreByteForByteWhatKineWrites: random changes are made by a real kine and written by us, in batches of random
// sizes; all nine columns of all rows are the same, and a kine goes on with what we have written.
func TestRowsAreByteForByteWhatKineWrites(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	pg, theirs := testDatabase(t)
	_, ours := testDatabase(t)
	s := openStore(t, pg, ours)
	load(t, s)

	m := &mirror{t: t, kine: startKine(t, pg, theirs), heads: map[string]Row{}, creates: map[string]int64{}}
	health := Row{ID: 2, Revision: 2, Key: server.HealthKey, Created: true, Version: 1, Value: []byte(server.HealthVal)}
	m.rows = append(m.rows, health) // kine has made it
	keys := []string{"/a", "/b", "/schön", compactKey, "gap-1", "/c"}
	for range 150 {
		key := keys[random.IntN(len(keys))]
		value := make([]byte, []int{0, 1, 30, 3000}[random.IntN(4)])
		for i := range value {
			value[i] = byte(random.UintN(256))
		}
		ttl := []int64{0, 0, 0, 100000, 1<<31 - 1}[random.IntN(5)]
		if len(value) == 0 {
			value = nil // as it comes from a request
		}
		head := m.heads[key]
		switch {
		case head.ID == 0 || head.Deleted:
			m.create(key, value, ttl)
		case random.IntN(4) == 0:
			m.delete(key, random.IntN(2) == 0)
		default:
			m.update(key, value, ttl, random.IntN(2) == 0)
		}
	}
	m.kine.stop()
	batches := writeAll(t, s, m.rows, random)
	t.Logf("%d rows in %d batches", len(m.rows), batches)

	want, got := allColumns(t, pg.Admin(t, theirs)), allColumns(t, pg.Admin(t, ours))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	next := startKine(t, pg, ours)
	expectEqual(t, "kine's next revision", next.create(t, "/next", "x"), m.rows[len(m.rows)-1].ID+1)
}

// writeAll writes rows in batches of random sizes that are in flight together.
func writeAll(t testing.TB, s *Store, rows []Row, random *rand.Rand) (batches int) {
	t.Helper()
	for first := 0; first < len(rows); batches++ {
		n := min(1+random.IntN(12), len(rows)-first)
		if err := s.Write(Batch{Rows: rows[first : first+n]}); err != nil {
			t.Fatal(err)
		}
		first += n
	}
	for range batches {
		if err := s.Done(); err != nil {
			t.Fatal(err)
		}
	}
	return batches
}

func TestRowsOfKineAreLoaded(t *testing.T) {
	pg, database := testDatabase(t)
	k := startKine(t, pg, database)
	a := k.create(t, "/a", "1")
	b := k.update(t, "/a", "2", a)
	for version := range int64(3) { // as Kubernetes does it
		if _, err := k.KVServerBridge.Txn(soon(t), compactTxn(version, fmt.Sprint(100+version))); err != nil {
			t.Fatal(err)
		}
	}
	c := k.do(t, b, opDelete("/a"))
	k.stop()
	admin := pg.Admin(t, database)
	run(t, admin, "INSERT INTO kine VALUES ($1, 'gap-' || $1::bigint, 0, 1, 0, 0, 0, NULL, NULL)", c+1)
	run(t, admin, "INSERT INTO kine VALUES ($1, '/b', 1, 0, 0, 0, 7, 'x', NULL)", c+3)
	s := openStore(t, pg, database)
	rows, meta := load(t, s)
	expectEqual(t, "meta", meta, Meta{LastID: c + 3, Revision: c + 3})
	expectEqual(t, "rows", rows, []LoadedRow{
		{ID: 2, Revision: 2, Key: server.HealthKey, Created: true, Version: 1},
		{ID: a, Revision: a, Key: "/a", Created: true, Version: 1},
		{ID: b, Revision: b, Key: "/a", CreateRevision: a, CreateID: a, PrevID: a},
		{ID: b + 1, Revision: b + 1, Key: compactKey, Created: true, Version: 1},
		{ID: b + 2, Revision: b + 2, Key: compactKey, CreateRevision: b + 1, CreateID: b + 1, PrevID: b + 1, Version: 2},
		{ID: b + 3, Revision: b + 3, Key: compactKey, CreateRevision: b + 1, CreateID: b + 1, PrevID: b + 2, Version: 3},
		{ID: c, Revision: c, Key: "/a", Deleted: true, PrevID: b},
		{ID: c + 3, Revision: c + 3, Key: "/b", Created: true, Version: 1, TTL: 7},
	})
	history, err := s.History(t.Context(), b+1, c+3, 100)
	if err != nil {
		t.Fatal(err)
	}
	expectEqual(t, "history", history, []HistoryRow{
		{LoadedRow: rows[4], Value: []byte("101"), OldValue: []byte("100")},
		{LoadedRow: rows[5], Value: []byte("102"), OldValue: []byte("101")},
		{LoadedRow: rows[6], OldValue: []byte("2")},
		{LoadedRow: rows[7], Value: []byte("x")},
	})
}

// compactTxn is how Kubernetes stores what it has compacted to.
func compactTxn(version int64, value string) *etcdserverpb.TxnRequest {
	return &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{Key: []byte(compactKey), Target: etcdserverpb.Compare_VERSION,
			TargetUnion: &etcdserverpb.Compare_Version{Version: version}}},
		Success: opPut(compactKey, value), Failure: opGet(compactKey),
	}
}
