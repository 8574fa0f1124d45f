package watch

import "sort"

// ring holds the newest commits, oldest first, bounded by their bytes.
type ring struct {
	// first: every commit with a revision >= first is in the ring.
	first   int64
	commits []*commit // from head on; nil before
	head    int
	bytes   int
	limit   int
}

// push appends a commit and lets go of the oldest ones above the limit. The newest one always stays.
func (r *ring) push(c *commit) {
	r.commits = append(r.commits, c)
	r.bytes += c.bytes
	for r.bytes > r.limit && r.head < len(r.commits)-1 {
		old := r.commits[r.head]
		r.commits[r.head] = nil
		r.head++
		r.bytes -= old.bytes
		r.first = old.revision + 1
	}
	if r.head > len(r.commits)/2 && r.head >= 64 {
		n := copy(r.commits, r.commits[r.head:])
		clear(r.commits[n:])
		r.commits, r.head = r.commits[:n], 0
	}
}

// read appends to page the commits from a revision on, until there are count of them or they have that many bytes; all
// says that none are left. There is at least one unless none are left.
func (r *ring) read(page []*commit, from int64, count, bytes int) (_ []*commit, all bool) {
	live := r.commits[r.head:]
	i := sort.Search(len(live), func(i int) bool { return live[i].revision >= from })
	for ; i < len(live) && count > 0 && bytes > 0; i++ {
		page = append(page, live[i])
		count--
		bytes -= live[i].bytes
	}
	return page, i == len(live)
}
