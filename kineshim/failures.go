package kineshim

import (
	"sync"
	"sync/atomic"
)

// failures counts what went wrong between an engine and its database. kine takes some of it for an answer (a list that ends
// early, a lost race), so whoever asks kine compares the count before with the count after. The zero value is ready.
type failures struct {
	n atomic.Uint64

	mu      sync.Mutex // guards the fields below, and orders them with n
	last    string
	changed chan struct{}
}

// add counts one failure. It returns before the failure can have any effect on the engine, if its caller sees to that.
func (f *failures) add(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n.Add(1)
	f.last = what
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// count is the number of failures so far.
func (f *failures) count() uint64 { return f.n.Load() }

// why is the last failure, for messages; empty when there was none.
func (f *failures) why() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// watch returns the count and a channel that is closed by the next failure after it.
func (f *failures) watch() (uint64, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.n.Load(), f.changed
}
