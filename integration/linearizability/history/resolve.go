package history

import "slices"

// resolve turns the requests into the model's steps, by key. A request of unknown outcome was done or not; to try both for each of them
// would take time that doubles with each. It isn't needed: values are unique, so that an event, or an answer, with its value says that a
// put was done, and with which revision; without one, nobody can have noticed. And it was done before any answer that shows its revision or a later one of the same key.
func (c *checker) resolve() map[string][]interval {
	r := resolver{c: c, out: map[string][]interval{}, shown: map[written]int64{}, bounds: map[string][]bound{}, deletions: map[string]map[int64]bool{}, open: map[string][]*Op{}}
	for i := range c.in.Ops {
		r.observe(&c.in.Ops[i])
	}
	for i := range c.in.Ops {
		r.place(&c.in.Ops[i])
	}
	for _, key := range c.timeline.keys() {
		r.placeDeletions(key)
	}
	return r.out
}

// interval is a step between two instants.
type interval struct {
	step
	call, ret int64
}

// bound is an answer that shows a revision of a key.
type bound struct{ revision, at int64 }

type resolver struct {
	c   *checker
	out map[string][]interval
	// shown is the revision of each value that an answer showed.
	shown  map[written]int64
	bounds map[string][]bound
	// deletions are the revisions of acknowledged deletions.
	deletions map[string]map[int64]bool
	// open are the deleting requests of unknown outcome.
	open map[string][]*Op
}

func (r *resolver) observe(o *Op) {
	if o.Outcome == Unknown && !o.Kind.Puts() && o.Kind.Writes() {
		r.open[o.Keys[0]] = append(r.open[o.Keys[0]], o)
	}
	if o.Outcome != Done {
		return
	}
	for n, key := range o.Keys {
		if o.Looked && o.Seen[n].Exists() {
			r.shown[written{key, o.Seen[n].Value}] = o.Seen[n].Mod
			if o.Kind != GetAt && o.Kind != GetStale {
				r.bounds[key] = append(r.bounds[key], bound{o.Seen[n].Mod, o.Return})
			}
		}
		if o.Changed() {
			r.bounds[key] = append(r.bounds[key], bound{o.Revision, o.Return})
		}
	}
	if o.Changed() && !o.Kind.Puts() {
		key := o.Keys[0]
		if r.deletions[key] == nil {
			r.deletions[key] = map[int64]bool{}
		}
		r.deletions[key][o.Revision] = true
	}
}

// by is the instant by which a revision of a key had been made.
func (r *resolver) by(key string, revision int64) int64 {
	at := int64(Forever)
	for _, b := range r.bounds[key] {
		if b.revision >= revision {
			at = min(at, b.at)
		}
	}
	return at
}

func (r *resolver) place(o *Op) {
	if o.Kind == GetAt || o.Kind == GetStale {
		return
	}
	switch {
	case o.Outcome == Done:
		revision := int64(0)
		if o.Changed() {
			revision = o.Revision
		}
		for n, key := range o.Keys {
			r.out[key] = append(r.out[key], interval{step{o, n, revision}, o.Call, o.Return})
		}
	case o.Outcome == Unknown && o.Kind.Puts():
		r.placeOpen(o)
	}
}

func (r *resolver) placeOpen(o *Op) {
	for n, key := range o.Keys {
		w := written{key, o.Value}
		revision := r.shown[w]
		if at := r.c.written[w]; len(at) > 0 {
			revision = at[0]
		}
		if revision == 0 {
			continue
		}
		done := *o
		done.Succeeded = true
		r.out[key] = append(r.out[key], interval{step{&done, n, revision}, o.Call, max(o.Call, r.by(key, revision))})
	}
}

// placeDeletions places the deletions that nobody acknowledged. Which request of unknown outcome made which does not show: each may have been
// made at any instant after the first of those that fit was begun.
func (r *resolver) placeDeletions(key string) {
	for _, e := range r.c.timeline.byKey[key] {
		if !e.Deletes() || r.deletions[key][e.Revision] {
			continue
		}
		fit := slices.DeleteFunc(slices.Clone(r.open[key]), func(o *Op) bool { return !r.c.mayHaveDeleted(o, e) })
		if len(fit) == 0 {
			continue // told by checkDeletions
		}
		first := slices.MinFunc(fit, func(a, b *Op) int { return int(min(max(a.Call-b.Call, -1), 1)) })
		done := *first
		done.Succeeded, done.Compare = true, Compare{}
		r.out[key] = append(r.out[key], interval{step{&done, 0, e.Revision}, first.Call, max(first.Call, r.by(key, e.Revision))})
	}
}
