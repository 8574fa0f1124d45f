package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// connections is how many a system's workers share: kube-apiserver has one for each kind of object.
	connections = 8
	// errorPause keeps a worker whose requests fail at once from taking the machine.
	errorPause = 10 * time.Millisecond
	// warmShare of the operations may be used up by the warm-up, where their number is bounded.
	warmShare = 5
)

// timing says how long a slice of a line is.
type timing struct {
	slices int
	// warm comes before window, which is what is measured. grace is for operations that are under way when the window ends.
	warm, window, grace time.Duration
}

// sample is an operation, or a part of one: a page of a list.
type sample struct {
	start, end time.Duration // since the slice began
	weight     float64       // operations that it counts for
	latency    time.Duration // of the operation that ended with it; 0: none did
}

// operation does one, and notes it with worker.done.
type operation func(ctx context.Context, w *worker) error

// worker is one of those that do operations, one after the other. It is for its goroutine, until the slice is over.
type worker struct {
	index, workers int
	client         *client
	store          *store
	rng            *rand.Rand
	began          time.Time // of the slice

	samples    []sample
	created    []keyRevision
	retries    int // lost races
	hotRev     int64
	errors     int
	firstError string
	unfinished int
}

func (w *worker) now() time.Duration { return time.Since(w.began) }

// done notes an operation that began at start and has just ended.
func (w *worker) done(start time.Duration) {
	end := w.now()
	w.samples = append(w.samples, sample{start, end, 1, end - start})
}

func (w *worker) fail(err error) {
	w.errors++
	if w.firstError == "" {
		w.firstError = err.Error()
	}
}

// load is one slice's work for one system.
type load struct {
	clients []*client
	store   *store
	workers int
	op      operation
	timing  timing
	most    int64  // bounds the number of operations
	seed    uint64 // of the random choices: the same for every system
}

// outcome is what a slice has measured.
type outcome struct {
	operations float64
	window     time.Duration
	latencies  []time.Duration
	errors     int
	firstError string
	unfinished int // operations that were broken off because they took longer than the slice and its grace
	retries    int
	cpu        time.Duration // of the system's processes, from the slice's begin to its end
	done       float64       // operations of the whole slice
	wall       time.Duration
}

// run does the slice.
func (l load) run(ctx context.Context) outcome {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	var taken atomic.Int64
	var stopped atomic.Bool
	warmed, full := make(chan struct{}), make(chan struct{}) // closed by who takes the operation that ends the phase
	take := func() bool {
		n := taken.Add(1)
		switch n {
		case max(1, l.most/warmShare):
			close(warmed)
		case l.most + 1:
			close(full)
		}
		return n <= l.most && !stopped.Load()
	}
	workers := make([]*worker, l.workers)
	var running sync.WaitGroup
	for i := range workers {
		w := &worker{index: i, workers: l.workers, client: l.clients[i%len(l.clients)], store: l.store, began: began,
			rng: rand.New(rand.NewPCG(l.seed, uint64(i)))}
		workers[i] = w
		running.Go(func() { w.loop(ctx, l.op, take) })
	}
	ended := make(chan struct{})
	go func() {
		running.Wait()
		close(ended)
	}()
	pause(ctx, l.timing.warm, warmed, ended)
	from := time.Since(began)
	pause(ctx, l.timing.window, full, ended)
	to := time.Since(began)
	stopped.Store(true)
	pause(ctx, l.timing.grace, nil, ended)
	cancel()
	<-ended
	o := gather(workers, from, to)
	o.wall = time.Since(began)
	l.store.take(workers)
	return o
}

// pause waits for d, or for one of the channels.
func pause(ctx context.Context, d time.Duration, one, other <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-one:
	case <-other:
	}
}

// loop does operations as long as there are any to take.
func (w *worker) loop(ctx context.Context, op operation, take func() bool) {
	for ctx.Err() == nil && take() {
		err := op(ctx, w)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			w.unfinished++
		default:
			w.fail(err)
			pause(ctx, errorPause, nil, nil)
		}
	}
}

// gather counts each operation by the part of its time that lies in the window: a window's ends cut through as many operations as there
// are workers, which is most of them where operations are slow. Latencies are those of all that touch the window.
func gather(workers []*worker, from, to time.Duration) outcome {
	o := outcome{window: to - from}
	for _, w := range workers {
		for _, s := range w.samples {
			o.done += s.weight
			inside := min(s.end, to) - max(s.start, from)
			if inside <= 0 {
				continue
			}
			o.operations += s.weight * float64(inside) / float64(s.end-s.start)
			if s.latency > 0 {
				o.latencies = append(o.latencies, s.latency)
			}
		}
		o.errors += w.errors
		o.retries += w.retries
		o.unfinished += w.unfinished
		if o.firstError == "" {
			o.firstError = w.firstError
		}
	}
	return o
}

// take takes over what workers have created, and drops what they have deleted.
func (s *store) take(workers []*worker) {
	gone := min(s.next.Swap(0), int64(len(s.created)))
	s.created = s.created[gone:]
	for _, w := range workers {
		s.created = append(s.created, w.created...)
	}
}
