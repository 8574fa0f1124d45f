package ledger

import (
	"slices"
)

// Event is one change as a watch showed it.
type Event struct {
	Key      string
	Nonce    string // of a put
	Revision int64
	Deleted  bool
}

// History is what a watch of the prefix showed of all revisions after From, up to and including To.
type History struct {
	Name     string
	From, To int64
	Events   []Event
}

// checkHistory checks that a history has every write of its span once, in order, and nothing else. What links the writes of a
// key is checked with its chain, which knows the history's puts too.
func (c *checker) checkHistory(h History) {
	has := map[int64]Event{}
	last := int64(0)
	for _, ev := range h.Events {
		if ev.Revision <= last {
			c.violate(WatchGap, ev.Key, nil, "%s: revision %d comes after %d", h.Name, ev.Revision, last)
		}
		if ev.Revision <= h.From || ev.Revision > h.To {
			c.violate(WatchGap, ev.Key, nil, "%s: revision %d lies outside of (%d, %d]", h.Name, ev.Revision, h.From, h.To)
		}
		last = max(last, ev.Revision)
		has[ev.Revision] = ev
		if ev.Deleted {
			c.checkDeleteEvent(h, ev)
		}
	}
	for _, w := range c.knownWrites() {
		if w.revision <= h.From || w.revision > h.To {
			continue
		}
		ev, ok := has[w.revision]
		if !ok || ev.Key != w.by.Key || ev.Deleted != (w.by.Op == Delete) || !ev.Deleted && ev.Nonce != w.by.Nonce {
			c.violate(WatchGap, w.by.Key, []*Entry{w.by}, "%s: lacks the %s at revision %d", h.Name, w.by.Op, w.revision)
		}
	}
}

// checkDeleteEvent checks that somebody asked for the delete, of the state that the key was in.
func (c *checker) checkDeleteEvent(h History, ev Event) {
	k := c.keys[ev.Key]
	if k == nil {
		c.violate(WatchGap, ev.Key, nil, "%s: deletes a key that nobody wrote, at revision %d", h.Name, ev.Revision)
		return
	}
	before := int64(0)
	for rev := range k.puts {
		if rev < ev.Revision {
			before = max(before, rev)
		}
	}
	asked := slices.ContainsFunc(k.deletes, func(d *Entry) bool {
		return d.Compared == before && (d.Outcome == Unknown || d.Revision == ev.Revision)
	})
	if !asked {
		c.violate(WatchGap, ev.Key, nil, "%s: deletes revision %d at revision %d, which nobody asked for", h.Name, before, ev.Revision)
	}
}
