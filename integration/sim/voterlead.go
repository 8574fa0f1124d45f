package sim

import (
	"errors"
	"time"

	"kineshim/raftwitness/record"
)

type proposalOutcome int

const (
	notDone proposalOutcome = iota
	done
	unknown
)

var (
	errNotLeader = errors.New("not the Raft leader")
	errLostLead  = errors.New("leadership lost")
)

// leadership is what a leader keeps about one term.
type leadership struct {
	since     time.Duration // mono
	sinceBoot time.Duration
	first     uint64 // index of the term's first entry
	to        [nodes]peerLog
	handing   bool
	onEnd     []func()
}

// peerLog is what a leader knows of a follower.
type peerLog struct {
	next, match uint64
	// known is the commit index that the follower has been told.
	known uint64
	// contact is when it last answered, by the monotonic clock.
	contact time.Duration
	// beating and sending are when the request under way was sent; 0: none is.
	beating, sending time.Duration
}

func (l *leadership) ended() {
	for _, f := range l.onEnd {
		f()
	}
}

// rpcTimeout is raftwitness's.
func (w *World) rpcTimeout() time.Duration { return max(time.Second, 2*w.promise) }

func (v *voter) elected() {
	w := v.w
	v.become(leader)
	now := w.mono(v.m)
	v.lead = leadership{since: now, sinceBoot: w.boot(v.m)}
	for i := range nodes {
		v.lead.to[i] = peerLog{next: v.last() + 1, contact: now}
	}
	w.sayf(v.id, "leads in term %d", v.term)
	w.check.elected(v)
	w.cue(v.id, "elected")
	v.log = append(v.log, &entry{term: v.term})
	v.lead.first = v.last()
	term := v.term
	v.watched = max(v.watched, term) // OnLead, before there can be a lease
	v.onChange()
	for i := range nodes {
		if i != v.id {
			v.replicate(i)
			v.beat(i, term)
		}
	}
	if v.id == nodeW {
		v.handAway(term)
	}
}

func (v *voter) leads(term uint64) bool { return v.state == leader && v.term == term }

// beat sends heartbeats to a follower for as long as the term lasts, one at a time.
func (v *voter) beat(to int, term uint64) {
	if !v.leads(term) {
		return
	}
	w := v.w
	now := w.mono(v.m)
	// Raft's own leader lease: without a majority for a promise, it steps down.
	newest := time.Duration(0)
	for i := range nodes {
		if i != v.id {
			newest = max(newest, v.lead.to[i].contact)
		}
	}
	if now-newest > w.promise {
		v.w.say(v.id, "has heard no majority", "")
		v.become(follower)
		return
	}
	p := &v.lead.to[to]
	if p.beating == 0 || now-p.beating > w.rpcTimeout() {
		p.beating = now
		v.appendEntries(to, nil, 0, 0)
	}
	next := w.promise / 10
	v.p.after(next+w.within(next), func() { v.beat(to, term) })
}

// replicate sends what the follower lacks, one request at a time.
func (v *voter) replicate(to int) {
	p := &v.lead.to[to]
	if p.sending != 0 || p.match == v.last() && p.known == v.commit {
		return
	}
	p.sending = v.w.mono(v.m)
	prev := p.next - 1
	v.appendEntries(to, v.log[prev:], prev, v.termOf(prev))
	sent, term := p.sending, v.term
	v.p.after(v.w.promise/2, func() { // a request without an answer is repeated; hashicorp/raft waits for longer
		if v.leads(term) && v.lead.to[to].sending == sent {
			v.lead.to[to].sending = 0
			v.replicate(to)
		}
	})
}

// appendEntries sends entries, or a heartbeat (none, after index 0), and notes a successful answer as a contact.
func (v *voter) appendEntries(to int, entries []*entry, prev, prevTerm uint64) {
	w, o := v.w, v.w.voters[to]
	term, commit, sent, began := v.term, v.commit, w.boot(v.m), w.mono(v.m)
	heartbeat := entries == nil && prev == 0
	if entries != nil {
		entries = entries[:len(entries):len(entries)]
	}
	extra := time.Duration(0)
	if len(entries) > 0 {
		extra = w.within(2 * o.m.diskDelay)
	}
	w.deliver(v.id, o.p, extra, func() {
		ok, at := o.receive(v.id, term, prev, prevTerm, entries, commit, heartbeat)
		matched, told := prev+uint64(len(entries)), o.commit
		w.deliver(to, v.p, 0, func() {
			if w.mono(v.m)-began > w.rpcTimeout() {
				return // given up
			}
			if p := &v.lead.to[to]; v.leads(term) && told < p.known { // it has been restarted: hashicorp/raft repeats the commit index all the time
				p.known = told
			}
			v.answered(to, term, at, ok, heartbeat, matched, commit, sent, began)
		})
	})
}

// receive is a follower's part of appendEntries.
func (v *voter) receive(from int, term, prev, prevTerm uint64, entries []*entry, commit uint64, heartbeat bool) (ok bool, at uint64) {
	if term >= v.term {
		v.promise(from, term)
	}
	if term < v.term {
		return false, v.term
	}
	if term > v.term || v.state == leader || v.state == candidate && !v.candidacy.told {
		v.setTerm(term)
		v.become(follower)
	}
	v.lastContact = v.w.mono(v.m)
	if heartbeat {
		return true, v.term
	}
	if prev > v.last() || v.termOf(prev) != prevTerm {
		return false, v.term
	}
	for i, e := range entries {
		index := prev + uint64(i) + 1
		if index <= v.last() {
			if v.log[index-1].term == e.term {
				continue
			}
			v.log = v.log[: index-1 : index-1]
		}
		v.log = append(v.log, e)
	}
	v.setCommit(min(commit, prev+uint64(len(entries))))
	return true, v.term
}

// answered is the leader's part after an answer.
func (v *voter) answered(to int, term, at uint64, ok, heartbeat bool, matched, commit uint64, sent, began time.Duration) {
	if at > v.term {
		v.setTerm(at)
		v.become(follower)
		return
	}
	if ok && at == term { // raftwitness's voter notes it, whatever this server has become; the term tells
		if v.w.mutant("lease-from-receipt") {
			sent = v.w.boot(v.m)
		}
		if c := v.contactTerm[to]; term > c || term == c && sent > v.contactSent[to] {
			v.contactTerm[to], v.contactSent[to] = term, sent
		}
	}
	if !v.leads(term) {
		return
	}
	p := &v.lead.to[to]
	if ok {
		p.contact = v.w.mono(v.m)
	}
	if heartbeat {
		if p.beating == began {
			p.beating = 0
		}
		if ok {
			v.replicate(to)
		}
		return
	}
	if p.sending == began {
		p.sending = 0
	}
	if !ok {
		if p.next > 1 {
			p.next = max(1, min(p.next-1, v.w.voters[to].last()+1)) // hashicorp/raft's follower tells its last index
		}
	} else {
		p.match, p.next, p.known = max(p.match, matched), max(p.match, matched)+1, max(p.known, commit)
		v.advance()
	}
	if v.leads(term) {
		v.replicate(to)
	}
}

// advance commits what a majority holds, from this term's first entry on.
func (v *voter) advance() {
	most := uint64(0)
	for i := range nodes {
		if i != v.id {
			most = max(most, v.lead.to[i].match)
		}
	}
	if most < v.lead.first || most <= v.commit {
		return
	}
	term := v.term
	v.setCommit(most)
	if !v.leads(term) {
		return
	}
	if v.barrierTerm != term {
		v.p.soon(ms, func() {
			if v.leads(term) && v.barrierTerm != term {
				v.barrierTerm = term
				v.w.sayf(v.id, "knows the record of all earlier terms: %s", v.w.describe(v.rec))
				v.onChange()
			}
		})
	}
	for i := range nodes {
		if i != v.id {
			v.replicate(i)
		}
	}
}

// append adds an entry to a leader's log, after its disk; done hears what becomes of it.
func (v *voter) append(cmd *record.Command, done func(proposalOutcome, error)) {
	if v.state != leader || v.lead.handing {
		done(notDone, errNotLeader)
		return
	}
	term := v.term
	v.p.disk(func() {
		if !v.leads(term) {
			done(notDone, errNotLeader)
			return
		}
		v.log = append(v.log, &entry{term: term, cmd: cmd})
		v.proposals = append(v.proposals, &proposal{v.last(), term, done})
		for i := range nodes {
			if i != v.id {
				v.replicate(i)
			}
		}
	})
}

// handOver forfeits the lease and offers the leadership once the other has everything. done hears whether the offer was made.
func (v *voter) handOver(to int, done func(ok bool)) {
	if v.state != leader || v.lead.handing {
		done(false)
		return
	}
	w, term := v.w, v.term
	v.lead.handing = true
	answered := false
	answer := func(ok bool) {
		if !answered {
			answered = true
			done(ok)
		}
	}
	v.lead.onEnd = append(v.lead.onEnd, func() { answer(true) })
	deadline := w.mono(v.m) + v.heartbeatTimeout()
	var try func()
	try = func() {
		switch {
		case !v.leads(term):
		case w.mono(v.m) > deadline:
			v.lead.handing = false
			answer(false)
		case v.lead.to[to].match < v.last():
			v.replicate(to)
			v.p.after(5*ms, try)
		default:
			if !w.mutant("forfeit-ignored") {
				v.forfeited = max(v.forfeited, term)
			}
			w.sayf(v.id, "offers its leadership of term %d to %s", term, names[to])
			o := w.voters[to]
			w.deliver(v.id, o.p, 0, func() { o.offered(term) })
			v.p.after(v.heartbeatTimeout(), func() {
				if v.leads(term) {
					v.lead.handing = false
					answer(false)
				}
			})
		}
	}
	try()
}

// handAway is the witness's: it offers its leadership to the data node that most probably can serve.
func (v *voter) handAway(term uint64) {
	if !v.leads(term) {
		return
	}
	if to := v.successor(v.w.mono(v.m)-v.lead.since < v.w.promise/3); to >= 0 && !v.lead.handing {
		v.handOver(to, func(bool) {})
		v.p.after(50*ms, func() { v.handAway(term) })
		return
	}
	v.p.after(10*ms, func() { v.handAway(term) })
}

// successor is the primary if it has answered lately, else, unless only the primary will do, another node in sync, else any; -1: none.
func (v *voter) successor(onlyPrimary bool) int {
	best, rank := -1, 3
	for i := range 2 {
		if v.contactTerm[i] != v.term || v.w.boot(v.m)-v.contactSent[i] > v.w.promise {
			continue
		}
		r := 2
		switch {
		case names[i] == v.rec.Primary || !v.rec.Initialised() && i == nodeA:
			r = 0
		case v.rec.InSyncHas(names[i]):
			r = 1
		}
		if r < rank && (r == 0 || !onlyPrimary) {
			best, rank = i, r
		}
	}
	return best
}
