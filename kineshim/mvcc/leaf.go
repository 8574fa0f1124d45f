package mvcc

import "math/bits"

const (
	// fanout is the most keys in a leaf, as many as its masks have bits, and the most children of an inner node.
	fanout = 64
	// growBy is by how many entries a leaf's slices grow. Doubling would leave a third of a large index unused; steps of
	// eight strings and records fill the allocator's size classes.
	growBy = 8
	// sparse: a node with fewer entries is joined with a neighbour if both together have no more than roomy, which leaves
	// space for new ones before the node has to be split again.
	sparse = fanout / 4
	roomy  = fanout * 3 / 4
)

// leaf holds up to fanout keys in order, and their records in a slice of their own so that a search touches little memory.
type leaf struct {
	keys []string
	recs []record
	// live has bit i set if recs[i] is not a tombstone; stale, if recs[i] is a tombstone or has older revisions: only
	// those can be garbage.
	live, stale uint64
	prev, next  *leaf
}

// lower returns the position of the first key >= key.
func (l *leaf) lower(key string) int {
	lo, hi := 0, len(l.keys)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if l.keys[mid] < key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// find returns key's record, or nil. The record may be changed only with mark called afterwards.
func (l *leaf) find(key string) *record {
	if i := l.lower(key); i < len(l.keys) && l.keys[i] == key {
		return &l.recs[i]
	}
	return nil
}

// sums counts the leaf's keys.
func (l *leaf) sums() sums { return sums{live: bits.OnesCount64(l.live), keys: len(l.keys)} }

// below counts the keys before position i.
func (l *leaf) below(i int) sums {
	return sums{live: bits.OnesCount64(l.live & (1<<uint(i) - 1)), keys: i}
}

// mark sets the bits of position i to what the record says.
func (l *leaf) mark(i int) {
	bit := uint64(1) << uint(i)
	l.live &^= bit
	l.stale &^= bit
	if !l.recs[i].dead() {
		l.live |= bit
	}
	if l.recs[i].dead() || l.recs[i].old != nil {
		l.stale |= bit
	}
}

// insert puts a key at position i. The leaf must not be full.
func (l *leaf) insert(i int, key string, r record) {
	l.keys = insertAt(l.keys, i, key)
	l.recs = insertAt(l.recs, i, r)
	l.live = spread(l.live, i)
	l.stale = spread(l.stale, i)
	l.mark(i)
}

// remove takes away the key at position i.
func (l *leaf) remove(i int) {
	l.keys = removeAt(l.keys, i)
	l.recs = removeAt(l.recs, i)
	l.live = squeeze(l.live, i)
	l.stale = squeeze(l.stale, i)
}

// split moves the upper half of the keys to a new leaf, which comes next, and returns it.
func (l *leaf) split() *leaf {
	n := len(l.keys) / 2
	right := &leaf{
		keys: fitted(l.keys[n:]), recs: fitted(l.recs[n:]),
		live: l.live >> uint(n), stale: l.stale >> uint(n),
		prev: l, next: l.next,
	}
	l.keys, l.recs = fitted(l.keys[:n]), fitted(l.recs[:n])
	l.live &= 1<<uint(n) - 1
	l.stale &= 1<<uint(n) - 1
	if right.next != nil {
		right.next.prev = right
	}
	l.next = right
	return right
}

// join takes over the keys of the next leaf, which is left for the collector. Both together must not have more than fanout.
func (l *leaf) join() {
	right, n := l.next, uint(len(l.keys))
	l.keys = fitted(l.keys, right.keys...)
	l.recs = fitted(l.recs, right.recs...)
	l.live |= right.live << n
	l.stale |= right.stale << n
	right.unlink()
}

// unlink takes the leaf out of the list of leaves.
func (l *leaf) unlink() {
	if l.prev != nil {
		l.prev.next = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	}
	l.prev, l.next = nil, nil
}

// spread makes room for a zero bit at position i; squeeze takes bit i away.
func spread(mask uint64, i int) uint64 {
	low := uint64(1)<<uint(i) - 1
	return mask&low | mask&^low<<1
}

func squeeze(mask uint64, i int) uint64 {
	low := uint64(1)<<uint(i) - 1
	return mask&low | mask>>1&^low
}

// capacity returns the capacity of a leaf's slice for n entries.
func capacity(n int) int { return (n + growBy - 1) / growBy * growBy }

// fitted returns a slice of the right capacity with the entries of both.
func fitted[T any](s []T, more ...T) []T {
	n := len(s) + len(more)
	return append(append(make([]T, 0, capacity(n)), s...), more...)
}

func insertAt[T any](s []T, i int, v T) []T {
	if len(s) == cap(s) {
		grown := make([]T, len(s)+1, capacity(len(s)+1))
		copy(grown, s[:i])
		copy(grown[i+1:], s[i:])
		grown[i] = v
		return grown
	}
	s = s[:len(s)+1]
	copy(s[i+1:], s[i:])
	s[i] = v
	return s
}

func removeAt[T any](s []T, i int) []T {
	copy(s[i:], s[i+1:])
	clear(s[len(s)-1:]) // let go of what it pointed to
	s = s[:len(s)-1]
	if cap(s)-len(s) > 2*growBy {
		return fitted(s)
	}
	return s
}
