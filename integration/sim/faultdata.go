package sim

import (
	"time"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

// expendable: the cluster can do without the node's data: the other node has everything, and the record counts on it.
func (w *World) expendable(k *kine) bool {
	o := w.kines[k.other]
	d := &o.pg.dir
	r := w.newest()
	if !d.exists || !d.whole || !r.InSyncHas(names[k.other]) || !w.holds(d.tip, w.check.floor) || r.Primary == names[k.other] && r.Timeline == 0 && o.promotedEpoch != r.Epoch {
		return false
	}
	if j := o.lanes[lanePostgres].job; j != nil && (j.step.Action == decide.Clone || j.step.Action == decide.Rewind) {
		return false
	}
	for _, v := range w.voters { // a command that nobody knows the outcome of may take the other node out of the set
		for _, e := range v.log[min(len(v.log), len(w.check.log)):] {
			if e.cmd != nil {
				return false
			}
		}
	}
	return d.timeline >= r.Timeline
}

// lose replaces the data directory, while nobody uses it.
func (w *World) lose(k *kine, older bool) {
	d := &k.pg.dir
	if !d.exists {
		return
	}
	if !older {
		if w.mutant("whole") { // what a clone that was interrupted has left is taken for whole
			if r := w.newest(); r.Timeline == d.timeline && r.SwitchLSN > 0 {
				for lsnOf(w.wal[d.tip].depth) > r.SwitchLSN {
					d.tip = w.wal[d.tip].parent
				}
			}
			return
		}
		*d = dataDir{}
		w.say(k.id, "its data are gone", "")
		return
	}
	// An older copy that the record can tell from the present one: from before the last promotion.
	if n := len(d.history); n > 0 {
		f := d.history[n-1]
		for w.wal[d.tip].depth > f.end {
			d.tip = w.wal[d.tip].parent
		}
		d.timeline, d.history = f.timeline, d.history[:n-1]
		d.markerEpoch, d.markerTimeline = 0, 0
		w.say(k.id, "its data are an older copy", "")
	}
}

// wipeVoter replaces the disk of the witness. Under its old name it is refused; see raftwitness's remember.
func (w *World) wipeVoter(v *voter) {
	if v.id != nodeW {
		return
	}
	w.kill(v.id, false)
	v.term, v.votedFor, v.log, v.snap = 0, -1, nil, 0
	if !w.mutant("identity") {
		v.unfit = "the Raft log is lost"
	}
	w.say(v.id, "its disk is wiped", "")
}

// setPaused has a leading node record an operator's word.
func (k *kine) setPaused(paused bool) {
	for _, x := range k.w.kines {
		if x.p.runs() && x.v.state == leader && x.v.rec.Initialised() && x.v.rec.Paused != paused {
			c := record.Command{Kind: record.Resume, Epoch: x.v.rec.Epoch, By: names[x.id]}
			if paused {
				c.Kind = record.Pause
			}
			x.v.append(&c, func(proposalOutcome, error) {})
		}
	}
}

// force has an operator promote the node, if shimctl would let him: the primary does not answer, and there is a majority. It reports whether.
func (w *World) force(k *kine) bool {
	if !w.forceable || !k.p.runs() || k.now() < k.wish.force {
		return false
	}
	in := k.input()
	r := in.Record
	if !r.Initialised() || r.Primary == in.Self || in.Peer.Age <= in.Timing.Silence && !in.Peer.Refused && in.Peer.GateOpen ||
		in.Local.Role != decide.Standby || in.Local.SystemID != r.SystemID || !in.Raft.Leads() {
		return false
	}
	w.say(k.id, "an operator forces its promotion", "")
	k.wish.force = k.now() + 30*time.Second
	k.wake()
	return true
}

// Heal ends all failures: links and processes work, machines run, an operator resumes automatic failover.
func (w *World) Heal() {
	w.say(-1, "*** all heals", "")
	w.traps = nil
	kept := w.queue.heap
	w.queue.heap = nil
	for _, e := range kept { // what was to end or to begin of the failures has no meaning any more
		if e.p != nil {
			w.queue.push2(e)
		}
	}
	w.links = [nodes][nodes]link{}
	for i, m := range w.mach {
		m.diskDelay = 500 * time.Microsecond
		w.wake(m)
		for _, p := range m.procs {
			if p.up && p.stopped {
				p.held = 1
				p.release()
			}
		}
		w.powerOn(i)
	}
	w.resume()
}

// resume is an operator who ends a pause as soon as somebody leads.
func (w *World) resume() {
	if w.newest().Paused {
		w.kines[0].setPaused(false)
		w.at(w.now+time.Second, w.resume)
	}
}
