package watch

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// values is the values of all events sent so far to a watch, and checks that no revision comes back.
func (r *rig) values(id int64) (values []string) {
	r.t.Helper()
	last := int64(0)
	for _, w := range r.got() {
		if w.WatchId != id {
			continue
		}
		for _, e := range w.Events {
			if e.Kv.ModRevision <= last {
				r.t.Fatalf("revision %d after %d", e.Kv.ModRevision, last)
			}
			last = e.Kv.ModRevision
			values = append(values, string(e.Kv.Value))
		}
		if len(w.Events) > 0 && w.Header.Revision < last {
			r.t.Fatalf("header revision %d below that of an event: %s", w.Header.Revision, show(w))
		}
	}
	return values
}

// fill publishes n changes of a key that are in no other way special, with values from first on.
func (r *rig) fill(key string, first, n int) (values []string) {
	for i := range n {
		v := fmt.Sprint(first + i)
		r.publish(put(key, v))
		values = append(values, v)
	}
	return values
}

func TestSlowWatcherCatchesUpFromTheRing(t *testing.T) {
	within(t, Config{PendingBytes: 2000}, func(r *rig) {
		r.end()
		r.open(0)
		r.create(prefix("a", 0))
		want := r.fill("a", 0, 100) // the client does not read: far more than may be pending
		if r.hub.matcher.ranges != nil {
			t.Errorf("the slow watcher is still delivered to")
		}
		got := r.values(0)
		want = append(want, r.fill("a", 100, 3)...)
		if got = append(got, r.values(0)...); lines(got) != lines(want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if r.store.pages != 0 {
			t.Errorf("history was read %d times for what is in memory", r.store.pages)
		}
	})
}

func TestSlowWatcherCatchesUpFromHistoryWhereTheRingHasForgotten(t *testing.T) {
	within(t, Config{PendingBytes: 2000, RingBytes: 3000}, func(r *rig) {
		r.end()
		r.open(0)
		r.create(prefix("a", 0))
		want := r.fill("a", 0, 200)
		got := r.values(0)
		want = append(want, r.fill("a", 200, 3)...)
		if got = append(got, r.values(0)...); lines(got) != lines(want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if r.store.pages == 0 {
			t.Error("history was not read")
		}
	})
}

func TestLongRingIsReadInTurns(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		var commits []Commit
		var want []string
		for i := range 3*turnCommits + 5 {
			commits = append(commits, r.store.commit(put("a", fmt.Sprint(i))))
			want = append(want, fmt.Sprint(i))
		}
		r.hub.Publish(commits, r.store.revision)
		r.create(prefix("b", 0))
		r.create(prefix("a", 2))
		got := r.values(1)
		want = append(want, r.fill("a", -1, 1)...)
		if got = append(got, r.values(1)...); lines(got) != lines(want) {
			t.Errorf("got %d events, want %d", len(got), len(want))
		}
	})
}

func TestSlowWatcherDoesNotHoldUpOthers(t *testing.T) {
	within(t, Config{PendingBytes: 2000, RingBytes: 3000}, func(r *rig) {
		r.end()
		r.open(0) // this one never reads
		r.create(prefix("a", 0))
		endSlow := r.end
		r.open(1000)
		r.create(prefix("a", 0))
		want := r.fill("a", 0, 300)
		if got := r.values(0); lines(got) != lines(want) {
			t.Errorf("got %d of %d events", len(got), len(want))
		}
		endSlow()
	})
}

func TestWatchersOfOneAgeShareTheReadingOfHistory(t *testing.T) {
	s := newStore()
	for i := range 5000 {
		s.commit(put(fmt.Sprintf("%c%d", 'a'+i%20, i), "v"))
	}
	within(t, Config{Source: s}, func(r *rig) {
		s.block = make(chan struct{})
		for i := range 20 {
			r.create(prefix(string(rune('a'+i)), int64(2+i*10)))
		}
		close(s.block)
		count := make(map[int64]int)
		for _, w := range r.got() {
			count[w.WatchId] += len(w.Events)
		}
		for i := range int64(20) {
			// Of each watch's 250 keys, one every 20 revisions, those before its start are not told.
			if want := 250 - int(i*10+19-i)/20; count[i] != want {
				t.Errorf("watch %d got %d events, want %d", i, count[i], want)
			}
		}
		if s.pages > 10 {
			t.Errorf("20 watches read %d pages of a history of 5", s.pages)
		}
	})
}

func TestWatcherThatLagsBehindCompactionIsCanceled(t *testing.T) {
	within(t, Config{PendingBytes: 2000}, func(r *rig) {
		r.end()
		r.open(0)
		r.create(prefix("b", 0))
		r.create(prefix("a", 0))
		r.fill("a", 0, 50)
		r.store.compact(40)
		r.publish(put("b", "1"))
		var got []string
		for _, w := range r.got() {
			if len(w.Events) == 0 {
				got = append(got, show(w))
			}
		}
		if want := []string{"0@1 created", "1@1 created", "1@0 canceled compacted=40"}; lines(got) != lines(want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestWatcherIsCanceledWhenCompactionOvertakesItsHistory(t *testing.T) {
	s := newStore()
	for range 10 {
		s.commit(put("a", "v"))
	}
	within(t, Config{Source: s}, func(r *rig) {
		s.block = make(chan struct{})
		r.create(prefix("a", 2))
		s.compact(5)
		close(s.block)
		r.want("0@11 created", "0@0 canceled compacted=5")
	})
}

func TestHistoryThatCannotBeReadEndsTheStreamsThatNeedIt(t *testing.T) {
	for name, err := range map[string]error{
		"a broken connection":                      errors.New("no connection"),
		"a status that would make clients give up": status.Error(codes.InvalidArgument, "what"),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore()
			s.commit(put("a", "1"))
			s.historyErr = err
			within(t, Config{Source: s}, func(r *rig) {
				needs, result := r.stream, r.result
				r.open(10)
				r.create(prefix("a", 0))
				other := r.stream
				r.stream = needs
				r.create(prefix("a", 1))
				if got := <-result; status.Code(got) != codes.Unavailable {
					t.Errorf("the stream ended with %v, want Unavailable", got)
				}
				r.stream = other
				r.publish(put("a", "2"))
				r.want("0@2 created", "0@3 3+a=2")
			})
		})
	}
}

func TestCanceledWatchIsNotServedFromHistory(t *testing.T) {
	s := newStore()
	s.commit(put("a", "1"))
	within(t, Config{Source: s}, func(r *rig) {
		s.block = make(chan struct{})
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 1, WatchId: 1})
		r.cancel(1)
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3, WatchId: 1})
		close(s.block)
		r.publish(put("a", "2"))
		r.want("1@2 created", "1@2 canceled", "1@2 created", "1@3 3+a=2")
	})
}

func TestEndedStreamIsNotServedFromHistory(t *testing.T) {
	s := newStore()
	s.commit(put("a", "1"))
	within(t, Config{Source: s}, func(r *rig) {
		s.block = make(chan struct{})
		r.create(prefix("a", 1))
		r.end()
		<-r.result
		close(s.block)
		synctest.Wait()
		if r.hub.sweeping || len(r.hub.waiting) != 0 || s.pages != 1 {
			t.Errorf("the sweep runs: %v, %d wait, %d pages were read", r.hub.sweeping, len(r.hub.waiting), s.pages)
		}
	})
}

func TestLargeHistoryIsReadInSmallPages(t *testing.T) {
	s := newStore()
	for range 60 {
		s.commit(put("a", strings.Repeat("v", 1<<20)))
	}
	within(t, Config{Source: s}, func(r *rig) {
		s.block = make(chan struct{})
		r.create(prefix("a", 1))
		s.block <- struct{}{}
		synctest.Wait()
		close(s.block)
		if n := len(r.values(0)); n != 60 {
			t.Errorf("got %d of 60 events", n)
		}
		for range 100 {
			r.publish(put("b", strings.Repeat("v", 1<<20)))
		}
		s.pages = 0
		r.create(prefix("a", 1))
		if n := len(r.values(1)); n != 60 {
			t.Errorf("got %d of 60 events", n)
		}
		if s.pages < 3 {
			t.Errorf("160 events of 1 MB were read in %d pages", s.pages)
		}
	})
}

func TestFragmentsAreSplitBySizeAndNeverMixed(t *testing.T) {
	within(t, Config{MaxRequestBytes: 1 << 20}, func(r *rig) {
		whole, split := prefix("a", 0), prefix("a", 0)
		split.Fragment = true
		r.create(whole)
		r.create(split)
		r.want("0@1 created", "1@1 created")
		var ops []op
		for i := range 10 {
			ops = append(ops, put(fmt.Sprint("a", i), strings.Repeat("v", 700<<10)))
		}
		r.publish(ops...)
		var sizes [2][]int
		for _, w := range r.got() {
			sizes[w.WatchId] = append(sizes[w.WatchId], len(w.Events))
			if limit := 3 << 19; w.WatchId == 1 && w.Size() >= limit {
				t.Errorf("a fragment of %d bytes, the limit is %d", w.Size(), limit)
			}
			if last := len(sizes[1]) == 5; w.Fragment != (w.WatchId == 1 && !last) {
				t.Errorf("%d: fragment %v", sizes, w.Fragment)
			}
		}
		if fmt.Sprint(sizes) != "[[10] [2 2 2 2 2]]" {
			t.Errorf("events in each message: %v", sizes)
		}
		r.cancel(0)
		r.publish(put("a", "1"))
		r.want("0@2 canceled", "1@3 3+a=1")
		// What is read on in one turn is one response to such a watch, and the next turn's is another.
		split = prefix("a", 1)
		split.Fragment, split.WatchId = true, 9
		r.create(split)
		var counts []int
		fragments := 0
		for _, w := range r.got() {
			counts = append(counts, len(w.Events))
			if w.Fragment {
				fragments++
			}
		}
		if fmt.Sprint(counts) != "[0 2 2 2 2 2 1]" || fragments != 4 {
			t.Errorf("events in each message: %v, %d fragments", counts, fragments)
		}
	})
}
