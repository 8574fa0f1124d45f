package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// hotKeys take hotShare of the updates, as the leases and the status of nodes do.
	hotKeys  = 2000
	hotShare = 0.6
	// Of 100 writes, those that create an event, which ends with its lease, and those that create or delete an object. The rest
	// are updates.
	eventPercent, createPercent, deletePercent = 12, 7, 7
	// valueBytes is the size of most values, largeBytes that of one new or hot object in largeOne: TOAST takes those.
	valueBytes, largeBytes, largeOne = 300, 6000, 100
	// leaseFor is how long one lease is used for new events, as Kubernetes does.
	leaseFor = time.Minute
	// opBound is for one write. A write that takes longer is an error.
	opBound = 30 * time.Second
	// compactRevKey is the key by which API servers agree on who compacts.
	compactRevKey = "compact_rev_key"
)

// churn writes as Kubernetes does. Each worker has keys of its own, of which it updates those that live.
type churn struct {
	o      options
	client *clientv3.Client
	began  time.Time
	next   atomic.Int64 // number of the next write
	late   atomic.Int64 // nanoseconds by which the schedule has been put off

	mu         sync.Mutex // guards the fields below
	latencies  []time.Duration
	errors     int64
	firstError error
	lease      clientv3.LeaseID
	leaseUntil time.Time
}

func newChurn(o options, client *clientv3.Client) *churn { return &churn{o: o, client: client} }

func (c *churn) revision(ctx context.Context) (int64, error) {
	answer, err := c.client.Get(ctx, "/none", clientv3.WithLimit(1))
	if err != nil {
		return 0, err
	}
	return answer.Header.Revision, nil
}

// firstCompaction returns when what it makes unreadable has been deleted.
func (c *churn) firstCompaction(ctx context.Context) error {
	revision, err := c.revision(ctx)
	if err != nil || revision-c.o.keep <= 0 {
		return err
	}
	_, err = c.client.Compact(ctx, revision-c.o.keep, clientv3.WithCompactPhysical())
	return err
}

// run writes until ctx ends. A few errors are counted, many end it.
func (c *churn) run(ctx context.Context) error {
	c.began = time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	running.Go(func() { c.compactions(ctx) })
	for w := range c.o.workers {
		running.Go(func() {
			p := worker{c: c, number: w, mods: map[string]int64{}, random: rand.New(rand.NewPCG(1, uint64(w)))}
			p.run(ctx, cancel)
		})
	}
	running.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// note takes what came of a write.
func (c *churn) note(took time.Duration, err error) (failures int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.latencies = append(c.latencies, took)
		return c.errors
	}
	if c.errors++; c.firstError == nil {
		c.firstError = err
	}
	return c.errors
}

// taken are the percentiles, in milliseconds, since the last call, the number of writes, and all errors so far.
func (c *churn) taken() (p50, p99 float64, writes int, failures int64, first error) {
	c.mu.Lock()
	all := c.latencies
	c.latencies = nil
	failures, first = c.errors, c.firstError
	c.mu.Unlock()
	if len(all) == 0 {
		return 0, 0, 0, failures, first
	}
	slices.Sort(all)
	at := func(share float64) float64 {
		return float64(all[int(share*float64(len(all)-1))]) / float64(time.Millisecond)
	}
	return at(0.5), at(0.99), len(all), failures, first
}

// compactions are those of an API server: a transaction on a key decides who compacts, to the revision of an interval before.
func (c *churn) compactions(ctx context.Context) {
	var version, before int64
	tick := time.NewTicker(c.o.compactEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		answer, err := c.client.Txn(ctx).If(clientv3.Compare(clientv3.Version(compactRevKey), "=", version)).
			Then(clientv3.OpPut(compactRevKey, fmt.Sprint(before))).Else(clientv3.OpGet(compactRevKey)).Commit()
		if err != nil {
			if ctx.Err() == nil {
				c.note(0, fmt.Errorf("compact_rev_key: %w", err))
			}
			continue
		}
		to := before
		before = answer.Header.Revision
		if !answer.Succeeded {
			if kvs := answer.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
				version = kvs[0].Version
			}
			continue
		}
		version++
		if c.o.keep > 0 {
			to = before - c.o.keep
		}
		if to <= 0 {
			continue
		}
		if _, err := c.client.Compact(ctx, to); err != nil && ctx.Err() == nil {
			c.note(0, fmt.Errorf("compact: %w", err))
		}
	}
}

// eventLease is the lease of new events.
func (c *churn) eventLease(ctx context.Context) (clientv3.LeaseID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.leaseUntil) {
		return c.lease, nil
	}
	granted, err := c.client.Grant(ctx, c.o.leaseTTL+int64(leaseFor/time.Second))
	if err != nil {
		return 0, err
	}
	c.lease, c.leaseUntil = granted.ID, time.Now().Add(leaseFor)
	return c.lease, nil
}

// worker is one writer. Everything in it is its goroutine's.
type worker struct {
	c       *churn
	number  int
	mods    map[string]int64 // of keys that have been written or read
	objects []string         // that it has created and not deleted
	created int
	random  *rand.Rand
}

// mayLag is by how much the writers may be behind and catch up. More is left out: a burst after a pause of the machine would be
// no steady load.
const mayLag = time.Second

// maxErrors ends a run: the numbers would mean nothing.
const maxErrors = 1000

func (w *worker) run(ctx context.Context, fail context.CancelCauseFunc) {
	for {
		n := w.c.next.Add(1) - 1
		late := w.c.late.Load()
		at := w.c.began.Add(time.Duration(float64(n)/w.c.o.rate*float64(time.Second) + float64(late)))
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(at)):
		}
		if behind := time.Since(at); behind > mayLag {
			w.c.late.CompareAndSwap(late, late+int64(behind)) // or another worker has just done it
		}
		began := time.Now()
		op, cancel := context.WithTimeout(ctx, opBound)
		err := w.write(op)
		cancel()
		if err != nil && ctx.Err() != nil {
			return
		}
		if w.c.note(time.Since(began), err) > maxErrors {
			fail(fmt.Errorf("more than %d errors, the first: %w", maxErrors, w.c.firstError))
			return
		}
	}
}

func (w *worker) write(ctx context.Context) error {
	switch p := w.random.IntN(100); {
	case p < eventPercent:
		lease, err := w.c.eventLease(ctx)
		if err != nil {
			return fmt.Errorf("grant: %w", err)
		}
		_, err = w.create(ctx, "events", clientv3.WithLease(lease))
		return err
	case p < eventPercent+createPercent:
		key, err := w.create(ctx, "replicasets")
		if err == nil {
			w.objects = append(w.objects, key)
		}
		return err
	case p < eventPercent+createPercent+deletePercent && len(w.objects) > 0:
		at := w.random.IntN(len(w.objects))
		key := w.objects[at]
		w.objects[at] = w.objects[len(w.objects)-1]
		w.objects = w.objects[:len(w.objects)-1]
		return w.atMod(ctx, key, clientv3.OpDelete(key))
	}
	number := w.key()
	key := nameOf(number)
	return w.atMod(ctx, key, clientv3.OpPut(key, w.value(number)))
}

// key is one of this worker's, of those that kine has left and that live: what is there must not grow by itself.
func (w *worker) key() int64 {
	among := w.c.o.keys
	if w.random.Float64() < hotShare {
		among = min(among, hotKeys)
	}
	for {
		key := w.random.Int64N(among)
		if !mortal(key) && key/mortalEvery%int64(w.c.o.workers) == int64(w.number) {
			return key
		}
	}
}

// value is that of an object with a number. Of kine's keys only hot ones are large: the others would become so one by one, and
// what is there must not grow.
func (w *worker) value(number int64) string {
	size := valueBytes/2 + w.random.IntN(valueBytes)
	if number%largeOne == 1 && number < hotKeys {
		size = largeBytes
	}
	var b bytes.Buffer
	for b.Len() < size {
		fmt.Fprintf(&b, "%016x", w.random.Uint64())
	}
	return b.String()
}

func (w *worker) create(ctx context.Context, kind string, opts ...clientv3.OpOption) (string, error) {
	w.created++
	key := fmt.Sprintf("/registry/%s/default/%d-%d.%x", kind, w.number, w.created, w.random.Uint64())
	answer, err := w.c.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, w.value(int64(w.created%hotKeys)), opts...)).Commit()
	if err != nil {
		return "", fmt.Errorf("create: %w", err)
	}
	if !answer.Succeeded {
		return "", errors.New("create: the key is there")
	}
	if len(opts) == 0 {
		w.mods[key] = answer.Header.Revision
	}
	return key, nil
}

// atMod is an update or a deletion as Kubernetes makes them. Of a key that it has not seen yet it learns the revision first.
func (w *worker) atMod(ctx context.Context, key string, op clientv3.Op) error {
	mod, known := w.mods[key]
	if !known {
		answer, err := w.c.client.Get(ctx, key)
		if err != nil {
			return fmt.Errorf("get: %w", err)
		}
		if len(answer.Kvs) > 0 {
			mod = answer.Kvs[0].ModRevision
		}
	}
	answer, err := w.c.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", mod)).
		Then(op).Else(clientv3.OpGet(key)).Commit()
	switch {
	case err != nil:
		delete(w.mods, key)
		return fmt.Errorf("write: %w", err)
	case !answer.Succeeded:
		delete(w.mods, key)
		return errors.New("write: the key has another revision")
	case op.IsDelete():
		delete(w.mods, key)
	default:
		w.mods[key] = answer.Header.Revision
	}
	return nil
}
