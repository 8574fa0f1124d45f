package mvcc

import (
	"fmt"
	"slices"
)

// rollbackKeys is how many keys Rollback changes under the lock at a time. Reads wait for it.
const rollbackKeys = 64

// Rollback takes back every change whose row ID is greater than id: afterwards the Index is as if they had never been appended,
// and their IDs and revisions may be used again. rev is the revision of row id, or what Advance was told with it. keys names all
// keys that such changes belong to, in any order; it may name others, and name one twice.
//
// Reads at revision rev or before may go on meanwhile, and so may Garbage and Prune for such a revision. What is asked at a
// later revision, or of the head, is undefined until Rollback has returned. rev must not be before the compacted revision. For
// the writer.
//
// It panics if id or rev is ahead of the head, if rev is not the revision of row id, or if a change that it is to take back has
// revision rev or an older one: somebody may have read that.
func (x *Index) Rollback(id, rev int64, keys []string) {
	if !x.mayRollback(id, rev) {
		return
	}
	for some := range slices.Chunk(keys, rollbackKeys) {
		x.rollback(id, rev, some)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lives.rollback(rev)
	x.rows.rollback(rev, id)
	x.headID, x.headRev = id, rev
}

// mayRollback is false if there is nothing to take back.
func (x *Index) mayRollback(id, rev int64) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if id > x.headID || rev > x.headRev || x.rows.last(rev) < id {
		panic(fmt.Sprintf("mvcc: roll back to row %d at revision %d: the head is row %d at revision %d, the last row at that revision %d",
			id, rev, x.headID, x.headRev, x.rows.last(rev)))
	}
	return id < x.headID || rev < x.headRev
}

func (x *Index) rollback(id, rev int64, some []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, key := range some {
		x.undo(key, id, rev)
	}
}

// undo drops key's rows after row id. By how much the number of live keys changes is noted at the head: Count at rev or before
// takes it back from there together with the changes that are dropped, until both are gone from the log.
func (x *Index) undo(key string, id, rev int64) {
	var steps [pathLen]step
	l, path := x.tree.descend(key, steps[:0])
	i := l.lower(key)
	if i == len(l.keys) || l.keys[i] != key || l.recs[i].id() <= id {
		return
	}
	own, r := l.keys[i], &l.recs[i]
	before := alive(&r.revision)
	n, left, oldest := r.undo(id)
	if oldest <= rev {
		panic(fmt.Sprintf("mvcc: roll back to row %d at revision %d: a later row of key %q has revision %d", id, rev, key, oldest))
	}
	x.revisions -= n
	change := -before
	if left {
		change += alive(&r.revision)
		l.mark(i)
		x.tree.count(path, sums{live: change})
	} else {
		x.tree.remove(path, i)
	}
	if change != 0 {
		x.lives.append(liveChange{key: own, mod: x.headRev, change: change})
	}
}

// undo drops the revisions after row id, of which there is at least one. It returns how many they were and the oldest one's Mod.
// If no revision is left the record is as it was.
func (r *record) undo(id int64) (n int, left bool, oldest int64) {
	n, oldest = 1, r.mod
	if r.old == nil {
		return n, false, oldest
	}
	dropped, first := r.old.cut(id)
	if dropped > 0 {
		n, oldest = n+dropped, first
	}
	last, left := r.old.pop()
	if left {
		r.revision = last
	}
	if r.old.empty() {
		r.old = nil
	}
	return n, left, oldest
}

// cut drops the revisions whose row ID is greater than id. It returns how many they were and, if there were any, the Mod of
// the oldest.
func (h *history) cut(id int64) (n int, oldest int64) {
	for {
		k := firstAbove(h.recent, id)
		if k < len(h.recent) {
			n, oldest = n+len(h.recent)-k, h.recent[k].mod
		}
		h.recent = h.recent[:k]
		if k > 0 || !h.reopen() {
			return n, oldest
		}
	}
}

// pop takes away the newest revision; false if there is none.
func (h *history) pop() (revision, bool) {
	if len(h.recent) == 0 && !h.reopen() {
		return revision{}, false
	}
	n := len(h.recent) - 1
	last := h.recent[n]
	h.recent = h.recent[:n]
	return last, true
}

// reopen makes the last of the full chunks the recent one, which must be empty; false if there is none.
func (h *history) reopen() bool {
	n := len(h.full) - 1
	if n < 0 {
		return false
	}
	h.recent, h.full[n] = h.full[n], nil
	h.full = h.full[:n]
	return true
}

// rollback forgets what happened after revision rev.
func (l *liveLog) rollback(rev int64) {
	l.log.cut(l.log.search(func(e *liveChange) bool { return e.mod > rev }))
	l.dropped = min(l.dropped, rev) // what is gone and came later has been taken back
}

// rollback makes id the last row of revision rev, and forgets what came after.
func (r *rowIDs) rollback(rev, id int64) {
	r.runs.cut(r.runs.search(func(n *run) bool { return n.first > rev }))
	if l := r.runs.last(); l != nil {
		l.last = min(l.last, rev)
	}
	if r.last(rev) != id {
		r.append(rev, id)
	}
}
