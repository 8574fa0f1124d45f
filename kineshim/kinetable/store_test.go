package kinetable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"kineshim/integration/pgtest"
)

// openStore opens the table of a database of its own and closes it at the test's end.
func openStore(t testing.TB, server *pgtest.Server, database string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{DSN: server.DSN(database), Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // tests that are about it have looked
	return s
}

func newStore(t testing.TB) *Store {
	t.Helper()
	server, database := testDatabase(t)
	return openStore(t, server, database)
}

// reopen is what another engine does later.
func reopen(t testing.TB, s *Store, server *pgtest.Server, database string) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return openStore(t, server, database)
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func load(t testing.TB, s *Store) ([]LoadedRow, Meta) {
	t.Helper()
	var rows []LoadedRow
	meta, err := s.Load(t.Context(), func(r LoadedRow) error {
		rows = append(rows, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	meta.Untouched = false // has a test of its own
	return rows, meta
}

func TestCompactionOfNothingIsRemembered(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	untouched := func() bool {
		meta, err := s.Load(t.Context(), func(LoadedRow) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if meta.Compacted != 0 {
			t.Errorf("compacted at %d", meta.Compacted)
		}
		return meta.Untouched
	}
	if !untouched() {
		t.Error("a virgin table counts as compacted")
	}
	write(t, s, Batch{Compact: 1})
	s = reopen(t, s, server, database)
	if untouched() {
		t.Error("a compaction at revision 0 is forgotten")
	}
}

// write commits one batch.
func write(t testing.TB, s *Store, b Batch) {
	t.Helper()
	if err := s.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := s.Done(); err != nil {
		t.Fatal(err)
	}
}

// valuesOf returns the values of rows.
func valuesOf(t testing.TB, s *Store, ids ...int64) map[int64]string {
	t.Helper()
	values := map[int64]string{}
	if err := s.Values(t.Context(), ids, func(id int64, value []byte) error {
		values[id] = string(value)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return values
}

func expectEqual(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func TestVirginTableIsAtRevisionOne(t *testing.T) {
	s := newStore(t)
	rows, meta := load(t, s)
	expectEqual(t, "rows", rows, []LoadedRow(nil))
	expectEqual(t, "meta", meta, Meta{LastID: 1, Revision: 1})
}

func TestWhatIsWrittenIsLoadedAgain(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	load(t, s)
	write(t, s, Batch{Rows: []Row{{ID: 2, Revision: 2, Key: "a", Created: true, Version: 1, Value: []byte("a1"), TTL: 7, Lease: 1 << 60}}})
	write(t, s, Batch{Rows: []Row{ // one transaction with two changes, then one with one
		{ID: 3, Revision: 3, Key: "a", CreateRevision: 2, CreateID: 2, PrevID: 2, Version: 2, Value: []byte("a2"), FetchOld: true},
		{ID: 4, Revision: 3, Key: "b", Created: true, Version: 1},
		{ID: 5, Revision: 4, Key: "c", Created: true, Version: 1, Value: []byte("c1")},
	}})
	write(t, s, Batch{Rows: []Row{
		{ID: 6, Revision: 5, Key: "c", CreateRevision: 4, CreateID: 5, PrevID: 5, Version: 2, Value: []byte("c2"), OldValue: []byte("c1")},
		{ID: 7, Revision: 6, Key: "a", Deleted: true, PrevID: 3, FetchOld: true},
	}})
	want := []LoadedRow{
		{ID: 2, Revision: 2, Key: "a", Created: true, Version: 1, TTL: 7, Lease: 1 << 60},
		{ID: 3, Revision: 3, Key: "a", CreateRevision: 2, CreateID: 2, PrevID: 2, Version: 2},
		{ID: 4, Revision: 3, Key: "b", Created: true, Version: 1},
		{ID: 5, Revision: 4, Key: "c", Created: true, Version: 1},
		{ID: 6, Revision: 5, Key: "c", CreateRevision: 4, CreateID: 5, PrevID: 5, Version: 2},
		{ID: 7, Revision: 6, Key: "a", Deleted: true, PrevID: 3},
	}
	s = reopen(t, s, server, database)
	rows, meta := load(t, s)
	expectEqual(t, "rows", rows, want)
	expectEqual(t, "meta", meta, Meta{LastID: 7, Revision: 6})
	expectEqual(t, "values", valuesOf(t, s, 2, 3, 4, 5, 6, 7, 7), map[int64]string{2: "a1", 3: "a2", 4: "", 5: "c1", 6: "c2", 7: ""})

	history, err := s.History(t.Context(), 2, 6, 100)
	if err != nil {
		t.Fatal(err)
	}
	expectEqual(t, "history", history, []HistoryRow{
		{LoadedRow: want[1], Value: []byte("a2"), OldValue: []byte("a1")},
		{LoadedRow: want[2]},
		{LoadedRow: want[3], Value: []byte("c1")},
		{LoadedRow: want[4], Value: []byte("c2"), OldValue: []byte("c1")},
	})
	history, err = s.History(t.Context(), 4, 100, 2)
	if err != nil {
		t.Fatal(err)
	}
	if len(history) != 2 || history[0].ID != 5 || history[1].ID != 6 {
		t.Fatalf("history with a limit: %v", history)
	}
}

func TestOldValueIsFetchedFromABatchBehindInThePipeline(t *testing.T) {
	s := newStore(t)
	_, meta := load(t, s)
	big := strings.Repeat("x", 1<<20)
	first := meta.LastID + 1
	const n = 20
	for i := range int64(n) {
		row := Row{ID: first + i, Revision: first + i, Key: "k", Value: []byte(fmt.Sprint(big, i)), Version: i + 1}
		if i == 0 {
			row.Created = true
		} else {
			row.PrevID, row.FetchOld, row.CreateID, row.CreateRevision = first+i-1, true, first, first
		}
		if err := s.Write(Batch{Rows: []Row{row}}); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if err := s.Done(); err != nil {
			t.Fatal(err)
		}
	}
	history, err := s.History(t.Context(), first, first+n, n)
	if err != nil {
		t.Fatal(err)
	}
	if len(history) != n-1 {
		t.Fatalf("%d rows", len(history))
	}
	for i, row := range history {
		if string(row.OldValue) != fmt.Sprint(big, i) || string(row.Value) != fmt.Sprint(big, i+1) {
			t.Fatalf("row %d has wrong values", row.ID)
		}
	}
}

func TestHugeBatchIsOneTransaction(t *testing.T) {
	s := newStore(t)
	_, meta := load(t, s)
	value := make([]byte, 3<<19) // 1.5 MiB, and not to be compressed
	for i := range value {
		value[i] = byte(i * i >> 7)
	}
	rows := make([]Row, 30) // more than one statement takes
	for i := range rows {
		id := meta.LastID + 1 + int64(i)
		rows[i] = Row{ID: id, Revision: meta.LastID + 1, Key: fmt.Sprint("key", i), Created: true, Version: 1, Value: value}
	}
	write(t, s, Batch{Rows: rows})
	loaded, meta := load(t, s)
	if len(loaded) != len(rows) || meta.Revision != 2 || meta.LastID != 31 {
		t.Fatalf("%d rows, %+v", len(loaded), meta)
	}
	var transactions int
	if err := s.readers.with(t.Context(), func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT count(DISTINCT xmin::text) FROM kine WHERE id > 1").Scan(&transactions)
	}); err != nil || transactions != 1 {
		t.Fatalf("%d transactions, %v", transactions, err)
	}
	for id, got := range valuesOf(t, s, 2, 31) {
		if got != string(value) {
			t.Fatalf("row %d has another value", id)
		}
	}
}

// TestOddKeys: keys of every kind go through the table unchanged, and kine could read those that its column holds.
func TestOddKeysComeBackAsTheyWere(t *testing.T) {
	keys := []string{
		"/registry/pods/default/a", "compact_rev_key", "compact_rev_key_apiserver", "kineshim-bytes-", "kineshim-bytes-00",
		"gap-17", "a\x00", "\x00", "\xff", "\xc3\x28", "\xed\xa0\x80", "\xf4\x90\x80\x80", "schön", "日本語", "\U0010ffff", "\uffff", " ",
		"%_\\'\"$1", "\n\r\t\x01\x7f", strings.Repeat("x", 630), strings.Repeat("x", 631), strings.Repeat("ä", 630), strings.Repeat("x", 2000),
		strings.Repeat("x", 2001), strings.Repeat("\xff", 100000), "null", "NULL", "\\N", "\\x00",
	}
	for _, test := range []struct {
		name    string
		options string
		narrow  bool
	}{
		{"UTF8", "", false},
		{"varchar", "", true},
		{"SQL_ASCII", " ENCODING 'SQL_ASCII' TEMPLATE template0", false},
		{"LATIN1", " ENCODING 'LATIN1' TEMPLATE template0", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, database := testDatabase(t)
			admin := server.Admin(t, "postgres")
			if test.options != "" {
				database += "_odd"
				if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+database+" OWNER "+pgtest.Role+test.options); err != nil {
					t.Fatal(err)
				}
			}
			if test.narrow {
				conn, err := pgx.Connect(t.Context(), server.DSN(database))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close(context.Background())
				if _, err := conn.Exec(t.Context(), oldKineTable); err != nil {
					t.Fatal(err)
				}
			}
			s := openStore(t, server, database)
			_, meta := load(t, s)
			rows := make([]Row, 0, 3*len(keys))
			id := meta.LastID
			for _, key := range keys {
				id += 3
				rows = append(rows, Row{ID: id - 2, Revision: id - 2, Key: key, Created: true, Version: 1, Value: []byte(key)},
					Row{ID: id - 1, Revision: id - 1, Key: key, CreateID: id - 2, CreateRevision: id - 2, PrevID: id - 2, Version: 2,
						Value: []byte(key + "2"), OldValue: []byte(key)},
					Row{ID: id, Revision: id, Key: key, Deleted: true, PrevID: id - 1, OldValue: []byte(key + "2")})
			}
			for i := 0; i < len(rows); i += 3 { // by both statements
				write(t, s, Batch{Rows: rows[i : i+1]})
				write(t, s, Batch{Rows: rows[i+1 : i+3]})
			}
			loaded, _ := load(t, s)
			for i, row := range rows {
				if loaded[i].Key != row.Key || loaded[i].ID != row.ID || loaded[i].Version != row.Version {
					t.Fatalf("key %q came back as %q: %+v", row.Key, loaded[i].Key, loaded[i])
				}
				if got := valuesOf(t, s, row.ID)[row.ID]; got != string(row.Value) {
					t.Fatalf("value of %q came back as %q", row.Key, got)
				}
			}
			history, err := s.History(t.Context(), 0, id, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for i, row := range rows {
				if h := history[i]; h.Key != row.Key || string(h.Value) != string(row.Value) || string(h.OldValue) != string(row.OldValue) {
					t.Fatalf("history of %q: %q %q %q", row.Key, h.Key, h.Value, h.OldValue)
				}
			}
		})
	}
}

// oldKineTable is kine's of years ago.
const oldKineTable = `CREATE TABLE kine (id SERIAL PRIMARY KEY, name VARCHAR(630), created INTEGER, deleted INTEGER,
	create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value bytea, old_value bytea)`

func TestValuesOfMissingRowIsAnError(t *testing.T) {
	s := newStore(t)
	load(t, s)
	write(t, s, Batch{Rows: []Row{{ID: 2, Revision: 2, Key: "a", Created: true, Version: 1}}})
	err := s.Values(t.Context(), []int64{2, 5}, func(int64, []byte) error { return nil })
	var missing *MissingError
	if !errors.Is(err, ErrMissing) || !errors.As(err, &missing) || missing.ID != 5 {
		t.Fatalf("%v", err)
	}
	own := errors.New("mine")
	if err := s.Values(t.Context(), []int64{2}, func(int64, []byte) error { return own }); !errors.Is(err, own) {
		t.Fatalf("%v", err)
	}
	if got := valuesOf(t, s, 2); len(got) != 1 {
		t.Fatalf("after the errors: %v", got)
	}
}

func TestLeasesAndTheirClock(t *testing.T) {
	s := newStore(t)
	load(t, s)
	lease := func(id int64, expires time.Duration) LeaseRow { return LeaseRow{ID: id, TTL: 60, Expires: expires} }
	write(t, s, Batch{Leases: []LeaseRow{lease(1, time.Second), lease(2, time.Minute), lease(1, time.Hour+1)}, LeaseClock: 1999999 * time.Nanosecond})
	_, meta := load(t, s)
	sortLeases := cmpopts.SortSlices(func(a, b LeaseRow) bool { return a.ID < b.ID })
	want := Meta{LastID: 1, Revision: 1, LeaseClock: time.Millisecond, Leases: []LeaseRow{lease(1, time.Hour+time.Millisecond), lease(2, time.Minute)}}
	if diff := cmp.Diff(want, meta, sortLeases); diff != "" {
		t.Fatal(diff)
	}
	write(t, s, Batch{Rows: []Row{{ID: 2, Revision: 2, Key: "a", Created: true, Version: 1, Lease: 3}},
		Leases: []LeaseRow{lease(3, time.Hour)}, Revoked: []int64{1, 77}, LeaseClock: time.Minute})
	if err := s.SaveLeaseClock(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	_, meta = load(t, s)
	want = Meta{LastID: 2, Revision: 2, LeaseClock: time.Minute, Leases: []LeaseRow{lease(2, time.Minute), lease(3, time.Hour)}}
	if diff := cmp.Diff(want, meta, sortLeases); diff != "" {
		t.Fatal(diff)
	}
	if err := s.SaveLeaseClock(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, meta = load(t, s); meta.LeaseClock != time.Hour {
		t.Fatalf("the clock is at %v", meta.LeaseClock)
	}
}

// TestRevisionsNeverGoBack: also when the newest rows have been compacted away.
func TestRevisionsNeverGoBackAfterCompaction(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	load(t, s)
	write(t, s, Batch{Rows: []Row{
		{ID: 2, Revision: 2, Key: "a", Created: true, Version: 1},
		{ID: 3, Revision: 2, Key: "b", Created: true, Version: 1},
		{ID: 4, Revision: 3, Key: "c", Created: true, Version: 1},
		{ID: 5, Revision: 4, Key: "a", Deleted: true, PrevID: 2},
		{ID: 6, Revision: 4, Key: "b", Deleted: true, PrevID: 3},
	}, Compact: 4, CompactRevision: 3})
	_, meta := load(t, s)
	expectEqual(t, "meta", meta, Meta{LastID: 6, Revision: 4, Compacted: 3})
	write(t, s, Batch{Compact: 6, CompactRevision: 4})
	if err := s.Delete(t.Context(), []int64{1, 2, 3, 5, 6}); err != nil { // 1 is kine's own
		t.Fatal(err)
	}
	s = reopen(t, s, server, database)
	rows, meta := load(t, s)
	expectEqual(t, "meta", meta, Meta{LastID: 6, Revision: 4, Compacted: 4})
	expectEqual(t, "rows", rows, []LoadedRow{{ID: 4, Revision: 3, Key: "c", Created: true, Version: 1}})
}

func TestAdoptGivesVersionsAndLeases(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	load(t, s)
	rows := make([]Row, 5000)
	versions, leases := make([]VersionFix, len(rows)), make([]LeaseFix, len(rows))
	for i := range rows {
		id := int64(i) + 2
		rows[i] = Row{ID: id, Revision: id, Key: fmt.Sprint(i), CreateID: 1, CreateRevision: 1, PrevID: id - 1, TTL: 5}
		versions[i], leases[i] = VersionFix{ID: id, Version: 3}, LeaseFix{ID: id, Lease: -id}
	}
	write(t, s, Batch{Rows: rows})
	for range 2 {
		if err := s.Adopt(t.Context(), versions, leases); err != nil {
			t.Fatal(err)
		}
	}
	loaded, _ := load(t, s)
	for i, r := range loaded {
		if r.Version != 3 || r.Lease != leases[i].Lease || r.TTL != 5 {
			t.Fatalf("%+v", r)
		}
	}
	if len(loaded) != len(rows) {
		t.Fatalf("%d rows", len(loaded))
	}
}

func TestSizeIsAboutWhatIsInUse(t *testing.T) {
	s := newStore(t)
	load(t, s)
	total, inUse, err := s.Size(t.Context())
	if err != nil || total <= 0 || inUse < 0 || inUse > total {
		t.Fatalf("empty: %d, %d, %v", total, inUse, err)
	}
	rows := make([]Row, 20000)
	ids := make([]int64, len(rows))
	for i := range rows {
		id := int64(i) + 2
		ids[i] = id
		rows[i] = Row{ID: id, Revision: id, Key: fmt.Sprint(i), Created: true, Version: 1, Value: make([]byte, 500)}
	}
	write(t, s, Batch{Rows: rows})
	total, full, err := s.Size(t.Context())
	if err != nil || full < 20000*500 || full > total {
		t.Fatalf("full: %d, %d, %v", total, full, err)
	}
	if err := s.Delete(t.Context(), ids[:15000]); err != nil {
		t.Fatal(err)
	}
	total, inUse, err = s.Size(t.Context())
	if err != nil || inUse > full/2 || inUse < full/5 || inUse > total {
		t.Fatalf("after deletes: %d, %d of %d, %v", total, inUse, full, err)
	}
}
