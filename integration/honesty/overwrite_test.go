package honesty

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Puts of one key by many at the same time: each that was acknowledged is in the key's history, once, at the revision of its answer;
// versions count them; the last one is the value.
func TestNoAcknowledgedOverwriteIsLost(t *testing.T) {
	const putters, key = 16, "/one"
	each := 100 * number("HONESTY_SECONDS", 3)
	r := start(t, options{})
	c := r.client()
	from := current(t, c) + 1
	type written struct {
		revision int64
		previous *mvccpb.KeyValue // what the answer said
	}
	var mu sync.Mutex // guards acknowledged
	acknowledged := map[string]written{}
	var running sync.WaitGroup
	for p := range putters {
		c := r.client()
		running.Go(func() {
			for n := range each {
				value := fmt.Sprintf("%d of putter %d", n, p)
				request := put(key, value)
				request.PrevKv = n%2 == 0
				answer, err := do(c.Put, request)
				if err != nil {
					t.Errorf("put: %v", err)
					return
				}
				w := written{revision: answer.Header.Revision, previous: answer.PrevKv}
				if !request.PrevKv {
					w.previous = &mvccpb.KeyValue{} // not asked for
				}
				mu.Lock()
				acknowledged[value] = w
				mu.Unlock()
			}
		})
	}
	var until atomic.Int64
	live := make(chan error, 1)
	go func() {
		events, err := follow(t.Context(), r.client(), &pb.WatchCreateRequest{Key: []byte(key), StartRevision: from}, until.Load)
		if err == nil && len(events) != putters*each {
			err = fmt.Errorf("%d events", len(events))
		}
		live <- err
	}()
	running.Wait()
	now := current(t, c)
	until.Store(now)
	if err := <-live; err != nil && !t.Failed() {
		t.Errorf("a watch from before the puts: %v", err)
	}
	events, err := follow(t.Context(), c, &pb.WatchCreateRequest{Key: []byte(key), StartRevision: from}, upTo(now))
	if err != nil {
		t.Fatalf("read the history: %v", err)
	}
	t.Logf("%d puts by %d putters, %d acknowledged; %d in the history", putters*each, putters, len(acknowledged), len(events))
	if len(events) != len(acknowledged) {
		t.Errorf("%d puts were acknowledged, and the history has %d", len(acknowledged), len(events))
	}
	var before *mvccpb.KeyValue
	for n, e := range events {
		w, ok := acknowledged[string(e.Kv.Value)]
		if !ok || w.revision != e.Kv.ModRevision {
			t.Errorf("change %d is %v; its put was acknowledged: %v, at revision %d", n, e.Kv, ok, w.revision)
		}
		delete(acknowledged, string(e.Kv.Value))
		if want := version(int64(n + 1)); e.Kv.Version != want || e.Kv.CreateRevision != events[0].Kv.ModRevision {
			t.Errorf("change %d is %v, and must have version %d and be created at %d", n, e.Kv, want, events[0].Kv.ModRevision)
		}
		if asked := w.previous == nil || len(w.previous.Key) > 0; ok && asked && !same(w.previous, before) {
			t.Errorf("change %d: its put was told that it replaced %v, and it replaced %v", n, w.previous, before)
		}
		before = e.Kv
	}
	for value, w := range acknowledged {
		t.Errorf("%q was acknowledged at revision %d, and is not in the history", value, w.revision)
		break // one tells enough
	}
	if found := first(must(t, c.Range, get(key))); !same(found, before) {
		t.Errorf("the key holds %v, and the last change was %v", found, before)
	}
}
