package history

// checkWrites compares the requests that write with the events: each acknowledged one has made exactly its event, and each event was made
// by a request that may have been done.
func (c *checker) checkWrites() {
	byRevision := map[int64]*Op{}
	writer := map[written]*Op{}
	for i := range c.in.Ops {
		o := &c.in.Ops[i]
		if o.Kind.Puts() {
			for _, key := range o.Keys {
				writer[written{key, o.Value}] = o
			}
			c.checkPut(o)
		}
		if !o.Changed() {
			continue
		}
		if other := byRevision[o.Revision]; other != nil {
			c.violate(Reused, "", "revision %d was made by two requests:\n\t%v\n\t%v", o.Revision, other, o)
		}
		byRevision[o.Revision] = o
		if !o.Kind.Puts() {
			c.checkDeletion(o)
		}
	}
	for _, e := range c.timeline.Events {
		if !e.Deletes() && writer[written{e.Key, e.KV.Value}] == nil {
			c.violate(Foreign, e.Key, "no request wrote event %v", e)
		}
	}
	c.checkDeletions()
}

// checkPut compares a request that puts with the events that have its value.
func (c *checker) checkPut(o *Op) {
	for _, key := range o.Keys {
		at := c.written[written{key, o.Value}]
		switch {
		case len(at) > 1:
			c.violate(Twice, key, "at revisions %v: %v", at, o)
		case o.Changed() && len(at) == 0:
			c.violate(Lost, key, "in no event: %v", o)
		case o.Changed() && at[0] != o.Revision:
			c.violate(Lost, key, "in the event of revision %d: %v", at[0], o)
		case !o.Changed() && o.Outcome != Unknown && len(at) > 0:
			c.violate(FalseClaim, key, "done at revision %d: %v", at[0], o)
		}
	}
	if len(o.Keys) == 2 {
		one, two := c.written[written{o.Keys[0], o.Value}], c.written[written{o.Keys[1], o.Value}]
		if len(one) != len(two) || len(one) > 0 && one[0] != two[0] {
			c.violate(Lost, "", "done in part, at revisions %v and %v: %v", one, two, o)
		}
	}
}

func (c *checker) checkDeletion(o *Op) {
	if e, ok := c.timeline.at(o.Keys[0], o.Revision); !ok || !e.Deletes() {
		c.violate(Lost, o.Keys[0], "no deletion at its revision: %v", o)
	}
}

// checkDeletions checks that each deletion was made by a request of its own: by the one that was acknowledged with its revision, or
// by one whose outcome is unknown.
func (c *checker) checkDeletions() {
	acknowledged := map[string]map[int64]bool{}
	open := map[string][]*Op{}
	for i := range c.in.Ops {
		o := &c.in.Ops[i]
		if o.Kind != Delete && o.Kind != Remove {
			continue
		}
		key := o.Keys[0]
		switch {
		case o.Changed():
			if acknowledged[key] == nil {
				acknowledged[key] = map[int64]bool{}
			}
			acknowledged[key][o.Revision] = true
		case o.Outcome == Unknown:
			open[key] = append(open[key], o)
		}
	}
	for _, key := range c.timeline.keys() {
		var left []Event
		for _, e := range c.timeline.byKey[key] {
			if e.Deletes() && !acknowledged[key][e.Revision] {
				left = append(left, e)
			}
		}
		c.attribute(key, left, open[key])
	}
}

// attribute finds a request of its own for each deletion (Kuhn's algorithm; the numbers are small).
func (c *checker) attribute(key string, deletions []Event, open []*Op) {
	by := make([]int, len(open)) // the deletion of each request; -1: none
	for i := range by {
		by[i] = -1
	}
	var tried []bool
	var find func(d int) bool
	find = func(d int) bool {
		for i, o := range open {
			if tried[i] || !c.mayHaveDeleted(o, deletions[d]) {
				continue
			}
			tried[i] = true
			if by[i] < 0 || find(by[i]) {
				by[i] = d
				return true
			}
		}
		return false
	}
	for d, e := range deletions {
		tried = make([]bool, len(open))
		if !find(d) {
			c.violate(Foreign, key, "no request can have made event %v (%d other requests have an unknown outcome)", e, len(open))
		}
	}
}

// mayHaveDeleted says whether a request of unknown outcome can be the one that made a deletion.
func (c *checker) mayHaveDeleted(o *Op, e Event) bool {
	return o.Call <= c.knownBy(e.Revision) && o.Compare.Holds(c.timeline.State(e.Key, e.Revision-1))
}
