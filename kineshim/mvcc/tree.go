package mvcc

import "slices"

// sums counts keys: all that are held, and those of them that live at the head.
type sums struct{ live, keys int }

func (a sums) plus(b sums) sums  { return sums{a.live + b.live, a.keys + b.keys} }
func (a sums) minus(b sums) sums { return sums{a.live - b.live, a.keys - b.keys} }

// inner is a node above the leaves. Child i holds the keys from seps[i] to below seps[i+1]. seps[0] is not looked at:
// child 0 also takes what the parent sends here and is smaller.
type inner struct {
	seps   []string
	sums   []sums
	kids   []*inner // nil if the children are leaves
	leaves []*leaf  // nil if they are not
}

// child returns the position of the child that holds key if anyone does.
func (n *inner) child(key string) int {
	lo, hi := 1, len(n.seps)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if n.seps[mid] <= key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}

// below counts the keys in the children before child i.
func (n *inner) below(i int) sums {
	var s sums
	for _, c := range n.sums[:i] {
		s.live += c.live
		s.keys += c.keys
	}
	return s
}

// step is a node on the way down to a leaf, and the position of the child taken.
type step struct {
	n *inner
	i int
}

// pathLen is room for the way down without an allocation. Trees get higher only when a full root is split, so that 64 to the
// power of 12 keys would be needed to exceed it.
const pathLen = 12

// tree is a B+tree. All leaves are at the same depth. Nodes that became sparse are joined only if a neighbour has room, and
// are dropped when empty: it keeps no minimum, which nothing here needs.
type tree struct {
	root *inner
	size sums
}

func newTree() tree {
	return tree{root: &inner{seps: []string{""}, sums: []sums{{}}, leaves: []*leaf{{}}}}
}

// leafFor returns the leaf that holds key if any does.
func (t *tree) leafFor(key string) *leaf {
	n := t.root
	for n.kids != nil {
		n = n.kids[n.child(key)]
	}
	return n.leaves[n.child(key)]
}

// descend is leafFor and also returns the way, root first.
func (t *tree) descend(key string, path []step) (*leaf, []step) {
	n := t.root
	for {
		i := n.child(key)
		path = append(path, step{n, i})
		if n.kids == nil {
			return n.leaves[i], path
		}
		n = n.kids[i]
	}
}

// find returns key's record, or nil.
func (t *tree) find(key string) *record { return t.leafFor(key).find(key) }

// below counts the keys that are smaller than key.
func (t *tree) below(key string) sums {
	var s sums
	n := t.root
	for {
		i := n.child(key)
		s = s.plus(n.below(i))
		if n.kids == nil {
			l := n.leaves[i]
			return s.plus(l.below(l.lower(key)))
		}
		n = n.kids[i]
	}
}

// within counts the keys in the span, which must not be empty.
func (t *tree) within(s Span) sums {
	upper := t.size
	if !s.Open {
		upper = t.below(s.To)
	}
	return upper.minus(t.below(s.From))
}

// count adds d to the counts along the way.
func (t *tree) count(path []step, d sums) {
	for _, p := range path {
		p.n.sums[p.i] = p.n.sums[p.i].plus(d)
	}
	t.size = t.size.plus(d)
}

// splitLeaf splits the leaf that the way leads to. The way is not valid afterwards.
func (t *tree) splitLeaf(path []step) {
	p := path[len(path)-1]
	left := p.n.leaves[p.i]
	right := left.split()
	p.n.leaves = slices.Insert(p.n.leaves, p.i+1, right)
	p.n.added(p.i, left.sums(), right.sums(), right.keys[0])
	for d := len(path) - 1; len(path[d].n.seps) > fanout; d-- {
		left := path[d].n
		right := left.split()
		if d == 0 {
			t.root = &inner{
				seps: []string{"", right.seps[0]},
				sums: []sums{left.total(), right.total()},
				kids: []*inner{left, right},
			}
			return
		}
		up := path[d-1]
		up.n.kids = slices.Insert(up.n.kids, up.i+1, right)
		up.n.added(up.i, left.total(), right.total(), right.seps[0])
	}
}

// added completes the insertion of a child after child i, which gave a part of its keys to it.
func (n *inner) added(i int, left, right sums, sep string) {
	n.seps = slices.Insert(n.seps, i+1, sep)
	n.sums = slices.Insert(n.sums, i+1, right)
	n.sums[i] = left
}

// split moves the upper half of the children to a new node and returns it. Its seps[0] is the key that divides the two.
func (n *inner) split() *inner {
	h := len(n.seps) / 2
	right := &inner{seps: slices.Clone(n.seps[h:]), sums: slices.Clone(n.sums[h:])}
	if n.kids != nil {
		right.kids = slices.Clone(n.kids[h:])
		n.kids = slices.Delete(n.kids, h, len(n.kids))
	} else {
		right.leaves = slices.Clone(n.leaves[h:])
		n.leaves = slices.Delete(n.leaves, h, len(n.leaves))
	}
	n.seps = slices.Delete(n.seps, h, len(n.seps))
	n.sums = slices.Delete(n.sums, h, len(n.sums))
	return right
}

func (n *inner) total() sums { return n.below(len(n.sums)) }

// remove takes away the key at position i of the leaf that the way leads to. The way is not valid afterwards.
func (t *tree) remove(path []step, i int) {
	p := path[len(path)-1]
	l := p.n.leaves[p.i]
	t.count(path, l.below(i).minus(l.below(i+1)))
	l.remove(i)
	if len(l.keys) >= sparse || t.size.keys == 0 {
		return // or the tree is empty, and its last leaf stays
	}
	switch {
	case len(l.keys) == 0:
		l.unlink()
		p.n.drop(p.i)
	case p.i+1 < len(p.n.leaves) && len(l.keys)+len(l.next.keys) <= roomy:
		l.join()
		p.n.dropInto(p.i+1, p.i)
	case p.i > 0 && len(l.keys)+len(l.prev.keys) <= roomy:
		l.prev.join()
		p.n.dropInto(p.i, p.i-1)
	default:
		return
	}
	t.tidy(path)
}

// tidy joins or drops the inner nodes of the way, the last of which has lost a child.
func (t *tree) tidy(path []step) {
	for d := len(path) - 1; d > 0 && len(path[d].n.seps) < sparse; d-- {
		n, up := path[d].n, path[d-1]
		switch {
		case len(n.seps) == 0:
			up.n.drop(up.i)
		case up.i+1 < len(up.n.kids) && len(n.seps)+len(up.n.kids[up.i+1].seps) <= roomy:
			n.join(up.n.kids[up.i+1], up.n.seps[up.i+1])
			up.n.dropInto(up.i+1, up.i)
		case up.i > 0 && len(n.seps)+len(up.n.kids[up.i-1].seps) <= roomy:
			up.n.kids[up.i-1].join(n, up.n.seps[up.i])
			up.n.dropInto(up.i, up.i-1)
		}
	}
	for len(t.root.kids) == 1 {
		t.root = t.root.kids[0]
	}
}

// join takes over the children of the node to the right; sep divides the two.
func (n *inner) join(right *inner, sep string) {
	h := len(n.seps)
	n.seps = append(n.seps, right.seps...)
	n.seps[h] = sep
	n.sums = append(n.sums, right.sums...)
	if n.kids != nil {
		n.kids = append(n.kids, right.kids...)
	} else {
		n.leaves = append(n.leaves, right.leaves...)
	}
}

// dropInto takes child i away, whose keys child into now has.
func (n *inner) dropInto(i, into int) {
	n.sums[into] = n.sums[into].plus(n.sums[i])
	n.drop(i)
}

// drop takes child i away.
func (n *inner) drop(i int) {
	n.seps = slices.Delete(n.seps, i, i+1)
	n.sums = slices.Delete(n.sums, i, i+1)
	if n.kids != nil {
		n.kids = slices.Delete(n.kids, i, i+1)
	} else {
		n.leaves = slices.Delete(n.leaves, i, i+1)
	}
}
