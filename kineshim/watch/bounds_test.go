package watch

import (
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A client with many watches that does not read holds no more than a stream may, whatever happens to its keys; and when it reads again, it hears of everything, once and in
// order.
func TestAClientThatDoesNotReadHoldsLittleHoweverManyWatchesItHas(t *testing.T) {
	const watches, rounds, size = 50, 20, 1000
	bounds := Bounds{StreamPending: 10_000, HubPending: 1 << 20}
	within(t, Config{Bounds: bounds, RingBytes: 100_000}, func(r *rig) {
		r.end()
		r.open(0)
		for i := range watches {
			r.stream.in <- &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: fmt.Append(nil, "k", i)}}}
			r.got()
		}
		most := 0
		value := strings.Repeat("x", size)
		for round := range rounds {
			for i := range watches {
				r.publish(put(fmt.Sprint("k", i), fmt.Sprint(round, value)))
				most = max(most, int(r.hub.pending.Load()))
			}
		}
		if most < bounds.StreamPending/2 || most > bounds.StreamPending+2*size {
			t.Errorf("up to %d bytes waited for the client, %d may", most, bounds.StreamPending)
		}
		heard := map[int64]int{}
		for _, w := range r.got() {
			for _, e := range w.Events {
				if want := fmt.Sprint("k", w.WatchId); string(e.Kv.Key) != want || !strings.HasPrefix(string(e.Kv.Value), fmt.Sprint(heard[w.WatchId], "x")) {
					t.Fatalf("watch %d heard of %s=%.5s after %d events", w.WatchId, e.Kv.Key, e.Kv.Value, heard[w.WatchId])
				}
				heard[w.WatchId]++
			}
		}
		for i := range int64(watches) {
			if heard[i] != rounds {
				t.Fatalf("watch %d heard of %d changes, there were %d", i, heard[i], rounds)
			}
		}
		if n := r.hub.pending.Load(); n != 0 {
			t.Errorf("%d bytes are held when all is sent", n)
		}
	})
}

// counter counts what it is told of.
type counter int

func (c *counter) Observe(float64) { *c++ }

// When those who do not read have used up what all may hold, those who read are served as before.
func TestThoseWhoReadAreServedWhenOthersHoldAllThereIs(t *testing.T) {
	delivered := new(counter)
	within(t, Config{Bounds: Bounds{HubPending: 1_500}, Lag: delivered}, func(r *rig) {
		silent := r.stream // takes answers, and no more
		r.create(&pb.WatchCreateRequest{Key: []byte("a")})
		for len(silent.out) < cap(silent.out) {
			silent.out <- nil
		}
		value := strings.Repeat("x", 1000)
		for range 10 {
			r.publish(put("a", value))
		}
		if n := r.hub.pending.Load(); n == 0 || n > 1_500 {
			t.Fatalf("%d bytes are held", n)
		}
		endSilent := r.end
		defer endSilent()
		r.open(1000)
		r.create(&pb.WatchCreateRequest{Key: []byte("b")})
		r.got()
		*delivered = 0
		for i := range 20 {
			r.publish(put("b", fmt.Sprint(i, value)))
		}
		if got := r.values(0); len(got) != 20 {
			t.Errorf("%d of 20 changes were heard of", len(got))
		}
		if *delivered != 20 {
			t.Errorf("%d of 20 changes were delivered at once, without being read from the ring", *delivered)
		}
	})
}

func TestWatchesAreBounded(t *testing.T) {
	within(t, Config{Bounds: Bounds{Watches: 4, StreamWatches: 3}}, func(r *rig) {
		endFirst, first := r.end, r.stream
		for range 4 {
			r.create(&pb.WatchCreateRequest{Key: []byte("a")})
		}
		r.want("0@1 created", "1@1 created", "2@1 created", `-1@1 created canceled "etcdserver: too many watches"`)
		r.open(1000)
		for range 2 {
			r.create(&pb.WatchCreateRequest{Key: []byte("a")})
		}
		r.want("0@1 created", `-1@1 created canceled "etcdserver: too many watches"`)
		r.cancel(0)
		r.want("0@1 canceled")
		r.create(&pb.WatchCreateRequest{Key: []byte("a")})
		r.want("1@1 created")
		if r.hub.watchers != 4 {
			t.Errorf("%d watches are counted", r.hub.watchers)
		}
		endFirst()
		<-first.ctx.Done()
		r.got()
		r.create(&pb.WatchCreateRequest{Key: []byte("a")})
		r.want("2@1 created")
		if r.hub.watchers != 2 {
			t.Errorf("%d watches are counted when a stream has ended", r.hub.watchers)
		}
	})
}
