package mvcc

import (
	"math/bits"
	"slices"
	"sort"
	"testing"
)

// model is what the Index must agree with: a list of all changes that were ever appended, and nothing clever.
type model struct {
	rows      []Change // ascending by ID
	byKey     map[string][]Change
	pruned    map[int64]bool
	compacted int64
}

func newModel() *model { return &model{byKey: map[string][]Change{}, pruned: map[int64]bool{}} }

func (m *model) append(c Change) {
	m.rows = append(m.rows, c)
	if c.Key == "" { // the head was advanced
		return
	}
	m.byKey[c.Key] = append(m.byKey[c.Key], c)
}

func (m *model) head() (id, rev int64) {
	if len(m.rows) == 0 {
		return 0, 0
	}
	last := m.rows[len(m.rows)-1]
	return last.ID, last.Mod
}

// newest returns key's newest change at or before at.
func (m *model) newest(key string, at int64) (Change, bool) {
	rows := m.byKey[key]
	for _, c := range slices.Backward(rows) {
		if c.Mod <= at {
			return c, true
		}
	}
	return Change{}, false
}

func (m *model) get(key string, at int64) (Item, bool) {
	c, ok := m.newest(key, at)
	if !ok || c.Deleted {
		return Item{}, false
	}
	return c.Item, true
}

func (m *model) ascend(s Span, at int64) []Item {
	var items []Item
	for key := range m.byKey {
		if it, ok := m.get(key, at); ok && key >= s.From && (s.Open || key < s.To) {
			items = append(items, it)
		}
	}
	sort.Slice(items, func(i, j int) bool { return items[i].Key < items[j].Key })
	return items
}

func (m *model) lastID(rev int64) int64 {
	var id int64
	for _, c := range m.rows {
		if c.Mod <= rev {
			id = c.ID
		}
	}
	return id
}

func (m *model) garbage(at int64) []Dead {
	var dead []Dead
	for _, c := range m.rows {
		if c.Key == "" || c.Mod > at || m.pruned[c.ID] {
			continue
		}
		if keep, _ := m.newest(c.Key, at); keep.ID != c.ID || keep.Deleted && keep.Mod < at {
			dead = append(dead, Dead{Key: c.Key, ID: c.ID})
		}
	}
	return dead
}

func (m *model) prune(dead []Dead) {
	for _, d := range dead {
		m.pruned[d.ID] = true
	}
}

// places returns the rows to which it is allowed to roll back, as positions: those that end a revision that is not compacted.
// The position before the first row is 0.
func (m *model) places() []int {
	var at []int
	if m.compacted <= 0 {
		at = append(at, 0)
	}
	for i, c := range m.rows {
		if c.Mod >= m.compacted && (i == len(m.rows)-1 || m.rows[i+1].Mod > c.Mod) {
			at = append(at, i+1)
		}
	}
	return at
}

// rollback keeps the first n rows, and returns the keys of the others, one for each row.
func (m *model) rollback(n int) (keys []string) {
	for _, c := range m.rows[n:] {
		if c.Key == "" { // its ID may be that of a row that is kept
			continue
		}
		delete(m.pruned, c.ID)
		keys = append(keys, c.Key)
		rows := m.byKey[c.Key]
		if m.byKey[c.Key] = rows[:len(rows)-1]; len(rows) == 1 {
			delete(m.byKey, c.Key)
		}
	}
	m.rows = m.rows[:n:n]
	return keys
}

// held returns how many keys and rows an index must hold.
func (m *model) held() (keys, rows int) {
	for _, changes := range m.byKey {
		n := 0
		for _, c := range changes {
			if !m.pruned[c.ID] {
				n++
			}
		}
		rows += n
		if n > 0 {
			keys++
		}
	}
	return keys, rows
}

func ascended(x *Index, s Span, at int64) []Item {
	var items []Item
	x.Ascend(s, at, func(it Item) bool {
		items = append(items, it)
		return true
	})
	return items
}

// checkTree fails if the index is not what its comments say: order, counts, masks, links, depth.
func checkTree(t interface {
	Helper()
	Fatalf(string, ...any)
}, x *Index) {
	t.Helper()
	var leaves []*leaf
	depth, rows := 0, 0
	var walk func(n *inner, from, to string, d int) sums
	walk = func(n *inner, from, to string, d int) sums {
		size := len(n.seps)
		if size != len(n.sums) || size != max(len(n.kids), len(n.leaves)) || size == 0 || size > fanout ||
			n.kids != nil && n.leaves != nil {
			t.Fatalf("node of %d separators, %d sums, %d kids, %d leaves", size, len(n.sums), len(n.kids), len(n.leaves))
		}
		var total sums
		for i := range n.seps {
			lower, upper := from, to
			if i > 0 {
				lower = n.seps[i]
			}
			if i+1 < len(n.seps) {
				upper = n.seps[i+1]
			}
			var s sums
			if n.kids != nil {
				s = walk(n.kids[i], lower, upper, d+1)
			} else {
				l := n.leaves[i]
				if depth == 0 {
					depth = d
				}
				if d != depth {
					t.Fatalf("leaves at depth %d and %d", d, depth)
				}
				leaves = append(leaves, l)
				s = l.sums()
				rows += checkLeaf(t, l, lower, upper)
			}
			if s != n.sums[i] {
				t.Fatalf("child %d at depth %d counted as %+v, holds %+v", i, d, n.sums[i], s)
			}
			total = total.plus(s)
		}
		return total
	}
	if total := walk(x.tree.root, "", "", 1); total != x.tree.size {
		t.Fatalf("tree counted as %+v, holds %+v", x.tree.size, total)
	}
	if rows != x.revisions {
		t.Fatalf("%d rows counted as %d", rows, x.revisions)
	}
	for i, l := range leaves {
		if len(l.keys) == 0 && len(leaves) > 1 {
			t.Fatalf("leaf %d of %d is empty", i, len(leaves))
		}
		if i > 0 && (l.prev != leaves[i-1] || leaves[i-1].next != l) {
			t.Fatalf("leaf %d is not linked with the one before", i)
		}
	}
	if leaves[0].prev != nil || leaves[len(leaves)-1].next != nil {
		t.Fatalf("the list of leaves goes on beyond its ends")
	}
}

// checkLeaf returns the number of rows in the leaf.
func checkLeaf(t interface {
	Helper()
	Fatalf(string, ...any)
}, l *leaf, from, to string) (rows int) {
	t.Helper()
	n := len(l.keys)
	if len(l.recs) != n || n > fanout || bits.Len64(l.live|l.stale) > n {
		t.Fatalf("leaf of %d keys, %d records, masks %b %b", n, len(l.recs), l.live, l.stale)
	}
	if cap(l.keys) > n+3*growBy || cap(l.recs) > n+3*growBy {
		t.Fatalf("leaf of %d keys has room for %d and %d", n, cap(l.keys), cap(l.recs))
	}
	for i, key := range l.keys {
		if i > 0 && key <= l.keys[i-1] || key < from || to != "" && key >= to {
			t.Fatalf("key %q is out of place in [%q, %q)", key, from, to)
		}
		r := &l.recs[i]
		if l.live>>uint(i)&1 == 1 == r.dead() || (l.stale>>uint(i)&1 == 1) != (r.dead() || r.old != nil) {
			t.Fatalf("masks of key %q are wrong", key)
		}
		rows++
		if r.old == nil {
			continue
		}
		if r.old.empty() {
			t.Fatalf("key %q has an empty history", key)
		}
		before := int64(0)
		r.old.above(0, func(v *revision) bool {
			if v.id() <= before {
				t.Fatalf("history of key %q goes from row %d to %d", key, before, v.id())
			}
			before = v.id()
			rows++
			return true
		})
		if before >= r.id() {
			t.Fatalf("history of key %q ends at row %d, the newest is %d", key, before, r.id())
		}
	}
	return rows
}

func TestBitsMoveWithTheirKeys(t *testing.T) {
	for i := range 63 {
		mask := uint64(0xa5a5_5a5a_0ff0_3c3c)
		wide := spread(mask, i)
		if wide>>uint(i)&1 != 0 {
			t.Fatalf("bit %d is not free", i)
		}
		for b := range 63 {
			to := b
			if b >= i {
				to++
			}
			if mask>>uint(b)&1 != wide>>uint(to)&1 {
				t.Fatalf("bit %d is not at %d", b, to)
			}
		}
		if back := squeeze(wide, i); back != mask&^(1<<63) {
			t.Fatalf("squeeze(spread(%x, %d)) = %x", mask, i, back)
		}
	}
}
