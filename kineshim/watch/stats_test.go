package watch

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lags notes what it is told.
type lags struct {
	mu   sync.Mutex // guards seen
	seen []float64
}

func (l *lags) Observe(seconds float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, seconds)
}

func TestTheLagOfEventsIsMeasuredWhenTheyHaveBeenHandedOver(t *testing.T) {
	var l lags
	within(t, Config{Lag: &l}, func(r *rig) {
		r.end()
		r.open(0) // a client that does not read
		r.create(prefix("a", 0))
		r.publish(put("a", "1"))
		r.publish(put("b", "1")) // nobody watches it
		synctest.Wait()
		if len(l.seen) > 0 {
			t.Errorf("measured before they were handed over: %v", l.seen)
		}
		time.Sleep(3 * time.Second)
		r.want("0@1 created", "0@2 2+a=1")
		synctest.Wait()
		if len(l.seen) != 1 || l.seen[0] != 3 {
			t.Errorf("measured %v, want 3 s", l.seen)
		}
	})
}

func TestStatsCountWatches(t *testing.T) {
	s := newStore()
	s.commit(put("a", "1"))
	s.commit(put("b", "2"))
	within(t, Config{Source: s}, func(r *rig) {
		s.block = make(chan struct{})
		r.create(prefix("b", 0))
		r.create(prefix("a", 1))
		synctest.Wait()
		if got, want := r.hub.Stats(), (Stats{Streams: 1, Watchers: 2, Lagging: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		s.block <- struct{}{}
		s.block = nil
		synctest.Wait()
		r.cancel(0)
		synctest.Wait()
		if got, want := r.hub.Stats(), (Stats{Streams: 1, Watchers: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		r.got()
	})
}
