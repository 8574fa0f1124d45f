package mvcc

import "sort"

// chunkRevisions bounds the revisions in one piece of a key's history. A key that is written thousands of times between two
// compactions must not make Append copy all of them whenever a slice grows, nor Prune when it takes away the oldest.
const chunkRevisions = 256

// revision is one row of a key.
type revision struct {
	idAndDead int64 // row ID << 1, and 1 for a tombstone
	mod       int64
	create    int64
	createID  int64
	version   int64
	lease     int64
}

func newRevision(c Change) revision {
	if c.Deleted {
		return revision{idAndDead: c.ID<<1 | 1, mod: c.Mod}
	}
	return revision{
		idAndDead: c.ID << 1, mod: c.Mod, create: c.Create, createID: c.CreateID, version: c.Version, lease: c.Lease,
	}
}

func (r *revision) id() int64  { return r.idAndDead >> 1 }
func (r *revision) dead() bool { return r.idAndDead&1 != 0 }

func (r *revision) item(key string) Item {
	return Item{
		Key: key, ID: r.id(), Mod: r.mod, Create: r.create, CreateID: r.createID, Version: r.version, Lease: r.lease,
	}
}

// record is a key's newest revision, and the older ones if there are any.
type record struct {
	revision
	old *history // nil: none; never empty
}

// at returns the key's newest row at or before revision rev, a tombstone perhaps, or nil. The result points into the record.
func (r *record) at(rev int64) *revision {
	if r.mod <= rev {
		return &r.revision
	}
	if r.old == nil {
		return nil
	}
	return r.old.at(rev)
}

// replace makes next the newest revision.
func (r *record) replace(next revision) {
	if r.old == nil {
		r.old = &history{}
	}
	r.old.push(r.revision)
	r.revision = next
}

// history holds a key's older revisions, ascending. The chunks of full are not empty and come before those of recent.
type history struct {
	recent []revision
	full   [][]revision
}

func (h *history) push(r revision) {
	if len(h.recent) == chunkRevisions {
		h.full = append(h.full, h.recent)
		h.recent = make([]revision, 0, chunkRevisions)
	}
	if n := len(h.recent); n == cap(h.recent) { // by a quarter: many keys have a few, and doubling would leave much unused
		h.recent = append(make([]revision, 0, min(n+n/4+1, chunkRevisions)), h.recent...)
	}
	h.recent = append(h.recent, r)
}

// at returns the newest revision at or before rev, or nil.
func (h *history) at(rev int64) *revision {
	chunk := h.recent
	if len(chunk) == 0 || chunk[0].mod > rev {
		i := sort.Search(len(h.full), func(i int) bool { return h.full[i][0].mod > rev })
		if i == 0 {
			return nil
		}
		chunk = h.full[i-1]
	}
	i := sort.Search(len(chunk), func(i int) bool { return chunk[i].mod > rev })
	return &chunk[i-1]
}

// above calls f with the revisions whose row ID is greater than id, ascending, until f returns false.
func (h *history) above(id int64, f func(*revision) bool) {
	n := sort.Search(len(h.full), func(i int) bool {
		chunk := h.full[i]
		return chunk[len(chunk)-1].id() > id
	})
	for ; n <= len(h.full); n++ {
		chunk := h.recent
		if n < len(h.full) {
			chunk = h.full[n]
		}
		for i := firstAbove(chunk, id); i < len(chunk); i++ {
			if !f(&chunk[i]) {
				return
			}
		}
	}
}

// forget drops the revisions whose row ID is at most id, and returns how many they were.
func (h *history) forget(id int64) int {
	n := 0
	for len(h.full) > 0 {
		k := firstAbove(h.full[0], id)
		n += k
		if k < len(h.full[0]) {
			h.full[0] = h.full[0][k:] // its memory goes when the rest of the chunk goes
			return n
		}
		h.full[0] = nil
		h.full = h.full[1:]
	}
	h.full = nil
	if k := firstAbove(h.recent, id); k > 0 {
		n += k
		h.recent = append(make([]revision, 0, len(h.recent)-k), h.recent[k:]...)
	}
	return n
}

func (h *history) empty() bool { return len(h.recent) == 0 && len(h.full) == 0 }

// firstAbove returns the position of the first revision whose row ID is greater than id.
func firstAbove(chunk []revision, id int64) int {
	if len(chunk) == 0 || chunk[0].id() > id {
		return 0
	}
	return sort.Search(len(chunk), func(i int) bool { return chunk[i].id() > id })
}
