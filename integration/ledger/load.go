package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
)

// Defaults of Load, for fields left 0.
const (
	defaultTimeout    = 2 * time.Second
	defaultPause      = 50 * time.Millisecond
	defaultOwnKeys    = 8
	defaultSharedKeys = 3
	defaultValueSize  = 300
	pageLimit         = 3 // so that small lists have several pages
)

// Load is a Kubernetes-shaped load. Each worker works on keys of its own and, now and then, on keys that all contend for. It ends
// after Requests requests or after Duration, whichever comes first, or when the context ends.
type Load struct {
	// Endpoints are asked by worker number, round robin.
	Endpoints []Endpoint
	Recorder  *Recorder
	// Prefix begins every key and ends in a slash. Nobody else writes below it, and it is empty at the start.
	Prefix   string
	Workers  int
	Requests int64         // 0: not bounded by count
	Duration time.Duration // 0: not bounded by time; one of the two must be set
	// Timeout is each request's own; 0: 2 s.
	Timeout time.Duration
	// Pause follows a request that found the store unavailable; 0: 50 ms.
	Pause time.Duration
	// Think is the average pause after any other request; 0: none.
	Think time.Duration
	// OwnKeys is the number of keys of each worker, SharedKeys of those contended for; 0: 8 and 3. Negative SharedKeys: none.
	OwnKeys, SharedKeys int
	ValueSize           int // bytes; 0: 300
	// Seed makes the workers' choices repeatable, as far as the store's answers are.
	Seed uint64
	// WritesOnly leaves out reads.
	WritesOnly bool
	// Renewers all renew one more key, each through its endpoint every RenewEvery (0: 100 ms), for as long as the workers work. Their requests
	// count for nothing in Requests.
	Renewers   []Endpoint
	RenewEvery time.Duration
}

func (l *Load) setDefaults() error {
	switch {
	case len(l.Endpoints) == 0 || l.Recorder == nil || l.Workers <= 0:
		return errors.New("load: endpoints, a recorder and workers are needed")
	case l.Requests <= 0 && l.Duration <= 0:
		return errors.New("load: not bounded by count nor by time")
	case !strings.HasSuffix(l.Prefix, "/"):
		return fmt.Errorf("load: prefix %q does not end in a slash", l.Prefix)
	}
	setDefault(&l.Timeout, defaultTimeout)
	setDefault(&l.Pause, defaultPause)
	setDefault(&l.OwnKeys, defaultOwnKeys)
	setDefault(&l.SharedKeys, defaultSharedKeys)
	setDefault(&l.ValueSize, defaultValueSize)
	setDefault(&l.RenewEvery, defaultRenewEvery)
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Run runs the load to its end. Requests that have begun when ctx ends are waited for, no longer than Timeout: to break them off
// would only make their outcome unknown.
func (l *Load) Run(ctx context.Context) error {
	if err := l.setDefaults(); err != nil {
		return err
	}
	if l.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.Duration)
		defer cancel()
	}
	var left atomic.Int64
	left.Store(l.Requests)
	renewCtx, stopRenewing := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() { l.renew(renewCtx) })
	var wg sync.WaitGroup
	for i := range l.Workers {
		w := newWorker(l, i)
		wg.Go(func() {
			for ctx.Err() == nil && (l.Requests <= 0 || left.Add(-1) >= 0) {
				sleep(ctx, w.step(context.WithoutCancel(ctx)))
			}
		})
	}
	wg.Wait()
	stopRenewing()
	renewing.Wait()
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// worker is one of a load's workers; it is used by one goroutine.
type worker struct {
	load     *Load
	number   int
	endpoint Endpoint
	rnd      *rand.Rand
	own      []string
	shared   []string
	// view is the mod revision of each key as the worker last saw it, 0 for an absent key. It may be out of date, as a
	// controller's may be; the store's comparison is what keeps that harmless.
	view  map[string]int64
	count int
	// unread are keys that turned out to exist, at a revision that the answer did not say.
	unread []string
}

func newWorker(l *Load, number int) *worker {
	w := &worker{load: l, number: number, endpoint: l.Endpoints[number%len(l.Endpoints)], view: map[string]int64{},
		rnd: rand.New(rand.NewPCG(l.Seed, uint64(number)))}
	for i := range l.OwnKeys {
		w.own = append(w.own, fmt.Sprintf("%sw%02d/k%02d", l.Prefix, number, i))
	}
	for i := range l.SharedKeys {
		w.shared = append(w.shared, fmt.Sprintf("%sshared/k%02d", l.Prefix, i))
	}
	return w
}

// step does one request and returns the pause to make before the next.
func (w *worker) step(ctx context.Context) time.Duration {
	key := w.own[w.rnd.IntN(len(w.own))]
	if len(w.shared) > 0 && w.rnd.IntN(10) == 0 {
		key = w.shared[w.rnd.IntN(len(w.shared))]
	}
	op := w.choose(key)
	if len(w.unread) > 0 {
		op, key, w.unread = Get, w.unread[0], w.unread[1:]
	}
	code := w.request(ctx, op, key)
	if code != codes.OK {
		return w.load.Pause
	}
	if w.load.Think <= 0 {
		return 0
	}
	return time.Duration((0.5 + w.rnd.Float64()) * float64(w.load.Think))
}

// choose picks the operation. After an unknown outcome the view is out of date, perhaps: then the write is tried again, as a
// controller does, or the key is read.
func (w *worker) choose(key string) Op {
	n := w.rnd.IntN(100)
	switch {
	case !w.load.WritesOnly && n < 20:
		return Get
	case !w.load.WritesOnly && n < 25:
		return List
	case w.view[key] == 0:
		return Create
	case n < 85:
		return Update
	}
	return Delete
}

func (w *worker) request(ctx context.Context, op Op, key string) codes.Code {
	if op == List {
		key = key[:strings.LastIndexByte(key, '/')+1]
	}
	ctx, cancel := context.WithTimeout(ctx, w.load.Timeout)
	defer cancel()
	e := Entry{Worker: w.number, Endpoint: w.endpoint.Name, Op: op, Key: key}
	if op == Update || op == Delete {
		e.Compared = w.view[key]
	}
	var value []byte
	if op.Puts() {
		w.count++
		e.Nonce = fmt.Sprintf("%s%d-%d", w.load.Prefix, w.number, w.count)
		value = Value(e.Nonce, w.load.ValueSize)
	}
	begun := w.load.Recorder.begin(e)
	a, err := w.send(ctx, op, key, value, e.Compared)
	done := w.load.Recorder.end(begun, func(e *Entry) { fill(e, a, err) })
	w.learn(done)
	if err != nil {
		return codeOf(err)
	}
	return codes.OK
}

func (w *worker) send(ctx context.Context, op Op, key string, value []byte, compared int64) (Answer, error) {
	switch op {
	case Get:
		return w.endpoint.Store.Get(ctx, key)
	case List:
		limit := int64(0)
		if w.rnd.IntN(2) == 0 {
			limit = pageLimit
		}
		return w.endpoint.Store.List(ctx, key, limit)
	default:
		return w.endpoint.Store.Write(ctx, op, key, value, compared)
	}
}

// fill puts the answer into the entry.
func fill(e *Entry, a Answer, err error) {
	if err != nil {
		code := codeOf(err)
		e.Outcome, e.Code, e.Error = Unknown, code.String(), err.Error()
		if provesNothingDone[code] {
			e.Outcome = Refused
		}
		return
	}
	e.Outcome = Acknowledged
	if e.Op.Writes() && !a.Succeeded {
		e.Outcome = Refused
	}
	e.Revision, e.Member, e.Term, e.Deleted = a.Revision, a.Member, a.Term, a.Deleted
	e.Looked, e.Seen = a.Looked, seenOf(a.KVs)
}

// learn brings the view up to date.
func (w *worker) learn(e Entry) {
	switch {
	case e.Looked:
		for key := range w.view {
			if key == e.Key || e.Op == List && strings.HasPrefix(key, e.Key) {
				w.view[key] = 0
			}
		}
		for _, s := range e.Seen {
			w.view[s.Key] = s.Revision
		}
		if e.showsTombstone() {
			w.view[e.Key] = 0
		}
	case e.Outcome == Acknowledged && e.Op.Puts():
		w.view[e.Key] = e.Revision
	case e.Outcome == Acknowledged && e.Op == Delete:
		w.view[e.Key] = 0
	case e.Outcome == Refused && e.Op == Create && e.Code == "":
		w.unread = append(w.unread, e.Key)
	}
}
