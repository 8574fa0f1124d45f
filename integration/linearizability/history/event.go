package history

import (
	"fmt"
	"slices"
	"sort"
)

// Event is a change of one key.
type Event struct {
	Revision int64  `json:"revision"`
	Key      string `json:"key"`
	// KV is the state after the change; of a deletion, absent.
	KV KV `json:"kv,omitzero"`
}

// Deletes says whether the event is a deletion.
func (e Event) Deletes() bool { return !e.KV.Exists() }

func (e Event) String() string {
	if e.Deletes() {
		return fmt.Sprintf("%d: %s deleted", e.Revision, e.Key)
	}
	return fmt.Sprintf("%d: %s = %s (created %d, version %d)", e.Revision, e.Key, e.KV.Value, e.KV.Create, e.KV.Version)
}

// Timeline is the store's own history of all keys of a run, from before their first change.
type Timeline struct {
	Events []Event
	byKey  map[string][]Event
}

// NewTimeline takes the events in the order of their revisions.
func NewTimeline(events []Event) *Timeline {
	t := &Timeline{Events: events, byKey: map[string][]Event{}}
	for _, e := range events {
		t.byKey[e.Key] = append(t.byKey[e.Key], e)
	}
	return t
}

// Last is the revision of the last event; 0 if there is none.
func (t *Timeline) Last() int64 {
	if len(t.Events) == 0 {
		return 0
	}
	return t.Events[len(t.Events)-1].Revision
}

// State is the state of a key as of a revision.
func (t *Timeline) State(key string, revision int64) KV {
	events := t.byKey[key]
	n := sort.Search(len(events), func(i int) bool { return events[i].Revision > revision })
	if n == 0 {
		return KV{}
	}
	return events[n-1].KV
}

// at is the event of a key at exactly a revision.
func (t *Timeline) at(key string, revision int64) (Event, bool) {
	events := t.byKey[key]
	n := sort.Search(len(events), func(i int) bool { return events[i].Revision >= revision })
	if n < len(events) && events[n].Revision == revision {
		return events[n], true
	}
	return Event{}, false
}

func (t *Timeline) keys() []string {
	out := make([]string, 0, len(t.byKey))
	for key := range t.byKey {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}

// checkTimeline checks that the events are a possible history of a store.
func (c *checker) checkTimeline() {
	last := int64(0)
	keys := map[string]bool{} // of the present revision
	for _, e := range c.timeline.Events {
		if e.Revision < last {
			c.violate(BrokenTimeline, e.Key, "event %v comes after revision %d", e, last)
		}
		if e.Revision != last {
			clear(keys)
		}
		if keys[e.Key] {
			c.violate(BrokenTimeline, e.Key, "two events at revision %d", e.Revision)
		}
		keys[e.Key], last = true, e.Revision
	}
	for _, key := range c.timeline.keys() {
		before := KV{}
		for _, e := range c.timeline.byKey[key] {
			c.checkSuccession(before, e)
			before = e.KV
		}
	}
}

func (c *checker) checkSuccession(before KV, e Event) {
	if e.Deletes() {
		if !before.Exists() {
			c.violate(BrokenTimeline, e.Key, "event %v of an absent key", e)
		}
		return
	}
	want := after(before, e.KV.Value, e.Revision)
	if e.KV != want {
		c.violate(BrokenTimeline, e.Key, "event %v does not follow %v", e, before)
	}
}

// after is the state of a key after a put.
func after(before KV, value string, revision int64) KV {
	create := before.Create
	if !before.Exists() {
		create = revision
	}
	return KV{Value: value, Create: create, Mod: revision, Version: before.Version + 1}
}

// All is the state of all keys as of a revision, without those that are absent.
func (t *Timeline) All(revision int64) map[string]KV {
	out := map[string]KV{}
	for key := range t.byKey {
		if kv := t.State(key, revision); kv.Exists() {
			out[key] = kv
		}
	}
	return out
}
