package sim

import (
	"math/rand/v2"
	"slices"
	"time"
)

// cues are what a failure may wait for.
var cues = []string{"pair", "solo", "promote", "timeline", "hand-over", "elected", "promoted", "open", "rebuild", "connect-solo"}

// scheduler makes failures by a seed: single ones, several at one moment of the protocol, and combinations that have broken one rule or another.
type scheduler struct {
	r     *rand.Rand
	kinds []Kind
	span  time.Duration
	// combinations is how many combination has; the last is of forced promotions only.
	combinations int
	all          []Fault
}

// Schedule makes about n failures by the seed, in the given time, in the order in which they come.
func Schedule(seed uint64, n int, span time.Duration, force bool) []Fault {
	s := &scheduler{r: rand.New(rand.NewPCG(seed, 2)), span: span, combinations: 6}
	s.kinds = []Kind{Kill, Kill, Kill, KillMute, KillPostgres, CrashBackend, Power, Power, Freeze, Freeze, FreezePostgres, FreezeBoth, Suspend,
		Cut, Cut, Cut, OneWay, OneWay, Isolate, Isolate, Loss, SlowDisk, Wipe, Restore, Switchover, Switchover, Stop, Stop, Pause}
	if force {
		s.kinds = append(s.kinds, Force, Force)
		s.combinations++
	}
	n = n/2 + s.r.IntN(n)
	for len(s.all) < n {
		switch k := s.r.IntN(10); {
		case k < 5:
			s.single()
		case k < 8:
			s.together()
		default:
			s.combination()
		}
	}
	slices.SortStableFunc(s.all, func(a, b Fault) int { return int(a.At - b.At) })
	return s.all
}

func (s *scheduler) upTo(d time.Duration) time.Duration { return time.Duration(s.r.Int64N(int64(d))) }

func (s *scheduler) lasting() time.Duration {
	d := []time.Duration{40 * ms, 200 * ms, time.Second, 3 * time.Second, 15 * time.Second}[s.r.IntN(5)]
	return d/2 + s.upTo(d)
}

func (s *scheduler) any(at time.Duration) Fault {
	f := Fault{Kind: s.kinds[s.r.IntN(len(s.kinds))], Node: s.r.IntN(nodes), At: at, For: s.lasting()}
	f.Other = (f.Node + 1 + s.r.IntN(2)) % nodes
	if f.Kind == Loss {
		f.Rate = 0.05 + 0.4*s.r.Float64()
	}
	return f
}

func (s *scheduler) single() { s.all = append(s.all, s.any(s.upTo(s.span))) }

// together: several failures at the same moment, or at the same step of the protocol.
func (s *scheduler) together() {
	at, cue, by := s.upTo(s.span), cues[s.r.IntN(len(cues))], s.r.IntN(2)
	late := []time.Duration{3 * ms, 30 * ms, 500 * ms}[s.r.IntN(3)]
	waits := s.r.IntN(3) > 0
	for range 1 + s.r.IntN(3) {
		f := s.any(at)
		if waits {
			f.On, f.By, f.Late = cue, by, s.upTo(late)
		} else {
			f.At += s.upTo(time.Second)
		}
		s.all = append(s.all, f)
	}
}

// combination is one of the sequences of design, with the times and the parts by chance.
func (s *scheduler) combination() {
	at, x := s.upTo(s.span), s.r.IntN(2)
	y := 1 - x
	add := func(f Fault) {
		f.At += at
		s.all = append(s.all, f)
	}
	switch s.r.IntN(s.combinations) {
	case 0: // the two data nodes are cut from each other, and the witness is restarted
		add(Fault{Kind: Cut, Node: x, Other: y, For: 2 * time.Second})
		add(Fault{Kind: KillMute, Node: nodeW, At: 300*ms + s.upTo(1500*ms), For: 5*ms + s.upTo(100*ms)})
	case 1: // who is promoted is heard by the other one only when both have changed sides
		add(Fault{Kind: Isolate, Node: y, For: 1500*ms + s.upTo(time.Second)})
		add(Fault{Kind: OneWay, Node: x, Other: y, On: "promote", By: x, Late: s.upTo(4 * ms), For: 800 * ms})
		add(Fault{Kind: Isolate, Node: x, On: "open", By: x, Late: s.upTo(500 * ms), For: 3 * time.Second})
	case 2: // who pairs is cut off, or dies, before it knows the outcome
		add(Fault{Kind: []Kind{Isolate, Cut, Freeze}[s.r.IntN(3)], Node: x, Other: y, On: "pair", By: x, Late: s.upTo(5 * ms), For: s.lasting()})
		add(Fault{Kind: []Kind{Isolate, Kill, Power}[s.r.IntN(3)], Node: x, On: "pair", By: x, Late: s.upTo(700 * ms), For: s.lasting()})
		add(Fault{Kind: CrashBackend, Node: x, At: -300*ms + s.upTo(300*ms)}) // so that it pairs at all
	case 3: // rows that the standby lacks become visible, and the primary is lost
		add(Fault{Kind: []Kind{Cut, FreezePostgres}[s.r.IntN(2)], Node: y, Other: x, For: time.Second + s.upTo(2*time.Second)})
		add(Fault{Kind: CrashBackend, Node: x, At: 50*ms + s.upTo(500*ms)})
		add(Fault{Kind: Power, Node: x, At: 300*ms + s.upTo(800*ms), For: 3 * time.Second})
	case 4: // the news of a death comes late
		back := 1200*ms + s.upTo(800*ms) // when the other one hears the next life's first word
		add(Fault{Kind: Isolate, Node: y, For: back})
		add(Fault{Kind: Cut, Node: x, Other: y, At: back + 100*ms + s.upTo(300*ms), For: 4 * time.Second})
		add(Fault{Kind: Loss, Node: x, Other: nodeW, Rate: 0.8, At: 280 * ms, For: 300 * ms})
		add(Fault{Kind: Kill, Node: x, At: 300 * ms, For: 30*ms + s.upTo(100*ms)})
	case 6: // an operator forces the node that is behind, while the other one may still serve
		add(Fault{Kind: Power, Node: y, For: 2 * time.Second})
		add(Fault{Kind: []Kind{Isolate, Power}[s.r.IntN(2)], Node: x, At: 2*time.Second + s.upTo(2*time.Second), For: 8*time.Second + s.upTo(8*time.Second)})
		add(Fault{Kind: Force, Node: y, At: 4 * time.Second, For: 8 * time.Second})
		add(Fault{Kind: KillPostgres, Node: x, At: 2*time.Second + s.upTo(8*time.Second)}) // it begins a timeline by itself, if it may
	case 5: // a process is paused between a request and its answer
		for range 6 {
			add(Fault{Kind: []Kind{Freeze, Suspend, FreezeBoth}[s.r.IntN(3)], Node: x, At: s.upTo(20 * time.Second), For: 500*ms + s.upTo(3*time.Second)})
		}
	}
}
