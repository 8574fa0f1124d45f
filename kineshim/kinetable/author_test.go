package kinetable

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"kineshim/integration/pgtest"
)

// author does to a table what an engine does, at random, and knows what it has written.
type author struct {
	t        testing.TB
	random   *rand.Rand
	server   *pgtest.Server
	database string
	s        *Store
	keys     int // how many keys there are

	mu                sync.Mutex // guards the fields below, for those who look on
	history           map[int64]HistoryRow
	ends              []Position // of each commit
	heads             map[string]HistoryRow
	creates           map[string]HistoryRow
	last              Position
	compacted         int64
	leases            int64
	attempts          map[int64][]int64 // the rows of each
	deleted           map[int64]bool
	commits, versions int // of the history: commits, and how often it was not continued, but replaced or had by kine
}

func newAuthor(t testing.TB, server *pgtest.Server, database string, keys int) *author {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	a := &author{t: t, random: rand.New(rand.NewPCG(seed, 0)), server: server, database: database, keys: keys, attempts: map[int64][]int64{}}
	a.s = openStore(t, server, database)
	a.learn()
	return a
}

// learn takes what is in the table for what has been written.
func (a *author) learn() {
	a.t.Helper()
	rows, meta := load(a.t, a.s)
	values, err := a.s.History(a.t.Context(), 0, meta.LastID, 1<<30)
	if err != nil {
		a.t.Fatal(err)
	}
	if len(rows) != len(values) {
		a.t.Fatalf("%d rows are loaded, %d in the history", len(rows), len(values))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.history, a.heads, a.creates, a.deleted = map[int64]HistoryRow{}, map[string]HistoryRow{}, map[string]HistoryRow{}, map[int64]bool{}
	for _, r := range values {
		a.history[r.ID], a.heads[r.Key] = r, r
		if r.Created {
			a.creates[r.Key] = r
		}
	}
	a.last, a.compacted = Position{meta.LastID, meta.Revision}, meta.Compacted
	a.ends = append(a.ends, a.last)
	a.versions++
}

// row makes the next row, of a revision.
func (a *author) row(revision int64) Row {
	key := fmt.Sprintf("/key/%d", a.random.IntN(a.keys))
	if a.random.IntN(40) == 0 {
		key = compactKey
	}
	a.last.ID++
	row := Row{ID: a.last.ID, Revision: revision, Key: key, PrevID: a.heads[key].ID}
	head, had := a.heads[key]
	if had && !head.Deleted && a.random.IntN(4) == 0 {
		row.Deleted, row.OldValue = true, head.Value
		return row
	}
	row.Value = make([]byte, 1+a.random.IntN(60))
	for i := range row.Value {
		row.Value[i] = byte('a' + a.random.IntN(26))
	}
	if a.leases > 0 && a.random.IntN(3) == 0 {
		row.Lease, row.TTL = 1+a.random.Int64N(a.leases), 1000
	}
	if !had || head.Deleted {
		row.Created, row.Version = true, 1
		return row
	}
	create := a.creates[key]
	row.OldValue, row.Version, row.CreateID, row.CreateRevision = head.Value, max(head.Version, 1)+1, create.ID, create.Revision
	return row
}

// wrote keeps a row as the table should show it.
func (a *author) wrote(row Row) {
	h := HistoryRow{LoadedRow: LoadedRow{ID: row.ID, Revision: row.Revision, Key: row.Key, Created: row.Created, Deleted: row.Deleted,
		CreateRevision: row.CreateRevision, CreateID: row.CreateID, PrevID: row.PrevID, Version: row.Version, Lease: row.Lease, TTL: row.TTL},
		Value: row.Value, OldValue: row.OldValue}
	a.history[row.ID], a.heads[row.Key] = h, h
	if row.Created {
		a.creates[row.Key] = h
	}
	if row.Attempt != 0 {
		a.attempts[row.Attempt] = append(a.attempts[row.Attempt], row.ID)
	}
}

// batch makes the next batch, of up to so many revisions with up to so many rows each.
func (a *author) batch(revisions, rows int) Batch {
	var b Batch
	a.mu.Lock()
	defer a.mu.Unlock()
	for range 1 + a.random.IntN(revisions) {
		a.last.Revision++
		attempt := int64(0)
		if a.random.IntN(2) == 0 {
			attempt = a.random.Int64()
		}
		for range 1 + a.random.IntN(rows) {
			row := a.row(a.last.Revision)
			row.Attempt = attempt
			a.wrote(row)
			b.Rows = append(b.Rows, row)
		}
	}
	if a.random.IntN(8) == 0 {
		a.leases++
		b.Leases = []LeaseRow{{ID: a.leases, TTL: 1000, Expires: time.Duration(a.leases) * time.Hour}}
		b.LeaseClock = time.Duration(a.leases) * time.Minute
		if a.leases%3 == 0 {
			b.Revoked = []int64{a.leases - 1}
		}
	}
	a.ends = append(a.ends, a.last)
	a.commits++
	return b
}

func (a *author) write(revisions, rows int) { write(a.t, a.s, a.batch(revisions, rows)) }

// compact compacts to a revision, at most this far back.
func (a *author) compact(back int64) {
	a.mu.Lock()
	revision := a.last.Revision - a.random.Int64N(back+1)
	if revision <= a.compacted {
		a.mu.Unlock()
		return
	}
	a.compacted = revision
	b := Batch{Compact: a.lastID(revision), CompactRevision: revision}
	a.mu.Unlock()
	write(a.t, a.s, b)
}

// lastID is the ID of a revision's last row.
func (a *author) lastID(revision int64) (last int64) {
	for id, r := range a.history {
		if r.Revision <= revision {
			last = max(last, id)
		}
	}
	for _, end := range a.ends { // its row may be gone
		if end.Revision <= revision {
			last = max(last, end.ID)
		}
	}
	return last
}

// sweep deletes some of the garbage, the oldest first.
func (a *author) sweep() {
	a.mu.Lock()
	var dead []int64
	for id := range garbage(a.history, a.compacted) {
		if !a.deleted[id] {
			dead = append(dead, id)
		}
	}
	slices.Sort(dead)
	if len(dead) > 0 {
		dead = dead[:1+a.random.IntN(len(dead))]
	}
	for _, id := range dead {
		a.deleted[id] = true
	}
	a.mu.Unlock()
	if err := a.s.Delete(a.t.Context(), dead); err != nil {
		a.t.Error(err)
	}
}

// garbage are the rows that no read at the compacted revision or later needs.
func garbage(rows map[int64]HistoryRow, compacted int64) map[int64]bool {
	dead := map[int64]bool{}
	newest := map[string]int64{} // of each key, up to compacted
	for id, r := range rows {
		if r.Revision <= compacted {
			newest[r.Key] = max(newest[r.Key], id)
		}
	}
	for id, r := range rows {
		if r.Revision <= compacted && (r.Deleted || newest[r.Key] > id) {
			dead[id] = true
		}
	}
	return dead
}

// restart is what another engine does.
func (a *author) restart() {
	a.t.Helper()
	a.s = reopen(a.t, a.s, a.server, a.database)
	load(a.t, a.s)
}

// kine lets a kine have the table for a while.
func (a *author) kine() {
	a.t.Helper()
	if err := a.s.Close(); err != nil {
		a.t.Fatal(err)
	}
	admin := a.server.Admin(a.t, a.database)
	k := startKine(a.t, a.server, a.database)
	for n := range a.random.IntN(4) {
		key := fmt.Sprintf("/kine/%d/%d", a.versions, n)
		mod := k.create(a.t, key, "1")
		if a.random.IntN(2) == 0 {
			mod = k.update(a.t, key, "2", mod)
		}
		if a.random.IntN(3) == 0 {
			mod = k.do(a.t, mod, opDelete(key))
		}
		if a.random.IntN(2) == 0 {
			_, _ = k.backend.Compact(soon(a.t), mod-a.random.Int64N(3)) // it may be compacted already
		}
	}
	k.stop()
	for range a.random.IntN(3) { // what kine makes of a sequence that has jumped
		run(a.t, admin, "INSERT INTO kine SELECT n, 'gap-' || n, 0, 1, 0, 0, 0, NULL, NULL FROM nextval('kine_id_seq') n")
	}
	a.s = openStore(a.t, a.server, a.database)
	a.learn()
}

// restore is what an engine does that restores a snapshot: all IDs are greater than those there were.
func (a *author) restore() {
	a.t.Helper()
	a.mu.Lock()
	keys := slices.Sorted(maps.Keys(a.heads))
	meta := Meta{LastID: a.last.ID, Revision: a.last.Revision + a.random.Int64N(2), LeaseClock: time.Hour}
	a.mu.Unlock()
	var rows []Row
	for range a.random.IntN(30) {
		if meta.Revision++; a.random.IntN(3) == 0 {
			meta.LastID++
		}
		meta.LastID = max(meta.LastID, meta.Revision-1)
		meta.LastID++
		key := fmt.Sprint(keys[a.random.IntN(len(keys))], a.versions, len(rows))
		rows = append(rows, Row{ID: meta.LastID, Revision: meta.Revision, Key: key, Created: true, Version: 1})
	}
	meta.Revision++
	meta.LastID = max(meta.LastID+1, meta.Revision)
	if meta.Compacted = meta.Revision; a.random.IntN(3) == 0 {
		meta.Compacted = 0
	}
	err := a.s.Replace(a.t.Context(), meta, func(yield func(Row) error) error {
		for _, row := range rows {
			if err := yield(row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.learn()
}

// byID are rows in their order.
func byID[R any](rows map[int64]R) []R {
	var all []R
	for _, id := range slices.SortedFunc(maps.Keys(rows), cmp.Compare[int64]) {
		all = append(all, rows[id])
	}
	return all
}
