package mvcc

import (
	"fmt"
	"strings"
	"sync"
)

// Item is a live key at some revision.
type Item struct {
	Key string
	// ID is the row that wrote the key, Mod the revision of that row.
	ID, Mod int64
	// Create is the revision in which the key came to be, CreateID the row that did it; the Index only keeps them.
	Create, CreateID int64
	// Version counts the key's changes since then, from 1.
	Version int64
	// Lease is the lease's ID; 0 for none.
	Lease int64
}

// Change is one row: a key's new state, or a tombstone.
type Change struct {
	Item
	// Deleted marks a tombstone, whose Create, CreateID, Version and Lease are 0.
	Deleted bool
}

// Index is the keyspace. See the package comment for who may call what. New makes one.
type Index struct {
	mu sync.RWMutex // guards everything below

	tree      tree
	revisions int // rows held
	headID    int64
	headRev   int64
	rows      rowIDs
	lives     liveLog
}

// New returns an empty Index.
func New() *Index { return &Index{tree: newTree()} }

// Append makes c the newest change of its key and of the Index. IDs must ascend strictly over all keys and revisions must
// never descend: Append panics otherwise, since no later answer could be right. A tombstone of a key that is not there is
// taken: compaction may have deleted the rows before it. The Index keeps a copy of c.Key. For the writer.
func (x *Index) Append(c Change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c.ID <= x.headID || c.Mod < x.headRev || c.ID <= 0 || c.Mod <= 0 {
		panic(fmt.Sprintf("mvcc: row %d at revision %d appended after row %d at revision %d",
			c.ID, c.Mod, x.headID, x.headRev))
	}
	next := newRevision(c)
	key, change := x.put(c.Key, next)
	x.headID, x.headRev = c.ID, c.Mod
	x.revisions++
	x.rows.append(c.Mod, c.ID)
	if change != 0 {
		x.lives.append(liveChange{key: key, mod: c.Mod, change: change})
	}
}

// put makes next the key's newest revision. It returns the Index's own copy of the key, and by how much the number of live
// keys changed.
func (x *Index) put(key string, next revision) (own string, change int) {
	var steps [pathLen]step
	l, path := x.tree.descend(key, steps[:0])
	i := l.lower(key)
	if i < len(l.keys) && l.keys[i] == key {
		r := &l.recs[i]
		change = alive(&next) - alive(&r.revision)
		r.replace(next)
		l.mark(i)
		if change != 0 {
			x.tree.count(path, sums{live: change})
		}
		return l.keys[i], change
	}
	if len(l.keys) == fanout {
		x.tree.splitLeaf(path)
		l, path = x.tree.descend(key, steps[:0])
		i = l.lower(key)
	}
	own, change = strings.Clone(key), alive(&next)
	l.insert(i, own, record{revision: next})
	x.tree.count(path, sums{live: change, keys: 1})
	return own, change
}

func alive(r *revision) int {
	if r.dead() {
		return 0
	}
	return 1
}

// Advance moves the head to row id and revision rev without a change: the table has had rows up to there that are not
// loaded, or not there any more. It panics if either descends. For the writer.
func (x *Index) Advance(id, rev int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if id < x.headID || rev < x.headRev {
		panic(fmt.Sprintf("mvcc: advance from row %d at revision %d to row %d at revision %d",
			x.headID, x.headRev, id, rev))
	}
	if id == x.headID && rev == x.headRev {
		return
	}
	x.headID, x.headRev = id, rev
	x.rows.append(rev, id)
}

// Head returns the newest change of key: speculative ones and tombstones included, until they are pruned. For the writer.
func (x *Index) Head(key string) (Change, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	r := x.tree.find(key)
	if r == nil {
		return Change{}, false
	}
	return Change{Item: r.item(key), Deleted: r.dead()}, true
}

// Get returns key as it was at revision at, if it lived.
func (x *Index) Get(key string, at int64) (Item, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	r := x.tree.find(key)
	if r == nil {
		return Item{}, false
	}
	v := r.at(at)
	if v == nil || v.dead() {
		return Item{}, false
	}
	return v.item(key), true
}

// HeadRevision returns the revision of the newest change, or that which Advance has set; 0 at first. For the writer.
func (x *Index) HeadRevision() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.headRev
}

// HeadID returns the row ID of the newest change, or that which Advance has set; 0 at first. For the writer.
func (x *Index) HeadID() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.headID
}

// LastID returns the greatest row ID that was appended, or advanced to, with a revision at or before rev; 0 if there is
// none. It is exact for the revision that Compacted was last told, for the one before it, and for all after it, also if
// that row has been pruned.
func (x *Index) LastID(rev int64) int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.rows.last(rev)
}

// Keys returns how many keys are held, deleted ones included as long as a row of theirs is.
func (x *Index) Keys() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.tree.size.keys
}

// Revisions returns how many rows are held.
func (x *Index) Revisions() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.revisions
}
