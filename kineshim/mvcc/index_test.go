package mvcc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

func put(id, rev int64, key string) Change {
	return Change{Item: Item{Key: key, ID: id, Mod: rev, Create: rev, Version: 1}}
}

func tombstone(id, rev int64, key string) Change {
	return Change{Item: Item{Key: key, ID: id, Mod: rev}, Deleted: true}
}

func everything() Span { return Span{Open: true} }

func TestEmptyIndexAnswersNothing(t *testing.T) {
	x := New()
	if _, ok := x.Get("a", 1); ok {
		t.Error("get")
	}
	if _, ok := x.Head("a"); ok {
		t.Error("head")
	}
	if n := x.Count(everything(), 1) + x.Count(Span{From: "a", To: "b"}, 0); n != 0 {
		t.Error("count", n)
	}
	if x.LastID(10) != 0 || x.HeadID() != 0 || x.HeadRevision() != 0 {
		t.Error("there is a head")
	}
	if len(ascended(x, everything(), 1)) != 0 || len(x.Garbage(10)) != 0 {
		t.Error("something is listed")
	}
	x.Prune([]Dead{{Key: "a", ID: 1}})
	x.Compacted(5)
	checkTree(t, x)
}

func TestAppendPanicsWhenOrderIsBroken(t *testing.T) {
	for name, c := range map[string]Change{
		"the same row":          put(7, 6, "b"),
		"an older row":          put(6, 6, "b"),
		"an older revision":     put(8, 4, "b"),
		"no row":                put(0, 0, "b"),
		"a negative revision":   put(8, -1, "b"),
		"row 0 of a fresh hand": put(0, 6, "b"),
	} {
		t.Run(name, func(t *testing.T) {
			x := New()
			x.Append(put(7, 5, "a"))
			defer func() {
				if recover() == nil {
					t.Fatalf("%+v was taken", c)
				}
				x.Append(put(8, 5, "b")) // and it goes on: nothing was changed, no lock is held
				checkTree(t, x)
				if n := x.Count(everything(), 5); n != 2 {
					t.Fatalf("%d keys", n)
				}
			}()
			x.Append(c)
		})
	}
}

func TestTombstoneWithoutAKeyIsGarbage(t *testing.T) {
	x := New()
	x.Append(tombstone(3, 3, "a"))
	x.Append(tombstone(5, 5, "a"))
	if _, ok := x.Get("a", 5); ok || x.Count(everything(), 5) != 0 {
		t.Fatal("a tombstone made a key live")
	}
	if c, ok := x.Head("a"); !ok || c != tombstone(5, 5, "a") {
		t.Fatalf("head %+v, %v", c, ok)
	}
	if got := x.Garbage(4); !slices.Equal(got, []Dead{{"a", 3}}) {
		t.Fatalf("garbage at 4: %v", got)
	}
	x.Advance(6, 6)
	x.Prune(x.Garbage(6))
	if x.Keys() != 0 {
		t.Fatal("still held")
	}
}

func TestTombstonesOfTheCompactedRevisionAreKeptForWatches(t *testing.T) {
	x := New()
	x.Append(put(2, 2, "a"))
	x.Append(put(3, 2, "b"))
	x.Append(put(4, 3, "b"))       // in one transaction with
	x.Append(tombstone(5, 3, "b")) // these
	x.Append(tombstone(6, 3, "a"))
	if got, want := x.Garbage(3), []Dead{{"a", 2}, {"b", 3}, {"b", 4}}; !slices.Equal(got, want) {
		t.Fatalf("garbage at 3: %v, want %v", got, want)
	}
	x.Append(put(7, 4, "c"))
	if got, want := x.Garbage(4), []Dead{{"a", 2}, {"b", 3}, {"b", 4}, {"b", 5}, {"a", 6}}; !slices.Equal(got, want) {
		t.Fatalf("garbage at 4: %v, want %v", got, want)
	}
}

func TestTombstoneIsForgottenThoughTheKeyIsBack(t *testing.T) {
	x := New()
	x.Append(put(2, 2, "a"))
	x.Append(tombstone(3, 3, "a"))
	x.Append(put(4, 4, "b"))
	dead := x.Garbage(4)
	x.Append(put(5, 5, "a"))
	x.Prune(dead)
	if it, ok := x.Get("a", 5); !ok || it.ID != 5 || x.Revisions() != 2 || x.Count(everything(), 5) != 2 {
		t.Fatalf("%+v, %v, %d rows", it, ok, x.Revisions())
	}
	checkTree(t, x)
}

func TestPrunePanicsForARowThatIsNeededAtTheHead(t *testing.T) {
	x := New()
	x.Append(put(2, 2, "a"))
	defer func() {
		if recover() == nil {
			t.Fatal("a live key was forgotten")
		}
		if _, ok := x.Get("a", 2); !ok {
			t.Fatal("it is gone")
		}
	}()
	x.Prune([]Dead{{"a", 2}})
}

func TestAppendKeepsACopyOfTheKey(t *testing.T) {
	x := New()
	request := []byte("/registry/pods/a and a megabyte of other things")
	key := string(request)
	x.Append(put(2, 2, key[:16]))
	it, _ := x.Get("/registry/pods/a", 2)
	own := ascended(x, everything(), 2)[0].Key
	if it.ID != 2 || own != "/registry/pods/a" || sameBytes(own, key) {
		t.Fatal("the index holds on to the request's bytes")
	}
}

// As the transaction that puts the key in one nested transaction and deletes it in the next, which etcd takes.
func TestLastChangeOfAKeyInARevisionCounts(t *testing.T) {
	x := New()
	x.Append(put(2, 2, "a"))
	x.Append(put(3, 2, "b"))
	x.Append(put(4, 3, "b"))
	x.Append(tombstone(5, 3, "b"))
	x.Append(tombstone(6, 3, "a"))
	x.Append(put(7, 3, "a"))
	x.Append(put(8, 4, "c"))
	if got := ascended(x, everything(), 3); len(got) != 1 || got[0].ID != 7 || x.Count(everything(), 3) != 1 {
		t.Fatalf("at 3: %v, count %d", got, x.Count(everything(), 3))
	}
	if got := ascended(x, everything(), 2); len(got) != 2 || got[0].ID+got[1].ID != 5 || x.Count(everything(), 2) != 2 {
		t.Fatalf("at 2: %v, count %d", got, x.Count(everything(), 2))
	}
	if _, ok := x.Get("b", 3); ok {
		t.Fatal("b was deleted in revision 3")
	}
	if got, want := x.Garbage(4), []Dead{{"a", 2}, {"b", 3}, {"b", 4}, {"b", 5}, {"a", 6}}; !slices.Equal(got, want) {
		t.Fatalf("garbage at 4: %v, want %v", got, want)
	}
}

func TestAdvanceMovesTheHeadWithoutAChange(t *testing.T) {
	x := New()
	x.Advance(1, 1)
	if x.HeadID() != 1 || x.HeadRevision() != 1 || x.LastID(1) != 1 || x.LastID(0) != 0 || x.Keys() != 0 {
		t.Fatal("a virgin store is not at revision 1")
	}
	x.Append(put(2, 2, "a"))
	x.Advance(2, 2)
	x.Advance(9, 7)
	if it, ok := x.Get("a", 7); !ok || it.ID != 2 || x.Count(everything(), 7) != 1 || x.Count(everything(), 1) != 0 {
		t.Fatalf("%+v, %v", it, ok)
	}
	x.Append(put(10, 8, "b"))
	for rev, want := range []int64{0, 1, 2, 2, 2, 2, 2, 9, 10, 10} {
		if got := x.LastID(int64(rev)); got != want {
			t.Errorf("last row at %d: %d, want %d", rev, got, want)
		}
	}
	for _, back := range [][2]int64{{9, 8}, {10, 7}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("went back to %v", back)
				}
			}()
			x.Advance(back[0], back[1])
		}()
	}
}

func TestLastIDOfTransactionsAndHoles(t *testing.T) {
	x := New()
	rows := []struct{ id, rev int64 }{{2, 2}, {3, 3}, {4, 3}, {5, 3}, {6, 4}, {10, 8}, {11, 9}, {12, 9}, {13, 10}, {14, 11}}
	for i, r := range rows {
		x.Append(put(r.id, r.rev, fmt.Sprint("key", i)))
	}
	want := []int64{0, 0, 2, 5, 6, 6, 6, 6, 10, 12, 13, 14, 14, 14}
	check := func(from int) {
		t.Helper()
		for rev := from; rev < len(want); rev++ {
			if got := x.LastID(int64(rev)); got != want[rev] {
				t.Errorf("last row at %d: %d, want %d", rev, got, want[rev])
			}
		}
	}
	check(0)
	for floor := range want {
		x.Compacted(int64(floor))
		check(max(floor-1, 0))
	}
}

func TestChangePointsAreForgottenWithCompaction(t *testing.T) {
	x := New()
	id := int64(1)
	for rev := int64(1); rev <= 50_000; rev++ {
		for k := range 2 { // two rows each: every transaction is a change point
			x.Append(put(id, rev, fmt.Sprint(k)))
			id++
		}
		if rev%1000 == 0 {
			x.Compacted(rev - 10)
			for r := rev - 10; r <= rev; r++ {
				if got := x.LastID(r); got != 2*r {
					t.Fatalf("last row at %d: %d", r, got)
				}
			}
			if n := len(x.rows.runs.chunks); n > 2 {
				t.Fatalf("%d chunks of change points at revision %d", n, rev)
			}
		}
	}
}

func TestLoadBelowTheCompactedRevisionNeedsNoChangePoints(t *testing.T) {
	x := New()
	x.Compacted(100_000)
	for rev := int64(1); rev <= 100_010; rev += 2 { // every other row is gone from the table
		x.Append(put(rev, rev, "a"))
	}
	if n := len(x.rows.runs.chunks); n != 1 {
		t.Fatalf("%d chunks", n)
	}
	for rev := int64(100_000); rev < 100_010; rev++ {
		if got, want := x.LastID(rev), rev-1+rev%2; got != want {
			t.Errorf("last row at %d: %d, want %d", rev, got, want)
		}
	}
}

func TestCountIsRightWhereTheLogEndsAndBeyond(t *testing.T) {
	x := New()
	const keys, changes = 3000, liveChunks*journalChunk + 10_000
	rnd := rand.New(rand.NewPCG(1, 2))
	live := map[string]bool{}
	var counts []int64 // by revision
	n := int64(0)
	for rev := int64(0); rev < changes; rev++ {
		key := fmt.Sprint(rnd.IntN(keys))
		if rev > 0 {
			if live[key] {
				x.Append(tombstone(rev, rev, key))
				n--
			} else {
				x.Append(put(rev, rev, key))
				n++
			}
			live[key] = !live[key]
		}
		counts = append(counts, n)
	}
	end := x.lives.dropped
	if end == 0 {
		t.Fatal("the log has not been cut off")
	}
	if len(x.lives.log.chunks) > liveChunks {
		t.Fatalf("the log has %d chunks", len(x.lives.log.chunks))
	}
	var r recent
	if _, ok := x.lives.since(end, &r); !ok {
		t.Error("the log does not reach back to where it was cut off")
	}
	if _, ok := x.lives.since(end-1, &r); ok {
		t.Error("the log reaches beyond where it was cut off")
	}
	const now = changes - 1
	for _, at := range []int64{1, 500, end - 1, end, end + 1, now - journalChunk, now - 100, now - 1, now, now + 1} {
		want := counts[min(at, now)]
		if got := x.Count(everything(), at); got != want {
			t.Errorf("count at %d: %d, want %d", at, got, want)
		}
	}
}

func TestHotKeyIsReadCompactedAndPrunedInPieces(t *testing.T) {
	x := New()
	const n = 5*garbageRows + 3*chunkRevisions + 7
	for rev := int64(1); rev <= n; rev++ {
		c := put(rev, rev, "hot")
		c.Create, c.Version = 1, rev
		x.Append(c)
	}
	x.Append(put(n+1, n+1, "z"))
	for at := int64(1); at <= n; at += 13 {
		if it, ok := x.Get("hot", at); !ok || it.ID != at || it.Version != at {
			t.Fatalf("at %d: %+v", at, it)
		}
	}
	dead := x.Garbage(n - 5)
	if len(dead) != n-6 {
		t.Fatalf("%d rows of garbage, want %d", len(dead), n-6)
	}
	for i, d := range dead {
		if d.ID != int64(i+1) {
			t.Fatalf("row %d is followed by %d", i, d.ID)
		}
	}
	for some := range slices.Chunk(dead, 777) {
		x.Prune(some)
		checkTree(t, x)
		from := some[len(some)-1].ID + 1
		if it, ok := x.Get("hot", from); !ok || it.ID != from {
			t.Fatalf("row %d went too early", from)
		}
	}
	if x.Revisions() != 7 {
		t.Fatalf("%d rows left", x.Revisions())
	}
}

func TestGarbageOfManyKeysIsGatheredInPieces(t *testing.T) {
	x := New()
	const n = 3 * garbageLeaves * fanout / 2
	for i := range int64(n) {
		x.Append(put(i+1, i+1, fmt.Sprintf("%08d", (i*7919)%n)))
	}
	if dead := x.Garbage(n); len(dead) != 0 {
		t.Fatalf("%d rows of garbage among live keys", len(dead))
	}
	for i := range int64(n) {
		x.Append(tombstone(n+i+1, n+i+1, fmt.Sprintf("%08d", n-1-i)))
	}
	if dead := x.Garbage(n + 2); len(dead) != 3 || dead[2] != (Dead{fmt.Sprintf("%08d", n-1), n + 1}) {
		t.Fatalf("garbage of one deletion at the end: %v", dead)
	}
	x.Advance(2*n+1, 2*n+1)
	dead := x.Garbage(2*n + 1)
	if len(dead) != 2*n {
		t.Fatalf("%d rows of garbage, want %d", len(dead), 2*n)
	}
	for i, d := range dead {
		if d.ID != int64(i+1) {
			t.Fatalf("row %d at place %d", d.ID, i)
		}
	}
	x.Prune(dead)
	checkTree(t, x)
	if x.Keys() != 0 || x.tree.root.kids != nil || len(x.tree.root.leaves) != 1 {
		t.Fatalf("%d keys, %d leaves are left", x.Keys(), len(x.tree.root.leaves))
	}
}

func TestAscendIsNotDisturbedByWhatItsCallerDoes(t *testing.T) {
	x := New()
	const n = 5000
	for i := range int64(n) {
		x.Append(put(i+1, i+1, fmt.Sprintf("%05d", i*2)))
	}
	seen := int64(0)
	x.Ascend(everything(), n, func(it Item) bool {
		if want := fmt.Sprintf("%05d", seen*2); it.Key != want {
			t.Fatalf("key %s, want %s", it.Key, want)
		}
		seen++
		id := n + 2*seen
		x.Append(put(id, id, fmt.Sprintf("%05d", (n-seen)*2+1)))     // a key between two of them
		x.Append(tombstone(id+1, id+1, fmt.Sprintf("%05d", seen*2))) // the key that comes next
		return true
	})
	if seen != n {
		t.Fatalf("%d keys, want %d", seen, n)
	}
}

// One writer, a compactor and readers at once: each reader finds exactly what was there at its revision, by every method.
func TestReadersSeeTheirRevisionWhileOthersWriteAndCompact(t *testing.T) {
	const keys, last = 2000, 40_000
	x := New()
	type state struct{ live, ids int64 }
	states := make([]state, last+1)
	var committed, compacted atomic.Int64
	var hold sync.RWMutex // readers hold it; the compactor prunes when no reader below its revision is left
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	wg.Go(func() { // writer
		rnd := rand.New(rand.NewPCG(seed, 0))
		ids := map[string]int64{}
		var s state
		for rev := int64(1); rev <= last; rev++ {
			key := fmt.Sprintf("/registry/pods/%04d", rnd.IntN(keys))
			if ids[key] != 0 && rnd.IntN(2) == 0 {
				s.live, s.ids = s.live-1, s.ids-ids[key]
				delete(ids, key)
				states[rev] = s
				x.Append(tombstone(rev, rev, key))
			} else {
				if ids[key] == 0 {
					s.live++
				}
				s.ids += rev - ids[key]
				ids[key] = rev
				states[rev] = s
				x.Append(put(rev, rev, key))
			}
			committed.Store(max(rev-5, 0))
		}
		committed.Store(last)
	})
	wg.Go(func() { // compactor
		for committed.Load() < last {
			at := committed.Load()
			hold.Lock()
			compacted.Store(at)
			hold.Unlock()
			x.Compacted(at)
			x.Prune(x.Garbage(at))
		}
	})
	for g := range uint64(2) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, g+1))
			for i := 0; i < 10 || committed.Load() < last; i++ {
				hold.RLock()
				low, high := compacted.Load(), committed.Load()
				at := low + rnd.Int64N(high-low+1)
				var got state
				x.Ascend(Span{From: "/registry/", To: "/registry0"}, at, func(it Item) bool {
					got.live++
					got.ids += it.ID
					return true
				})
				n := x.Count(everything(), at)
				if at > 0 && (got != states[at] || n != got.live || x.LastID(at) != at) {
					t.Errorf("at %d: %+v, count %d, want %+v; last row %d", at, got, n, states[at], x.LastID(at))
				}
				hold.RUnlock()
				if t.Failed() {
					return
				}
			}
		})
	}
	wg.Wait()
	checkTree(t, x)
}

func sameBytes(a, b string) bool { return unsafe.StringData(a) == unsafe.StringData(b) }
