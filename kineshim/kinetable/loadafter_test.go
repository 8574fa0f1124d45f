package kinetable

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
)

// known is what somebody has loaded: a copy of the table.
type known struct {
	at      Position
	rows    map[int64]HistoryRow
	version int
}

func (a *author) known() known {
	a.t.Helper()
	rows, meta := loadWithValues(a.t, a.s, Position{})
	k := known{at: Position{meta.LastID, meta.Revision}, rows: map[int64]HistoryRow{}, version: a.versions}
	for _, r := range rows {
		k.rows[r.ID] = r
	}
	return k
}

func loadWithValues(t testing.TB, s *Store, at Position) ([]HistoryRow, Meta) {
	t.Helper()
	rows, meta, err := tryLoadAfter(t, s, at)
	if err != nil {
		t.Fatalf("after %v: %v", at, err)
	}
	return rows, meta
}

func tryLoadAfter(t testing.TB, s *Store, at Position) (rows []HistoryRow, meta Meta, err error) {
	t.Helper()
	meta, err = s.LoadAfter(t.Context(), at, func(r HistoryRow) error {
		rows = append(rows, r)
		return nil
	})
	return rows, meta, err
}

var anyOrder = cmp.Options{cmpopts.SortSlices(func(a, b LeaseRow) bool { return a.ID < b.ID }), cmpopts.EquateEmpty()}

// loadedRows are rows without what Adopt changes in the rows of kine's.
func loadedRows(rows map[int64]HistoryRow) map[int64]LoadedRow {
	all := map[int64]LoadedRow{}
	for id, r := range rows {
		r.Version = 0
		all[id] = r.LoadedRow
	}
	return all
}

// TestLoadAfterIsTheEndOfLoad: whatever the history, of engines, kine and restored snapshots, what somebody knows and what is
// loaded after it are what Load returns, or the table is said to be foreign.
func TestLoadAfterIsTheEndOfLoad(t *testing.T) {
	server, database := testDatabase(t)
	a := newAuthor(t, server, database, 12)
	reader := OpenReader(Config{DSN: server.DSN(database)})
	defer reader.Close()
	copies := []known{a.known()}
	foreign, fitted := 0, 0
	const rounds, steps, kept = 8, 8, 25
	for round := range rounds {
		for range steps {
			switch a.random.IntN(10) {
			case 0:
				a.compact(60)
			case 1, 2:
				a.sweep()
			case 3:
				a.restart()
			default:
				a.write(3, 4)
			}
			copies = append(copies, a.known())
		}
		if a.random.IntN(3) == 0 {
			a.compact(0)
			a.sweep()
			copies = append(copies, a.known())
		}
		copies = copies[max(0, len(copies)-kept):]
		f, n := a.checkCopies(copies[max(0, len(copies)-steps):])
		foreign, fitted = foreign+f, fitted+n
		switch round % 4 {
		case 1:
			a.kine()
		case 3:
			a.restore()
		default:
			a.restart()
		}
		f, n = a.checkCopies(copies)
		foreign, fitted = foreign+f, fitted+n
		a.checkSplits()
		a.checkReader(reader)
	}
	t.Logf("copies were continued %d times, foreign %d times", fitted, foreign)
	if foreign == 0 || fitted == 0 {
		t.Error("not all cases have come up")
	}
}

// compactedRow is the compacted revision as a row ID.
func (a *author) compactedRow() int64 {
	a.t.Helper()
	var id int64
	err := a.s.readers.with(a.t.Context(), func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT prev_revision FROM kine WHERE name = 'compact_rev_key'").Scan(&id)
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

// checkCopies continues each copy.
func (a *author) checkCopies(copies []known) (foreign, fitted int) {
	a.t.Helper()
	whole := a.known()
	_, wantMeta := load(a.t, a.s)
	for _, k := range copies {
		rows, meta, err := tryLoadAfter(a.t, a.s, k.at)
		if errors.Is(err, ErrForeign) {
			foreign++
			left := slices.ContainsFunc(slices.Collect(maps.Keys(whole.rows)), func(id int64) bool { return id <= k.at.ID })
			if k.version == a.versions && left && k.at.ID >= a.compactedRow() {
				a.t.Fatalf("a copy up to %v, of the same history, cannot go on: %v", k.at, err)
			}
			if len(rows) > 0 {
				a.t.Fatalf("rows come before %v", err)
			}
			continue
		}
		if err != nil {
			a.t.Fatal(err)
		}
		fitted++
		meta.Untouched = false
		if diff := cmp.Diff(wantMeta, meta, anyOrder); diff != "" {
			a.t.Fatalf("meta after %v (-want +got):\n%s", k.at, diff)
		}
		got := maps.Clone(k.rows)
		for _, r := range rows {
			if r.ID <= k.at.ID {
				a.t.Fatalf("row %d is not after %v", r.ID, k.at)
			}
			got[r.ID] = r
		}
		// What is in the copy and gone in the table is garbage.
		for id := range garbage(got, meta.Compacted) {
			if _, ok := whole.rows[id]; !ok {
				delete(got, id)
			}
		}
		if diff := cmp.Diff(loadedRows(whole.rows), loadedRows(got)); diff != "" {
			a.t.Fatalf("rows of a copy up to %v, of version %d of %d (-want +got):\n%s", k.at, k.version, a.versions, diff)
		}
	}
	return foreign, fitted
}

// checkSplits loads up to each row, and after it.
func (a *author) checkSplits() {
	a.t.Helper()
	loaded, wantMeta := load(a.t, a.s)
	values, err := a.s.History(a.t.Context(), 0, wantMeta.LastID, 1<<30)
	if err != nil {
		a.t.Fatal(err)
	}
	compacted := a.compactedRow()
	for n := -1; n < len(loaded); n++ {
		at := Position{}
		if n >= 0 {
			at = Position{loaded[n].ID, loaded[n].Revision}
			if loaded[n] != values[n].LoadedRow {
				a.t.Fatalf("%v in the history is %v", loaded[n], values[n])
			}
		}
		if n >= 0 && at.ID < compacted {
			a.expectForeign(at)
			continue
		}
		rows, meta := loadWithValues(a.t, a.s, at)
		meta.Untouched = false
		if diff := cmp.Diff(wantMeta, meta, anyOrder); diff != "" {
			a.t.Fatalf("meta after %v (-want +got):\n%s", at, diff)
		}
		if diff := cmp.Diff(values[n+1:], rows, anyOrder); diff != "" {
			a.t.Fatalf("rows after %v (-want +got):\n%s", at, diff)
		}
		if n >= 0 {
			a.expectForeign(Position{at.ID, at.Revision - 1}, Position{at.ID, at.Revision + 1})
		}
	}
	a.expectForeign(Position{wantMeta.LastID + 1, wantMeta.Revision}, Position{wantMeta.LastID + 1, wantMeta.Revision + 1},
		Position{wantMeta.LastID, wantMeta.Revision + 1})
	for attempt, ids := range a.attempts {
		a.checkAttempt(attempt, ids)
	}
}

func (a *author) expectForeign(all ...Position) {
	a.t.Helper()
	for _, at := range all {
		if rows, _, err := tryLoadAfter(a.t, a.s, at); !errors.Is(err, ErrForeign) || len(rows) > 0 {
			a.t.Fatalf("after %v: %d rows, %v", at, len(rows), err)
		}
	}
}

func (a *author) checkAttempt(attempt int64, ids []int64) {
	a.t.Helper()
	if a.random.IntN(20) != 0 {
		return
	}
	var left []int64
	for _, id := range ids {
		if _, ok := a.history[id]; ok && !a.deleted[id] {
			left = append(left, id)
		}
	}
	for _, after := range []int64{0, ids[0] - 1, ids[0]} {
		rows, err := a.s.FindAttempt(a.t.Context(), after, attempt)
		if err != nil {
			a.t.Fatal(err)
		}
		var found []int64
		for _, r := range rows {
			if want := a.history[r.ID].LoadedRow; r != want {
				a.t.Fatalf("attempt %d has row %v, written as %v", attempt, r, want)
			}
			found = append(found, r.ID)
		}
		want := slices.DeleteFunc(slices.Clone(left), func(id int64) bool { return id <= after })
		if !slices.Equal(found, want) && len(found)+len(want) > 0 {
			a.t.Fatalf("attempt %d after %d: %v, not %v", attempt, after, found, want)
		}
	}
}

// checkReader compares with a Reader, of a table in which nothing happens.
func (a *author) checkReader(r *Reader) {
	a.t.Helper()
	wantRows, wantMeta := load(a.t, a.s)
	r.piece = 1 + a.random.IntN(2*len(wantRows)+1)
	rows, meta, err := loadPieces(a.t, r)
	if err != nil {
		a.t.Fatal(err)
	}
	meta.Untouched = false
	if diff := cmp.Diff(wantMeta, meta, anyOrder); diff != "" {
		a.t.Fatalf("meta (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantRows, rows, anyOrder); diff != "" {
		a.t.Fatalf("rows in pieces of %d (-want +got):\n%s", r.piece, diff)
	}
	after, upto, limit := a.random.Int64N(wantMeta.LastID+1), a.random.Int64N(wantMeta.LastID+1), 1+a.random.IntN(2*len(wantRows)+1)
	want, err := a.s.History(a.t.Context(), after, upto, limit)
	if err != nil {
		a.t.Fatal(err)
	}
	history, compacted, err := r.History(a.t.Context(), after, upto, limit)
	if err != nil || compacted != wantMeta.Compacted {
		a.t.Fatalf("compacted to %d, not %d: %v", compacted, wantMeta.Compacted, err)
	}
	expectEqual(a.t, "history", history, want)
	if rows, _, err := r.History(a.t.Context(), after, wantMeta.LastID+1, limit); !errors.Is(err, ErrBehind) || rows != nil {
		a.t.Fatalf("history up to what is not there: %v, %v", rows, err)
	}
}

func loadPieces(t testing.TB, r *Reader) (rows []LoadedRow, meta Meta, err error) {
	t.Helper()
	meta, err = r.Load(t.Context(), func(row LoadedRow) error {
		rows = append(rows, row)
		return nil
	})
	return rows, meta, err
}

// TestLoadAfterContinuesWhatKineHasSet: kine, which has run all the time, has compacted after an engine ended, and written nothing.
func TestLoadAfterContinuesWhatKineHasCompacted(t *testing.T) {
	server, database := testDatabase(t)
	a := newAuthor(t, server, database, 3)
	for range 10 {
		a.write(2, 3)
	}
	if err := a.s.Close(); err != nil {
		t.Fatal(err)
	}
	last := a.last
	admin := server.Admin(t, database)
	for _, to := range []int64{1, last.ID / 2, last.ID - 1, last.ID} {
		run(t, admin, "UPDATE kine SET prev_revision = $1 WHERE name = 'compact_rev_key'", to)
		a.s = openStore(t, server, database)
		a.checkSplits()
		reader := OpenReader(Config{DSN: server.DSN(database)})
		a.checkReader(reader)
		reader.Close()
		if err := a.s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoadAfterEndsWithItsCalleesError(t *testing.T) {
	s := newStore(t)
	load(t, s)
	write(t, s, Batch{Rows: []Row{created(2), created(3), created(4)}})
	own := errors.New("mine")
	n := 0
	_, err := s.LoadAfter(t.Context(), Position{2, 2}, func(HistoryRow) error { n++; return own })
	if !errors.Is(err, own) || n != 1 {
		t.Fatalf("%v after %d rows", err, n)
	}
	if rows, _ := loadWithValues(t, s, Position{2, 2}); len(rows) != 2 {
		t.Fatalf("%d rows", len(rows))
	}
}

// TestNothingScansTheTable: in a table whose rows are anywhere, and of which PostgreSQL has counted nothing or all.
func TestWhatIsAskedForIsFoundByAnIndex(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	load(t, s)
	reader := OpenReader(Config{DSN: server.DSN(database)})
	defer reader.Close()
	const n = 60_000
	ids := rand.New(rand.NewPCG(1, 2)).Perm(n)
	admin := server.Admin(t, database)
	run(t, admin, "ALTER TABLE kine DISABLE TRIGGER ALL")
	run(t, admin, `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value)
		SELECT id + 2, 'k' || id, 1, 0, 0, 0, 0, 'v' FROM unnest($1::int[]) id`, ids)
	plan := func(p *pool, sql string) string {
		var lines []string
		err := p.with(t.Context(), func(ctx context.Context, conn *pgx.Conn) error {
			rows, _ := conn.Query(ctx, "EXPLAIN "+sql, pgx.QueryExecModeSimpleProtocol) // CollectRows returns the error
			var err error
			lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return strings.Join(lines, "\n")
	}
	for _, counted := range []string{"SELECT", "ANALYZE kine"} {
		run(t, admin, counted)
		for sql, p := range map[string]*pool{
			"EXECUTE ks_find_attempt(5, 7)": s.readers, "EXECUTE ks_newest(30000)": s.readers, "EXECUTE ks_values('{1,2,3}')": s.readers,
			"EXECUTE ks_compact_row": s.readers, "EXECUTE ks_history(1, 50000, 10)": s.readers,
			"SELECT * FROM kine WHERE id >= 10 ORDER BY id": s.readers, // LoadAfter's
			"EXECUTE  ks_history(1, 50000, 10)":             reader.pool, "EXECUTE ks_piece(0, 30000, 20000)": reader.pool, booksSQL: reader.pool,
		} {
			got := plan(p, sql)
			bad := func(part string) bool { return strings.Contains(got, part) }
			if !strings.Contains(got, "Index") || slices.ContainsFunc([]string{"Seq Scan on kine ", "Bitmap", "Sort"}, bad) {
				t.Errorf("%s, after %s:\n%s", sql, counted, got)
			}
		}
	}
}

func TestLoadAfterTellsAForeignTable(t *testing.T) {
	gone := func(t *testing.T, s *Store) { // the newest row is a tombstone that is compacted
		write(t, s, Batch{Rows: []Row{
			{ID: 2, Revision: 2, Key: "a", Created: true, Version: 1}, {ID: 3, Revision: 2, Key: "b", Created: true, Version: 1},
			{ID: 4, Revision: 3, Key: "a", Deleted: true, PrevID: 2},
		}})
		write(t, s, Batch{Compact: 4, CompactRevision: 3})
		if err := s.Delete(t.Context(), []int64{2, 4}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name  string
		at    Position
		write func(t *testing.T, s *Store)
		kine  bool
		fits  bool
	}{
		{"the newest row is compacted", Position{4, 3}, gone, false, true},
		{"and had another revision", Position{4, 1}, gone, false, false},
		{"and had a revision that is not compacted", Position{4, 9}, func(t *testing.T, s *Store) {
			gone(t, s)
			write(t, s, Batch{Rows: []Row{{ID: 11, Revision: 11, Key: "c", Created: true, Version: 1}}})
		}, false, false},
		{"and kine has shown row IDs as revisions since", Position{4, 3}, gone, true, false},
		{"a row that never was", Position{5, 4}, func(t *testing.T, s *Store) {
			write(t, s, Batch{Rows: []Row{created(2), created(4), created(6)}})
		}, false, false},
		{"all rows replaced", Position{3, 3}, func(t *testing.T, s *Store) {
			write(t, s, Batch{Rows: []Row{created(2), created(3)}})
			meta := Meta{LastID: 10, Revision: 10, Compacted: 3}
			if err := s.Replace(t.Context(), meta, func(yield func(Row) error) error { return yield(created(10)) }); err != nil {
				t.Fatal(err)
			}
		}, false, false},
		{"compacted after it", Position{2, 2}, func(t *testing.T, s *Store) {
			write(t, s, Batch{Rows: []Row{created(2), created(3)}, Compact: 3, CompactRevision: 3})
		}, false, false},
		{"the beginning", Position{}, gone, false, true},
		{"a virgin table", Position{1, 1}, func(*testing.T, *Store) {}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, database := testDatabase(t)
			s := openStore(t, server, database)
			load(t, s)
			test.write(t, s)
			if test.kine {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				startKine(t, server, database).stop()
				s = openStore(t, server, database)
			}
			rows, _, err := tryLoadAfter(t, s, test.at)
			if errors.Is(err, ErrForeign) == test.fits || err != nil && (test.fits || len(rows) > 0) {
				t.Fatalf("%d rows: %v", len(rows), err)
			}
		})
	}
}
