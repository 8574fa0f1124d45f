package decide

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"kineshim/raftwitness/record"
)

// second is in steps.
const second = 20

// run goes on for n steps, or until the condition holds, and reports whether it does.
func (w *world) run(n int, until func() bool) bool {
	for range n {
		if until != nil && until() {
			return true
		}
		w.step()
		if w.broken != "" {
			return false
		}
	}
	return until == nil || until()
}

func (w *world) must(t *testing.T, what string, within int, until func() bool) {
	t.Helper()
	began := w.now
	if !w.run(within, until) {
		t.Fatalf("%s: not within %ds: %s\n%s\nrecord %+v\na %+v\nb %+v", what, within/second, w.broken, w, w.record, w.hosts["a"].input(), w.hosts["b"].input())
	}
	t.Logf("%s after %.2fs", what, float64(w.now-began)/second)
}

func (w *world) armed() bool {
	p := w.hosts[w.record.Primary]
	return p != nil && p.memory.record.Paired() && !p.pairing && p.open() && w.raft.leader == p.name && !w.raft.forfeited
}

func (w *world) armedUnder(node string) func() bool {
	return func() bool { return w.record.Primary == node && w.armed() }
}

func (w *world) servedBy(node string) func() bool {
	return func() bool { return w.hosts[node].open() && w.hosts[node].lsn() > 0 }
}

// acknowledges holds once a write that begins from now on is acknowledged.
func (w *world) acknowledges() func() bool {
	after := w.written
	return func() bool { return len(w.acked) > 0 && w.acked[len(w.acked)-1] > after }
}

// quiet fails the test if an armed cluster that nobody touches does anything.
func (w *world) quiet(t *testing.T) {
	t.Helper()
	// It may look armed for a moment before it is noticed what is missing, and joining again takes a pause.
	w.run(15*second, nil)
	w.must(t, "armed and at rest", 15*second, w.armed)
	began := w.started
	if w.run(10*second, nil); w.started != began || w.broken != "" || !w.armed() {
		t.Fatalf("%d actions in an armed cluster that is left alone; %s\n%s", w.started-began, w.broken, w)
	}
}

// founded is an armed cluster under a.
func founded(t *testing.T, seed uint64) *world {
	t.Helper()
	w := newWorld(seed)
	w.must(t, "founded and armed", 30*second, w.armedUnder("a"))
	return w
}

var scenarios = []struct {
	name string
	run  func(*testing.T, *world)
}{
	{"founding", func(*testing.T, *world) {}},
	{"the primary's node dies and returns", func(t *testing.T, w *world) {
		w.kill("a")
		w.must(t, "b serves", 5*second, w.servedBy("b"))
		w.must(t, "b writes", 5*second, w.acknowledges())
		w.start("a")
		w.must(t, "armed", 30*second, w.armedUnder("b"))
	}},
	{"the primary has an unacknowledged tail", func(t *testing.T, w *world) {
		w.cut["ab"], w.cut["aw"] = true, true
		w.run(4, nil)
		for i := range 5 {
			w.hosts["a"].append(-1 - i)
		}
		w.must(t, "b serves", 5*second, w.servedBy("b"))
		clear(w.cut)
		w.must(t, "armed", 30*second, w.armedUnder("b"))
	}},
	{"the primary's PostgreSQL dies", func(t *testing.T, w *world) {
		w.hosts["a"].stopped()
		w.must(t, "a write", 5*second, w.acknowledges())
		w.must(t, "armed", 30*second, w.armed)
	}},
	{"the primary's PostgreSQL hangs", func(t *testing.T, w *world) {
		w.hosts["a"].hung = true
		w.must(t, "b serves", 8*second, w.servedBy("b"))
		w.must(t, "armed", 30*second, w.armedUnder("b"))
	}},
	{"both PostgreSQL hang", func(t *testing.T, w *world) {
		w.hosts["a"].hung, w.hosts["b"].hung = true, true
		w.run(5*second, nil)
		w.hosts["b"].hung = false
		w.must(t, "a write", 30*second, w.acknowledges())
		w.must(t, "armed", 60*second, w.armed)
	}},
	{"switchover and back", func(t *testing.T, w *world) {
		for _, to := range []string{"b", "a"} {
			from := w.hosts[other(to)]
			from.wish.SwitchTo, from.switchUntil = to, w.now+10*second
			w.must(t, to+" serves", 4*second, w.servedBy(to))
			w.must(t, "armed", 30*second, w.armedUnder(to))
		}
	}},
	{"the standby dies in the middle of a switchover", func(t *testing.T, w *world) {
		a := w.hosts["a"]
		a.wish.SwitchTo, a.switchUntil = "b", w.now+10*second
		w.run(2, nil)
		w.kill("b")
		w.must(t, "a write", 5*second, w.acknowledges())
		w.start("b")
		w.must(t, "armed", 30*second, w.armed)
	}},
	{"the standby is lost and returns", func(t *testing.T, w *world) {
		w.kill("b")
		w.must(t, "a write", 2*second, w.acknowledges())
		w.start("b")
		w.must(t, "armed", 30*second, w.armedUnder("a"))
	}},
	{"the witness is lost and returns", func(t *testing.T, w *world) {
		w.kill("w")
		w.must(t, "solo", 12*second, w.hosts["a"].memory.record.Solo)
		if a := w.hosts["a"]; a.solo || !a.open() {
			t.Errorf("solo %v, open %v: replication must stay synchronous", a.solo, a.open())
		}
		w.start("w")
		w.must(t, "armed", 30*second, w.armedUnder("a"))
	}},
	{"the standby is lost, then the witness", func(t *testing.T, w *world) {
		w.kill("b")
		w.must(t, "solo", 3*second, w.hosts["a"].memory.record.Solo)
		w.kill("w")
		w.run(20*second, nil)
		w.must(t, "a write", 2*second, w.acknowledges())
		w.hosts["a"].stopped()
		w.must(t, "a write after a restart of PostgreSQL, without a quorum", 5*second, w.acknowledges())
		w.start("w")
		w.start("b")
		w.must(t, "armed", 60*second, w.armedUnder("a"))
	}},
	{"both others are lost at once while paired", func(t *testing.T, w *world) {
		w.kill("b")
		w.kill("w")
		w.run(2*second, nil)
		if w.hosts["a"].open() {
			t.Error("a answers without a majority")
		}
		w.run(10*second, nil)
		w.start("w")
		w.must(t, "a write", 5*second, w.acknowledges())
		w.start("b")
		w.must(t, "armed", 60*second, w.armedUnder("a"))
	}},
	{"everything restarts at once", func(t *testing.T, w *world) {
		for _, n := range []string{"a", "b", "w"} {
			w.kill(n)
		}
		w.run(second, nil)
		for _, n := range []string{"b", "w", "a"} {
			w.start(n)
		}
		w.must(t, "armed", 60*second, w.armed)
	}},
	{"both data nodes restart, the primary without its data", func(t *testing.T, w *world) {
		w.kill("a")
		w.kill("b")
		w.hosts["a"].disk = disk{}
		w.start("a")
		w.run(second, nil)
		w.start("b")
		w.must(t, "b serves", 20*second, w.servedBy("b"))
		w.must(t, "armed", 60*second, w.armedUnder("b"))
	}},
	{"the primary loses its data", func(t *testing.T, w *world) {
		w.kill("a")
		w.hosts["a"].disk = disk{}
		w.start("a")
		w.must(t, "b serves", 20*second, w.servedBy("b"))
		w.must(t, "armed", 60*second, w.armedUnder("b"))
	}},
	{"the primary comes back as an old image", func(t *testing.T, w *world) {
		w.kill("a")
		w.hosts["a"].disk = disk{exists: true, whole: true, system: systemID, timeline: 1, wal: w.hosts["a"].wal[:1]}
		w.start("a")
		w.must(t, "b serves", 20*second, w.servedBy("b"))
		w.must(t, "armed", 60*second, w.armedUnder("b"))
	}},
	{"the primary comes back with another database", func(t *testing.T, w *world) {
		w.kill("a")
		w.hosts["a"].disk = disk{exists: true, whole: true, system: 99, timeline: 2, wal: w.hosts["a"].wal}
		w.start("a")
		w.must(t, "b serves", 20*second, w.servedBy("b"))
		w.must(t, "armed", 60*second, w.armedUnder("b"))
	}},
	{"WAL flows again after the promotion is committed", func(t *testing.T, w *world) {
		w.kill("a")
		w.must(t, "promoted", 5*second, func() bool { return w.record.Primary == "b" })
		w.hosts["b"].frozen = false
		w.must(t, "b serves", 5*second, w.servedBy("b"))
		w.start("a")
		w.must(t, "armed", 60*second, w.armedUnder("b"))
	}},
	{"a forced promotion of a node that has missed a timeline", func(t *testing.T, w *world) {
		w.kill("b")
		w.must(t, "a writes alone", 5*second, w.acknowledges())
		w.kill("a")
		w.start("a")
		w.must(t, "a writes on its next timeline", 10*second, w.acknowledges())
		w.kill("a")
		w.start("b")
		w.must(t, "b leads", 5*second, w.hosts["b"].leads)
		w.hosts["b"].wish.Force = true
		w.must(t, "b serves", 10*second, w.servedBy("b"))
		w.start("a")
		w.must(t, "armed", 60*second, w.armedUnder("b"))
	}},
	{"the standby loses its data", func(t *testing.T, w *world) {
		w.kill("b")
		w.hosts["b"].disk = disk{}
		w.start("b")
		w.must(t, "solo", 5*second, w.hosts["a"].memory.record.Solo)
		w.must(t, "armed", 60*second, w.armedUnder("a"))
	}},
	{"a forced promotion of a lagging standby", func(t *testing.T, w *world) {
		w.kill("b")
		w.must(t, "a writes alone", 5*second, w.acknowledges())
		w.run(3*second, nil)
		w.kill("a")
		w.start("b")
		w.run(10*second, nil)
		if w.record.Primary != "a" || w.hosts["b"].open() {
			t.Fatalf("b, which may lack writes, has been promoted: %+v", w.record)
		}
		w.hosts["b"].wish.Force = true
		w.must(t, "b serves", 10*second, w.servedBy("b"))
		w.start("a")
		w.must(t, "armed", 60*second, w.armedUnder("b"))
	}},
}

func TestTheClusterArmsItselfAgainAfter(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			for seed := range uint64(20) {
				t.Logf("seed %d", seed)
				w := founded(t, seed)
				s.run(t, w)
				w.must(t, "armed in the end", 60*second, w.armed)
				w.quiet(t)
			}
		})
	}
}

// disturb does one bad thing to the world.
func (w *world) disturb(rng *rand.Rand) {
	node := []string{"a", "b", "w"}[rng.IntN(3)]
	h := w.hosts[node]
	switch k := rng.IntN(10); {
	case k < 3 && w.isUp(node):
		w.say("*** kill %s", node)
		w.kill(node)
		if h != nil {
			h.powered = rng.IntN(2) == 0
		}
	case k < 6 && !w.isUp(node):
		w.say("*** start %s", node)
		w.start(node)
	case k < 7:
		link := []string{"ab", "aw", "bw"}[rng.IntN(3)]
		w.cut[link] = !w.cut[link]
		w.say("*** link %s cut: %v", link, w.cut[link])
	case h == nil || !w.isUp(node):
	case k < 8:
		w.say("*** PostgreSQL on %s dies", node)
		h.stopped()
	case k < 9:
		h.hung = h.running && !h.hung
		w.say("*** PostgreSQL on %s hung: %v", node, h.hung)
	case rng.IntN(3) == 0 && w.expendable(h):
		w.say("*** %s loses its data", node)
		w.kill(node)
		h.disk = disk{}
		w.start(node)
	case rng.IntN(6) == 0 && h.leads() && w.record.Initialised():
		c := record.Command{Kind: record.Pause, Epoch: w.record.Epoch, By: node}
		if w.record.Paused {
			c.Kind = record.Resume
		}
		w.commit(c)
	case w.record.Primary == node && w.record.Paired():
		w.say("*** switchover to %s", h.other)
		h.wish.SwitchTo, h.wish.Drained, h.switchUntil = h.other, false, w.now+10*second
	}
}

// expendable reports whether the cluster can do without the data of the node.
func (w *world) expendable(h *host) bool {
	o := w.hosts[h.other]
	if w.limbo != nil || !o.exists || !o.whole || o.hung || !w.record.InSyncHas(o.name) {
		return false
	}
	have := o.ids()
	return !slices.ContainsFunc(w.acked, func(id int) bool { return !slices.Contains(have, id) })
}

func TestTheClusterArmsItselfAgainAfterAnything(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			w := founded(t, seed)
			for range 40 {
				w.disturb(rng)
				if w.run(rng.IntN(3*second), nil); w.broken != "" {
					t.Fatalf("%s\n%s", w.broken, w)
				}
			}
			w.say("*** all heals")
			clear(w.cut)
			w.record.Paused = false // as an operator would
			for _, n := range []string{"a", "b", "w"} {
				if !w.isUp(n) {
					w.start(n)
				}
				if h := w.hosts[n]; h != nil {
					h.hung = false
				}
			}
			w.must(t, "armed", 90*second, w.armed)
			w.quiet(t)
		})
	}
}
