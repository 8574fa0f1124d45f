package watch

import (
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestProgressOnRequestIsToldAtOnce(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.create(prefix("a", 0))
		r.create(prefix("b", 0))
		r.want("0@1 created", "1@1 created")
		r.publish(put("c", "1"))
		r.progress()
		r.want("-1@2")
		r.publish(put("a", "1"))
		r.progress()
		r.progress()
		r.want("0@3 3+a=1", "-1@3", "-1@3")
	})
}

func TestProgressFollowsTheEventsThatItCovers(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.end()
		r.open(0)
		r.create(prefix("a", 0))
		r.create(prefix("b", 0)) // its answer waits: the client does not read
		r.publish(put("b", "1"))
		r.progress()
		r.publish(put("a", "1"))
		r.want("0@1 created", "1@1 created", "1@2 2+b=1", "0@3 3+a=1", "-1@3")
	})
}

func TestProgressOfALaggingStreamIsToldOnceWhenItHasCaughtUp(t *testing.T) {
	s := newStore()
	s.commit(put("a", "1"))
	s.commit(put("b", "2"))
	within(t, Config{Source: s}, func(r *rig) {
		s.block = make(chan struct{})
		r.create(prefix("b", 0))
		r.create(prefix("a", 1))
		r.progress()
		r.progress()
		r.publish(put("b", "3"))
		r.want("0@3 created", "1@3 created", "0@4 4+b=3")
		s.block <- struct{}{}
		r.want("1@4 2+a=1", "-1@4")
		s.block = nil
	})
}

func TestNoProgressForAStreamWithAWatchFromTheFuture(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.create(prefix("a", 0))
		r.create(prefix("b", 3))
		r.publish(put("c", "1"))
		r.progress()
		r.want("0@1 created", "1@1 created")
		r.publish(put("c", "2"))
		r.want()
		r.progress()
		r.want("-1@3")
	})
}

func TestIdleWatchersThatAskedForItAreToldOfProgressInTime(t *testing.T) {
	within(t, Config{ProgressEvery: 10 * time.Second}, func(r *rig) {
		idle, busy, future := prefix("a", 0), prefix("b", 0), prefix("c", 4)
		idle.ProgressNotify, busy.ProgressNotify, future.ProgressNotify = true, true, true
		r.create(idle)
		r.create(busy)
		r.create(future)
		r.create(prefix("d", 0))
		r.want("0@1 created", "1@1 created", "2@1 created", "3@1 created")
		tick := func() {
			time.Sleep(11 * time.Second) // the interval and its greatest spread
			synctest.Wait()
		}
		r.publish(put("b", "1"))
		r.want("1@2 2+b=1")
		tick()
		r.want("0@2") // the busy one has heard of an event
		for range 20 {
			tick()
		}
		seen := make(map[int64]int)
		for _, w := range r.got() {
			if len(w.Events) != 0 || w.Header.Revision != 2 {
				t.Fatalf("sent %s", show(w))
			}
			seen[w.WatchId]++
		}
		if seen[0] < 20 || seen[1] != seen[0] || seen[2] != 0 || seen[3] != 0 {
			t.Errorf("told how often of progress: %v", seen)
		}
	})
}

func TestProgressIsNotAskedForByCanceledWatches(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		request := &pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true}
		r.create(request)
		r.cancel(0)
		r.progress()
		time.Sleep(time.Minute)
		r.want("0@1 created", "0@1 canceled")
	})
}
