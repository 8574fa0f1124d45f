package sim

import (
	"strconv"
	"sync/atomic"
	"time"

	"kineshim/failover"
	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

// kine is a data node's kineshim: the agent, the engine and the endpoint. All but pg's disk is lost with its process.
type kine struct {
	w     *World
	id    int
	other int
	m     *machine
	p     *proc
	pg    *postgres
	v     *voter
	memory
}

// memory is what a kineshim forgets when it ends; the names are those of failover's Agent and local.
type memory struct {
	gate               *failover.Gate
	confirmed, pairing *atomic.Bool
	token              failover.Token
	accepting          bool
	instance           string
	started            time.Duration

	data          dataDir // as inspected
	up, stopping  bool
	obs           observation
	obsAt         time.Duration // 0: none
	downSince     time.Duration
	unwellSince   time.Duration
	startFailures int
	life          int

	frozen, adrift  bool
	unstreamedSince time.Duration
	rewoundEpoch    uint64

	promoting                  bool
	promotedEpoch, servedEpoch uint64
	promotedTLI                uint32
	promotedLSN                record.LSN
	sentinel                   *sentinel
	generation                 uint64
	epochCommitted, engineOn   uint64
	epochPending               *epochCommit
	engine                     engine

	proven, soloOff       bool
	stalledSince          time.Duration
	flushedBefore         record.LSN
	standbyFlush          record.LSN
	standbyPID            int
	joinedAt, noJoinUntil time.Duration
	slot                  bool
	grant                 grant
	rebuilt               string

	peer peer
	wish wish

	leaderSince time.Duration
	leaderTerm  uint64
	plan        decide.Plan
	lanes       [3]lane
	wakePending bool
	vipUntil    time.Duration // true time: the kernel's
	stepFn      func()
}

type grant struct{ instance, nonce string }

// observation is what PostgreSQL says of itself.
type observation struct {
	recovery        bool
	timeline        uint32
	flush, received record.LSN
	streaming       bool
	standbys        []seen
}

type seen struct {
	pid   int
	flush record.LSN
	age   time.Duration
	state bool
}

// wish is what operators asked for.
type wish struct {
	switchTo                 string
	switchUntil, unableSince time.Duration
	drained                  bool
	force                    time.Duration
	leaving, stopping        bool
}

const (
	tick         = 50 * ms
	observeEvery = 100 * ms
	probeEvery   = time.Second
	probeTimeout = 2 * time.Second
	vipLease     = 3 * time.Second
	vipEvery     = time.Second
	// earliest is what a node's clock shows at least: 0 stands for never.
	staleWalsender = 3 * time.Second
	joinTrial      = 10 * time.Second
	joinPause      = 5 * time.Second
)

func newKine(w *World, id int) *kine {
	k := &kine{w: w, id: id, other: 1 - id, m: w.mach[id], v: w.voters[id], p: w.voters[id].p}
	k.pg = newPostgres(w, id)
	k.pg.kine = k
	return k
}

func (k *kine) now() time.Duration { return k.w.mono(k.m) }

// right is what the gate asks of Raft.
type right struct{ v *voter }

func (r right) Record() (*record.Record, uint64) { return r.v.rec, r.v.applied }
func (r right) LeaseLeft() time.Duration         { return r.v.leaseLeft() }

// start begins a new life of the process. PostgreSQL of the last one has ended.
func (k *kine) start() {
	w := k.w
	now := k.now()
	k.memory = memory{confirmed: &atomic.Bool{}, pairing: &atomic.Bool{}, started: now, instance: k.name("life"), downSince: now, unstreamedSince: now}
	k.gate = failover.NewGate(right{k.v}, k.confirmed, k.pairing)
	k.stepFn = k.step
	k.peer.age = never
	if k.pg.p.up { // a dead predecessor's leftovers are killed
		k.pg.p.stopped = false
		k.pg.die()
	}
	k.inspect()
	k.v.onChange = k.wake
	k.p.soon(tick, k.tickLoop)
	k.p.soon(observeEvery, k.observeLoop)
	k.p.soon(probeEvery, k.probeLoop)
	k.p.soon(exchangeEvery, k.exchangeLoop)
	k.p.soon(vipEvery, k.vipLoop)
	if !w.opt.Calm {
		k.p.soon(time.Second, k.clientLoop)
	}
}

// kill ends the process at once; the kernel ends PostgreSQL with it. deathwatch: somebody is left to tell the others.
func (w *World) kill(id int, deathwatch bool) {
	v := w.voters[id]
	if !v.p.up {
		return
	}
	w.sayf(id, "its %s is killed (deathwatch: %v)", v.p.what, deathwatch)
	w.endNode(id)
	if id == nodeW || !deathwatch || v.watched == 0 {
		return
	}
	term := v.watched
	for i, to := range []int{nodeW, 1 - id} {
		o := w.voters[to]
		for try := range 3 { // a message may come late, or twice
			w.at(w.now+time.Duration(i)*50*ms+time.Duration(try)*100*ms+w.within(20*ms), func() {
				if w.mach[id].on && !w.mach[id].suspended {
					w.deliver(id, o.p, 0, func() { o.depart(id, term) })
				}
			})
		}
	}
}

// endNode ends the node's processes.
func (w *World) endNode(id int) {
	v := w.voters[id]
	v.p.end()
	v.state = follower
	v.proposals, v.lead = nil, leadership{}
	v.onChange = func() {}
	if id == nodeW {
		return
	}
	k := w.kines[id]
	k.interrupted()
	if pg := k.pg; pg.p.up {
		if pg.p.stopped {
			pg.p.held, pg.p.stopped = 0, false // its death waits for nothing
		}
		pg.die()
	}
}

// interrupted: what was half done to the data stays so.
func (k *kine) interrupted() {
	if j := k.lanes[lanePostgres].job; j != nil && j.destroying {
		k.pg.dir.whole = false
	}
}

// powerOff is the loss of the machine: what was not on the disk is gone, nobody is told.
func (w *World) powerOff(id int) {
	m := w.mach[id]
	if !m.on {
		return
	}
	w.say(id, "loses power", "")
	m.on = false // before the processes end: no word of it gets out
	w.endNode(id)
	w.wake(m)
}

func (w *World) powerOn(id int) {
	if m := w.mach[id]; !m.on {
		w.say(id, "has power again", "")
		m.on = true
	}
	w.startNode(id)
}

func (k *kine) name(what string) string {
	k.w.nonce++
	return what + strconv.Itoa(k.w.nonce)
}

// wake makes the agent decide at once, once.
func (k *kine) wake() {
	if k.wakePending {
		return
	}
	k.wakePending = true
	k.p.soon(200*time.Microsecond, k.stepFn)
}

func (k *kine) tickLoop() {
	k.step()
	next := tick
	if left := k.w.timing.Silence - k.peerAge(); left >= 0 && left < tick {
		next = left + ms
	}
	k.p.after(next, k.tickLoop)
}

// step decides once and sets going what was decided; see Agent.step.
func (k *kine) step() {
	k.wakePending = false
	in := k.input()
	plan := k.w.decide(k, &in)
	old := k.plan.Relief
	k.plan = plan
	k.expireWish(&in)
	if in.Raft.Leads() {
		k.confirmed.Store(true)
	}
	k.applyGate(&in, plan)
	if plan.Relief != old {
		k.exchangeNow()
	}
	k.offer(lanePostgres, plan.Postgres)
	k.offer(laneSync, plan.Sync)
	k.offer(laneRaft, plan.Raft)
}

func (k *kine) applyGate(in *decide.Input, plan decide.Plan) {
	was := k.accepting
	k.accepting = plan.Closed == ""
	if k.accepting {
		k.gate.Open()
	} else {
		k.gate.Close(plan.Closed)
	}
	if was == k.accepting {
		return
	}
	if k.accepting {
		k.w.sayf(k.id, "opens its gate in epoch %d (%s)", in.Record.Epoch, in.Record.Mode())
		k.servedEpoch = in.Record.Epoch
		k.w.cue(k.id, "open")
	} else {
		k.w.say(k.id, "closes its gate", plan.Closed)
	}
	k.exchangeNow()
}

func (k *kine) endGate(why string) {
	k.gate.End(why)
	k.accepting = false
	k.token = failover.Token{}
}

func (k *kine) expireWish(in *decide.Input) {
	v := &k.wish
	if v.switchTo == "" {
		return
	}
	now := k.now()
	switch {
	case in.CanHandOver():
		v.unableSince = 0
	case v.unableSince == 0:
		v.unableSince = now
	}
	if in.Record.Primary == names[k.id] && now < v.switchUntil && since(now, v.unableSince) < time.Second {
		return
	}
	v.switchTo, v.drained, v.unableSince = "", false, 0
}

// switchover is an operator's; it reports whether it is begun.
func (k *kine) switchover() bool {
	r := k.v.rec
	if r.Primary != names[k.id] || !r.Paired() || k.wish.switchTo != "" {
		return false
	}
	k.w.say(k.id, "an operator asks for a switchover", "")
	k.wish.switchTo, k.wish.switchUntil, k.wish.drained = names[k.other], k.now()+10*time.Second, false
	k.wake()
	return true
}

// leave is Agent.Leave, and the end of the process after it: a primary hands its role over first, if somebody can take it.
func (k *kine) leave(away time.Duration) {
	const leaveTimeout, tellTimeout = 15 * time.Second, 400 * ms
	w := k.w
	w.say(k.id, "is to stop", "")
	end := func() {
		k.wish.leaving, k.wish.stopping = true, true
		k.wake()
		k.exchange(func() {})
		k.p.soon(tellTimeout, func() {
			w.say(k.id, "ends in good order", "")
			id := k.id
			w.endNode(id)
			w.at(w.now+away, func() { w.startNode(id) })
		})
	}
	if !k.switchover() {
		end()
		return
	}
	deadline := k.now() + leaveTimeout
	var wait func()
	wait = func() {
		s := k.peer.state
		over := k.wish.switchTo == "" && (k.v.rec.Primary == names[k.id] || s != nil && s.gate)
		if over || k.now() > deadline {
			end()
			return
		}
		k.p.after(10*ms, wait)
	}
	wait()
}

// vipLoop renews the address while the gate is open; the kernel takes it away otherwise.
func (k *kine) vipLoop() {
	_, err := k.gate.Enter()
	if err == nil || k.w.mutant("vip-by-role") && k.role() == decide.Primary {
		k.vipUntil = k.w.now + vipLease
	} else if k.vipUntil > k.w.now {
		k.vipUntil = k.w.now
	}
	k.p.after(vipEvery, k.vipLoop)
}

// holds: an answer may be given, to a request that has begun.
func (k *kine) holds() bool {
	return k.gate != nil && k.token != failover.Token{} && k.gate.Check(k.token) == nil
}

func (k *kine) enters() bool {
	_, err := k.gate.Enter()
	return err == nil
}

// since is how long ago t was; 0 for never.
func since(now, t time.Duration) time.Duration {
	if t == 0 {
		return 0
	}
	return max(1, now-t)
}
