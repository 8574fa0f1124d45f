package raftwitness

import (
	"maps"
	"sync"
	"time"
)

// lease is a leader's right to answer without asking: while it runs, no other node can have been elected.
//
// It rests on promises. A voter that has heard from the leader of a term votes for nobody else for one promise period from
// when it heard. The leader counts from when it *sent*, which is earlier, and for a shorter time, so that clocks whose rates
// differ by less than the margin agree. hashicorp/raft's VerifyLeader is not used: an answer to a heartbeat that was sent
// long before the question (the process was stopped in between) would satisfy it.
type lease struct {
	now func() time.Duration
	// length is the lease's length, below the promise period.
	length time.Duration

	mu       sync.Mutex         // guards the fields below
	contacts map[string]contact // by server ID of the other voters
	// forfeited is the newest term in which leadership was, or may have been, handed over: no lease in it, ever again.
	forfeited uint64
}

// contact is one successful AppendEntries.
type contact struct {
	term uint64
	sent time.Duration
}

// leasePerMille of the promise is the lease: clock rates of two machines that differ by 30 % are broken.
const leasePerMille = 700

func newLease(promise time.Duration, now func() time.Duration) *lease {
	return &lease{now: now, length: promise * leasePerMille / 1000, contacts: map[string]contact{}}
}

// contacted notes that the voter, at the given term, has answered a request sent at the given time.
func (l *lease) contacted(server string, term uint64, sent time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.contacts[server]; term > c.term || term == c.term && sent > c.sent {
		l.contacts[server] = contact{term, sent}
	}
}

// forget drops the contacts of a server that is no voter any more: what it has promised binds nobody.
func (l *lease) forget(gone func(server string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.contacts, func(server string, _ contact) bool { return gone(server) })
}

// forfeit gives up the lease of the term for ever. To be called before leadership is offered to anybody.
func (l *lease) forfeit(term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forfeited = max(l.forfeited, term)
}

func (l *lease) isForfeited(term uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return term <= l.forfeited
}

// left is how long the lease of the term will run if no voter answers again; 0: there is none. One other voter is enough:
// with the leader itself it is a majority of three.
func (l *lease) left(term uint64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if term == 0 || term <= l.forfeited {
		return 0
	}
	var end time.Duration
	for _, c := range l.contacts {
		if c.term == term {
			end = max(end, c.sent+l.length)
		}
	}
	return max(0, end-l.now())
}

// age is the time since the voter answered in the given term; ok is false if it has not.
func (l *lease) age(server string, term uint64) (age time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.contacts[server]
	if !ok || c.term != term {
		return 0, false
	}
	return l.now() - c.sent, true
}
