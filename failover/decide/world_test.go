package decide

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"kineshim/raftwitness/record"
)

// world is a cluster of two decide instances, the real record and toys of Raft, PostgreSQL and the links, in steps of 50 ms.
// Raft's toy has leases and promises, but one log: who leads behind the barrier knows all that was committed.
type world struct {
	rng    *rand.Rand
	now    int
	record record.Record // as committed
	limbo  *record.Command
	hosts  map[string]*host
	cut    map[string]bool // "ab", "aw", "bw"
	up     map[string]int  // voters that run, since when
	raft   struct {
		leader             string
		barrier, forfeited bool
		since              int
		heard, contact     map[string]int // when a voter last heard the leader, and the leader it
	}
	written, started int
	acked            []int
	trace            []string
	broken           string // the first violation
}

const (
	stepTime  = 50 * ms
	promise   = 10 // steps: timing.Silence
	leaseTime = 7
	never     = -1 << 30
)

type walEntry struct {
	timeline uint32
	id       int // of a client's write; 0: PostgreSQL's own
}

// disk survives the process.
type disk struct {
	exists, whole  bool
	system         uint64
	timeline       uint32
	wal            []walEntry
	markerEpoch    uint64
	markerTimeline uint32
}

type job struct {
	Step
	left, began int
	target      int // WAL position that it waits for
}

// host is a data node. All but the disk is lost with its process.
type host struct {
	w           *world
	name, other string
	powered     bool
	disk
	memory
}

type memory struct {
	record                                                                  record.Record // as applied here
	confirmed, pairing, decided                                             bool
	running, hung, frozen, adrift, streaming                                bool
	session, committed, engine, solo, proven, slot, granted, standbyStreams bool
	promotedEpoch, servedEpoch, rewoundEpoch, checkedEpoch                  uint64
	promotedLSN                                                             record.LSN
	downSince, unwellSince, unstreamedSince, stalledSince, begun            int // 0: not
	joinedAt, noJoinUntil, switchUntil, unableSince, startFailures          int
	pending                                                                 []int // writes that wait, by WAL position
	peer                                                                    Peer
	heardAt, notReadySince                                                  int
	wish                                                                    Wish
	lanes                                                                   map[string]*job
	backoff                                                                 map[string]int
	plan                                                                    Plan
}

func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0)), now: 1, hosts: map[string]*host{}, cut: map[string]bool{}, up: map[string]int{}}
	w.raft.heard = map[string]int{"a": never, "b": never, "w": never}
	for _, n := range []string{"a", "b"} {
		w.hosts[n] = &host{w: w, name: n, other: other(n), powered: true}
		w.start(n)
	}
	w.up["w"] = 1
	return w
}

func (w *world) start(node string) {
	w.up[node] = w.now
	w.raft.heard[node] = w.now // it keeps silent for one promise
	if h := w.hosts[node]; h != nil {
		h.powered = true
		h.memory = memory{downSince: w.now, begun: w.now, heardAt: never, lanes: map[string]*job{}, backoff: map[string]int{}}
	}
}

func (w *world) kill(node string) {
	delete(w.up, node)
	if h := w.hosts[node]; h != nil {
		if j := h.lanes["postgres"]; j != nil && (j.Action == Rewind || j.Action == InitDB) {
			h.whole = false
		}
		h.memory = memory{lanes: map[string]*job{}}
	}
}

func (w *world) isUp(node string) bool { return w.up[node] != 0 }

func (w *world) linked(x, y string) bool {
	return w.isUp(x) && w.isUp(y) && !w.cut[min(x, y)+max(x, y)]
}

func (w *world) say(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%7.2fs ", float64(w.now)*stepTime.Seconds())+fmt.Sprintf(format, args...))
}

func (w *world) violate(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, args...)
		w.say("VIOLATION %s", w.broken)
	}
}

// step is one tick of everything.
func (w *world) step() {
	w.now++
	w.stepRaft()
	for _, n := range []string{"a", "b"} {
		if h := w.hosts[n]; w.isUp(n) {
			h.hear()
		}
	}
	for _, n := range []string{"a", "b"} {
		h := w.hosts[n]
		if !w.isUp(n) {
			continue
		}
		h.stepPostgres()
		for _, lane := range []string{"postgres", "sync", "raft"} {
			h.stepJob(lane)
		}
		h.decide()
		h.write()
	}
	w.check()
}

// hear is the exchange between the two nodes.
func (h *host) hear() {
	o, w := h.w.hosts[h.other], h.w
	h.peer.Refused = o.powered && !w.isUp(o.name) && !w.cut["ab"]
	if !w.linked(h.name, o.name) {
		return
	}
	p := Peer{Epoch: o.memory.record.Epoch, Role: o.role(), Timeline: o.timeline, SystemID: o.system, LSN: o.lsn(), Whole: o.exists && o.whole, Streaming: o.streaming,
		GateOpen: o.open(), Relief: o.plan.Relief != "", Leaving: o.wish.Stopping}
	if j := o.lanes["postgres"]; j != nil {
		switch j.Action {
		case Start, Stop, InitDB:
			p.Role = Stopped
		case Clone, Rewind:
			p.Role = Broken
		}
	}
	if p.Role == Standby || p.Role == Primary {
		h.notReadySince = 0
	} else if h.notReadySince == 0 {
		h.notReadySince = w.now
	}
	h.peer, h.heardAt = p, w.now
	if j := o.lanes["postgres"]; j == nil || j.Action != Rewind && j.Action != Clone {
		h.granted = false
	}
}

func (h *host) role() Role {
	switch {
	case h.running && h.promotedEpoch != 0:
		return Primary
	case h.running:
		return Standby
	case !h.exists:
		return Absent
	case !h.whole:
		return Broken
	}
	return Stopped
}

func (h *host) lsn() record.LSN { return record.LSN(len(h.wal)) }

func (h *host) ids() (ids []int) {
	for _, e := range h.wal {
		if e.id != 0 {
			ids = append(ids, e.id)
		}
	}
	return ids
}

func (h *host) age(since int) time.Duration {
	if since == 0 {
		return 0
	}
	return max(1, time.Duration(h.w.now-since)*stepTime)
}

func (h *host) input() *Input {
	w, r := h.w, &h.w.raft
	rec := h.memory.record
	in := &Input{Self: h.name, Other: h.other, Witness: "w", Founder: h.name == "a", Record: &rec, Confirmed: h.confirmed, Pairing: h.pairing, Timing: timing, Wish: h.wish, Peer: h.peer}
	in.Raft = Raft{WitnessHeard: Never, OtherHeard: Never}
	if r.leader == h.name {
		in.Raft = Raft{Leader: true, Barrier: r.barrier, Forfeited: r.forfeited, WitnessHeard: Never, WitnessSilent: h.age(r.since), OtherHeard: Never, OtherSilent: h.age(r.since)}
		if h.lease() {
			in.Raft.LeaseLeft = ms
		}
		if at := r.contact["w"]; at != 0 {
			in.Raft.WitnessHeard, in.Raft.WitnessSilent = h.age(at), h.age(at)
		}
		if at := r.contact[h.other]; at != 0 {
			in.Raft.OtherHeard, in.Raft.OtherSilent = h.age(at), h.age(at)
		}
	}
	p := &in.Peer
	p.Age, p.Silent, p.NotReadyFor = Never, h.age(h.begun), h.age(h.notReadySince)
	if h.heardAt != never {
		p.Age, p.Silent = h.age(h.heardAt), h.age(h.heardAt)
		p.SinceLeader = r.leader == h.name && h.heardAt > r.since
	}
	in.Local = Local{
		Role: h.role(), SystemID: h.system, Timeline: h.timeline, LSN: h.lsn(), MarkerEpoch: h.markerEpoch, MarkerTimeline: h.markerTimeline,
		PromotedEpoch: h.promotedEpoch, PromotedLSN: h.promotedLSN, Frozen: h.frozen, Adrift: h.adrift, Streaming: h.streaming, NotStreaming: h.age(h.unstreamedSince),
		Served: rec.Initialised() && h.servedEpoch == rec.Epoch, DownFor: h.age(h.downSince), UnwellFor: h.age(h.unwellSince), StartFailures: h.startFailures, RewoundEpoch: h.rewoundEpoch,
		Session: h.session, EpochCommitted: h.committed, Engine: h.engine, Solo: h.solo, StandbyStalled: h.age(h.stalledSince), Proven: h.proven, JoinBackoff: w.now < h.noJoinUntil, Slot: h.slot, Granted: h.granted,
		StandbyStreams: h.standbyStreams,
	}
	return in
}

func (h *host) decide() {
	in := h.input()
	h.plan, h.decided = Decide(in), true
	if v := &h.wish; v.SwitchTo != "" { // as the agent gives a switchover up
		if in.CanHandOver() {
			h.unableSince = 0
		} else if h.unableSince == 0 {
			h.unableSince = h.w.now
		}
		if !in.isPrimary() || h.w.now > h.switchUntil || h.age(h.unableSince) > time.Second {
			v.SwitchTo, v.Drained = "", false
		}
	}
	if h.open() {
		h.servedEpoch = in.Record.Epoch
	}
	h.offer("postgres", h.plan.Postgres)
	h.offer("sync", h.plan.Sync)
	h.offer("raft", h.plan.Raft)
}

// open is what the gate says to a request at this moment.
func (h *host) open() bool {
	r := &h.memory.record
	return h.w.isUp(h.name) && h.decided && h.plan.Closed == "" && h.running && h.session && r.Epoch == h.promotedEpoch && (r.Solo() && !h.pairing && h.confirmed || h.lease())
}

// write is a client of this node.
func (h *host) write() {
	w := h.w
	if h.open() && !h.hung && w.now%3 == 0 {
		w.written++
		h.append(w.written)
		h.pending = append(h.pending, len(h.wal))
	}
	for len(h.pending) > 0 && h.durable(h.pending[0]) {
		if h.open() {
			w.acked = append(w.acked, h.wal[h.pending[0]-1].id)
		}
		h.pending = h.pending[1:]
	}
}

func (h *host) append(id int) { h.wal = append(slices.Clip(h.wal), walEntry{h.timeline, id}) }

// durable reports whether a commit that ends at the position is acknowledged.
func (h *host) durable(at int) bool {
	s := h.w.hosts[h.other]
	return h.running && !h.hung && (h.solo || s.streaming && h.w.linked(h.name, s.name) && len(s.wal) >= at)
}

func (w *world) check() {
	var open []string
	for _, h := range w.hosts {
		if !h.open() {
			continue
		}
		open = append(open, h.name)
		if w.now%5 != 0 && h.promotedEpoch == h.checkedEpoch {
			continue
		}
		h.checkedEpoch = h.promotedEpoch
		have := map[int]bool{}
		for _, id := range h.ids() {
			have[id] = true
		}
		for _, id := range w.acked {
			if !have[id] {
				w.violate("%s answers without write %d", h.name, id)
			}
		}
	}
	if len(open) > 1 {
		w.violate("two nodes answer")
	}
}

func (w *world) String() string { return strings.Join(w.trace[max(0, len(w.trace)-60):], "\n") }
