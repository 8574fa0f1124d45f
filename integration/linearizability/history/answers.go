package history

// checkAnswers compares each answer with the state at its revision. That is also what makes a read of two keys a snapshot: both must be
// as they were at the one revision of the answer.
func (c *checker) checkAnswers() {
	for i := range c.in.Ops {
		o := &c.in.Ops[i]
		if o.Outcome != Done {
			continue
		}
		at := o.Revision // the revision before the request took effect
		if o.Changed() {
			at--
		}
		if o.Kind == GetAt {
			at = o.At
		}
		if o.Looked {
			for n, key := range o.Keys {
				if have := c.timeline.State(key, at); have != o.Seen[n] {
					c.violate(WrongState, key, "at revision %d it was %v, but: %v", at, have, o)
				}
			}
		}
		c.checkCompared(o, at)
	}
}

func (c *checker) checkCompared(o *Op, at int64) {
	if !o.Kind.Writes() {
		return
	}
	key := o.Keys[0]
	state := c.timeline.State(key, at)
	if o.Compare.Target != None && o.Compare.Holds(state) != o.Succeeded {
		c.violate(WrongState, key, "at revision %d it was %v, but: %v", at, state, o)
	}
	if (o.Kind == Delete || o.Kind == Remove) && o.Succeeded && state.Exists() != (o.Deleted == 1) {
		c.violate(WrongState, key, "at revision %d it was %v, but: %v", at, state, o)
	}
}
