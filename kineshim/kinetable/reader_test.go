package kinetable

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"kineshim/integration/pgtest"
)

// startPair is a primary with a database, and its standby.
func startPair(t testing.TB, settings ...string) (*pgtest.Pair, string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	dir, err := os.MkdirTemp("/tmp", "ks-pair-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is in it has been removed
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := pgtest.StartPair(dir, append([]string{"fsync=off"}, settings...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	if err := p.Primary.CreateDatabase("own"); err != nil {
		t.Fatal(err)
	}
	return p, "own"
}

func openReader(t testing.TB, server *pgtest.Server, database string) *Reader {
	t.Helper()
	r := OpenReader(Config{DSN: server.DSN(database)})
	t.Cleanup(r.Close)
	return r
}

// caughtUp waits until a standby shows what the primary shows.
func caughtUp(t testing.TB, r *Reader, last int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("row %d is replayed", last), func() bool {
		_, _, err := r.History(soon(t), 0, last, 1)
		if err != nil && !errors.Is(err, ErrBehind) && !errors.Is(err, ErrNoTable) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// keyspace is what can be read at a revision: of each key the row.
func keyspace(rows []LoadedRow, revision int64) map[string]LoadedRow {
	keys := map[string]LoadedRow{}
	for _, r := range rows {
		if r.Revision > revision {
			break
		}
		if keys[r.Key] = r; r.Deleted {
			delete(keys, r.Key)
		}
	}
	return keys
}

// checkLoad compares what a Reader has loaded with what was written by then or later.
func (a *author) checkLoad(rows []LoadedRow, meta Meta) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var written []LoadedRow
	for _, r := range byID(a.history) {
		if r.ID <= meta.LastID {
			written = append(written, r.LoadedRow)
		}
	}
	end := Position{meta.LastID, meta.Revision}
	if !slices.Contains(a.ends, end) {
		return fmt.Errorf("%v is not the end of a commit", end)
	}
	if meta.Compacted > meta.Revision || meta.Compacted > a.compacted {
		return fmt.Errorf("compacted to %d of %d, at most to %d", meta.Compacted, meta.Revision, a.compacted)
	}
	for _, r := range rows {
		if r != a.history[r.ID].LoadedRow {
			return fmt.Errorf("row %v was written as %v", r, a.history[r.ID].LoadedRow)
		}
	}
	if len(rows) > 0 && rows[len(rows)-1].ID > meta.LastID {
		return fmt.Errorf("row %d is beyond %d", rows[len(rows)-1].ID, meta.LastID)
	}
	for revision := meta.Compacted; revision <= meta.Revision; revision += 1 + (meta.Revision-meta.Compacted)/5 {
		if want, got := keyspace(written, revision), keyspace(rows, revision); !maps.Equal(want, got) {
			return fmt.Errorf("keys at revision %d, compacted to %d (-want +got):\n%s", revision, meta.Compacted, cmp.Diff(want, got))
		}
	}
	return nil
}

// TestReaderIsRightBesideWritesCompactionAndVacuum: on a standby that cancels at once what is in the way of replay.
func TestReaderIsRightBesideWritesCompactionAndVacuum(t *testing.T) {
	p, database := startPair(t, "max_standby_streaming_delay=0", "autovacuum=off")
	a := newAuthor(t, p.Primary, database, 3000)
	for range 200 {
		a.write(5, 40)
	}
	r := openReader(t, p.Standby, database)
	r.piece = 3000
	caughtUp(t, r, a.last.ID)
	seen := reads{random: rand.New(rand.NewPCG(a.random.Uint64(), 1))}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // writes
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			a.write(2, 4)
			switch {
			case n%53 == 0:
				a.compact(0)
			case n%7 == 0:
				a.compact(50)
			}
			if n%2 == 0 {
				a.sweep()
			}
			if n%10 == 0 {
				if err := a.s.Vacuum(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
	})
	enough, end := time.Now().Add(6*time.Second), time.Now().Add(3*patience)
	for !t.Failed() && (time.Now().Before(enough) || r.conflicts.Load() < 3 && time.Now().Before(end)) {
		if err := seen.load(t.Context(), a, r); err != nil {
			t.Error(err)
		}
		if err := seen.history(t.Context(), a, r); err != nil {
			t.Error(err)
		}
		if err := seen.values(t.Context(), a, r); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d commits; %v; %d statements were cancelled by replay", a.commits, &seen, r.conflicts.Load())
	if r.conflicts.Load() == 0 || seen.Loads == 0 || seen.Histories == 0 || seen.Found == 0 {
		t.Error("not all cases have come up")
	}
	a.write(1, 1) // what is replayed has all the deletions too
	caughtUp(t, r, a.last.ID)
	a.checkReader(r)
}

// reads are the reads of a test.
type reads struct {
	random                                   *rand.Rand
	Loads, Histories, Behind, Found, Missing int
}

func (s *reads) String() string {
	return fmt.Sprintf("%d loads, %d histories, %d behind, %d times values, %d missing", s.Loads, s.Histories, s.Behind, s.Found, s.Missing)
}

func (s *reads) load(ctx context.Context, a *author, r *Reader) error {
	var rows []LoadedRow
	meta, err := r.Load(ctx, func(row LoadedRow) error {
		rows = append(rows, row)
		return nil
	})
	if err != nil {
		return err
	}
	s.Loads++
	return a.checkLoad(rows, meta)
}

func (s *reads) history(ctx context.Context, a *author, r *Reader) error {
	a.mu.Lock()
	last, before := a.last.ID, a.compacted
	a.mu.Unlock()
	upto := last - s.random.Int64N(3)*s.random.Int64N(500)
	after := upto - s.random.Int64N(300)
	rows, compacted, err := r.History(ctx, after, upto, 1000)
	if errors.Is(err, ErrBehind) {
		s.Behind++
		return nil
	}
	if err != nil {
		return err
	}
	s.Histories++
	a.mu.Lock()
	defer a.mu.Unlock()
	if compacted > a.compacted {
		return fmt.Errorf("compacted to %d, not %d, %d before", compacted, a.compacted, before)
	}
	dead := garbage(a.history, compacted)
	got := map[int64]bool{}
	for _, row := range rows {
		got[row.ID] = true
		if diff := cmp.Diff(a.history[row.ID], row); diff != "" {
			return fmt.Errorf("history (-want +got):\n%s", diff)
		}
	}
	for id := after + 1; id <= upto; id++ {
		if _, written := a.history[id]; written && !got[id] && !dead[id] {
			return fmt.Errorf("row %d is not in the history of %d to %d, compacted to %d", id, after, upto, compacted)
		}
	}
	return nil
}

func (s *reads) values(ctx context.Context, a *author, r *Reader) error {
	a.mu.Lock()
	last := a.ends[max(0, len(a.ends)-20)]
	a.mu.Unlock()
	if _, _, err := r.History(ctx, last.ID, last.ID, 1); errors.Is(err, ErrBehind) {
		s.Behind++
		return nil
	}
	a.mu.Lock()
	var ids []int64
	want := map[int64]string{}
	for _, row := range a.history {
		if row.ID <= last.ID && !a.deleted[row.ID] && len(ids) < 300 {
			ids = append(ids, row.ID)
			want[row.ID] = string(row.Value)
		}
	}
	a.mu.Unlock()
	got := map[int64]string{}
	err := r.Values(ctx, ids, func(id int64, value []byte) error {
		if _, twice := got[id]; twice {
			return fmt.Errorf("value %d comes twice", id)
		}
		got[id] = string(value)
		return nil
	})
	var missing *MissingError
	if errors.As(err, &missing) {
		s.Missing++
		a.mu.Lock()
		defer a.mu.Unlock()
		if !a.deleted[missing.ID] {
			return fmt.Errorf("%w, which nobody has deleted", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	s.Found++
	if !maps.Equal(got, want) {
		return fmt.Errorf("values (-want +got):\n%s", cmp.Diff(want, got))
	}
	return nil
}

func TestReaderGoesOnThroughPromotion(t *testing.T) {
	p, database := startPair(t)
	a := newAuthor(t, p.Primary, database, 200)
	for range 60 {
		a.write(5, 20)
	}
	r := openReader(t, p.Standby, database)
	r.piece = 100
	caughtUp(t, r, a.last.ID)
	super := p.Standby.Admin(t, "postgres")
	pids := func() []int {
		return one[[]int](t, super, "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'kineshim_reader'")
	}
	before := pids()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := reads{random: rand.New(rand.NewPCG(1, 1))}
	ended := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			for _, read := range []func(context.Context, *author, *Reader) error{seen.load, seen.history, seen.values} {
				if err := read(context.WithoutCancel(ctx), a, r); err != nil {
					ended <- err
					return
				}
			}
		}
		ended <- nil
	}()
	if err := a.s.Close(); err != nil {
		t.Fatal(err)
	}
	caughtUp(t, r, a.last.ID)
	p.Primary.Kill()
	if !one[bool](t, super, "SELECT pg_promote()") {
		t.Fatal("not promoted")
	}
	a.s = openStore(t, p.Standby, database)
	load(t, a.s)
	for range 60 {
		a.write(3, 5)
		a.compact(30)
		a.sweep()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	a.checkReader(r)
	if after := pids(); !slices.Contains(after, before[0]) {
		t.Errorf("its sessions were %v and are %v", before, after)
	}
	t.Log(&seen)
}

// atBooks does something before the Reader's look at the books that has a number.
type atBooks struct {
	n  int
	do map[int]func()
}

func (b *atBooks) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if q.SQL == booksSQL {
		if b.n++; b.do[b.n] != nil {
			b.do[b.n]()
		}
	}
	return ctx
}

func (*atBooks) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Each load looks at the books before the rows are read and after that.
func TestReaderBeginsAgainIfItMust(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	load(t, s)
	write(t, s, Batch{Rows: []Row{created(2), created(3), created(4), created(5)}})
	row := func(id int64) LoadedRow {
		return LoadedRow{ID: id, Revision: id, Key: created(id).Key, Created: true, Version: 1}
	}
	for _, test := range []struct {
		name    string
		between func() // the rows and the books
		rows    []LoadedRow
		meta    Meta
		loads   int
	}{
		{"rows written meanwhile", func() { write(t, s, Batch{Rows: []Row{created(6)}}) },
			[]LoadedRow{row(2), row(3), row(4), row(5)}, Meta{LastID: 5, Revision: 5}, 1},
		{"compacted to the last row", func() { write(t, s, Batch{Compact: 6, CompactRevision: 6}) },
			[]LoadedRow{row(2), row(3), row(4), row(5), row(6)}, Meta{LastID: 6, Revision: 6, Compacted: 6}, 1},
		{"compacted beyond it", func() {
			write(t, s, Batch{Rows: []Row{{ID: 7, Revision: 7, Key: created(2).Key, Deleted: true, PrevID: 2}, created(8)}})
			write(t, s, Batch{Compact: 7, CompactRevision: 7})
			if err := s.Delete(t.Context(), []int64{2, 7}); err != nil {
				t.Error(err)
			}
		}, []LoadedRow{row(3), row(4), row(5), row(6), row(8)}, Meta{LastID: 8, Revision: 8, Compacted: 7}, 2},
		{"compacted beyond it, and no row is left there", func() {
			write(t, s, Batch{Rows: []Row{{ID: 9, Revision: 9, Key: created(3).Key, Deleted: true, PrevID: 3}}})
			write(t, s, Batch{Compact: 9, CompactRevision: 9})
			if err := s.Delete(t.Context(), []int64{3, 9}); err != nil {
				t.Error(err)
			}
		}, []LoadedRow{row(4), row(5), row(6), row(8)}, Meta{LastID: 9, Revision: 9, Compacted: 9}, 2},
		{"replaced", func() {
			err := s.Replace(t.Context(), Meta{LastID: 20, Revision: 20}, func(yield func(Row) error) error { return yield(created(20)) })
			if err != nil {
				t.Error(err)
			}
		}, []LoadedRow{row(20)}, Meta{LastID: 20, Revision: 20}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := openReader(t, server, database)
			r.piece = 2
			books := &atBooks{do: map[int]func(){2: test.between}}
			r.pool.config.Tracer = books
			rows, meta, err := loadPieces(t, r)
			if err != nil {
				t.Fatal(err)
			}
			meta.Untouched = false
			expectEqual(t, "rows", rows, test.rows)
			expectEqual(t, "meta", meta, test.meta)
			expectEqual(t, "loads", books.n, 2*test.loads)
		})
	}
}

func TestReaderGivesUpIfItMustAlwaysBeginAgain(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	load(t, s)
	r := openReader(t, server, database)
	books := &atBooks{do: map[int]func(){}}
	for n := range 2 * maxLoads {
		books.do[n+1] = func() {
			id := int64(n + 2)
			write(t, s, Batch{Rows: []Row{created(id)}, Compact: id, CompactRevision: id})
		}
	}
	r.pool.config.Tracer = books
	if _, _, err := loadPieces(t, r); !errors.Is(err, errMoved) || books.n != 2*maxLoads {
		t.Fatalf("%d loads: %v", books.n/2, err)
	}
}

func TestTakeOverDoesNotMindAReader(t *testing.T) {
	pg, database := testDatabase(t)
	take(t, pg, database).end(t, pg.Admin(t, "postgres"))
	r := openReader(t, pg, database)
	if _, _, err := loadPieces(t, r); err != nil {
		t.Fatal(err)
	}
	equal(t, "log", take(t, pg, database).log.all, nil)
}

func TestReaderOfNoTable(t *testing.T) {
	server, database := testDatabase(t)
	for name, dsn := range map[string]string{"no database": server.DSN("nowhere"), "empty": server.DSN(database)} {
		r := OpenReader(Config{DSN: dsn})
		defer r.Close()
		expectNoTable(t, name, r)
	}
	r := openReader(t, server, database)
	k := startKine(t, server, database)
	k.create(t, "/a", "1")
	k.stop()
	expectNoTable(t, "plain kine's", r)
	s := openStore(t, server, database)
	_, want := load(t, s)
	if _, meta, err := loadPieces(t, r); err != nil || meta.LastID != want.LastID {
		t.Fatalf("after a takeover: %v, %v", meta, err)
	}
}

func expectNoTable(t *testing.T, name string, r *Reader) {
	t.Helper()
	_, _, loadErr := loadPieces(t, r)
	_, _, historyErr := r.History(t.Context(), 0, 1, 1)
	for _, err := range []error{loadErr, historyErr} {
		if !errors.Is(err, ErrNoTable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReaderThatIsClosedOrCannotBegin(t *testing.T) {
	server, database := testDatabase(t)
	openStore(t, server, database)
	closed := OpenReader(Config{DSN: server.DSN(database)})
	if _, _, err := loadPieces(t, closed); err != nil {
		t.Fatal(err)
	}
	closed.Close()
	closed.Close()
	for name, r := range map[string]*Reader{"closed": closed, "no DSN": OpenReader(Config{DSN: "a=b=c ://"})} {
		_, _, load := loadPieces(t, r)
		_, _, history := r.History(t.Context(), 0, 1, 1)
		values := r.Values(t.Context(), []int64{1}, func(int64, []byte) error { return nil })
		for _, err := range []error{load, history, values} {
			if err == nil || errors.Is(err, ErrClosed) != (name == "closed") {
				t.Errorf("%s: %v", name, err)
			}
		}
		r.Close()
	}
}

func TestReaderWritesNothing(t *testing.T) {
	server, database := testDatabase(t)
	openStore(t, server, database)
	r := openReader(t, server, database)
	err := r.with(t.Context(), func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "DELETE FROM kineshim_lease")
		return err
	})
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != "25006" { // read_only_sql_transaction
		t.Fatalf("%v", err)
	}
}

func TestReaderEndsWithItsCalleesError(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	load(t, s)
	write(t, s, Batch{Rows: []Row{created(2), created(3)}})
	r := openReader(t, server, database)
	own := fmt.Errorf("mine: %w", &pgconn.PgError{Code: "40001"}) // as if it were PostgreSQL's
	n := 0
	mine := func() error { n++; return own }
	_, err := r.Load(t.Context(), func(LoadedRow) error { return mine() })
	if !errors.Is(err, own) || n != 1 {
		t.Errorf("%v after %d", err, n)
	}
	if err := r.Values(t.Context(), []int64{2, 3}, func(int64, []byte) error { return mine() }); !errors.Is(err, own) || n != 2 {
		t.Errorf("%v after %d", err, n)
	}
	var missing *MissingError
	if err := r.Values(t.Context(), []int64{2, 7}, func(int64, []byte) error { return nil }); !errors.As(err, &missing) || missing.ID != 7 {
		t.Errorf("%v", err)
	}
}

func TestCancelledStatementIsRepeatedWithinABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Reader{}
		conflict := fmt.Errorf("read: %w", &pgconn.PgError{Code: "40001"})
		calls := 0
		err := r.repeat(t.Context(), nil, func() (bool, error) { calls++; return false, conflict })
		if !errors.Is(err, conflict) || calls != maxConflicts {
			t.Errorf("%d calls in vain: %v", calls, err)
		}
		calls = 0
		err = r.repeat(t.Context(), nil, func() (bool, error) {
			if calls++; calls == 10*maxConflicts {
				return true, nil
			}
			return true, conflict
		})
		if err != nil || calls != 10*maxConflicts {
			t.Errorf("%d calls that read something: %v", calls, err)
		}
		other := errors.New("other")
		if err := r.repeat(t.Context(), nil, func() (bool, error) { return true, other }); err != other {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*conflictPause)
		defer cancel()
		calls = 0
		err = r.repeat(ctx, nil, func() (bool, error) { calls++; return false, conflict })
		if !errors.Is(err, context.DeadlineExceeded) || calls > 6 {
			t.Errorf("%d calls within the time of five: %v", calls, err)
		}
	})
}
