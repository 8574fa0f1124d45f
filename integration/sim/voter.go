package sim

import (
	"time"

	"kineshim/raftwitness/record"
)

// entry is one entry of a Raft log. cmd is nil for a leader's first entry, which is its barrier.
type entry struct {
	term uint64
	cmd  *record.Command
	// memoFrom and memo spare the voters applying the same command to the same record thrice.
	memoFrom, memo *record.Record
	refusal        error
}

type raftState int

const (
	follower raftState = iota
	candidate
	leader
)

// leaseShare is the lease's part of the promise; see raftwitness's leasePerMille.
const leaseShare = 0.7

// voter is a node's Raft.
type voter struct {
	w  *World
	id int
	m  *machine
	p  *proc

	// On disk.
	term     uint64
	votedFor int // -1: nobody
	log      []*entry
	snap     uint64 // the record as of this index comes back at once after a restart
	unfit    string // why it does not start; "" if it does

	// In memory.
	state           raftState
	commit, applied uint64
	rec             *record.Record
	lastContact     time.Duration // mono
	timerGen        int
	candidacy       candidacy

	promised    int // the leader heard last; -1: none
	promisedIn  uint64
	promisedAt  time.Duration // boot
	silentUntil time.Duration // boot
	transfer    uint64        // 1 + the term whose leader told this voter to campaign
	departed    [nodes]uint64
	asked       int  // impatience: questions in a row
	asking      bool // impatience: one is on its way

	lead        leadership
	barrierTerm uint64
	forfeited   uint64
	contactTerm [nodes]uint64
	contactSent [nodes]time.Duration // boot
	proposals   []*proposal
	// watched is the highest term of which the deathwatch knows.
	watched uint64
	onTimer func()
	// onChange is called after each change of record or leadership.
	onChange func()
}

// proposal waits for the entry at index, proposed in term.
type proposal struct {
	index, term uint64
	done        func(proposalOutcome, error)
}

func newVoter(w *World, m *machine) *voter {
	v := &voter{w: w, id: m.id, m: m, votedFor: -1, promised: -1, rec: &record.Record{}, onChange: func() {}}
	what := "kineshim"
	if m.id == nodeW {
		what = "raftwitness"
	}
	v.p = &proc{w: w, m: m, what: what}
	m.procs = append(m.procs, v.p)
	v.onTimer = v.timer
	return v
}

// start begins a new life: what is not on the disk is forgotten.
func (v *voter) start() {
	w := v.w
	v.state, v.commit, v.applied, v.rec = follower, 0, 0, &record.Record{}
	v.promised, v.promisedIn, v.promisedAt = -1, 0, 0
	v.silentUntil = w.boot(v.m) + w.promise
	if w.mutant("silence") {
		v.silentUntil = 0
	}
	v.transfer, v.departed, v.asked, v.asking = 0, [nodes]uint64{}, 0, false
	v.lead, v.barrierTerm, v.forfeited, v.watched = leadership{}, 0, 0, 0
	v.contactTerm, v.contactSent, v.proposals = [nodes]uint64{}, [nodes]time.Duration{}, nil
	for v.applied < min(v.snap, v.last()) {
		v.applyNext()
	}
	v.commit = v.applied
	v.lastContact = w.mono(v.m)
	v.timerGen++
	v.armTimer(w.promise + w.within(w.promise))
	if v.id != nodeW {
		v.p.after(lookEvery, v.look)
	}
}

func (v *voter) last() uint64 { return uint64(len(v.log)) }

func (v *voter) termOf(index uint64) uint64 {
	if index == 0 || index > v.last() {
		return 0
	}
	return v.log[index-1].term
}

// applyNext applies the next entry as the FSM does: a refused command leaves the record as it is.
func (v *voter) applyNext() {
	e := v.log[v.applied]
	v.applied++
	if e.cmd == nil {
		return
	}
	if e.memoFrom != v.rec {
		next, err := v.w.apply(v.rec, *e.cmd)
		e.memoFrom, e.refusal = v.rec, err
		if e.memo = v.rec; err == nil {
			e.memo = &next
		}
	}
	v.rec = e.memo
}

// setCommit moves the commit index and applies.
func (v *voter) setCommit(to uint64) {
	to = min(to, v.last())
	if to <= v.commit {
		return
	}
	v.commit = to
	for v.applied < v.commit {
		old, e := v.rec, v.log[v.applied]
		v.applyNext()
		v.w.check.committed(v.applied, e, v.rec)
		if v.rec != old {
			v.w.check.record(old, v.rec, e.cmd)
		}
		v.resolve(v.applied)
	}
	if v.w.chance(0.2) {
		v.snap = v.applied
	}
	v.onChange()
}

// resolve answers the proposals that wait for the index.
func (v *voter) resolve(index uint64) {
	kept := v.proposals[:0]
	var ready []*proposal
	for _, p := range v.proposals {
		if p.index > index {
			kept = append(kept, p)
		} else {
			ready = append(ready, p)
		}
	}
	v.proposals = kept
	for _, p := range ready {
		e := v.log[p.index-1]
		switch {
		case e.term != p.term:
			p.done(unknown, errLostLead)
		case e.cmd != nil && e.refusal != nil:
			p.done(notDone, e.refusal)
		default:
			p.done(done, nil)
		}
	}
}

// become changes the state; whoever ceases to lead does not know what becomes of its proposals.
func (v *voter) become(s raftState) {
	was := v.state
	v.state = s
	v.timerGen++
	if was == leader && s != leader {
		v.w.say(v.id, "leads no more", "")
		lost := v.proposals
		v.proposals = nil
		for _, p := range lost {
			p.done(unknown, errLostLead)
		}
		v.lead.ended()
		v.lead = leadership{}
	}
	if s == follower {
		v.lastContact = v.w.mono(v.m)
		v.armTimer(v.heartbeatTimeout() + v.w.within(v.heartbeatTimeout()))
	}
	if was != s {
		v.onChange()
	}
}

func (v *voter) setTerm(term uint64) {
	if term > v.term {
		v.term, v.votedFor = term, -1
	}
}

// heartbeatTimeout is longer on the witness; see raftwitness's witnessPatience.
func (v *voter) heartbeatTimeout() time.Duration {
	if v.id == nodeW {
		return 3 * v.w.promise
	}
	return v.w.promise
}

// silent: an earlier life of this voter may have made a promise that this one does not know.
func (v *voter) silent() bool { return v.w.boot(v.m) < v.silentUntil }

// promise notes that the leader of the term has been heard.
func (v *voter) promise(to int, term uint64) {
	if term > v.departed[to] {
		v.promised, v.promisedIn, v.promisedAt = to, term, v.w.boot(v.m)
	}
}

// forbids: the promise forbids a vote for the candidate.
func (v *voter) forbids(candidate int) bool {
	return v.promised >= 0 && v.promised != candidate && v.w.boot(v.m) < v.promisedAt+v.w.promise
}

func (v *voter) promiseOver() bool {
	return v.promised >= 0 && v.w.boot(v.m) >= v.promisedAt+v.w.promise
}

// bound: this voter must not vote for the candidate, whatever its log.
func (v *voter) bound(candidate int) bool { return v.state == leader || v.forbids(candidate) }

// depart acts on the news that a server's process has ended.
func (v *voter) depart(server int, term uint64) {
	v.w.sayf(v.id, "hears that the process of %s, leader in terms up to %d, has ended", names[server], term)
	v.departed[server] = max(v.departed[server], term)
	if v.promised != server || v.promisedIn > term && !v.w.mutant("departure-term") {
		return
	}
	v.promised = -1
	if v.id == nodeW || v.silent() || v.state != follower || v.term > term {
		return
	}
	v.campaign(true, 0)
}

// leaseLeft is how long this leader may answer; see raftwitness's Node.LeaseLeft.
func (v *voter) leaseLeft() time.Duration {
	w := v.w
	if v.state != leader || v.term != v.barrierTerm && !w.mutant("barrier") {
		return 0
	}
	if v.term <= v.forfeited && !w.mutant("transfer") && !w.mutant("forfeit-ignored") {
		return 0
	}
	share := leaseShare
	if w.mutant("lease-longer-than-promise") {
		share = 1.3
	}
	var end time.Duration
	for i := range nodes {
		if v.contactTerm[i] == v.term {
			end = max(end, v.contactSent[i]+time.Duration(float64(w.promise)*share))
		}
	}
	return max(0, end-w.boot(v.m))
}
