package mvcc

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
)

const (
	// garbageLeaves and garbageRows bound what Garbage looks at and collects under the lock at a time.
	garbageLeaves = 512
	garbageRows   = 2048
	// pruneKeys is how many keys Prune changes under the lock at a time. Writes and reads wait for it.
	pruneKeys = 64
	// pruneSort is how many rows Prune puts in order at a time, so that neighbours, and the many rows of one hot key, are
	// dealt with together.
	pruneSort = 4096
)

// Dead is a row that is garbage.
type Dead struct {
	Key string
	ID  int64
}

// Garbage returns all rows that no read at revision at or later needs, nor a watch that starts there, ascending by ID. So a
// key's last row of revision at itself is not among them, not even a tombstone, as in etcd since 3.5.16. at must not be after
// the committed revision.
func (x *Index) Garbage(at int64) []Dead {
	g := collector{at: at}
	for more := true; more; {
		more = x.collect(&g)
	}
	slices.SortFunc(g.dead, func(a, b Dead) int { return cmp.Compare(a.ID, b.ID) })
	return g.dead
}

// collector is a walk over the index that gathers garbage. It goes on at key from, after row after.
type collector struct {
	at    int64
	from  string
	after int64
	dead  []Dead
}

// collect goes on for a bounded time and says whether there is more.
func (x *Index) collect(g *collector) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	most := len(g.dead) + garbageRows
	l := x.tree.leafFor(g.from)
	i := l.lower(g.from)
	for n := 0; l != nil; n, i, l = n+1, 0, l.next {
		if n == garbageLeaves && len(l.keys) > 0 {
			g.from, g.after = l.keys[0], 0
			return true
		}
		stale := l.stale &^ (1<<uint(i) - 1)
		for ; stale != 0; stale &= stale - 1 {
			i = bits.TrailingZeros64(stale)
			if l.keys[i] != g.from {
				g.from, g.after = l.keys[i], 0
			}
			if !g.key(&l.recs[i], most) {
				return true
			}
		}
	}
	return false
}

// key gathers the garbage of key from, and returns false if there was too much of it.
func (g *collector) key(r *record, most int) bool {
	keep := r.at(g.at)
	if keep == nil {
		return true
	}
	end := keep.id() // the first row that a read needs
	if keep.dead() && keep.mod < g.at {
		end++
	}
	full := false
	take := func(v *revision) bool {
		if v.id() >= end {
			return false
		}
		if full = len(g.dead) >= most; full {
			return false
		}
		g.after = v.id()
		g.dead = append(g.dead, Dead{Key: g.from, ID: g.after})
		return true
	}
	if r.old != nil {
		r.old.above(g.after, take)
	}
	if !full && r.id() > g.after {
		take(&r.revision)
	}
	return !full
}

// Prune forgets rows that Garbage returned, also when newer changes of their keys have arrived meanwhile. Forgetting a row
// of a key forgets its older rows as well: they were garbage before it. Rows that are not held are passed over. It panics
// for a row that is the newest of a key that lives: no revision makes that garbage.
func (x *Index) Prune(dead []Dead) {
	for batch := range slices.Chunk(dead, pruneSort) {
		batch = slices.Clone(batch)
		slices.SortFunc(batch, func(a, b Dead) int {
			return cmp.Or(strings.Compare(a.Key, b.Key), cmp.Compare(b.ID, a.ID))
		})
		// Of each key the newest row, which now comes first.
		batch = slices.CompactFunc(batch, func(a, b Dead) bool { return a.Key == b.Key })
		for some := range slices.Chunk(batch, pruneKeys) {
			x.prune(some)
		}
	}
}

func (x *Index) prune(some []Dead) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, d := range some {
		x.forget(d.Key, d.ID)
	}
}

// forget drops key's rows up to row id.
func (x *Index) forget(key string, id int64) {
	var steps [pathLen]step
	l, path := x.tree.descend(key, steps[:0])
	i := l.lower(key)
	if i == len(l.keys) || l.keys[i] != key {
		return
	}
	r := &l.recs[i]
	if r.id() <= id && !r.dead() {
		panic("mvcc: the newest row of a live key is to be pruned: " + key)
	}
	if r.old != nil {
		x.revisions -= r.old.forget(id)
		if r.old.empty() {
			r.old = nil
		}
	}
	if r.id() <= id {
		x.revisions--
		x.tree.remove(path, i)
		return
	}
	l.mark(i)
}

// Compacted tells the Index that nobody will ask LastID for a revision before rev-1, after which a watch from rev begins, so
// that it may forget those. It may be called before the first Append, for what a load brings.
func (x *Index) Compacted(rev int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.rows.forget(rev - 1)
}
