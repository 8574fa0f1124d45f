package sim

import (
	"fmt"
	"time"
)

const (
	// foundWithin and armedWithin bound the time until a new cluster, and one whose failures have all healed, is armed.
	foundWithin, armedWithin = 30 * time.Second, time.Minute
	// faultSpan is for how long failures go on in one history.
	faultSpan = 4 * time.Minute
	// faultCount is how many there are.
	faultCount = 80
)

// Result is what became of one history.
type Result struct {
	Seed   uint64
	Bad    string
	Steps  uint64
	Time   time.Duration // simulated, with failures
	Epochs uint64
	// Forced is the newest epoch that an operator forced; 0: none.
	Forced uint64
	Acked  int
	Reads  int
	// ArmedAfter is how long it took after all had healed.
	ArmedAfter time.Duration
	Trace      []string
}

// History is one run: all its failures, or those that are kept.
type History struct {
	Seed   uint64
	Mutant string
	// Keep lists the failures that happen, by their numbers; nil is all.
	Keep []int
	// Only, if not nil, is what happens in place of the seed's failures.
	Only []Fault
}

// Faults are the failures of the history.
func (h History) Faults() []Fault {
	if h.Only != nil {
		return h.Only
	}
	n := faultCount
	if h.Seed%5 == 0 {
		n *= 3 // hardly ever is anything well
	}
	all := Schedule(h.Seed, n, faultSpan, h.forced())
	if h.Mutant == "identity" {
		for i := range all {
			if i%15 == 7 {
				all[i].Kind, all[i].Node = WipeVoter, nodeW
			}
		}
	}
	if h.Keep == nil {
		return all
	}
	var kept []Fault
	for _, i := range h.Keep {
		if i < len(all) {
			kept = append(kept, all[i])
		}
	}
	return kept
}

// forced: in one history of eight, an operator forces promotions, and may lose what he chooses to lose.
func (h History) forced() bool { return h.Seed%8 == 7 && h.Mutant == "" }

// Run goes through the history.
func (h History) Run(trace bool) Result {
	w := New(Options{Seed: h.Seed, Mutant: h.Mutant, Trace: trace, Skew: []float64{0, 0.01, 0.15}[h.Seed%3]})
	w.forceable = h.forced()
	r := Result{Seed: h.Seed}
	if !w.Run(foundWithin, w.Armed) {
		w.violate("not armed %v after the cluster was founded", foundWithin)
	}
	begun := w.now
	w.Add(h.Faults()...)
	w.Run(faultSpan+10*time.Second, nil)
	if w.bad == "" {
		w.Heal()
		healed := w.now
		if !w.Run(armedWithin, w.Armed) {
			w.violate("not armed %v after all had healed", armedWithin)
		}
		r.ArmedAfter = w.now - healed
		w.Run(2*time.Second, nil)
	}
	r.Forced = w.check.forced
	r.Bad, r.Steps, r.Time, r.Epochs, r.Acked, r.Reads, r.Trace = w.bad, w.steps, w.now-begun, w.check.epoch, w.check.acked, w.check.reads, w.trace
	return r
}

func (h History) String() string {
	s := fmt.Sprintf("SEED=%d", h.Seed)
	if h.Mutant != "" {
		s += " MUTANT=" + h.Mutant
	}
	if h.Keep != nil {
		s += " KEEP="
		for i, k := range h.Keep {
			if i > 0 {
				s += ","
			}
			s += fmt.Sprint(k)
		}
	}
	return s
}
