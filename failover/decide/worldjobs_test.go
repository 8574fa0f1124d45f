package decide

import (
	"time"

	"kineshim/raftwitness/record"
)

// steps is how long each action takes, in steps.
var steps = map[Action]int{
	InitDB: 20, Start: 6, Stop: 3, Freeze: 1, Follow: 1, Promote: 4, Rewind: 20, Clone: 30, OpenSession: 1, CommitEpoch: 1, StartEngine: 2, Drain: 1,
	ConnectSolo: 1, DisconnectSolo: 1, ProveGating: 1, EnsureSlot: 1, DropStale: 1, Propose: 1, HandOver: 2, Settle: 1,
}

// waits bounds the actions that wait for something.
var waits = map[Action]int{CommitEpoch: 1 << 30, ProveGating: 100, Drain: 40}

// offer starts a step as the agent's lanes do.
func (h *host) offer(lane string, s Step) {
	j, w := h.lanes[lane], h.w
	if j != nil {
		switch j.Action {
		case ProveGating, CommitEpoch, OpenSession, StartEngine, Drain:
			if s.Action != None && s.Action != j.Action {
				delete(h.lanes, lane)
			}
		case Clone, Rewind, Start, Promote, Freeze, Follow:
			if s.Action == Stop {
				delete(h.lanes, lane)
			}
		}
		return
	}
	if s.Action == None || w.now < h.backoff[lane] {
		return
	}
	j = &job{Step: s, left: steps[s.Action] + w.rng.IntN(2), began: w.now, target: len(h.wal)}
	if !h.begin(j) {
		h.backoff[lane] = w.now + 2
		return
	}
	w.started++
	w.say("%s: %s (%s) %s", h.name, s.Action, s.Rule, s.Why)
	h.lanes[lane] = j
}

// begin does what an action does at once, and reports false when it must not be begun.
func (h *host) begin(j *job) bool {
	o, w := h.w.hosts[h.other], h.w
	switch j.Action {
	case Propose:
		if j.Command.Kind == record.Pair {
			if h.granted || !h.proven || h.solo || !h.lease() {
				return false
			}
			h.pairing = true
		}
	case Clone, Rewind:
		r := &o.memory.record
		if !w.linked(h.name, o.name) || r.Primary != o.name || r.Epoch != h.memory.record.Epoch || r.InSyncHas(h.name) || o.pairing || o.role() != Primary || o.hung {
			return false
		}
		o.granted, o.proven = true, false
		h.stopped()
		if j.Action == Rewind {
			h.rewoundEpoch = r.Epoch
		}
	case Stop:
		h.session = false
	case Freeze, Follow:
		h.frozen, h.adrift = false, true
	case CommitEpoch:
		h.append(0)
		j.target = len(h.wal)
	case Drain:
		h.engine = false
		h.pending = nil
	case ConnectSolo:
		h.proven = false // the agent looks at the record once more here; this leaves it to decide alone
	}
	return true
}

// stepJob goes on with what is under way.
func (h *host) stepJob(lane string) {
	j := h.lanes[lane]
	if j == nil {
		return
	}
	if j.left--; j.left > 0 {
		return
	}
	if limit, ok := waits[j.Action]; ok && h.running && !h.durableOnStandby(j) {
		if h.w.now-j.began < limit {
			return
		}
		delete(h.lanes, lane)
		h.backoff[lane] = h.w.now + 4
		return
	}
	delete(h.lanes, lane)
	if h.hung && lane != "raft" && j.Action != Stop || !h.finish(j) {
		h.backoff[lane] = h.w.now + 4
	}
}

// durableOnStandby reports whether what the job waits for has come about.
func (h *host) durableOnStandby(j *job) bool {
	if j.Action == CommitEpoch {
		return h.durable(j.target)
	}
	s := h.w.hosts[h.other]
	return s.streaming && h.w.linked(h.name, s.name) && len(s.wal) >= j.target
}

// finish does the rest of an action and reports whether it has been done.
func (h *host) finish(j *job) bool {
	w := h.w
	o := w.hosts[h.other]
	primary := h.running && h.promotedEpoch != 0
	switch j.Action {
	case InitDB:
		h.disk = disk{exists: true, whole: true, system: systemID + uint64(w.now), timeline: 1, wal: []walEntry{{1, 0}}}
		if !w.record.Initialised() {
			h.system = systemID
		}
	case Start:
		h.running, h.frozen, h.adrift, h.downSince, h.unstreamedSince = h.exists && h.whole, true, false, 0, w.now
		return h.running
	case Stop:
		h.stopped()
	case Freeze, Follow:
		if !h.running || primary {
			return false
		}
		h.frozen, h.adrift, h.unstreamedSince = j.Action == Freeze, false, w.now
		if h.frozen {
			h.streaming = false
		}
	case Promote:
		return h.promote()
	case Clone, Rewind:
		if !w.linked(h.name, o.name) || o.role() != Primary || o.hung {
			return false
		}
		h.disk = disk{exists: true, whole: true, system: o.system, timeline: o.timeline, wal: o.wal}
		h.startFailures = 0
	case OpenSession, CommitEpoch, StartEngine, Drain:
		if !primary || j.Action != OpenSession && !h.session {
			return false
		}
		switch j.Action {
		case OpenSession:
			h.session, h.committed, h.engine = true, false, false
		case CommitEpoch:
			h.committed = true
		case StartEngine:
			h.engine = true
		case Drain:
			h.wish.Drained = h.wish.SwitchTo != ""
		}
	case ConnectSolo, DisconnectSolo, ProveGating, EnsureSlot:
		return primary && h.finishSync(j)
	default:
		return h.finishRaft(j)
	}
	return true
}

func (h *host) finishSync(j *job) bool {
	switch j.Action {
	case ConnectSolo:
		h.solo = true
		if h.joinedAt != 0 && h.age(h.joinedAt) < 10*time.Second {
			h.noJoinUntil = h.w.now + 100
		}
	case DisconnectSolo:
		h.solo, h.proven, h.joinedAt = false, false, h.w.now
	case ProveGating:
		h.proven = !h.solo
	case EnsureSlot:
		h.slot = true
	}
	return true
}

func (h *host) finishRaft(j *job) bool {
	w := h.w
	switch j.Action {
	case Settle:
		if h.leads() && w.majority(h.name) {
			h.memory.record, h.pairing = w.record, false
		}
		return !h.pairing
	case HandOver:
		if w.raft.leader == h.name {
			w.handOver(j.To)
		}
		return true
	}
	c := j.Command
	if c.Kind == record.Init {
		c.ClusterID, c.Members = "c", members
	}
	if !h.leads() || !w.majority(h.name) { // nobody knows what becomes of it
		if w.rng.IntN(2) == 0 {
			w.limbo = &c
		}
		return false
	}
	if w.rng.IntN(15) == 0 { // it is committed, and the answer comes too late
		w.commit(c)
		return false
	}
	err := w.commit(c)
	h.memory.record = w.record
	if err != nil {
		w.violate("rule %s proposed what the record refuses: %v", j.Rule, err)
	}
	if c.Kind == record.Pair {
		h.pairing = false
	}
	if c.Kind == record.Force {
		h.wish.Force = false
	}
	return err == nil
}

// promote begins a timeline as PostgreSQL does: the next after the highest that this data directory has seen.
func (h *host) promote() bool {
	r := &h.memory.record
	if !h.running || h.promotedEpoch != 0 || !h.frozen || r.Primary != h.name {
		return false
	}
	h.promotedLSN = h.lsn()
	h.timeline++
	h.append(0)
	h.markerEpoch, h.markerTimeline, h.promotedEpoch, h.frozen, h.adrift, h.streaming = r.Epoch, h.timeline, r.Epoch, false, false, false
	h.forget()
	return true
}

// forget drops what holds for one life of PostgreSQL only.
func (h *host) forget() {
	h.session, h.committed, h.engine, h.solo, h.proven, h.slot, h.standbyStreams, h.stalledSince, h.unwellSince, h.joinedAt, h.noJoinUntil = false, false, false, false, false, false, false, 0, 0, 0, 0
	h.pending = nil
}

func (h *host) stopped() {
	if h.running {
		h.downSince = h.w.now
	}
	h.running, h.hung, h.streaming, h.promotedEpoch, h.promotedLSN = false, false, false, 0, 0
	h.forget()
}

// stepPostgres streams, and notices what does not.
func (h *host) stepPostgres() {
	p, w := h.w.hosts[h.other], h.w
	was := h.streaming
	h.streaming = h.running && !h.hung && h.promotedEpoch == 0 && !h.frozen && !h.adrift && w.linked(h.name, p.name) && p.role() == Primary && !p.hung && p.slot && h.fits(p)
	switch {
	case h.streaming:
		for i, e := range h.wal {
			if p.wal[i] != e {
				w.violate("%s follows %s, but their WAL differs at %d", h.name, p.name, i)
				break
			}
		}
		h.wal, h.timeline, h.unstreamedSince = p.wal, p.timeline, 0
	case was || h.unstreamedSince == 0:
		h.unstreamedSince = w.now
	}
	if h.role() != Primary {
		return
	}
	if h.hung { // it says nothing of its standby either
		if h.unwellSince == 0 {
			h.unwellSince = w.now
		}
		return
	}
	h.unwellSince = 0
	s := w.hosts[h.other]
	h.standbyStreams = s.streaming && w.linked(h.name, s.name)
	switch {
	case h.standbyStreams:
		h.stalledSince = 0
	case h.stalledSince == 0:
		h.stalledSince, h.proven = w.now, false
	}
}

// fits is PostgreSQL's judgement of whether a standby can follow: by timelines and positions, not by contents.
func (h *host) fits(p *host) bool {
	if h.system != p.system || h.timeline > p.timeline {
		return false
	}
	end, found := 0, false
	for i, e := range p.wal {
		if e.timeline <= h.timeline {
			end = i + 1
		}
		found = found || e.timeline == h.timeline
	}
	return found && len(h.wal) <= end
}
