package mvcc

// run is a sequence of revisions of which each has one row, with consecutive IDs: revision first+i has row id+i, for
// first <= first+i <= last. It ends where the next one begins: a revision that is in both belongs to the later one.
type run struct{ first, last, id int64 }

// rowIDs maps revisions to the greatest row ID so far. As long as each revision has one row and no row ID is left out, it is
// one run, however many revisions there are.
type rowIDs struct {
	runs  journal[run]
	floor int64 // revisions before it are not asked for
}

func (r *rowIDs) append(mod, id int64) {
	l := r.runs.last()
	switch {
	case l == nil:
		r.runs.append(run{mod, mod, id})
	case mod == l.last+1 && id == l.id+mod-l.first:
		l.last = mod
	case mod == l.first || mod <= r.floor: // the last run is of no use any more
		*l = run{mod, mod, id}
	default:
		r.runs.append(run{mod, mod, id})
	}
}

// last returns the greatest row ID of a revision <= rev.
func (r *rowIDs) last(rev int64) int64 {
	c, i := r.runs.search(func(n *run) bool { return n.first > rev })
	if i == 0 {
		if c == 0 {
			return 0
		}
		c, i = c-1, len(r.runs.chunks[c-1])
	}
	n := r.runs.chunks[c][i-1]
	return n.id + min(rev, n.last) - n.first
}

// forget makes do with what is needed for revisions >= floor.
func (r *rowIDs) forget(floor int64) {
	r.floor = max(r.floor, floor)
	// The run that holds floor is the last one with first <= floor. The chunks before it are not needed.
	if c, i := r.runs.search(func(n *run) bool { return n.first > floor }); i > 0 {
		r.runs.drop(c)
	} else if c > 0 {
		r.runs.drop(c - 1)
	}
}
