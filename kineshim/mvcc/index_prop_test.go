package mvcc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// twin is an Index and its model, written to alike.
type twin struct {
	x       *Index
	m       *model
	version map[string]int64
	nextID  int64
	nextRev int64
}

func newTwin() *twin {
	return &twin{x: New(), m: newModel(), version: map[string]int64{}, nextID: 2, nextRev: 2}
}

// commit appends one transaction: a change for each key, which is deleted if del says so, else written.
func (w *twin) commit(keys []string, del func(key string) bool, lease int64) {
	rev := w.nextRev
	w.nextRev++
	for _, key := range keys {
		c := Change{Item: Item{Key: key, ID: w.nextID, Mod: rev}}
		w.nextID++
		prev, ok := w.m.newest(key, rev)
		switch {
		case del(key):
			c.Deleted = true
			w.version[key] = 0
		default:
			w.version[key]++
			c.Version, c.Lease, c.Create, c.CreateID = w.version[key], lease, rev, c.ID
			if ok && !prev.Deleted {
				c.Create, c.CreateID = prev.Create, prev.CreateID
			}
		}
		w.x.Append(c)
		w.m.append(c)
	}
}

// rollback takes back all rows but the first n. others are keys that it names besides those that it must.
func (w *twin) rollback(n int, others []string, shuffle func(n int, swap func(i, j int))) {
	keys := append(w.m.rollback(n), others...)
	shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	id, rev := w.m.head()
	w.x.Rollback(id, rev, keys)
	for _, key := range keys {
		newest, _ := w.m.newest(key, rev)
		w.version[key] = newest.Version
	}
	w.nextID, w.nextRev = max(id+1, 2), max(rev+1, 2)
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

// check compares everything that can be asked about a span at a revision.
func (w *twin) check(t fataler, s Span, at int64) {
	t.Helper()
	want := w.m.ascend(s, at)
	if got := ascended(w.x, s, at); !slices.Equal(got, want) {
		t.Fatalf("ascend %+v at %d:\n%v\nwant\n%v", s, at, got, want)
	}
	if got := w.x.Count(s, at); got != int64(len(want)) {
		t.Fatalf("count %+v at %d: %d, want %d", s, at, got, len(want))
	}
	if got := w.x.scanCount(s, at); got != int64(len(want)) {
		t.Fatalf("scan count %+v at %d: %d, want %d", s, at, got, len(want))
	}
	stop, n := len(want)/2, 0
	w.x.Ascend(s, at, func(Item) bool { n++; return n < stop })
	if n > max(stop, 1) {
		t.Fatalf("ascend went on after %d: %d", stop, n)
	}
}

func (w *twin) checkLastID(t fataler, at int64) {
	t.Helper()
	if got, want := w.x.LastID(at), w.m.lastID(at); got != want {
		t.Fatalf("last row at %d, compacted %d: %d, want %d", at, w.m.compacted, got, want)
	}
}

func (w *twin) checkHead(t fataler, s Span, keys []string) {
	t.Helper()
	id, rev := w.m.head()
	if w.x.HeadID() != id || w.x.HeadRevision() != rev {
		t.Fatalf("head %d at %d, want %d at %d", w.x.HeadID(), w.x.HeadRevision(), id, rev)
	}
	var got []Item
	w.x.AscendHead(s, func(it Item) bool { got = append(got, it); return true })
	if want := w.m.ascend(s, rev); !slices.Equal(got, want) {
		t.Fatalf("head of %+v:\n%v\nwant\n%v", s, got, want)
	}
	for _, key := range keys {
		want, ok := w.m.newest(key, rev)
		if w.m.pruned[want.ID] {
			want, ok = Change{}, false
		}
		if got, held := w.x.Head(key); held != ok || got != want {
			t.Fatalf("head of %q: %+v, %v; want %+v, %v", key, got, held, want, ok)
		}
	}
	n, rows := w.m.held()
	if w.x.Keys() != n || w.x.Revisions() != rows {
		t.Fatalf("holds %d keys, %d rows; want %d, %d", w.x.Keys(), w.x.Revisions(), n, rows)
	}
	checkTree(t, w.x)
}

// compact compares Garbage and prunes a part of it, up to a row, as an engine does that deletes in batches.
func (w *twin) compact(t *rapid.T, at int64) {
	w.m.compacted = max(w.m.compacted, at)
	w.x.Compacted(at)
	want := w.m.garbage(at)
	got := w.x.Garbage(at)
	if !slices.Equal(got, want) {
		t.Fatalf("garbage at %d:\n%v\nwant\n%v", at, got, want)
	}
	for len(got) > 0 {
		n := rapid.IntRange(1, len(got)).Draw(t, "batch")
		w.x.Prune(got[:n])
		w.m.prune(got[:n])
		got = got[n:]
		if rapid.IntRange(0, 9).Draw(t, "crash") == 0 {
			return
		}
	}
}

// Few keys, every revision: what a key was at any revision that is not compacted, whatever was done.
func TestIndexAgreesWithModelAtEveryRevision(t *testing.T) {
	key := rapid.StringOfN(rapid.RuneFrom([]rune{0, '/', 'a', 'b', 0xff}), 1, 2, -1)
	anySpan := rapid.Custom(func(t *rapid.T) Span {
		return Span{From: key.Draw(t, "from"), To: key.Draw(t, "to"), Open: rapid.Bool().Draw(t, "open")}
	})
	rapid.Check(t, func(t *rapid.T) {
		w := newTwin()
		var known []string
		var pending []Dead
		t.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				keys := rapid.SliceOfN(key, 1, 4).Draw(t, "keys")
				known = append(known, keys...)
				if rapid.IntRange(0, 4).Draw(t, "hole") == 0 {
					w.nextID += rapid.Int64Range(1, 3).Draw(t, "ids")
					w.nextRev += rapid.Int64Range(0, 1).Draw(t, "revs")
				}
				del := func(string) bool { return rapid.IntRange(0, 2).Draw(t, "del") == 0 }
				w.commit(keys, del, rapid.Int64Range(0, 3).Draw(t, "lease"))
			},
			"advance": func(t *rapid.T) {
				id, rev := w.m.head()
				id, rev = id+rapid.Int64Range(0, 2).Draw(t, "ids"), rev+rapid.Int64Range(0, 2).Draw(t, "revs")
				w.x.Advance(id, rev)
				w.m.append(Change{Item: Item{ID: id, Mod: rev}})
				w.nextID, w.nextRev = id+1, rev+1
			},
			"compact": func(t *rapid.T) {
				_, rev := w.m.head()
				w.compact(t, rapid.Int64Range(w.m.compacted, max(rev, w.m.compacted)).Draw(t, "at"))
			},
			"garbage": func(t *rapid.T) { // pruned later, when newer changes have arrived
				_, rev := w.m.head()
				at := rapid.Int64Range(w.m.compacted, max(rev, w.m.compacted)).Draw(t, "at")
				w.m.compacted = at
				pending = w.x.Garbage(at)
			},
			"prune": func(*rapid.T) {
				w.x.Prune(pending)
				w.m.prune(pending)
				pending = nil
			},
			"rollback": func(t *rapid.T) {
				n := rapid.SampledFrom(w.m.places()).Draw(t, "rows")
				others := rapid.SliceOfN(key, 0, 2).Draw(t, "others")
				w.rollback(n, others, rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "order"))).Shuffle)
			},
			"": func(t *rapid.T) {
				_, rev := w.m.head()
				s := anySpan.Draw(t, "span")
				w.checkLastID(t, w.m.compacted-1)
				for at := w.m.compacted; at <= rev; at++ {
					w.check(t, s, at)
					w.check(t, Span{Open: true}, at)
					w.checkLastID(t, at)
					for _, k := range known {
						got, ok := w.x.Get(k, at)
						if want, lives := w.m.get(k, at); ok != lives || got != want {
							t.Fatalf("get %q at %d: %v, %v; want %v, %v", k, at, got, ok, want, lives)
						}
						w.check(t, Single(k), at)
					}
				}
				w.checkHead(t, s, known)
			},
		})
	})
}

// Many keys, so that the tree has three levels, grows, shrinks and is emptied.
func TestLargeTreeAgreesWithModel(t *testing.T) {
	const n = 8000
	name := func(i int) string { return fmt.Sprintf("/registry/pods/ns-%03d/pod-%05d", i*7919%n%97, i) }
	rapid.Check(t, func(t *rapid.T) {
		w := newTwin()
		place := rapid.IntRange(0, n-1)
		for range rapid.IntRange(2, 8).Draw(t, "rounds") {
			from, count := place.Draw(t, "from"), place.Draw(t, "count")
			stride := rapid.SampledFrom([]int{1, 97, 5003, n - 1}).Draw(t, "stride")
			del := rapid.IntRange(0, 3).Draw(t, "del") == 0
			for i := range count {
				w.commit([]string{name((from + i*stride) % n)}, func(string) bool { return del }, 0)
			}
			_, rev := w.m.head()
			if rapid.Bool().Draw(t, "compact") {
				w.compact(t, max(w.m.compacted, rev-rapid.Int64Range(0, 300).Draw(t, "behind")))
			}
			if places := w.m.places(); rapid.Bool().Draw(t, "rollback") {
				n := places[rapid.IntRange(0, len(places)-1).Draw(t, "rows")]
				w.rollback(n, []string{name(from)}, func(int, func(i, j int)) {})
				_, rev = w.m.head()
			}
			at := rapid.Int64Range(w.m.compacted, max(rev, w.m.compacted)).Draw(t, "at")
			w.check(t, Span{Open: true}, at)
			a, b := name(place.Draw(t, "a")), name(place.Draw(t, "b"))
			w.check(t, Span{From: a, To: b}, at)
			w.checkHead(t, Span{From: b, Open: true}, []string{a, b})
		}
		w.commit([]string{"a", "z"}, func(string) bool { return true }, 0)
		for _, it := range w.m.ascend(Span{Open: true}, w.nextRev) {
			w.commit([]string{it.Key}, func(string) bool { return true }, 0)
		}
		rev := w.nextRev
		w.x.Advance(w.nextID, rev)
		w.x.Prune(w.x.Garbage(rev))
		checkTree(t, w.x)
		if w.x.Keys() != 0 || w.x.Revisions() != 0 || w.x.Count(Span{Open: true}, rev) != 0 {
			t.Fatalf("%d keys, %d rows are left of nothing", w.x.Keys(), w.x.Revisions())
		}
	})
}
