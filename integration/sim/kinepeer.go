package sim

import (
	"time"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

const (
	exchangeEvery = 100 * ms
	exchangeAgain = 20 * ms
	never         = -1
)

// nodeState is what a data node says of itself.
type nodeState struct {
	instance, rebuilt      string
	epoch                  uint64
	role                   decide.Role
	timeline               uint32
	system                 uint64
	lsn                    record.LSN
	whole, streaming, gate bool
	relief, leaving        bool
}

// peer is what the other node has said.
type peer struct {
	state         *nodeState
	at, askedAt   time.Duration
	age           time.Duration // never: nothing was heard
	refused       bool
	notReadySince time.Duration
	poking        bool
}

func (k *kine) peerAge() time.Duration {
	if k.peer.state == nil {
		return decide.Never
	}
	return k.now() - k.peer.at
}

// peerInput is peer.input.
func (k *kine) peerInput(now time.Duration) decide.Peer {
	p := &k.peer
	in := decide.Peer{Age: decide.Never, Silent: now - k.started, Refused: p.refused}
	s := p.state
	if s == nil {
		return in
	}
	in.Age = now - p.at
	in.Silent = in.Age
	in.SinceLeader = k.leaderSince != 0 && p.askedAt > k.leaderSince
	in.Epoch, in.Timeline, in.SystemID, in.LSN = s.epoch, s.timeline, s.system, s.lsn
	in.Whole, in.Streaming, in.GateOpen, in.Relief, in.Leaving = s.whole, s.streaming, s.gate, s.relief, s.leaving
	in.NotReadyFor = since(now, p.notReadySince)
	in.Role = s.role
	return in
}

func (k *kine) nodeState() *nodeState {
	in := k.input()
	l := &in.Local
	s := &nodeState{
		instance: k.instance, rebuilt: k.rebuilt, epoch: in.Record.Epoch, role: l.Role, timeline: l.Timeline, system: l.SystemID, lsn: l.LSN,
		whole: l.Role != decide.Absent && l.Role != decide.Broken, streaming: l.Streaming,
		gate: k.enters() || in.Wish.SwitchTo != "" && l.Engine && k.holds(), relief: k.plan.Relief != "", leaving: k.wish.leaving,
	}
	if j := k.lanes[lanePostgres].job; j != nil {
		switch j.step.Action {
		case decide.InitDB, decide.Start, decide.Stop:
			s.role = decide.Stopped
		case decide.Clone, decide.Rewind:
			s.role = decide.Broken
		case decide.Promote:
			s.role = decide.Standby
		}
	}
	return s
}

func (k *kine) exchangeLoop() {
	k.exchange(func() {})
	k.p.after(exchangeEvery, k.exchangeLoop)
}

// exchangeNow tells the other node at once how this one is.
func (k *kine) exchangeNow() {
	if k.peer.poking {
		return
	}
	k.peer.poking = true
	k.p.after(ms/2, func() {
		k.peer.poking = false
		k.exchange(func() {})
	})
}

// exchange asks the other node how it is and tells how this one is; then hears that it has been answered.
func (k *kine) exchange(then func()) {
	w, o := k.w, k.w.kines[k.other]
	asked := k.now()
	if om := w.mach[k.other]; om.on && !om.suspended && !o.p.up && w.both(k.id, k.other) {
		k.p.after(ms, func() {
			if !k.peer.refused && !o.p.up {
				k.peer.refused = true
				k.wake()
			}
		})
		return
	}
	mine := k.nodeState()
	w.deliver(k.id, o.p, 0, func() {
		o.hear(mine, 0)
		theirs := o.nodeState()
		w.deliver(k.other, k.p, 0, func() {
			if k.now()-asked > 400*ms { // given up
				return
			}
			k.hear(theirs, asked)
			then()
		})
	})
}

// hear takes in what the other node says of itself. asked is when it was asked; 0 if it spoke by itself.
func (k *kine) hear(s *nodeState, asked time.Duration) {
	now, p := k.now(), &k.peer
	old := p.state
	p.state, p.at, p.refused = s, now, false
	if asked != 0 {
		p.askedAt = asked
	}
	switch {
	case s.role == decide.Standby || s.role == decide.Primary:
		p.notReadySince = 0
	case p.notReadySince == 0 || old != nil && old.instance != s.instance:
		p.notReadySince = now
	}
	if g := k.grant; g != (grant{}) && (s.instance != g.instance || s.rebuilt == g.nonce) {
		k.grant = grant{}
	}
	if old == nil || old.role != s.role || old.gate != s.gate || old.relief != s.relief || old.epoch != s.epoch || old.streaming != s.streaming ||
		old.leaving != s.leaving || old.instance != s.instance || k.leaderSince != 0 && asked-k.leaderSince < exchangeEvery {
		k.wake()
	}
}

// beginRebuild is the primary's answer to a standby that wants to destroy its data.
func (k *kine) beginRebuild(epoch uint64, instance, nonce string) bool {
	rec := k.v.rec
	switch {
	case rec.Primary != names[k.id] || rec.Epoch != epoch:
		return false
	case rec.InSyncHas(names[k.other]) || k.pairing.Load():
		return k.w.mutant("destroys-in-sync")
	case k.role() != decide.Primary || k.promotedEpoch != rec.Epoch:
		return false
	}
	k.grant = grant{instance, nonce}
	k.proven = false
	return true
}
