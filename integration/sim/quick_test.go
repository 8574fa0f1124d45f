package sim

import (
	"os"
	"strconv"
	"testing"
	"time"
)

func TestQuick(t *testing.T) {
	n, from := 20, 0
	if s := os.Getenv("N"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("FROM"); s != "" {
		from, _ = strconv.Atoi(s)
	}
	var steps uint64
	var sim, armed time.Duration
	began := time.Now()
	bad, acked, epochs := 0, 0, uint64(0)
	for i := range n {
		r := History{Seed: uint64(from + i), Mutant: os.Getenv("MUTANT")}.Run(false)
		steps += r.Steps
		sim += r.Time
		armed = max(armed, r.ArmedAfter)
		acked += r.Acked
		epochs += r.Epochs
		if r.Bad != "" {
			bad++
			t.Logf("seed %d after %v: %s", r.Seed, r.Time, r.Bad)
		}
	}
	t.Logf("%d bad of %d; %d steps in %v, %v simulated, %d acked, %d epochs, armed after at most %v", bad, n, steps, time.Since(began), sim, acked, epochs, armed)
}

func TestTrace(t *testing.T) {
	seed, _ := strconv.Atoi(os.Getenv("SEED"))
	r := History{Seed: uint64(seed), Mutant: os.Getenv("MUTANT")}.Run(true)
	k := 200
	if s := os.Getenv("LINES"); s != "" {
		k, _ = strconv.Atoi(s)
	}
	for _, l := range r.Trace[max(0, len(r.Trace)-k):] {
		os.Stdout.WriteString(l + "\n")
	}
}
