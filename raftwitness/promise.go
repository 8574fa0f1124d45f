package raftwitness

import (
	"sync"
	"time"
)

// promised is what a voter has promised to the leader that it heard last: to vote for nobody else for a while.
//
// A promise ends with its time, or with proof that nothing rests on it any more: a departure. "Server A, terms up to T, has
// departed" says that the process which was A, and which may have had leases in terms up to T, has ended, all its threads. Leases
// live in a process's memory and nowhere else, so none of A's in those terms is left, and what was promised to A in them protects
// nobody. What A's next life is promised is not touched, however late the news comes: that life begins in the term that A has
// stored, which is at least T, since A took part in T; and a server leads only in terms that it begins itself, beyond the one it
// is in. So the next life leads in terms above T only, and a promise made to it names such a term.
type promised struct {
	now    func() time.Duration
	length time.Duration

	mu sync.Mutex // guards the fields below
	// leader was heard last, at the given time, as the leader of the term; "" if none was, or if it has departed.
	leader string
	term   uint64
	at     time.Duration
	// departed has, by server ID, the newest term up to which the server has departed: of what it sent before, something may
	// still arrive. It grows with the voters of the cluster only.
	departed map[string]uint64
}

func newPromised(length time.Duration, now func() time.Duration) *promised {
	return &promised{now: now, length: length, departed: map[string]uint64{}}
}

// to notes that the leader of the term has been heard.
func (p *promised) to(leader string, term uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if term > p.departed[leader] {
		p.leader, p.term, p.at = leader, term, p.now()
	}
}

// forbids says why the promise forbids a vote for the candidate; "" if it does not.
func (p *promised) forbids(candidate string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leader != "" && p.leader != candidate && p.now() < p.at+p.length {
		return "promised to " + p.leader
	}
	return ""
}

// over says that a leader was heard, and that what it was promised has run out.
func (p *promised) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leader != "" && p.now() >= p.at+p.length
}

// leads says whether the server is the leader that was heard last.
func (p *promised) leads(server string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leader == server
}

// depart notes that the server has departed from the terms up to the given one. It reports whether that server was the leader
// heard last; if so, nothing is promised any more.
func (p *promised) depart(server string, term uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.departed[server] = max(p.departed[server], term)
	if p.leader == "" || p.leader != server || p.term > term {
		return false
	}
	p.leader = ""
	return true
}
