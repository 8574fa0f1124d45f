package watch

import (
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestCreatedWatchesGetFreeIDsAndTheRevision(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		key := []byte("a")
		r.create(&pb.WatchCreateRequest{Key: key})
		r.create(&pb.WatchCreateRequest{Key: key, WatchId: 2})
		r.publish(put("b", "1"))
		r.create(&pb.WatchCreateRequest{Key: key})
		r.create(&pb.WatchCreateRequest{Key: key})
		r.create(&pb.WatchCreateRequest{Key: key, WatchId: 3})
		r.create(&pb.WatchCreateRequest{Key: key, WatchId: -7})
		r.want("0@1 created", "2@1 created", "1@2 created", "3@2 created",
			`-1@2 created canceled "mvcc: duplicate watch ID provided on the WatchStream"`, "-7@2 created")
		r.publish(put("a", "1"))
		if got := r.got(); len(got) != 5 {
			t.Errorf("%d of 5 watches of one key heard of its change", len(got))
		}
	})
}

func TestRefusedWatchesSayWhyAsEtcdDoes(t *testing.T) {
	const empty, compacted = `"mvcc: watcher range is empty"`, `"etcdserver: mvcc: required revision has been compacted"`
	for name, c := range map[string]struct {
		request pb.WatchCreateRequest
		reason  string
	}{
		"end before key":               {pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")}, empty},
		"end at key":                   {pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("b")}, empty},
		"end at key, id taken":         {pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("b"), WatchId: 5}, empty},
		"start below zero":             {pb.WatchCreateRequest{Key: []byte("b"), StartRevision: -1}, compacted},
		"start below zero, empty span": {pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a"), StartRevision: -1}, compacted},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, Config{}, func(r *rig) {
				r.create(&pb.WatchCreateRequest{Key: []byte("x"), WatchId: 5})
				r.create(&c.request)
				r.want("5@1 created", "-1@1 created canceled "+c.reason)
			})
		})
	}
}

func TestKeyAndRangeEndMeanWhatTheyMeanInEtcd(t *testing.T) {
	for name, c := range map[string]struct {
		key, end string
		want     []string
	}{
		"one key":              {"b", "", []string{"b"}},
		"a range":              {"b", "c", []string{"b", "b\x00", "bb"}},
		"all from a key":       {"bb", "\x00", []string{"bb", "c", "\xff\xff"}},
		"all":                  {"\x00", "\x00", []string{"\x00", "a", "b", "b\x00", "bb", "c", "\xff\xff"}},
		"no key":               {"", "", []string{"\x00"}},
		"no key, to the end":   {"", "\x00", []string{"\x00", "a", "b", "b\x00", "bb", "c", "\xff\xff"}},
		"no key, to some end":  {"", "b", []string{"\x00", "a"}},
		"a range like one key": {"b", "b\x00", []string{"b"}},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, Config{}, func(r *rig) {
				r.create(&pb.WatchCreateRequest{Key: []byte(c.key), RangeEnd: []byte(c.end)})
				r.create(&pb.WatchCreateRequest{Key: []byte(c.key), RangeEnd: []byte(c.end), StartRevision: 2})
				for _, key := range []string{"\x00", "a", "b", "b\x00", "bb", "c", "\xff\xff"} {
					r.publish(put(key, ""))
				}
				var got [2][]string
				for _, w := range r.got() {
					for _, e := range w.Events {
						got[w.WatchId] = append(got[w.WatchId], string(e.Kv.Key))
					}
				}
				for i := range got {
					if lines(got[i]) != lines(c.want) {
						t.Errorf("watch %d: got %q, want %q", i, got[i], c.want)
					}
				}
			})
		})
	}
}

func TestCanceledWatchAnswersOnceAndItsIDIsFree(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 4})
		r.publish(put("a", "1"))
		r.cancel(4)
		r.publish(put("a", "2"))
		r.cancel(4)
		r.cancel(77)
		r.want("4@1 created", "4@2 2+a=1", "4@2 canceled")
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 4})
		r.publish(put("a", "3"))
		r.want("4@3 created", "4@4 4+a=3")
	})
}

func TestNothingPendingIsSentAfterCanceled(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.end()
		r.open(0)
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 1})
		r.publish(put("a", "1")) // the client does not read yet
		r.cancel(1)
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 1})
		r.publish(put("a", "2"))
		r.want("1@1 created", "1@2 canceled", "1@2 created", "1@3 3+a=2")
	})
}

func TestWatchFromBeforeTheCompactedRevisionIsCreatedAndThenCanceled(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.publish(put("a", "1"))
		r.publish(put("a", "2"))
		r.publish(put("a", "3"))
		r.store.compact(3)
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2, WatchId: 8})
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3})
		r.want("8@4 created", "8@0 canceled compacted=3", "0@4 created", "0@4 3+a=2 4+a=3")
		// The ID stays taken until the client gives it up; that does not keep progress back.
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 8})
		r.progress()
		r.cancel(8)
		r.cancel(8)
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 8})
		r.want(`-1@4 created canceled "mvcc: duplicate watch ID provided on the WatchStream"`,
			"-1@4", "8@4 canceled", "8@4 created")
		if r.store.pages != 0 {
			t.Errorf("history was read %d times for what is in memory", r.store.pages)
		}
	})
}

func TestWatchFromTheFutureHearsNothingBefore(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 4})
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2})
		r.hub.Publish([]Commit{
			r.store.commit(put("a", "2")), r.store.commit(put("a", "3")),
			r.store.commit(put("a", "4")), r.store.commit(put("a", "5")),
		}, 5)
		r.want("0@1 created", "1@1 created", "1@5 2+a=2 3+a=3 4+a=4 5+a=5", "0@5 4+a=4 5+a=5")
	})
}

func TestFiltersLeaveOutPutsOrDeletes(t *testing.T) {
	for _, start := range []int64{0, 1} {
		within(t, Config{}, func(r *rig) {
			noPut, noDelete := prefix("a", start), prefix("a", start)
			noPut.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}
			noDelete.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE, 99}
			neither := prefix("a", start)
			neither.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE}
			live := []func(){
				func() { r.publish(put("a", "1"), put("a2", "1"), put("b", "1")) },
				func() { r.publish(del("a"), put("a2", "2")) },
			}
			if start != 0 {
				live[0]()
				live[1]()
				r.create(noPut)
				r.create(noDelete)
				r.create(neither)
				r.want("0@3 created", "0@3 3-a", "1@3 created", "1@3 2+a=1 2+a2=1 3+a2=2", "2@3 created")
				return
			}
			r.create(noPut)
			r.create(noDelete)
			r.create(neither)
			live[0]()
			r.want("0@1 created", "1@1 created", "2@1 created", "1@2 2+a=1 2+a2=1")
			live[1]()
			r.want("1@3 3+a2=2", "0@3 3-a")
		})
	}
}

func TestPreviousValueComesFromTheEventOrTheSource(t *testing.T) {
	for _, bare := range []bool{false, true} {
		within(t, Config{}, func(r *rig) {
			r.store.bare = bare
			with := prefix("a", 0)
			with.PrevKv = true
			r.create(prefix("a", 0))
			r.create(with)
			r.publish(put("a", "1"))
			r.publish(put("a", "2"))
			r.publish(del("a"))
			r.publish(put("a", "3"))
			var got [2][]string
			for _, w := range r.got() {
				for _, e := range w.Events {
					got[w.WatchId] = append(got[w.WatchId], showEvent(e))
				}
			}
			plain, full := []string{"2+a=1", "3+a=2", "4-a", "5+a=3"}, []string{"2+a=1", "3+a=2(1)", "4-a(2)", "5+a=3"}
			if lines(got[0]) != lines(plain) || lines(got[1]) != lines(full) {
				t.Errorf("bare=%v: got %q and %q", bare, got[0], got[1])
			}
		})
	}
}

func TestPreviousValueIsLeftOutWhenCompacted(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.store.bare = true
		r.publish(put("a", "1"))
		r.publish(put("a", "2"))
		r.publish(put("a", "3"))
		r.store.compact(3)
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3, PrevKv: true})
		r.want("0@4 created", "0@4 3+a=2 4+a=3(2)")
	})
}

func TestPreviousValueThatCannotBeReadEndsTheStream(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.store.bare, r.store.previousErr = true, errors.New("no connection")
		r.create(&pb.WatchCreateRequest{Key: []byte("a"), PrevKv: true})
		r.publish(put("a", "1"))
		r.want("0@1 created", "0@2 2+a=1")
		r.publish(put("a", "2"))
		r.want()
		if err := <-r.result; status.Code(err) != codes.Unavailable {
			t.Errorf("the stream ended with %v, want Unavailable", err)
		}
	})
}

func TestEventsOfOneRevisionComeInOneResponse(t *testing.T) {
	within(t, Config{MaxRequestBytes: 1}, func(r *rig) {
		r.create(prefix("a", 0))
		r.publish(put("a1", "1"), put("b", "1"), put("a2", "1"), put("a3", "1"))
		r.publish(put("b", "2"))
		r.publish(put("a2", "2"), put("a1", "2"))
		r.create(prefix("a", 1))
		r.want("0@1 created", "0@2 2+a1=1 2+a2=1 2+a3=1", "0@4 4+a2=2 4+a1=2",
			"1@4 created", "1@2 2+a1=1 2+a2=1 2+a3=1", "1@4 4+a2=2 4+a1=2")
	})
}

func TestUnknownRequestsAreIgnored(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.request(&pb.WatchRequest{})
		r.request(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{}})
		r.request(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{}})
		r.request(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{}})
		r.progress() // there is no watcher
		r.create(prefix("a", 0))
		r.want("0@1 created")
	})
}

func TestWatchIsCreatedNoEarlierThanWhatReadsHaveShown(t *testing.T) {
	s := newStore()
	shown := int64(1)
	within(t, Config{Source: s, Committed: func() int64 { return shown }}, func(r *rig) {
		shown = 2 // a read may answer with revision 2 already
		r.create(prefix("a", 0))
		r.want()
		r.publish(put("a", "1"))
		r.want("0@2 created")
		shown = 3
		r.progress()
		r.want()
		r.publish(put("b", "1"))
		r.want("-1@3")
	})
}
