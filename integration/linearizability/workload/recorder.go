// Package workload makes concurrent requests and watches at both nodes of a cluster, and records what each was answered.
package workload

import (
	"sync"
	"time"

	"kineshim.example/linearizability/history"
)

// Recorder collects what clients were answered, on one monotonic clock. It may be used by several goroutines.
type Recorder struct {
	start time.Time

	mu      sync.Mutex // guards the fields below
	ops     []history.Op
	sights  []history.Sight
	top     int64 // the largest revision of sights
	clients int
	odds    []history.Violation
}

// NewRecorder returns a recorder whose clock begins now.
func NewRecorder() *Recorder { return &Recorder{start: time.Now()} }

// Now is the time in nanoseconds.
func (r *Recorder) Now() int64 { return int64(time.Since(r.start)) }

// sequence is a new number for requests that do not overlap.
func (r *Recorder) sequence() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients++
	return r.clients - 1
}

// add takes in a request that is over.
func (r *Recorder) add(o history.Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, o)
}

// Malformed is the rule that answers break which no server may give.
const Malformed history.Rule = "malformed answer"

// odd notes a request that got a malformed answer.
func (r *Recorder) odd(o *history.Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.odds = append(r.odds, history.Violation{Rule: Malformed, Message: o.String()})
}

// Odds are the malformed answers.
func (r *Recorder) Odds() []history.Violation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.odds
}

// Saw notes that a watch has shown a revision just now. Only one that nothing has shown before says something.
func (r *Recorder) Saw(revision int64, by string) {
	at := r.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if revision > r.top {
		r.top = revision
		r.sights = append(r.sights, history.Sight{Revision: revision, At: at, By: by})
	}
}

// newest is the largest revision that a watch has shown.
func (r *Recorder) newest() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.top
}

// Ops are all requests so far.
func (r *Recorder) Ops() []history.Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ops[:len(r.ops):len(r.ops)]
}

// Sights are the revisions that watches have shown first.
func (r *Recorder) Sights() []history.Sight {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sights[:len(r.sights):len(r.sights)]
}

// WritesSince is how many writes through a node that were begun after an instant have been acknowledged; an empty node is any.
func (r *Recorder) WritesSince(at int64, node string) int {
	n := 0
	ops := r.Ops()
	for i := len(ops) - 1; i >= 0 && i >= len(ops)-recent; i-- {
		if o := &ops[i]; o.Call > at && o.Changed() && (node == "" || o.Node == node) {
			n++
		}
	}
	return n
}

// recent bounds how many of the last requests WritesSince looks at: more than are made between two of its calls.
const recent = 5000
