package sim

import "time"

// candidacy is a campaign under way.
type candidacy struct {
	// pre: it asks first whether it would win.
	pre bool
	// told: it was told to campaign (TimeoutNow), so that hashicorp/raft does not heed the winner of the same term.
	told  bool
	term  uint64
	votes int
	gen   int
}

// vote is a request for a vote or, with pre, the question whether there would be one.
type vote struct {
	from              int
	pre               bool
	term              uint64
	lastIndex, lastIn uint64
	// transferOf is 1 + the term whose leadership was handed over for it; 0: none.
	transferOf uint64
}

const (
	lookEvery = 10 * time.Millisecond // see raftwitness's impatience
	eagerly   = 20
	patiently = 200 * time.Millisecond
)

func (v *voter) armTimer(d time.Duration) {
	gen := v.timerGen
	v.p.after(d, func() {
		if v.timerGen == gen {
			v.onTimer()
		}
	})
}

// timer is hashicorp/raft's heartbeat timer of a follower, and the election timer of a candidate.
func (v *voter) timer() {
	timeout := v.heartbeatTimeout()
	if v.state == follower {
		if age := v.w.mono(v.m) - v.lastContact; age < timeout {
			v.armTimer(timeout - age + v.w.within(timeout))
			return
		}
	}
	if v.state != leader {
		v.campaign(false, 0)
	}
}

// look is raftwitness's impatience: a data node asks as soon as the promises have run out.
func (v *voter) look() {
	next := lookEvery
	if over := v.promisedAt + v.w.promise - v.w.boot(v.m); v.promised >= 0 && over > next {
		next = over
	}
	if v.promised >= 0 && v.promiseOver() && v.state == follower && !v.silent() && !v.asking {
		if v.asked++; v.asked > eagerly {
			next = patiently
		}
		v.asking = true
		v.p.after(v.w.promise/2, func() { v.asking = false })
		q := v.request(true, v.term+1, 0)
		for i := range nodes {
			if i != v.id && i != v.promised {
				v.ask(i, q, func(granted bool, _ uint64) {
					v.asking = false
					if granted && v.state == follower && v.promiseOver() && !v.silent() {
						v.campaign(true, 0)
					}
				})
			}
		}
	} else if !v.promiseOver() {
		v.asked = 0
	}
	v.p.after(next, v.look)
}

func (v *voter) request(pre bool, term, transferOf uint64) vote {
	return vote{from: v.id, pre: pre, term: term, lastIndex: v.last(), lastIn: v.termOf(v.last()), transferOf: transferOf}
}

// campaign makes this voter a candidate; told: without asking first whether it would win.
func (v *voter) campaign(told bool, transferOf uint64) {
	v.become(candidate)
	c := &v.candidacy
	*c = candidacy{pre: !told, told: told, votes: 1, gen: c.gen + 1}
	timeout := v.heartbeatTimeout()
	v.armTimer(timeout + v.w.within(timeout))
	if told {
		v.stand(transferOf)
		return
	}
	v.solicit(v.request(true, v.term+1, 0))
}

// stand votes for itself in the next term and asks the others.
func (v *voter) stand(transferOf uint64) {
	v.setTerm(v.term + 1)
	v.votedFor = v.id
	v.candidacy.term, v.candidacy.pre, v.candidacy.votes = v.term, false, 1
	if transferOf != v.term {
		transferOf = 0
	}
	v.w.sayf(v.id, "stands for election in term %d", v.term)
	gen := v.candidacy.gen
	v.p.disk(func() {
		if v.state == candidate && v.candidacy.gen == gen && v.term == v.candidacy.term {
			v.solicit(v.request(false, v.term, transferOf))
		}
	})
}

func (v *voter) solicit(q vote) {
	gen := v.candidacy.gen
	if q.transferOf == 0 && v.forbids(v.id) { // its own candidacy keeps its promise
		return
	}
	for i := range nodes {
		if i == v.id {
			continue
		}
		v.ask(i, q, func(granted bool, term uint64) {
			if v.state != candidate || v.candidacy.gen != gen || v.candidacy.pre != q.pre {
				return
			}
			if !granted {
				if term > max(v.term, q.term) || term > v.term && !q.pre {
					v.setTerm(term)
					v.become(follower)
				} else if term > v.term {
					v.setTerm(term)
					v.become(follower)
				}
				return
			}
			if v.candidacy.votes++; v.candidacy.votes == 2 {
				if q.pre {
					v.stand(0)
				} else {
					v.elected()
				}
			}
		})
	}
}

// ask sends a request for a vote; answer is called if it is answered.
func (v *voter) ask(to int, q vote, answer func(granted bool, term uint64)) {
	o := v.w.voters[to]
	v.w.deliver(v.id, o.p, 0, func() {
		granted, term := o.judge(q)
		reply := func() { v.w.deliver(to, v.p, 0, func() { answer(granted, term) }) }
		if granted && !q.pre {
			o.p.disk(reply)
		} else {
			reply()
		}
	})
}

// judge answers a request for a vote: the voter's own rules, then hashicorp/raft's.
func (v *voter) judge(q vote) (granted bool, term uint64) {
	if v.silent() || !(q.transferOf != 0 && !q.pre && q.term == q.transferOf) && v.bound(q.from) {
		return false, v.term
	}
	if q.term < v.term {
		return false, v.term
	}
	lastIn := v.termOf(v.last())
	behind := lastIn > q.lastIn || lastIn == q.lastIn && v.last() > q.lastIndex
	if q.pre {
		if behind {
			return false, v.term
		}
		return true, q.term
	}
	if q.term > v.term {
		v.setTerm(q.term)
		v.become(follower)
	}
	if v.votedFor >= 0 && v.votedFor != q.from || behind {
		return false, v.term
	}
	v.votedFor = q.from
	v.lastContact = v.w.mono(v.m)
	return true, v.term
}

// offered is TimeoutNow: the leader of the term tells this voter to campaign.
func (v *voter) offered(term uint64) {
	if term != v.term || v.state == leader {
		return
	}
	v.transfer = term + 1
	v.campaign(true, v.transfer)
}
