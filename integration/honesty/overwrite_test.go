package honesty

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// putters is how many put one key at the same time.
const putters = 16

// overwrite is a put that was acknowledged.
type overwrite struct {
	revision int64
	asked    bool             // what it replaced
	previous *mvccpb.KeyValue // the answer to that
}

// overwriteAll puts one key, each of many for some times, and returns what was acknowledged by value.
func overwriteAll(t *testing.T, r *rig, key string, each int) map[string]overwrite {
	var mu sync.Mutex // guards acknowledged
	acknowledged := map[string]overwrite{}
	var running sync.WaitGroup
	for p := range putters {
		c := r.client()
		running.Go(func() {
			for n := range each {
				request := put(key, fmt.Sprintf("%d of putter %d", n, p))
				request.PrevKv = n%2 == 0
				answer, err := do(c.Put, request)
				if err != nil {
					t.Errorf("put: %v", err)
					return
				}
				mu.Lock()
				acknowledged[string(request.Value)] = overwrite{answer.Header.Revision, request.PrevKv, answer.PrevKv}
				mu.Unlock()
			}
		})
	}
	running.Wait()
	return acknowledged
}

// Puts of one key by many at the same time: each that was acknowledged is in the key's history, once, at the revision of its answer;
// versions count them; the last one is the value.
func TestNoAcknowledgedOverwriteIsLost(t *testing.T) {
	const key = "/one"
	each := 100 * number("HONESTY_SECONDS", 3)
	r := start(t, options{})
	c := r.client()
	history := &pb.WatchCreateRequest{Key: []byte(key), StartRevision: current(t, c) + 1}
	var until atomic.Int64 // 0 until all are done
	live := make(chan []*mvccpb.Event, 1)
	watcher := r.client()
	go func() {
		events, err := follow(t.Context(), watcher, history, until.Load)
		if err != nil {
			t.Errorf("a watch from before the puts: %v", err)
		}
		live <- events
	}()
	acknowledged := overwriteAll(t, r, key, each)
	until.Store(current(t, c))
	events, err := follow(t.Context(), c, history, until.Load)
	if err != nil {
		t.Fatalf("read the history: %v", err)
	}
	if err := sameEvents(<-live, events); err != nil {
		t.Errorf("a watch from before the puts, and one from after them: %v", err)
	}
	t.Logf("%d puts by %d putters, %d acknowledged; %d in the history", putters*each, putters, len(acknowledged), len(events))
	var before *mvccpb.KeyValue
	for n, e := range events {
		put, ok := acknowledged[string(e.Kv.Value)]
		if !ok || put.revision != e.Kv.ModRevision {
			t.Errorf("change %d is %v; its put was acknowledged: %v, at revision %d", n, e.Kv, ok, put.revision)
		}
		delete(acknowledged, string(e.Kv.Value))
		if want := version(int64(n + 1)); e.Kv.Version != want || e.Kv.CreateRevision != events[0].Kv.ModRevision {
			t.Errorf("change %d is %v, and must have version %d and be created at %d", n, e.Kv, want, events[0].Kv.ModRevision)
		}
		if put.asked && !same(put.previous, before) {
			t.Errorf("change %d: its put was told that it replaced %v, and it replaced %v", n, put.previous, before)
		}
		before = e.Kv
	}
	for value, put := range acknowledged {
		t.Errorf("%q was acknowledged at revision %d, and is not in the history once; so were %d others", value, put.revision, len(acknowledged)-1)
		break // one tells enough
	}
	if found := first(must(t, c.Range, get(key))); !same(found, before) {
		t.Errorf("the key holds %v, and the last change was %v", found, before)
	}
}
