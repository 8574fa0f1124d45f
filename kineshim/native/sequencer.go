package native

import (
	"context"
	"errors"
	"sync"
	"time"

	"kineshim/kineshim"
	"kineshim/kineshim/auth"
	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/watch"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// pipelined is how many batches may be on their way to PostgreSQL. A second one would be read the moment that the first is durable, but it holds only what
	// came first: two make batches half as large and commits twice as many, which costs more than the pause between them.
	pipelined = 1
	// maxBatchRows, for leases too, and maxBatchBytes bound a batch, and with it the memory of both sides and how long one commit
	// takes; maxBatchOps bounds what is answered with it.
	maxBatchRows  = 1000
	maxBatchBytes = 8 << 20
	maxBatchOps   = 8192
	// maxQueued and maxQueuedBytes bound the operations that wait for their turn. The endpoint lets fewer in, but while commits
	// hang, those whose clients have given up stay.
	maxQueued      = 16384
	maxQueuedBytes = 256 << 20
)

// operation is one call that needs a turn.
type operation struct {
	ctx  context.Context // if it ends before the turn, do is not called
	size int             // about what it keeps in memory, in bytes
	do   func(*turn) error
	err  error
	done chan struct{} // closed when err stands and all that the turn saw is durable
	// queued is when it began to wait for its turn.
	queued time.Time
	// attempt is stored with the rows, so that it can be found out later whether this was done; 0: none.
	attempt int64
	// request is what the caller of ctx must be permitted to ask for when the turn comes; nil: it is the engine's own.
	request any
	// parked is when the operation was kept waiting for key, the zero time if it was not. See contention.
	parked time.Time
	key    string
}

// batch is what one commit holds.
type batch struct {
	rows    []kinetable.Row
	commits []watch.Commit
	kvs     []*mvccpb.KeyValue // of rows, nil for tombstones
	bytes   int
	// revision is the committed revision when the batch is durable, compacted the compacted one if it changes.
	revision    int64
	compacted   int64
	compactedID int64
	leases      map[int64]*kinetable.LeaseRow // nil: revoked
	access      *auth.State                   // if it changes
	accessWire  []byte                        // the same, for the table
	ops         []*operation
	// began is when the first operation changed something in it, sent when it went to PostgreSQL.
	began, sent time.Time
}

func (b *batch) empty() bool {
	return len(b.rows) == 0 && len(b.leases) == 0 && b.compactedID == 0 && b.access == nil
}

// lastID is the last row of all that is durable with the batch.
func (b *batch) lastID(e *Engine) int64 {
	if n := len(b.rows); n > 0 {
		return b.rows[n-1].ID
	}
	return e.committedID.Load()
}

func (b *batch) full() bool {
	return len(b.rows) >= maxBatchRows || b.bytes >= maxBatchBytes || len(b.leases) >= maxBatchRows || len(b.ops) >= maxBatchOps
}

// sequencer gives operations their turns in one order and commits what they change. Its evaluating goroutine alone changes the
// index and the current batch; its receiving goroutine alone hears of commits.
type sequencer struct {
	e *Engine
	// current, compacted and access belong to the evaluating goroutine: the batch that is being filled, and the compacted
	// revision and access control as the next turn sees them.
	current    *batch
	compacted  int64
	access     *auth.State
	contention contention
	// evaluated is closed when the evaluating goroutine has ended.
	evaluated chan struct{}

	mu      sync.Mutex // guards the fields below
	changed sync.Cond
	queue   []*operation
	bytes   int         // of the queue
	tick    *time.Timer // wakes the evaluating goroutine while operations are parked
	flight  []*batch    // sent, not durable yet, oldest first
	paused  int         // turns wait while it is not 0
	idle    bool        // the evaluating goroutine has nothing in its hands
	stopped bool
	undone  []*batch // were on their way, and never became durable
}

func newSequencer(e *Engine) *sequencer {
	q := &sequencer{e: e, current: &batch{}, compacted: e.compacted(), access: e.access.Load(), evaluated: make(chan struct{})}
	q.changed.L = &q.mu
	return q
}

// submit runs do in the sequencer, in one order with all writes, and returns when everything that it saw and changed is
// durable; do's error is returned as it is after the same wait. If ctx ends before, the operation is done or not.
func (e *Engine) submit(ctx context.Context, do func(*turn) error) error {
	return e.submitSized(ctx, 0, do)
}

// submitSized is submit for an operation that keeps size bytes in memory while it waits.
func (e *Engine) submitSized(ctx context.Context, size int, do func(*turn) error) error {
	op := &operation{ctx: ctx, size: size, do: do, done: make(chan struct{}), queued: time.Now()}
	if a, ok := kineshim.AttemptOf(ctx); ok {
		op.attempt = a.ID
	}
	request := kineshim.RequestOf(ctx)
	if request != nil {
		op.request = request.Message
	}
	if err := e.seq.enqueue(op); err != nil {
		return err
	}
	select {
	case <-op.done:
		if request != nil {
			request.Checked = true
		}
		return op.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q *sequencer) enqueue(op *operation) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return kineshim.Unavailable(q.e.reason())
	}
	if q.crowded(op) {
		q.dropGone()
		if q.crowded(op) {
			return rpctypes.ErrGRPCRequestTooManyRequests
		}
	}
	q.queue = append(q.queue, op)
	q.bytes += op.size
	q.changed.Broadcast()
	return nil
}

// crowded is called with mu held, and so is dropGone.
func (q *sequencer) crowded(op *operation) bool {
	return len(q.queue) >= maxQueued || q.bytes+op.size > maxQueuedBytes && len(q.queue) > 0
}

// dropGone forgets operations whose clients have gone before their turn.
func (q *sequencer) dropGone() {
	kept := q.queue[:0]
	q.bytes = 0
	for _, op := range q.queue {
		if err := op.ctx.Err(); err != nil {
			op.err = err
			close(op.done)
			continue
		}
		kept = append(kept, op)
		q.bytes += op.size
	}
	clear(q.queue[len(kept):])
	q.queue = kept
}

// evaluate runs until the engine fails.
func (q *sequencer) evaluate() {
	for {
		ops, ok := q.next()
		if !ok {
			q.abandon(q.leftover())
			return
		}
		for i, op := range ops {
			q.turn(op)
			if q.current.full() && i+1 < len(ops) {
				q.putBack(ops[i+1:])
				break
			}
		}
		if err := q.send(); err != nil {
			q.e.fail(err)
		}
	}
}

// next waits for operations, or for room for a batch that could not be sent.
func (q *sequencer) next() ([]*operation, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped {
		if q.paused == 0 {
			q.first(q.contention.overdue(time.Now()))
		}
		q.idle = q.current.empty()
		room := len(q.flight) < pipelined
		switch {
		case !q.current.empty() && room:
			return nil, true
		case len(q.queue) > 0 && q.paused == 0 && !q.current.full():
			q.idle = false
			ops := q.queue
			q.queue, q.bytes = nil, 0
			return ops, true
		}
		if q.paused > 0 {
			q.changed.Broadcast() // who pauses waits for idle
		}
		q.changed.Wait()
	}
	return nil, false
}

// leftover takes what nobody else answers any more when the engine has failed. The queue may have been filled again since stop
// emptied it: by putBack, and by a commit that let a parked operation go.
func (q *sequencer) leftover() []*operation {
	q.mu.Lock()
	defer q.mu.Unlock()
	left := append(append(q.current.ops, q.queue...), q.contention.all()...)
	q.queue = nil
	return left
}

// putBack returns operations that did not fit into the batch.
func (q *sequencer) putBack(ops []*operation) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.first(ops)
}

// first puts operations before all that wait. It is called with mu held.
func (q *sequencer) first(ops []*operation) {
	if len(ops) == 0 {
		return // as a rule: the queue is not copied
	}
	q.queue = append(ops[:len(ops):len(ops)], q.queue...)
	for _, op := range ops {
		q.bytes += op.size
	}
}

// turn gives op its turn.
func (q *sequencer) turn(op *operation) {
	t := &turn{e: q.e, b: q.current, op: op, begin: q.e.index.HeadRevision()}
	if op.ctx.Err() != nil { // its client has gone meanwhile, and nothing was done
		op.err = op.ctx.Err()
		close(op.done)
		return
	}
	now := time.Now()
	if op.parked.IsZero() {
		observe(q.e.cfg.Measures.Queue, now.Sub(op.queued).Seconds())
	}
	if op.err = q.permit(op); op.err == nil {
		op.err = op.do(t)
	}
	if op.err == errParked {
		q.park(op)
		return
	}
	t.end()
	if op.err != nil && t.changes > 0 {
		q.e.spoil(errors.New("an operation changed something and was refused: " + op.err.Error()))
	}
	if t.wrote {
		if q.current.began.IsZero() {
			q.current.began = now
		}
		q.current.ops = append(q.current.ops, op)
		return
	}
	// It changed nothing, but may have seen what is not durable yet.
	if !q.current.empty() {
		q.current.ops = append(q.current.ops, op)
		return
	}
	q.mu.Lock()
	n := len(q.flight)
	if n > 0 {
		q.flight[n-1].ops = append(q.flight[n-1].ops, op)
	}
	stopped := q.stopped
	q.mu.Unlock()
	switch {
	case n > 0:
	case stopped: // what it saw may have been on its way, and never became durable
		q.abandon([]*operation{op})
	default:
		close(op.done)
	}
}

// park keeps an operation waiting for its key, or gives it its turn again if too many wait.
func (q *sequencer) park(op *operation) {
	op.parked = time.Now()
	if !q.contention.park(op, op.key, op.parked) {
		q.turn(op)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.tick == nil {
		q.tick = time.AfterFunc(parkIdle, q.wake)
	}
}

// wake makes the evaluating goroutine look for operations that have been parked long enough, again and again while there are
// any.
func (q *sequencer) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tick = nil
	if q.contention.open.Load() > 0 && !q.stopped {
		q.tick = time.AfterFunc(parkIdle, q.wake)
	}
	q.changed.Broadcast()
}

// send sends the current batch if there is one and room for it.
func (q *sequencer) send() error {
	b := q.current
	if b.empty() {
		return nil
	}
	q.mu.Lock()
	if q.stopped || len(q.flight) >= pipelined {
		q.mu.Unlock()
		return nil
	}
	b.revision, b.sent = q.e.index.HeadRevision(), time.Now()
	observe(q.e.cfg.Measures.Batch, b.sent.Sub(b.began).Seconds())
	observe(q.e.cfg.Measures.BatchOperations, float64(len(b.ops)))
	q.flight = append(q.flight, b)
	q.current = &batch{}
	q.changed.Broadcast()
	q.mu.Unlock()
	return q.e.store.Write(b.table(q.e))
}

// table is the batch as the table takes it.
func (b *batch) table(e *Engine) kinetable.Batch {
	t := kinetable.Batch{Rows: b.rows, Access: b.accessWire, Compact: b.compactedID, CompactRevision: b.compacted}
	for id, l := range b.leases {
		if l == nil {
			t.Revoked = append(t.Revoked, id)
		} else {
			t.Leases = append(t.Leases, *l)
		}
	}
	if len(b.leases) > 0 {
		t.LeaseClock = e.clock.now()
	}
	return t
}

// receive hears of commits until the engine fails.
func (q *sequencer) receive() {
	for q.waitFlight() {
		if err := q.e.store.Done(); err != nil {
			q.e.fail(err)
			break
		}
		q.durable()
	}
	q.mu.Lock()
	left := q.flight
	q.flight = nil
	q.undone = left
	q.mu.Unlock()
	for _, b := range left {
		q.abandon(b.ops)
	}
}

// waitFlight waits until a batch is on its way; false means that the engine has failed.
func (q *sequencer) waitFlight() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped && len(q.flight) == 0 {
		q.changed.Wait()
	}
	return !q.stopped
}

// durable publishes the oldest batch on its way and answers its operations. The revision is committed before the batch leaves
// the queue of those on their way: an operation that finds none there is answered at once.
func (q *sequencer) durable() {
	e := q.e
	q.mu.Lock()
	b := q.flight[0]
	q.mu.Unlock()
	observe(e.cfg.Measures.Commit, time.Since(b.sent).Seconds())
	e.commit(b.lastID(e), b.revision)
	if b.compactedID != 0 {
		e.compactedRev.Store(b.compacted) // never ahead of the committed one
	}
	if b.access != nil {
		e.setAccess(b.access)
	}
	q.mu.Lock()
	q.flight = q.flight[1:]
	ops := b.ops
	q.first(q.contention.changed(b, time.Now()))
	q.changed.Broadcast()
	q.mu.Unlock()
	e.hub.Publish(b.commits, b.revision)
	if b.access != nil {
		e.hub.Poke() // before the answers, so that the other node hears of it as soon as anybody
	}
	for _, op := range ops {
		close(op.done)
	}
	if b.compactedID != 0 {
		e.hub.Poke()
		e.compaction.kick()
	}
}

// lost is the rows that were appended to the index and did not become durable, when both goroutines have ended.
func (q *sequencer) lost() []kinetable.Row {
	q.mu.Lock()
	defer q.mu.Unlock()
	var rows []kinetable.Row
	for _, b := range append(q.undone, q.current) {
		rows = append(rows, b.rows...)
	}
	return rows
}

// stop refuses what waits and what comes. The two goroutines abandon what they hold.
func (q *sequencer) stop() {
	q.mu.Lock()
	q.stopped = true
	left := append(q.queue, q.contention.all()...)
	q.queue = nil
	q.changed.Broadcast()
	q.mu.Unlock()
	for _, op := range left {
		op.err = kineshim.Unavailable(q.e.reason())
		close(op.done)
	}
}

// abandon answers operations whose outcome nobody knows.
func (q *sequencer) abandon(ops []*operation) {
	for _, op := range ops {
		op.err = kineshim.InDoubt(q.e.reason())
		close(op.done)
	}
}

// quiesce waits until no operation has a turn and nothing is on its way, and keeps it so until resume is called.
func (e *Engine) quiesce(ctx context.Context) (resume func(), err error) {
	q := e.seq
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused++
	resume = func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.paused--
		q.changed.Broadcast()
	}
	wake := context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.changed.Broadcast()
	})
	defer wake()
	q.changed.Broadcast()
	for !q.stopped && ctx.Err() == nil && !(q.idle && len(q.flight) == 0) {
		q.changed.Wait()
	}
	switch {
	case q.stopped:
		err = kineshim.Unavailable(e.reason())
	case ctx.Err() != nil:
		err = ctx.Err()
	default:
		return resume, nil
	}
	q.paused--
	q.changed.Broadcast()
	return nil, err
}
