package watch

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var errAway = fmt.Errorf("PostgreSQL is away: %w", ErrNotNow)

func TestWatchersWaitWhileHistoryCannotBeRead(t *testing.T) {
	s := newStore()
	for range 5 {
		s.commit(put("a", "v"))
	}
	within(t, Config{Source: s}, func(r *rig) {
		s.interrupt(errAway)
		r.create(prefix("a", 4))
		r.create(prefix("b", 0))
		r.create(prefix("a", 5))
		r.create(prefix("a", 2))
		r.cancel(2)
		time.Sleep(time.Minute)
		r.publish(put("b", "w"), put("a", "w"))
		r.want("0@6 created", "1@6 created", "2@6 created", "3@6 created", "2@6 canceled", "1@7 7+b=w")
		if n := s.asked(); n < 1000 || n > 4000 {
			t.Errorf("history was asked for %d times in a minute", n)
		}
		s.interrupt(nil)
		time.Sleep(retryPause)
		if got := fmt.Sprint(r.revisions(0), r.revisions(3)); got != "[4 5 6 7] [2 3 4 5 6 7]" {
			t.Errorf("revisions %s", got)
		}
		r.publish(put("a", "x"))
		if got := fmt.Sprint(r.revisions(0), r.revisions(3)); got != "[4 5 6 7 8] [2 3 4 5 6 7 8]" {
			t.Errorf("revisions after that: %s", got)
		}
	})
}

// revisions is of the events sent so far to a watch that asked for no others.
func (r *rig) revisions(id int64) (all []int64) {
	r.t.Helper()
	if r.seen == nil {
		r.seen = map[int64][]int64{}
	}
	for _, w := range r.got() {
		for _, e := range w.Events {
			r.seen[w.WatchId] = append(r.seen[w.WatchId], e.Kv.ModRevision)
		}
	}
	return r.seen[id]
}

func TestSweepThatWaitsEndsWithItsLastWatcherAndGoesOnForTheNext(t *testing.T) {
	s := newStore()
	s.commit(put("a", "v"))
	within(t, Config{Source: s}, func(r *rig) {
		s.interrupt(errAway)
		r.create(prefix("a", 1))
		r.cancel(0)
		time.Sleep(retryPause)
		synctest.Wait()
		if r.hub.sweeping {
			t.Error("the sweep runs, and nobody waits")
		}
		r.create(prefix("a", 1))
		s.interrupt(nil)
		time.Sleep(retryPause)
		r.want("0@2 created", "0@2 canceled", "1@2 created", "1@2 2+a=v")
	})
}

func TestCompactionDuringAnInterruptionCancelsTheWatch(t *testing.T) {
	s := newStore()
	for range 5 {
		s.commit(put("a", "v"))
	}
	within(t, Config{Source: s}, func(r *rig) {
		s.interrupt(errAway)
		r.create(prefix("a", 2))
		s.compact(4)
		time.Sleep(retryPause)
		r.want("0@6 created", "0@0 canceled compacted=4")
	})
}

func TestPreviousValueIsWaitedForWhileItCannotBeRead(t *testing.T) {
	s := newStore()
	s.bare = true
	within(t, Config{Source: s}, func(r *rig) {
		q := prefix("a", 0)
		q.PrevKv = true
		r.create(q)
		r.publish(put("a", "1"))
		s.interrupt(errAway)
		r.publish(put("a", "2"))
		time.Sleep(time.Minute)
		r.publish(put("a", "3"))
		r.want("0@1 created", "0@2 2+a=1")
		s.interrupt(nil)
		time.Sleep(retryPause)
		r.want("0@3 3+a=2(1)", "0@4 4+a=3(2)")
	})
}

func TestCloseEndsAtOnceWhatWaitsForTheSource(t *testing.T) {
	for name, historical := range map[string]bool{"for history": true, "for a previous value": false} {
		t.Run(name, func(t *testing.T) {
			s := newStore()
			s.bare = true
			s.commit(put("a", "v"))
			within(t, Config{Source: s}, func(r *rig) {
				s.interrupt(errAway)
				q := prefix("a", 0)
				q.PrevKv = true
				if historical {
					q.StartRevision = 1
				}
				r.create(q)
				r.publish(put("a", "w"))
				time.Sleep(retryPause / 2)
				began := time.Now()
				r.hub.Close()
				if took := time.Since(began); took != 0 {
					t.Errorf("Close took %v", took)
				}
				if err := <-r.result; err != errClosed || status.Code(err) != codes.Unavailable {
					t.Errorf("the stream ended with %v", err)
				}
			})
		})
	}
}

func TestClientMayLeaveWhileItsPreviousValueIsWaitedFor(t *testing.T) {
	s := newStore()
	s.bare = true
	s.commit(put("a", "v"))
	within(t, Config{Source: s}, func(r *rig) {
		s.interrupt(errAway)
		q := prefix("a", 0)
		q.PrevKv = true
		r.create(q)
		r.publish(put("a", "w"))
		began := time.Now()
		r.end()
		<-r.result
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}
