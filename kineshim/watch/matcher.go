package watch

import (
	"math/rand/v2"
	"strings"

	"kineshim/kineshim/mvcc"
)

// group is the watchers of one span.
type group struct {
	span    mvcc.Span
	members []*watcher

	// batch is what assemble has found for the group; from is the index in its commit of the first of the last part's
	// entries.
	batch []part
	from  int
}

// matcher finds the groups that a key concerns. The zero matcher is empty. It is not safe for concurrent use.
type matcher struct {
	single map[string]*group
	ranges *node
	hits   []*group
}

// group returns the group of a span, which is made if there is none.
func (m *matcher) group(span mvcc.Span) *group {
	if key, ok := span.Single(); ok {
		g := m.single[key]
		if g == nil {
			g = &group{span: span}
			if m.single == nil {
				m.single = make(map[string]*group)
			}
			m.single[key] = g
		}
		return g
	}
	if g := m.ranges.find(span); g != nil {
		return g
	}
	g := &group{span: span}
	m.ranges = m.ranges.insert(&node{group: g, priority: rand.Uint32()})
	return g
}

// remove forgets a group that the matcher holds.
func (m *matcher) remove(g *group) {
	if key, ok := g.span.Single(); ok {
		delete(m.single, key)
		return
	}
	m.ranges = m.ranges.remove(g.span)
}

// match returns the groups whose span holds the key. The result is valid until the next call.
func (m *matcher) match(key []byte) []*group {
	m.hits = m.hits[:0]
	if g := m.single[string(key)]; g != nil {
		m.hits = append(m.hits, g)
	}
	m.hits = m.ranges.stab(m.hits, key)
	return m.hits
}

// assemble fills the batches of the groups that the commits concern, and appends those groups to touched. Each batch must be
// emptied by the caller.
func (m *matcher) assemble(touched []*group, commits ...*commit) []*group {
	for _, c := range commits {
		for i, e := range c.entries {
			for _, g := range m.match(e.key()) {
				if len(g.batch) == 0 {
					touched = append(touched, g)
				}
				g.add(c, i)
			}
		}
	}
	return touched
}

// add appends a commit's i-th entry to the batch. The entries of a commit that lie side by side share the commit's own
// slice.
func (g *group) add(c *commit, i int) {
	if n := len(g.batch); n == 0 || g.batch[n-1].commit != c {
		g.batch = append(g.batch, part{commit: c, entries: c.entries[i : i+1 : i+1], bytes: c.entries[i].bytes})
		g.from = i
		return
	}
	last := &g.batch[len(g.batch)-1]
	last.bytes += c.entries[i].bytes
	if g.from+len(last.entries) == i { // not true any more after the first gap
		last.entries = c.entries[g.from : i+1 : i+1]
		return
	}
	last.entries = append(last.entries, c.entries[i])
}

// node is a node of a treap of spans: a search tree by span, a heap by priority. Each node knows how far its subtree
// reaches, so that a key is looked up in the logarithm of the number of spans plus the number of hits.
type node struct {
	group       *group
	priority    uint32
	left, right *node
	// to and open are the greatest upper bound in the subtree.
	to   string
	open bool
}

// compare orders spans by their lower bound, then by their upper one.
func compare(a, b mvcc.Span) int {
	if c := strings.Compare(a.From, b.From); c != 0 {
		return c
	}
	switch {
	case a.Open && b.Open:
		return 0
	case a.Open:
		return 1
	case b.Open:
		return -1
	}
	return strings.Compare(a.To, b.To)
}

func (n *node) find(span mvcc.Span) *group {
	for n != nil {
		switch c := compare(span, n.group.span); {
		case c < 0:
			n = n.left
		case c > 0:
			n = n.right
		default:
			return n.group
		}
	}
	return nil
}

func (n *node) insert(made *node) *node {
	if n == nil {
		return made.update()
	}
	if made.priority > n.priority {
		made.left, made.right = n.split(made.group.span)
		return made.update()
	}
	if compare(made.group.span, n.group.span) < 0 {
		n.left = n.left.insert(made)
	} else {
		n.right = n.right.insert(made)
	}
	return n.update()
}

// split parts the subtree at a span that it does not hold.
func (n *node) split(at mvcc.Span) (below, above *node) {
	if n == nil {
		return nil, nil
	}
	if compare(n.group.span, at) < 0 {
		n.right, above = n.right.split(at)
		return n.update(), above
	}
	below, n.left = n.left.split(at)
	return below, n.update()
}

func (n *node) remove(span mvcc.Span) *node {
	if n == nil {
		return nil
	}
	switch c := compare(span, n.group.span); {
	case c < 0:
		n.left = n.left.remove(span)
	case c > 0:
		n.right = n.right.remove(span)
	default:
		return merge(n.left, n.right)
	}
	return n.update()
}

// merge joins two subtrees of which the first lies wholly before the second.
func merge(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a.right = merge(a.right, b)
		return a.update()
	}
	b.left = merge(a, b.left)
	return b.update()
}

// update computes how far the subtree reaches.
func (n *node) update() *node {
	n.to, n.open = n.group.span.To, n.group.span.Open
	for _, child := range [2]*node{n.left, n.right} {
		if child == nil {
			continue
		}
		n.open = n.open || child.open
		n.to = max(n.to, child.to)
	}
	return n
}

// stab appends the groups of the subtree that hold the key.
func (n *node) stab(hits []*group, key []byte) []*group {
	for n != nil && (n.open || string(key) < n.to) {
		hits = n.left.stab(hits, key)
		span := n.group.span
		if string(key) < span.From {
			break
		}
		if span.Open || string(key) < span.To {
			hits = append(hits, n.group)
		}
		n = n.right
	}
	return hits
}

// contains is Span.Contains for bytes.
func contains(s mvcc.Span, key []byte) bool {
	return string(key) >= s.From && (s.Open || string(key) < s.To)
}
