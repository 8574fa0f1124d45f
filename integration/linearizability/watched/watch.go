// Package watched checks what watches were shown against etcd's guarantees: events are ordered, unique, reliable, atomic, resumable and
// bookmarkable (https://etcd.io/docs/v3.6/learning/api_guarantees/#watch-apis), and show the previous values that were asked for.
//
// The package is pure: it does no I/O and reads no clock.
package watched

import (
	"sync"

	"kineshim.example/linearizability/history"
)

// Change is an event as a watch shows it.
type Change struct {
	history.Event
	// Prev is the state before the event, if it is shown.
	Prev history.KV
}

// Book keeps each change once, however many watches show it. It may be used by several goroutines.
type Book struct {
	mu  sync.Mutex // guards all
	all map[Change]*Change
}

// NewBook returns an empty book.
func NewBook() *Book { return &Book{all: map[Change]*Change{}} }

// Of is the book's copy of a change.
func (b *Book) Of(c Change) *Change {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known := b.all[c]; known != nil {
		return known
	}
	b.all[c] = &c
	return &c
}

// Item is something that happened to a watch.
type Item struct {
	// Resumed is the revision from which the watch was begun again, after the process that served it had been killed. Nothing else is set then.
	Resumed int64
	// Revision is that of the response's header. Without events, it is a bookmark.
	Revision int64
	Events   []*Change
	// Fragment: the next response goes on with this one.
	Fragment bool
}

// Watch is a watch with all that it was shown.
type Watch struct {
	Name string
	// From is the first revision asked for.
	From int64
	// Wants says which keys are watched.
	Wants                             func(key string) bool
	NoPut, NoDelete, PrevKV, Fragment bool
	Items                             []Item
	// Broken are ends of the watch for which no process had to be killed.
	Broken []string
}

// expects are the events that the watch has to show.
func (w *Watch) expects(events []history.Event) []history.Event {
	var out []history.Event
	for _, e := range events {
		if e.Revision < w.From || !w.Wants(e.Key) || w.NoPut && !e.Deletes() || w.NoDelete && e.Deletes() {
			continue
		}
		out = append(out, e)
	}
	return out
}
