package watched

import (
	"fmt"
	"slices"

	"kineshim.example/linearizability/history"
)

// Rules that a watch may break.
const (
	// Unordered: an event came after one of a later revision.
	Unordered history.Rule = "watch not ordered"
	// Duplicate: an event came twice.
	Duplicate history.Rule = "watch not unique"
	// Gap: an event did not come.
	Gap history.Rule = "watch not reliable"
	// Torn: the events of one revision did not come in one response.
	Torn history.Rule = "watch not atomic"
	// Ahead: a bookmark was sent before all events up to its revision.
	Ahead history.Rule = "watch not bookmarkable"
	// Foreign: an event is not of the store's history, or was not asked for.
	Foreign history.Rule = "watch shows what was not asked for"
	// WrongPrev: the previous value is not what the key had before.
	WrongPrev history.Rule = "watch shows a wrong previous value"
	// Broken: the watch ended although the process that served it lived.
	Broken history.Rule = "watch broken off"
)

// maxOfWatch bounds how many violations of one watch are told.
const maxOfWatch = 10

// Check returns what a watch was shown, or not shown, against the guarantees. The timeline is the store's whole history; events up to
// the revision through must have come.
func Check(w *Watch, timeline *history.Timeline, through int64) []history.Violation {
	c := &checker{w: w, timeline: timeline, expected: w.expects(timeline.Events)}
	for _, why := range w.Broken {
		c.violate(Broken, "%s", why)
	}
	for _, item := range w.Items {
		switch {
		case item.Resumed > 0:
			c.resume(item.Resumed)
		case len(item.Events) == 0:
			c.mark(item.Revision)
		default:
			c.response(item)
		}
	}
	if c.next < len(c.expected) && c.expected[c.next].Revision <= through {
		c.violate(Gap, "at the end, after revision %d, lacks %v", c.last, c.expected[c.next])
	}
	if c.count > maxOfWatch {
		c.found = append(c.found, history.Violation{Rule: c.found[0].Rule, Message: fmt.Sprintf("%s: %d more of this watch", w.Name, c.count-maxOfWatch)})
	}
	return c.found
}

type checker struct {
	w        *Watch
	timeline *history.Timeline
	expected []history.Event
	next     int   // of the expected events, the first that has not come
	last     int64 // the revision of the last event
	bookmark int64
	// within: the last response was a fragment that goes on.
	within bool
	count  int
	found  []history.Violation
}

func (c *checker) violate(rule history.Rule, format string, args ...any) {
	c.count++
	if c.count <= maxOfWatch {
		c.found = append(c.found, history.Violation{Rule: rule, Message: c.w.Name + ": " + fmt.Sprintf(format, args...)})
	}
}

// resume begins anew from a revision: what comes from there on comes again.
func (c *checker) resume(from int64) {
	c.next = slices.IndexFunc(c.expected, func(e history.Event) bool { return e.Revision >= from })
	if c.next < 0 {
		c.next = len(c.expected)
	}
	c.last, c.bookmark, c.within = from-1, from-1, false
}

func (c *checker) mark(revision int64) {
	if c.next < len(c.expected) && c.expected[c.next].Revision <= revision {
		c.violate(Ahead, "bookmark %d was sent before %v", revision, c.expected[c.next])
	}
	c.bookmark = max(c.bookmark, revision)
}

func (c *checker) response(r Item) {
	if first := r.Events[0].Revision; !c.within && first == c.last {
		c.violate(Torn, "revision %d is in two responses", first)
	}
	for _, e := range r.Events {
		c.event(e)
	}
	if c.last > r.Revision {
		c.violate(Unordered, "an event of revision %d under the revision %d", c.last, r.Revision)
	}
	if c.within = r.Fragment; r.Fragment {
		if !c.w.Fragment {
			c.violate(Torn, "the response of revision %d is in fragments, which were not asked for", r.Revision)
		}
		return
	}
	if c.next < len(c.expected) && c.expected[c.next].Revision == c.last {
		c.violate(Torn, "the response with revision %d lacks %v", c.last, c.expected[c.next])
	}
}

func (c *checker) event(e *Change) {
	if e.Revision < c.last {
		c.violate(Unordered, "%v came after revision %d", e.Event, c.last)
	}
	if e.Revision <= c.bookmark {
		c.violate(Ahead, "%v came after bookmark %d", e.Event, c.bookmark)
	}
	c.last = max(c.last, e.Revision)
	want := history.KV{}
	if c.w.PrevKV {
		want = c.timeline.State(e.Key, e.Revision-1)
	}
	if e.Prev != want {
		c.violate(WrongPrev, "%v shows the previous value %v, not %v", e.Event, e.Prev, want)
	}
	if c.next < len(c.expected) && c.expected[c.next] == e.Event {
		c.next++
		return
	}
	c.misplaced(e.Event)
}

// misplaced says what is wrong with an event that is not the next one.
func (c *checker) misplaced(e history.Event) {
	at := slices.Index(c.expected, e)
	switch {
	case at < 0:
		c.violate(Foreign, "%v", e)
	case at < c.next:
		c.violate(Duplicate, "%v", e)
	default:
		c.violate(Gap, "%d events lack before %v, the first is %v", at-c.next, e, c.expected[c.next])
		c.next = at + 1
	}
}
