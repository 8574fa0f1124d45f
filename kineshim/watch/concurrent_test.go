package watch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestWatchersThatComeAndGoMissNothingWhileCommitsArePublished has clients begin watches in the past and the future, lag,
// ask for progress and cancel while commits are published.
func TestWatchersThatComeAndGoMissNothingWhileCommitsArePublished(t *testing.T) {
	const end, clients = 20_000, 8
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := newStore()
	h := NewHub(Config{Source: s, Revision: 1, PendingBytes: 4_000, RingBytes: 50_000})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var served, done sync.WaitGroup
	for i := range clients {
		c := &comer{
			t: t, random: rand.New(rand.NewPCG(seed, uint64(i))), next: 2,
			stream: &fakeStream{ctx: ctx, in: make(chan *pb.WatchRequest, 1000), out: make(chan *pb.WatchResponse, i*i)},
		}
		served.Go(func() { _ = h.Serve(c.stream) })
		done.Go(func() { c.run(ctx, end) })
	}
	for i := int64(2); i <= end; i++ {
		h.Publish([]Commit{s.commit(put("a", fmt.Sprint(i)))}, i)
	}
	done.Wait()
	cancel()
	served.Wait()
	h.Close()
	if len(h.matcher.single) != 0 || h.matcher.ranges != nil || len(h.waiting) != 0 || h.running != 0 {
		t.Error("something is left in the hub")
	}
}

// comer is a client with one watch at a time, of a key that every commit changes.
type comer struct {
	t      *testing.T
	stream *fakeStream
	random *rand.Rand
	next   int64 // the revision that comes next
	id     int64 // the watch's, once it is created
	live   bool
}

func (c *comer) run(ctx context.Context, end int64) {
	c.create()
	for c.next <= end && !c.t.Failed() {
		select {
		case r := <-c.stream.out:
			c.check(r)
		case <-ctx.Done():
			c.t.Errorf("a client has got no further than %d", c.next)
			return
		}
	}
	go func() { // nobody is to be held up any more
		for {
			select {
			case <-c.stream.out:
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (c *comer) create() {
	q := &pb.WatchCreateRequest{Key: []byte("a"), StartRevision: c.next, PrevKv: true}
	if c.random.IntN(2) == 0 {
		q.RangeEnd = []byte("b")
	}
	c.stream.in <- &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: q}}
}

func (c *comer) check(r *pb.WatchResponse) {
	switch {
	case r.Created:
		c.id, c.live = r.WatchId, true
	case r.Canceled:
		c.create()
	case r.WatchId == noID:
		if c.live && r.Header.Revision != c.next-1 { // neither ahead nor a step back
			c.t.Errorf("progress %d before event %d", r.Header.Revision, c.next)
		}
	}
	for _, e := range r.Events {
		if !c.live || e.Kv.ModRevision != c.next {
			c.t.Errorf("revision %d, want %d; live: %v", e.Kv.ModRevision, c.next, c.live)
		}
		c.next = e.Kv.ModRevision + 1
	}
	if len(r.Events) == 0 || !c.live {
		return
	}
	switch c.random.IntN(20) {
	case 0:
		c.live = false
		c.stream.in <- &pb.WatchRequest{
			RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: c.id}},
		}
		c.drain()
	case 1, 2:
		c.stream.in <- &pb.WatchRequest{
			RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}},
		}
	}
}

// drain reads what was on its way until the watch is canceled, and begins the next one after it.
func (c *comer) drain() {
	for {
		select {
		case r := <-c.stream.out:
			for _, e := range r.Events {
				if e.Kv.ModRevision != c.next {
					c.t.Errorf("revision %d, want %d", e.Kv.ModRevision, c.next)
				}
				c.next++
			}
			if r.Canceled {
				c.create()
				return
			}
		case <-c.stream.ctx.Done():
			return
		}
	}
}
