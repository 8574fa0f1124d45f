package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

const ms = time.Millisecond

// Options make a world.
type Options struct {
	Seed uint64
	// Mutant is the rule to break; "" is none. See Mutants.
	Mutant string
	// Timing is decide's, and Raft's promise; zero: by the seed.
	Timing decide.Timing
	// Skew is by how much clock rates may differ from true time.
	Skew float64
	// Trace: keep a line for each event.
	Trace bool
	// Calm: no client is started, nothing happens by itself.
	Calm bool
}

// World is a cluster of two data nodes and a witness with all that it stands on.
type World struct {
	opt     Options
	rng     *rand.Rand
	now     time.Duration // true time since the beginning
	queue   queue
	steps   uint64
	promise time.Duration
	timing  decide.Timing
	links   [nodes][nodes]link
	mach    [nodes]*machine
	voters  [nodes]*voter
	kines   [2]*kine
	wal     []walEntry
	nextID  int32
	nonce   int
	trace   []string
	check   checker
	// traps are failures that wait for something to happen.
	traps []*Fault
	// bad is the first violation.
	bad string
	// clientEvery is each client's pause between two requests, about.
	clientEvery time.Duration
	// forceable: an operator may force promotions, which may lose writes.
	forceable bool
}

// New makes a world whose machines are switched on and whose processes start at once.
func New(opt Options) *World {
	w := &World{opt: opt, rng: rand.New(rand.NewPCG(opt.Seed, 1)), wal: make([]walEntry, 1, 4096)}
	w.timing = opt.Timing
	if w.timing == (decide.Timing{}) {
		p := []time.Duration{300 * ms, 500 * ms, 500 * ms, time.Second}[w.rng.IntN(4)]
		w.timing = decide.Timing{Silence: p, ReplicationStall: 2 * p, WitnessLostAfter: 10 * time.Second}
	}
	w.promise = w.timing.Silence
	w.clientEvery = []time.Duration{40 * ms, 150 * ms, 150 * ms}[w.rng.IntN(3)]
	w.check.init(w)
	for i := range nodes {
		m := &machine{id: i, on: true, rate: 1 + (2*w.rng.Float64()-1)*opt.Skew, epoch: time.Hour + w.within(time.Hour), diskDelay: 500 * time.Microsecond}
		w.mach[i] = m
		w.voters[i] = newVoter(w, m)
	}
	for i := range w.kines {
		w.kines[i] = newKine(w, i)
	}
	for i := range nodes {
		w.startNode(i)
	}
	return w
}

// startNode starts the node's kineshim, or the witness.
func (w *World) startNode(i int) {
	m, v := w.mach[i], w.voters[i]
	if !m.on || v.p.up || v.unfit != "" {
		return
	}
	w.say(i, "starts", "")
	v.p.begin()
	v.start()
	if i != nodeW {
		w.kines[i].start()
	}
}

// within is a random duration below d.
func (w *World) within(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(w.rng.Int64N(int64(d)))
}

func (w *World) chance(p float64) bool { return w.rng.Float64() < p }

// mutant reports whether the rule is the one that is broken.
func (w *World) mutant(name string) bool { return w.opt.Mutant == name }

// say notes one line: time, node, what, why.
func (w *World) say(node int, what, why string) {
	if w.opt.Trace {
		who := "-"
		if node >= 0 {
			who = names[node]
		}
		if why != "" {
			why = "  (" + why + ")"
		}
		w.trace = append(w.trace, fmt.Sprintf("%10.4fs  %s  %s%s", w.now.Seconds(), who, what, why))
	}
}

func (w *World) sayf(node int, format string, args ...any) {
	if w.opt.Trace {
		w.say(node, fmt.Sprintf(format, args...), "")
	}
}

// violate notes the first violation.
func (w *World) violate(format string, args ...any) {
	if w.bad == "" {
		w.bad = fmt.Sprintf(format, args...)
		w.say(-1, "VIOLATION: "+w.bad, "")
	}
}

// step lets the next event happen. Without one left, or after a violation, it reports false.
func (w *World) step() bool {
	if len(w.queue.heap) == 0 || w.bad != "" {
		return false
	}
	e := w.queue.pop()
	w.now = max(w.now, e.at)
	w.steps++
	if p := e.p; p != nil {
		switch {
		case !p.up || p.life != e.life || !p.m.on:
			return true
		case e.from != 0 && !w.linked(int(e.from)-1, p.m.id):
			return true
		case p.stopped || p.m.suspended:
			e.from = 0
			p.backlog = append(p.backlog, e)
			return true
		}
	}
	e.fn()
	w.check.after()
	return w.bad == ""
}

// at schedules what happens to the world.
func (w *World) at(t time.Duration, fn func()) { w.queue.push(event{at: max(t, w.now), fn: fn}) }

// Run goes on for d, or until the condition holds, and reports whether it does.
func (w *World) Run(d time.Duration, until func() bool) bool {
	end := w.now + d
	for w.bad == "" && len(w.queue.heap) > 0 && w.queue.heap[0].at <= end {
		if until != nil && until() {
			return true
		}
		w.step()
	}
	if w.bad == "" {
		w.now = max(w.now, end)
	}
	return w.bad == "" && (until == nil || until())
}

// Trace is all that happened, a line for each event; empty unless it was asked for.
func (w *World) Trace() []string { return w.trace }

// Bad is the first violation; "" if there was none.
func (w *World) Bad() string { return w.bad }

// Steps is how many events have happened.
func (w *World) Steps() uint64 { return w.steps }

// Now is the time since the beginning.
func (w *World) Now() time.Duration { return w.now }

var members = []record.Member{
	{Name: "a", ServerID: "a-1", Role: record.Data},
	{Name: "b", ServerID: "b-1", Role: record.Data},
	{Name: "w", ServerID: "w-1", Role: record.Witness},
}

func (w *World) String() string { return strings.Join(w.trace, "\n") }
