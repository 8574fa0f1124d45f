package sim

import (
	"fmt"
	"testing"
	"time"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

// scene is a world in which a test says what happens. It begins armed under a.
type scene struct {
	*World
	t *testing.T
}

var defaultTiming = decide.Timing{Silence: 500 * ms, ReplicationStall: time.Second, WitnessLostAfter: 10 * time.Second}

func newScene(t *testing.T, seed uint64) scene {
	t.Helper()
	s := scene{New(Options{Seed: seed, Timing: defaultTiming, Skew: 0.01, Trace: true}), t}
	s.must("armed under a", 30*time.Second, s.armedUnder(nodeA))
	s.Run(time.Duration(seed)*137*ms, nil)
	return s
}

// must fails the test if the condition does not come about within the time, or if a rule is broken before.
func (s scene) must(what string, within time.Duration, until func() bool) {
	s.t.Helper()
	began := s.now
	if !s.Run(within, until) {
		s.fail("%s: not within %v", what, within)
	}
	s.t.Logf("%s after %v", what, (s.now - began).Round(ms))
}

// stays fails the test if the condition ceases to hold within the time, at an event.
func (s scene) stays(what string, d time.Duration, is func() bool) {
	s.t.Helper()
	began := s.now
	if s.Run(d, func() bool { return !is() }) {
		s.fail("%s: only for %v", what, s.now-began)
	}
	if s.bad != "" {
		s.fail("%s", what)
	}
}

func (s scene) fail(format string, args ...any) {
	s.t.Helper()
	tail := s.trace[max(0, len(s.trace)-60):]
	lines := ""
	for _, l := range tail {
		lines += l + "\n"
	}
	s.t.Fatalf(format+"; %s\n%s\nrecord: %s", append(args, s.bad, lines, s.describe(s.newest()))...)
}

func (s scene) do(kind Kind, node int, d time.Duration) {
	s.inject(&Fault{Kind: kind, Node: node, Other: (node + 1) % nodes, For: d})
}

func (s scene) armedUnder(node int) func() bool {
	return func() bool { return s.newest().Primary == names[node] && s.Armed() }
}

func (s scene) served(node int) func() bool { return func() bool { return s.Serves() == node } }

func (s scene) nobody() bool { return s.Serves() == -1 }

// writes holds once the node has acknowledged a write that begins from now on.
func (s scene) writes(node int) func() bool {
	from := s.wal[s.check.floor].revision
	return func() bool { return s.Serves() == node && s.wal[s.check.floor].revision > from+1 }
}

func (s scene) off(ns ...int) {
	for _, n := range ns {
		s.powerOff(n)
	}
}

func (s scene) on(ns ...int) {
	for _, n := range ns {
		s.powerOn(n)
	}
}

func (s scene) soloUnder(node int) func() bool {
	return func() bool { r := s.newest(); return r.Solo() && r.Primary == names[node] }
}

// lone brings about S1: b is lost, a is solo and has written alone.
func (s scene) lone() {
	s.t.Helper()
	s.off(nodeB)
	s.must("a solo", 5*time.Second, s.soloUnder(nodeA))
	s.must("a writes alone", 5*time.Second, s.writes(nodeA))
	s.must("and again", 5*time.Second, s.writes(nodeA))
}

const long = time.Hour // failures that the test ends itself

var rows = []struct {
	row  string
	name string
	run  func(s scene)
}{
	{"26", "NIC flapping and 30 % packet loss", func(s scene) {
		for x := range nodes {
			for y := range nodes {
				s.links[x][y].loss = 0.3
			}
		}
		epoch := s.newest().Epoch
		for range 30 {
			s.do(Isolate, nodeB, 300*ms)
			s.Run(2*time.Second, nil)
		}
		if n := s.newest().Epoch - epoch; n > 6 {
			s.fail("%d changes of the primary in a minute", n)
		}
		s.links = [nodes][nodes]link{}
		s.must("armed", 30*time.Second, s.Armed)
	}},
	{"33", "slow disk on a that does not last", func(s scene) {
		s.mach[nodeA].diskDelay = 400 * ms
		s.stays("a is the primary", 20*time.Second, func() bool { return s.newest().Primary == "a" })
		s.mach[nodeA].diskDelay = ms
		s.must("armed", 30*time.Second, s.armedUnder(nodeA))
	}},
	{"33", "slow disk on a that lasts", func(s scene) {
		s.mach[nodeA].diskDelay = 20 * time.Second
		s.must("b serves", 20*time.Second, s.served(nodeB))
		s.mach[nodeA].diskDelay = ms
		s.must("armed", 90*time.Second, s.armedUnder(nodeB))
	}},
	{"34", "slow disk on b, tolerated", func(s scene) {
		s.mach[nodeB].diskDelay = 100 * ms
		s.stays("paired", 20*time.Second, func() bool { return s.newest().Paired() && s.newest().Primary == "a" })
		s.must("a writes", 5*time.Second, s.writes(nodeA))
	}},
	{"34", "slow disk on b, then solo", func(s scene) {
		s.mach[nodeB].diskDelay = 20 * time.Second
		s.must("a solo", 10*time.Second, s.soloUnder(nodeA))
		s.must("a writes", 5*time.Second, s.writes(nodeA))
		s.stays("a serves", 20*time.Second, func() bool { return s.newest().Primary == "a" && s.Serves() == nodeA })
		s.mach[nodeB].diskDelay = ms
		s.must("armed", 90*time.Second, s.armedUnder(nodeA))
	}},
	{"42", "a comes back at once with an older copy of the same timeline", func(s scene) {
		s.Run(10*time.Second, nil)
		s.kill(nodeA, false)
		d := &s.kines[nodeA].pg.dir
		for range 2 * (1 << 20) / entryBytes {
			d.tip = s.wal[d.tip].parent
		}
		s.startNode(nodeA)
		s.must("b serves", 15*time.Second, s.served(nodeB))
		s.must("armed", 60*time.Second, s.armedUnder(nodeB))
	}},
	{"48", "a command that only one version knows", func(s scene) {
		before := s.describe(s.newest())
		heard, outcome := false, done
		var refusal error
		s.voters[nodeA].append(&record.Command{Kind: "from-the-future", Epoch: s.newest().Epoch, By: "a"}, func(o proposalOutcome, err error) { heard, outcome, refusal = true, o, err })
		s.must("an answer", time.Second, func() bool { return heard })
		if outcome != notDone || refusal == nil {
			s.fail("outcome %v, %v", outcome, refusal)
		}
		s.Run(time.Second, nil)
		for _, v := range s.voters {
			if got := s.describe(v.rec); got != before {
				s.fail("%s guessed: %s", names[v.id], got)
			}
		}
		s.off(nodeA)
		s.must("b serves", 10*time.Second, s.served(nodeB))
	}},
	{"49", "a and w lost at once while paired", func(s scene) {
		s.off(nodeA, nodeW)
		s.forceable = true
		s.force(s.kines[nodeB]) // refused: there is no majority
		s.stays("nobody answers", time.Minute, s.nobody)
		s.forceable = false
		if !s.holds(s.kines[nodeB].pg.dir.tip, s.check.floor) {
			s.fail("b lacks an acknowledged write")
		}
		s.on(nodeW)
		s.must("b serves", 10*time.Second, s.served(nodeB))
	}},
	{"50", "b lost, then w", func(s scene) {
		s.lone()
		s.off(nodeW)
		s.stays("a serves", time.Minute, s.served(nodeA))
		s.must("a writes", 5*time.Second, s.writes(nodeA))
	}},
	{"51", "w lost, later a", func(s scene) {
		s.off(nodeW)
		s.must("solo", 15*time.Second, s.soloUnder(nodeA))
		s.must("a writes", 5*time.Second, s.writes(nodeA))
		if s.kines[nodeA].pg.acker {
			s.fail("a does not wait for b any more")
		}
		s.off(nodeA)
		s.stays("nobody answers", time.Minute, s.nobody)
		s.on(nodeW)
		s.stays("nobody answers", 30*time.Second, s.nobody)
		if !s.holds(s.kines[nodeB].pg.dir.tip, s.check.floor) {
			s.fail("a forced promotion of b would lose something")
		}
		s.forceable = true
		s.force(s.kines[nodeB])
		s.must("b serves on an operator's word", 10*time.Second, s.served(nodeB))
	}},
	{"52", "w lost, later b", func(s scene) {
		s.off(nodeW)
		s.must("solo", 15*time.Second, s.soloUnder(nodeA))
		s.off(nodeB)
		s.must("a writes", 5*time.Second, s.writes(nodeA))
		s.stays("a serves", time.Minute, s.served(nodeA))
	}},
	{"53", "w down, then a and b are cut from each other", func(s scene) {
		s.off(nodeW)
		s.must("solo", 15*time.Second, s.soloUnder(nodeA))
		s.do(Cut, nodeA, long)
		s.stays("a serves", time.Minute, s.served(nodeA))
		s.must("a writes", 5*time.Second, s.writes(nodeA))
	}},
	{"53a", "a lost, b promoted and solo, then w lost", func(s scene) {
		s.off(nodeA)
		s.must("b serves", 10*time.Second, s.served(nodeB))
		s.off(nodeW)
		s.stays("b serves", time.Minute, s.served(nodeB))
		s.must("b writes", 5*time.Second, s.writes(nodeB))
	}},
	{"53b", "a solo and cut off, an operator forces b, the cut heals", func(s scene) {
		s.lone()
		s.on(nodeB)
		s.do(Isolate, nodeA, 20*time.Second)
		s.Run(5*time.Second, nil)
		if s.Serves() != nodeA {
			s.fail("a, solo, does not go on")
		}
		s.forceable = true
		s.force(s.kines[nodeB])
		b := s.kines[nodeB]
		s.must("b is promoted", 15*time.Second, func() bool { return b.enters() })
		s.must("a has stopped, and is rebuilt", 60*time.Second, s.armedUnder(nodeB))
	}},
	{"53c", "all lose power while paired, only a returns", func(s scene) {
		s.off(nodeA, nodeB, nodeW)
		s.Run(time.Second, nil)
		s.on(nodeA)
		s.stays("nobody answers", 2*time.Minute, s.nobody)
	}},
	{"53c", "all lose power while a is solo, only a returns", func(s scene) {
		s.lone()
		s.off(nodeA, nodeW)
		s.Run(time.Second, nil)
		s.on(nodeA)
		s.stays("nobody answers", 2*time.Minute, s.nobody)
	}},
	{"54", "a and b lose power while paired, a returns with w", func(s scene) {
		s.off(nodeA, nodeB)
		s.Run(time.Second, nil)
		s.on(nodeA)
		s.must("a serves", 15*time.Second, s.served(nodeA))
		if !s.newest().Solo() {
			s.fail("not solo")
		}
	}},
	{"55", "a and b lose power while paired, b returns with w", func(s scene) {
		s.off(nodeA, nodeB)
		s.Run(time.Second, nil)
		s.on(nodeB)
		s.must("b serves", 15*time.Second, s.served(nodeB))
	}},
	{"56", "a and b lose power while a is solo, a returns", func(s scene) {
		s.lone()
		s.off(nodeA)
		s.Run(time.Second, nil)
		s.on(nodeA)
		s.must("a serves", 15*time.Second, s.served(nodeA))
	}},
	{"57", "a and b lose power while a is solo, b returns", func(s scene) {
		s.lone()
		s.off(nodeA)
		s.Run(time.Second, nil)
		s.on(nodeB)
		s.stays("nobody answers", time.Minute, s.nobody)
		s.on(nodeA)
		s.must("armed", 30*time.Second, s.armedUnder(nodeA))
	}},
	{"58", "all three lose power, a and w return", func(s scene) {
		s.off(nodeA, nodeB, nodeW)
		s.Run(time.Second, nil)
		s.on(nodeW, nodeA)
		s.must("a serves", 15*time.Second, s.served(nodeA))
	}},
	{"58", "all three lose power, b and w return", func(s scene) {
		s.off(nodeA, nodeB, nodeW)
		s.Run(time.Second, nil)
		s.on(nodeW, nodeB)
		s.must("b serves", 15*time.Second, s.served(nodeB))
	}},
	{"58", "all three lose power, a and b return", func(s scene) {
		s.off(nodeA, nodeB, nodeW)
		s.Run(time.Second, nil)
		s.on(nodeA, nodeB)
		s.must("one serves", 15*time.Second, func() bool { return s.Serves() >= 0 })
	}},
	{"59", "b behind, a lost for good", func(s scene) {
		s.lone()
		s.off(nodeA)
		s.on(nodeB)
		s.stays("nobody answers", time.Minute, s.nobody)
		b := s.kines[nodeB]
		if s.holds(b.pg.dir.tip, s.check.floor) {
			s.fail("b is not behind: the test shows nothing")
		}
		s.forceable = true
		s.force(b)
		s.must("b serves on an operator's word", 10*time.Second, s.served(nodeB))
	}},
	{"60", "a dies while b is being cloned", func(s scene) {
		s.do(Wipe, nodeB, 100*ms)
		b := s.kines[nodeB]
		s.must("b is being cloned", 30*time.Second, func() bool {
			j := b.lanes[lanePostgres].job
			return j != nil && j.step.Action == decide.Clone
		})
		s.Run(100*ms, nil)
		s.off(nodeA)
		s.stays("nobody answers", time.Minute, s.nobody)
		s.on(nodeA)
		s.must("armed", 60*time.Second, s.armedUnder(nodeA))
	}},
	{"61", "a dies just before b is recorded in sync", func(s scene) {
		s.lone()
		s.Add(Fault{Kind: Power, Node: nodeA, On: "pair", By: nodeA, For: long})
		s.Run(ms, nil)
		s.on(nodeB)
		s.must("a is about to pair, and dies", 30*time.Second, func() bool { return !s.mach[nodeA].on })
		if !s.newest().Solo() {
			s.fail("paired: the test shows nothing")
		}
		s.stays("nobody answers", time.Minute, s.nobody)
		s.on(nodeA)
		s.must("armed", 30*time.Second, s.armedUnder(nodeA))
	}},
	{"62", "a dies just after b is recorded in sync", func(s scene) {
		s.lone()
		s.on(nodeB)
		s.must("paired", 30*time.Second, func() bool { return s.newest().Paired() })
		s.off(nodeA)
		s.must("b serves", 10*time.Second, s.served(nodeB))
	}},
	{"63", "b crashes after its promotion is committed, before PostgreSQL is promoted", func(s scene) {
		s.off(nodeA)
		s.must("the promotion is committed", 10*time.Second, func() bool { return s.newest().Primary == "b" })
		if s.kines[nodeB].pg.primary {
			s.fail("PostgreSQL is promoted already: the test shows nothing")
		}
		s.off(nodeB)
		s.on(nodeA)
		s.stays("a does not resume", 30*time.Second, s.nobody)
		s.on(nodeB)
		s.must("armed", 60*time.Second, s.armedUnder(nodeB))
	}},
	{"64", "w crashes in the middle of a promotion, after the commit", func(s scene) {
		s.off(nodeA)
		s.must("the promotion is committed", 10*time.Second, func() bool { return s.newest().Primary == "b" })
		s.do(Kill, nodeW, 500*ms)
		s.must("b serves", 10*time.Second, s.served(nodeB))
	}},
	{"65", "b promoted, then dies, a comes back", func(s scene) {
		s.off(nodeA)
		s.must("b serves", 10*time.Second, s.served(nodeB))
		s.off(nodeB)
		s.on(nodeA)
		s.stays("nobody answers", time.Minute, s.nobody)
		s.on(nodeB)
		s.must("armed", 60*time.Second, s.armedUnder(nodeB))
	}},
	{"66", "a solo, w wiped, a lost", func(s scene) {
		s.lone()
		s.do(WipeVoter, nodeW, 100*ms)
		s.Run(time.Second, nil)
		s.off(nodeA)
		s.on(nodeB)
		s.stays("nobody answers", time.Minute, s.nobody)
		if s.newest().Primary != "a" {
			s.fail("b is promoted")
		}
	}},
	{"67", "a partition heals while the old primary still believes", func(s scene) {
		s.do(Isolate, nodeA, 8*time.Second)
		s.must("b serves", 5*time.Second, s.served(nodeB))
		if s.kines[nodeA].pg.p.up && !s.kines[nodeA].pg.primary {
			s.fail("a knows already: the test shows nothing")
		}
		s.must("armed under b", 60*time.Second, s.armedUnder(nodeB))
	}},
	{"68", "a crashes during a switchover", func(s scene) {
		s.kines[nodeA].switchover()
		s.Run(s.within(400*ms), nil)
		s.do(Kill, nodeA, 2*time.Second)
		s.must("one serves", 10*time.Second, func() bool { return s.Serves() >= 0 })
		s.must("armed", 60*time.Second, s.Armed)
	}},
	{"69", "an operator promotes PostgreSQL on b by hand", func(s scene) {
		pg := s.kines[nodeB].pg
		pg.freeze()
		pg.dir.history = append(pg.dir.history[:len(pg.dir.history):len(pg.dir.history)], fork{pg.dir.timeline, pg.depth()})
		pg.dir.timeline++
		pg.primary = true
		pg.append(0)
		s.stays("b does not answer", 500*ms, func() bool { return !s.kines[nodeB].enters() })
		s.must("b is rebuilt", 60*time.Second, func() bool { return s.newest().Solo() })
		s.must("armed", 60*time.Second, s.armedUnder(nodeA))
	}},
	{"70", "a and b are power-cycled again and again", func(s scene) {
		for range 30 {
			n := s.rng.IntN(2)
			s.do(Power, n, 500*ms+s.within(2*time.Second))
			s.Run(s.within(3*time.Second), nil)
		}
		s.must("armed", 60*time.Second, s.Armed)
	}},
}

// The rows of the failure matrix which are for the simulation, and the sequences.
func TestRow(t *testing.T) {
	for _, r := range rows {
		t.Run(r.row+" "+r.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(6) {
				t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { r.run(newScene(t, seed)) })
			}
		})
	}
}
