package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	// watchers is how many watch the same prefix, each on a stream of its own, as kube-apiserver's caches do.
	watchers = 16
	// watchWriters write at the line's rate. Each has watchedKeys/watchWriters keys to itself, so that no compare fails.
	watchWriters = 32
	watchedKeys  = 4 * watchWriters
	// eventsWithin bounds the wait for the events of the last writes; what comes later is missing.
	eventsWithin = 3 * time.Second
	// watchWithin bounds the wait for a watch to be created.
	watchWithin = 10 * time.Second
)

func watchedKey(i int) string {
	return fmt.Sprintf("%sns-%02d/svc-%08x-%05d", watchPrefix, i%10, mixed(i), i)
}

// watched is a write, or its event at one watcher.
type watched struct {
	revision   int64
	start, end time.Duration // of the request; of an event only end is set
}

// watcher receives the events of one watch.
type watcher struct {
	stream grpc.BidiStreamingClient[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse]
	began  time.Time

	mu     sync.Mutex // guards what follows
	events []watched
	err    error
}

// openWatch creates a watch of all keys with the prefix, from a revision on (0: now), on a stream that ends with ctx, and waits until
// the server says that it is there.
func openWatch(ctx context.Context, c *client, prefix string, revision int64) (*watcher, error) {
	stream, err := etcdserverpb.NewWatchClient(c.conn).Watch(ctx)
	if err != nil {
		return nil, err
	}
	w := &watcher{stream: stream}
	return w, w.create(prefix, revision)
}

// create adds a watch to the stream.
func (w *watcher) create(prefix string, revision int64) error {
	err := w.stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte(prefix), RangeEnd: []byte(endOf(prefix)), StartRevision: revision}}})
	if err != nil {
		return err
	}
	answer, err := w.stream.Recv()
	if err != nil {
		return err
	}
	if !answer.Created || answer.Canceled {
		return fmt.Errorf("a watch was not created: %s", answer.CancelReason)
	}
	return nil
}

// receive notes events until the stream ends.
func (w *watcher) receive() {
	for {
		answer, err := w.stream.Recv()
		at := time.Since(w.began)
		w.mu.Lock()
		if err == nil && answer.Canceled {
			err = errors.New("the watch was cancelled: " + answer.CancelReason)
		}
		if err != nil {
			w.err = err
			w.mu.Unlock()
			return
		}
		for _, e := range answer.Events {
			w.events = append(w.events, watched{revision: e.Kv.ModRevision, end: at})
		}
		w.mu.Unlock()
	}
}

// last is the highest revision that has come.
func (w *watcher) last() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) == 0 {
		return 0
	}
	return w.events[len(w.events)-1].revision
}

// watchLoad is a slice of writes at a rate that watchers see.
type watchLoad struct {
	clients []*client // for the writes
	watch   []*client // for the watches
	store   *store
	rate    int // writes per second
	timing  timing
	seed    uint64
}

func (l watchLoad) run(ctx context.Context) (outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	list, err := l.open(ctx, began)
	if err != nil {
		return outcome{}, err
	}
	var receiving sync.WaitGroup
	for _, w := range list {
		receiving.Go(w.receive)
	}
	from := time.Since(began) + l.timing.warm
	to := from + l.timing.window
	writers := l.write(ctx, began, to)
	var writes []watched
	o := outcome{window: l.timing.window}
	var last int64
	for _, w := range writers {
		o.errors += w.errors
		if o.firstError == "" {
			o.firstError = w.firstError
		}
		o.done += float64(len(w.writes))
		for _, x := range w.writes {
			last = max(last, x.revision)
			if x.start >= from && x.end < to {
				writes = append(writes, x)
			}
		}
	}
	awaitEvents(ctx, list, last)
	cancel()
	receiving.Wait()
	o.operations = float64(len(writes))
	o.add(writes, list)
	o.wall = time.Since(began)
	return o, nil
}

// open creates the watches from the present revision on: what is written after they were asked for is seen whoever is late.
func (l watchLoad) open(ctx context.Context, began time.Time) ([]*watcher, error) {
	now, err := l.clients[0].get(ctx, l.store.watched[0].key)
	if err != nil {
		return nil, err
	}
	// A watch ends with its stream's context; this one only bounds the creation.
	timer := time.AfterFunc(watchWithin, func() {
		for _, c := range l.watch {
			c.close()
		}
	})
	defer timer.Stop()
	var list []*watcher
	for i := range watchers {
		w, err := openWatch(ctx, l.watch[i%len(l.watch)], watchPrefix, now.revision+1)
		if err != nil {
			return nil, fmt.Errorf("open watch: %w", err)
		}
		w.began = began
		list = append(list, w)
	}
	return list, nil
}

// catchUpWithin bounds the wait for watchers that are behind what earlier lines have written: kine reads all of it, watched or not.
const catchUpWithin = 5 * time.Second

// catchUp writes, and returns how long it took until the event came: at most catchUpWithin, then it is the line that shows.
func catchUp(ctx context.Context, s *system, c *client) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	k := &s.store.watched[0]
	now, err := s.clients[0].get(ctx, k.key)
	if err != nil {
		cancel()
		return 0, err
	}
	w, err := openWatch(ctx, c, watchPrefix, now.revision+1)
	if err != nil {
		cancel()
		return 0, err
	}
	w.began = time.Now()
	var receiving sync.WaitGroup
	receiving.Go(w.receive)
	defer receiving.Wait()
	defer cancel()
	if err := k.update(ctx, s.clients[0], values[:valueBytes]); err != nil {
		return 0, err
	}
	for time.Since(w.began) < catchUpWithin && w.last() < k.revision && ctx.Err() == nil {
		pause(ctx, time.Millisecond, nil, nil)
	}
	return time.Since(w.began), ctx.Err()
}

// paced is a worker that writes when it is told to.
type paced struct {
	worker
	writes []watched
}

// write writes at the rate until the instant. A store that is too slow for the rate gets fewer writes: what is due while all writers are
// busy and their queue is full is left out.
func (l watchLoad) write(ctx context.Context, began time.Time, until time.Duration) []*paced {
	due := make(chan struct{}, watchWriters)
	list := make([]*paced, watchWriters)
	var running sync.WaitGroup
	for i := range list {
		p := &paced{worker: worker{index: i, client: l.clients[i%len(l.clients)], store: l.store, began: began, rng: rand.New(rand.NewPCG(l.seed, uint64(i)))}}
		list[i] = p
		running.Go(func() {
			for range due {
				p.writeOne(ctx)
			}
		})
	}
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	begin, sent := time.Since(began), 0
	for now := begin; now < until && ctx.Err() == nil; now = time.Since(began) {
		for want := int(float64(l.rate) * (now - begin).Seconds()); sent < want; sent++ {
			select {
			case due <- struct{}{}:
			default:
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	close(due)
	running.Wait()
	return list
}

func (p *paced) writeOne(ctx context.Context) {
	k := &p.store.watched[p.index+watchWriters*p.rng.IntN(watchedKeys/watchWriters)]
	start := p.now()
	err := k.update(ctx, p.client, randomValue(p.rng))
	end := p.now()
	if err == nil {
		p.writes = append(p.writes, watched{k.revision, start, end})
	} else if ctx.Err() == nil {
		p.fail(err)
	}
}

// awaitEvents waits until every watcher has seen the revision, or time is up.
func awaitEvents(ctx context.Context, list []*watcher, revision int64) {
	deadline := time.Now().Add(eventsWithin)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		behind := false
		for _, w := range list {
			behind = behind || w.last() < revision
		}
		if !behind {
			return
		}
		pause(ctx, time.Millisecond, nil, nil)
	}
}

// add notes how long after each write's response its event came to each watcher, 0 if it came before; a missing event is an error.
func (o *outcome) add(writes []watched, list []*watcher) {
	for _, w := range list {
		at := make(map[int64]time.Duration, len(w.events))
		for _, e := range w.events {
			if _, twice := at[e.revision]; twice {
				o.fault(fmt.Errorf("revision %d came twice to a watcher", e.revision))
			}
			at[e.revision] = e.end
		}
		for _, x := range writes {
			end, seen := at[x.revision]
			if !seen {
				o.fault(fmt.Errorf("revision %d never came to a watcher", x.revision))
				continue
			}
			o.latencies = append(o.latencies, max(0, end-x.end))
		}
	}
}

func (o *outcome) fault(err error) {
	o.errors++
	if o.firstError == "" {
		o.firstError = err.Error()
	}
}

const (
	// idleWatches, of prefixes in which nothing happens, on idleStreams streams.
	idleWatches = 1000
	idleStreams = 20
)

// openIdle opens idle watches at an endpoint, until release is called.
func openIdle(ctx context.Context, clients []*client) (release func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var receiving sync.WaitGroup
	release = func() {
		cancel()
		receiving.Wait()
	}
	for i := range idleStreams {
		var w *watcher
		for j := range idleWatches / idleStreams {
			prefix := fmt.Sprintf("/registry/idle/ns-%04d/", i*idleWatches/idleStreams+j)
			if j == 0 {
				w, err = openWatch(ctx, clients[i%len(clients)], prefix, 0)
			} else {
				err = w.create(prefix, 0)
			}
			if err != nil {
				release()
				return nil, fmt.Errorf("open idle watch: %w", err)
			}
		}
		receiving.Go(w.receive)
	}
	return release, nil
}
