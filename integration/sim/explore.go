package sim

import (
	"sync"
	"sync/atomic"
	"time"
)

// Total is what many histories come to.
type Total struct {
	Histories, Steps, Epochs, Acked, Reads uint64
	Time                                   time.Duration // simulated, with failures
	// ArmedAfter is the longest time until a cluster whose failures had healed was armed.
	ArmedAfter time.Duration
}

func (t *Total) add(r Result) {
	t.Histories++
	t.Steps += r.Steps
	t.Epochs += r.Epochs
	t.Acked += uint64(r.Acked)
	t.Reads += uint64(r.Reads)
	t.Time += r.Time
	t.ArmedAfter = max(t.ArmedAfter, r.ArmedAfter)
}

// Explore runs histories of one seed after the other, from the given one, on so many goroutines, until more says no or one breaks. progress,
// if not nil, hears of each. It returns the history that broke, if one did: of several, that of the lowest seed.
func Explore(from uint64, mutant string, workers int, more func(done uint64) bool, progress func(Total)) (Total, *Result) {
	var next atomic.Uint64
	next.Store(from)
	var mu sync.Mutex // guards total and bad
	var total Total
	var bad *Result
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				seed := next.Add(1) - 1
				mu.Lock()
				stop := bad != nil || !more(seed-from)
				mu.Unlock()
				if stop {
					return
				}
				r := History{Seed: seed, Mutant: mutant}.Run(false)
				mu.Lock()
				total.add(r)
				if r.Bad != "" && (bad == nil || r.Seed < bad.Seed) {
					bad = &r
				}
				if progress != nil {
					progress(total)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return total, bad
}
