package mvcc

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestChangesThatAreTakenBackLeaveNoTrace(t *testing.T) {
	x := New()
	x.Append(put(2, 2, "kept"))
	x.Append(put(3, 3, "changed"))
	x.Append(put(4, 3, "deleted"))
	x.Append(tombstone(5, 5, "revived"))
	before := map[string]Change{}
	for _, key := range []string{"kept", "changed", "deleted", "revived"} {
		before[key], _ = x.Head(key)
	}
	x.Append(put(6, 6, "changed"))
	x.Append(put(7, 6, "new"))
	x.Append(tombstone(8, 7, "deleted"))
	x.Append(put(9, 7, "revived"))
	x.Append(put(10, 7, "changed")) // twice
	x.Advance(12, 8)
	x.Rollback(5, 5, []string{"revived", "changed", "new", "deleted", "changed", "kept", "unheard of"})
	checkTree(t, x)
	if id, rev := x.HeadID(), x.HeadRevision(); id != 5 || rev != 5 {
		t.Errorf("head %d at %d", id, rev)
	}
	for key, want := range before {
		if c, ok := x.Head(key); !ok || c != want {
			t.Errorf("head of %q: %+v, %v; want %+v", key, c, ok, want)
		}
	}
	if _, ok := x.Head("new"); ok || x.Keys() != 4 || x.Revisions() != 4 {
		t.Errorf("new is there: %v; %d keys, %d rows", ok, x.Keys(), x.Revisions())
	}
	for at, want := range map[int64]int64{2: 1, 3: 3, 4: 3, 5: 3, 6: 3, 100: 3} {
		if n, scanned := x.Count(everything(), at), x.scanCount(everything(), at); n != want || scanned != want {
			t.Errorf("count at %d: %d, %d; want %d", at, n, scanned, want)
		}
	}
	for rev, want := range map[int64]int64{2: 2, 3: 4, 4: 4, 5: 5, 6: 5, 8: 5} {
		if id := x.LastID(rev); id != want {
			t.Errorf("last row of revision %d: %d, want %d", rev, id, want)
		}
	}
	// The same rows and revisions once more, with something else in them.
	x.Append(put(6, 6, "other"))
	if it, ok := x.Get("other", 6); !ok || it.ID != 6 || x.LastID(6) != 6 || x.Count(everything(), 5) != 3 || x.Count(everything(), 6) != 4 {
		t.Errorf("appended again: %+v, last row %d, counts %d, %d", it, x.LastID(6), x.Count(everything(), 5), x.Count(everything(), 6))
	}
	checkTree(t, x)
}

func TestEverythingIsTakenBack(t *testing.T) {
	x := New()
	x.Advance(3, 7)
	var keys []string
	for i := range int64(10 * fanout) {
		keys = append(keys, fmt.Sprint(i*7919%640))
		x.Append(put(i+4, i+8, keys[i]))
	}
	x.Rollback(3, 7, keys)
	checkTree(t, x)
	if x.Keys() != 0 || x.Revisions() != 0 || x.HeadID() != 3 || x.HeadRevision() != 7 || x.LastID(100) != 3 || x.LastID(6) != 0 {
		t.Errorf("%d keys, %d rows, head %d at %d", x.Keys(), x.Revisions(), x.HeadID(), x.HeadRevision())
	}
	x.Rollback(0, 0, nil)
	if x.HeadID() != 0 || x.HeadRevision() != 0 || x.LastID(100) != 0 {
		t.Errorf("head %d at %d, last row %d", x.HeadID(), x.HeadRevision(), x.LastID(100))
	}
	x.Append(put(1, 1, "a"))
	if x.LastID(1) != 1 || x.Count(everything(), 1) != 1 {
		t.Error("nothing can be appended any more")
	}
}

func TestRollbackPanicsWhenTheInvariantIsBroken(t *testing.T) {
	for name, to := range map[string]struct{ id, rev int64 }{
		"ahead of the head's row":       {10, 7},
		"ahead of the head's revision":  {9, 8},
		"a row of a later revision":     {7, 5},
		"within a revision":             {8, 7},
		"within a revision, ill stated": {8, 6},
	} {
		t.Run(name, func(t *testing.T) {
			x := New()
			x.Append(put(5, 5, "a"))
			x.Append(put(7, 6, "b"))
			x.Append(put(8, 7, "c"))
			x.Append(put(9, 7, "d"))
			defer func() {
				if recover() == nil {
					t.Fatalf("rolled back to %+v", to)
				}
				x.Append(put(10, 8, "e")) // no lock is held
			}()
			x.Rollback(to.id, to.rev, []string{"b", "c", "d"})
		})
	}
}

func TestRowsOfAHotKeyAreTakenBackInPieces(t *testing.T) {
	const n = 3*chunkRevisions + 7
	x := New()
	at := func(rev int64) Change {
		c := put(rev, rev, "hot")
		c.Create, c.Version = 1, rev
		return c
	}
	for rev := int64(1); rev <= n; rev++ {
		x.Append(at(rev))
	}
	x.Prune(x.Garbage(10))
	for _, to := range []int64{n - 1, n - 7, 2*chunkRevisions + 1, 2 * chunkRevisions, 2*chunkRevisions - 1, chunkRevisions + 3, 11, 10} {
		x.Rollback(to, to, []string{"hot"})
		checkTree(t, x)
		if c, ok := x.Head("hot"); !ok || c != at(to) || x.Revisions() != int(to)-9 {
			t.Fatalf("rolled back to %d: %+v, %d rows", to, c, x.Revisions())
		}
		for rev := int64(10); rev <= to; rev += 5 {
			if it, ok := x.Get("hot", rev); !ok || it != at(rev).Item {
				t.Fatalf("at %d after the rollback to %d: %+v", rev, to, it)
			}
		}
	}
	for rev := int64(11); rev <= n; rev++ { // the pieces take new rows
		x.Append(at(rev))
		if it, ok := x.Get("hot", rev-1); !ok || it.ID != rev-1 {
			t.Fatalf("at %d: %+v", rev-1, it)
		}
	}
	checkTree(t, x)
}

// More is taken back than the log of recent changes holds.
func TestCountIsRightAfterALongRollback(t *testing.T) {
	const n, changes = 5_000, liveChunks*journalChunk + 5_000
	x := New()
	for i := range int64(n) {
		x.Append(put(i+1, i+1, benchKey(int(i))))
	}
	keys := make([]string, 0, changes)
	for i := range int64(changes) {
		key := benchKey(int(i % n))
		keys = append(keys, key)
		if i/n%2 == 0 {
			x.Append(tombstone(n+1+i, n+1+i, key))
		} else {
			x.Append(put(n+1+i, n+1+i, key))
		}
	}
	if x.lives.dropped <= n {
		t.Fatal("the log still reaches back")
	}
	x.Rollback(n, n, keys)
	x.Append(tombstone(n+1, n+1, benchKey(0)))
	checkTree(t, x)
	for at, want := range map[int64]int64{1: 1, n - 1: n - 1, n: n, n + 1: n - 1} {
		if got := x.Count(everything(), at); got != want {
			t.Errorf("count at %d: %d, want %d", at, got, want)
		}
	}
	var r recent
	if _, ok := x.lives.since(n, &r); !ok {
		t.Error("the log is not complete from the rollback on")
	}
}

func TestGarbageIsPrunedThoughLaterChangesWereTakenBack(t *testing.T) {
	x := New()
	x.Append(put(1, 1, "a"))
	x.Append(put(2, 2, "a"))
	x.Append(tombstone(3, 3, "b"))
	x.Append(put(4, 4, "c"))
	dead := x.Garbage(4)
	x.Append(put(5, 5, "b"))
	x.Append(tombstone(6, 6, "a"))
	x.Rollback(4, 4, []string{"a", "b"})
	x.Prune(dead)
	checkTree(t, x)
	if _, ok := x.Head("b"); ok || x.Keys() != 2 || x.Revisions() != 2 {
		t.Errorf("%d keys, %d rows", x.Keys(), x.Revisions())
	}
	x.Append(put(5, 5, "b"))
	x.Append(tombstone(6, 6, "c"))
	x.Prune(x.Garbage(5))
	x.Rollback(5, 5, []string{"c"})
	if n := x.Count(everything(), 5); n != 3 {
		t.Errorf("%d keys", n)
	}
	checkTree(t, x)
}

// Readers read what is durable while what is not is appended and taken back again and again, and while there are compactions.
func TestReadersSeeTheirRevisionWhileChangesAreTakenBack(t *testing.T) {
	const keys, last = 3000, 300
	x := New()
	type state struct{ live, ids, row int64 }
	var states [last + 1]state // by revision
	var committed, compacted atomic.Int64
	var hold sync.RWMutex // readers hold it; the compactor prunes when no reader below its revision is left
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	name := func(i int) string { return fmt.Sprintf("/registry/pods/%04d", i) }
	var wg sync.WaitGroup
	wg.Go(func() { // writer
		defer committed.Store(last) // the others end
		rnd := rand.New(rand.NewPCG(seed, 0))
		rows := map[string]int64{} // of what is durable and lives
		var s state
		change := func(rev int64, key string, live bool) bool {
			id := x.HeadID() + 1
			if live && rnd.IntN(2) == 0 {
				x.Append(tombstone(id, rev, key))
				return false
			}
			x.Append(put(id, rev, key))
			return true
		}
		for rev := int64(1); rev <= last; rev++ {
			for range 1 + rnd.IntN(30) {
				key := name(rnd.IntN(keys))
				row := rows[key]
				delete(rows, key)
				if change(rev, key, row != 0) {
					rows[key] = x.HeadID()
				}
				s.ids += rows[key] - row
				s.live, s.row = int64(len(rows)), x.HeadID()
			}
			states[rev] = s
			committed.Store(rev)
			var undone []string
			for i := range rnd.IntN(6 * rollbackKeys) {
				key := name(rnd.IntN(keys))
				head, ok := x.Head(key)
				change(rev+1+int64(i/10), key, ok && !head.Deleted)
				undone = append(undone, key)
			}
			x.Rollback(s.row, rev, undone)
			if t.Failed() {
				return
			}
		}
	})
	wg.Go(func() { // compactor
		for committed.Load() < last {
			at := committed.Load()
			hold.Lock()
			compacted.Store(at)
			hold.Unlock()
			x.Compacted(at)
			x.Prune(x.Garbage(at))
			time.Sleep(time.Millisecond)
		}
	})
	for g := range uint64(2) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, g+1))
			for i := 0; i < 10 || committed.Load() < last; i++ {
				hold.RLock()
				low, high := compacted.Load(), committed.Load()
				at := low + rnd.Int64N(high-low+1)
				for range 20 {
					if n := x.Count(everything(), at); n != states[at].live || x.LastID(at) != states[at].row {
						t.Errorf("at %d: count %d, last row %d, want %+v", at, n, x.LastID(at), states[at])
						break
					}
				}
				got := state{row: states[at].row}
				x.Ascend(everything(), at, func(it Item) bool {
					got.live++
					got.ids += it.ID
					return true
				})
				if got != states[at] {
					t.Errorf("at %d: %+v, want %+v", at, got, states[at])
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

func BenchmarkRollback2000(b *testing.B) {
	x := filled(1_000_000)
	id := x.HeadID()
	var keys []string
	for i := range 2000 {
		keys = append(keys, benchKey(i*499))
	}
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		for i, key := range keys {
			x.Append(tombstone(id+1+int64(i), id+1, key))
		}
		b.StartTimer()
		x.Rollback(id, id, keys)
	}
}
