package history

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
)

// moment is a revision that was certain at an instant.
type moment struct {
	revision int64
	at       int64
	by       fmt.Stringer
}

func (s Sight) String() string {
	return fmt.Sprintf("%s showed revision %d [%.3f ms]", s.By, s.Revision, float64(s.At)/1e6)
}

// checkRealTime checks that revisions never go back along real time, through whichever node: the revision of every linearizable answer is at least
// that of all that was known before it was asked for, and a write's is greater.
func (c *checker) checkRealTime() {
	known := c.known
	ops := make([]*Op, 0, len(c.in.Ops))
	for i := range c.in.Ops {
		ops = append(ops, &c.in.Ops[i])
	}
	slices.SortFunc(ops, func(a, b *Op) int { return cmp.Compare(a.Call, b.Call) })
	var top moment
	i := 0
	for _, o := range ops {
		for ; i < len(known) && known[i].at < o.Call; i++ {
			if known[i].revision > top.revision {
				top = known[i]
			}
		}
		revision, made := c.revisionOf(o)
		if revision == 0 || !o.Linearizable() || revision > top.revision || !made && revision == top.revision {
			continue
		}
		c.violate(Rewound, "", "revision %d, although %d was known before it began:\n\t%v\n\t%v", revision, top.revision, top.by, o)
	}
}

// moments are all revisions that a client had heard of, with the instant from which on it had, in the order of the instants.
func (c *checker) moments() []moment {
	var out []moment
	for i := range c.in.Ops {
		if o := &c.in.Ops[i]; o.Outcome == Done {
			out = append(out, moment{o.Revision, o.Return, o})
		}
	}
	for _, s := range c.in.Sights {
		out = append(out, moment{s.Revision, s.At, s})
	}
	slices.SortFunc(out, func(a, b moment) int { return cmp.Compare(a.at, b.at) })
	return out
}

// records are the moments at which a revision became known that was greater than all before.
func records(known []moment) []moment {
	var out []moment
	for _, m := range known {
		if len(out) == 0 || m.revision > out[len(out)-1].revision {
			out = append(out, m)
		}
	}
	return out
}

// knownBy is the instant by which a revision had certainly been made.
func (c *checker) knownBy(revision int64) int64 {
	i := sort.Search(len(c.records), func(i int) bool { return c.records[i].revision >= revision })
	if i == len(c.records) {
		return Forever
	}
	return c.records[i].at
}

// revisionOf is the revision of a request, 0 if there is none, and whether it made it. A put of unknown outcome has that of its event.
func (c *checker) revisionOf(o *Op) (revision int64, made bool) {
	if o.Outcome == Done {
		return o.Revision, o.Changed()
	}
	if o.Outcome == Unknown && o.Kind.Puts() {
		if at := c.written[written{o.Keys[0], o.Value}]; len(at) == 1 {
			return at[0], true
		}
	}
	return 0, false
}
