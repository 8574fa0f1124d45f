package watch

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// defaultProgress is how often k3s has its etcd tell idle watchers of the revision.
	defaultProgress = 5 * time.Second
	// minProgress is etcd's lower bound for it.
	minProgress = 100 * time.Millisecond
	// defaultRequestBytes is etcd's default bound of a request.
	defaultRequestBytes = 3 * 512 * 1024
	// fragmentOverhead is what etcd adds to that bound when it splits responses.
	fragmentOverhead = 512 * 1024
	// defaultRing holds some 30,000 changes of usual size: seconds of the heaviest load, many minutes of the usual one.
	defaultRing = 64 << 20
	// defaultPending is what waits for a watcher before it has to read on from the ring. Small: reading on is cheap, and
	// every client that does not read holds that much.
	defaultPending = 512 << 10
	// maxPendingCommits bounds the pending list where changes are small.
	maxPendingCommits = 2048
	// closeWait is how long Close waits for the streams.
	closeWait = 5 * time.Second
)

// errClosed ends the streams when the hub closes. Its text differs from that of etcd's "no leader", which would make a
// client give its watches up; on other Unavailable errors it resumes them.
var errClosed = status.Error(codes.Unavailable, "etcdserver: watches are no longer served by this node")

// Config is what a Hub is made of. Zero bounds stand for the defaults.
type Config struct {
	Source Source
	// Revision is the committed revision now. Older commits are the Source's.
	Revision int64
	// Committed is the revision that reads see, which may be ahead of the published one for a moment. A watch is created and
	// progress is told no earlier than it is published, so that nobody hears of an older revision than he has read already.
	// Nil: the published one. It must not be ahead of what will be published.
	Committed func() int64
	// Permit says why a watch may not be made on a stream with the context; the error's text is its reason. Nil: all may be.
	Permit func(context.Context, *pb.WatchCreateRequest) error
	// ProgressEvery is how often an idle watcher that asked for progress is told of it; 0 means 5 s.
	ProgressEvery time.Duration
	// MaxRequestBytes is the bound of a request, which is also about the bound of a response; 0 means 1.5 MiB.
	MaxRequestBytes int
	// RingBytes bounds the recent commits in memory; 0 means 64 MiB.
	RingBytes int
	// PendingBytes bounds what waits for one watcher; 0 means 512 KiB.
	PendingBytes int
	// Bounds are of what all watchers take together.
	Bounds Bounds
	// Lag, if not nil, is told for each batch of events of a watcher how many seconds after its publication the oldest was handed to the
	// client's stream. It must neither block nor cost much. Watchers that read on from the past do not count.
	Lag interface{ Observe(seconds float64) }
	// Log may be nil.
	Log *slog.Logger
}

// Hub serves watches. All methods may be called from any goroutine, but Publish by one at a time.
type Hub struct {
	source        Source
	committed     func() int64
	permit        func(context.Context, *pb.WatchCreateRequest) error
	progressEvery time.Duration
	responseBytes int
	pendingBytes  int
	bounds        Bounds
	lag           interface{ Observe(seconds float64) }
	log           *slog.Logger
	ctx           context.Context
	cancel        context.CancelFunc

	// pending is the bytes that wait for streams: the sum of theirs.
	pending atomic.Int64

	// revision is the published revision. It is set, with mu held, after everything up to it has been delivered.
	revision atomic.Int64

	mu      sync.Mutex // guards all below, and the watchers' membership in groups
	ring    ring
	matcher matcher
	touched []*group
	fresh   []*commit
	streams map[*stream]struct{}
	// watchers is how many there are.
	watchers int
	// waiting is the lagging watchers that need history, with the revision from which on; sweeping says that the sweep runs.
	waiting  map[*watcher]int64
	sweeping bool
	// pageEvents is how many events the sweep asks for at a time. It belongs to the sweep.
	pageEvents int
	// advanced is closed at the next Publish or Poke, if somebody waits for it; pokes counts the latter.
	advanced chan struct{}
	pokes    uint64
	closed   bool
	running  int           // goroutines and Serve calls
	drained  chan struct{} // closed when running is 0 after Close
}

// NewHub returns a hub that starts no goroutine before it is asked to serve.
func NewHub(c Config) *Hub {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	h := &Hub{
		source: c.Source, committed: c.Committed, permit: c.Permit, log: c.Log,
		progressEvery: max(orDefault(c.ProgressEvery, defaultProgress), minProgress),
		responseBytes: orDefault(c.MaxRequestBytes, defaultRequestBytes),
		pendingBytes:  orDefault(c.PendingBytes, defaultPending),
		bounds:        c.Bounds.orDefaults(),
		lag:           c.Lag,
		ring:          ring{first: c.Revision + 1, limit: orDefault(c.RingBytes, defaultRing)},
		streams:       make(map[*stream]struct{}),
		waiting:       make(map[*watcher]int64),
		drained:       make(chan struct{}),
		pageEvents:    firstPage,
	}
	h.revision.Store(c.Revision)
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// Publish makes commits known, oldest first, and that the committed revision is now revision, which is at least the last
// commit's. It does not wait for any watcher or follower. Different goroutines may call it one after the other, but each call must
// have returned, and that be known to the next caller as by a lock or a channel, before the next one begins.
func (h *Hub) Publish(commits []Commit, revision int64) {
	h.fresh = h.fresh[:0]
	last, now := h.revision.Load(), time.Now()
	for _, c := range commits {
		if c.Revision <= last {
			panic(fmt.Sprintf("watch: revision %d is published after %d", c.Revision, last))
		}
		last = c.Revision
		if len(c.Events) > 0 {
			made := newCommit(c)
			made.published = now
			h.fresh = append(h.fresh, made)
		}
	}
	if revision < last {
		panic(fmt.Sprintf("watch: the committed revision %d is below the published %d", revision, last))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.touched = h.matcher.assemble(h.touched[:0], h.fresh...)
	for _, g := range h.touched {
		h.deliver(g)
	}
	clear(h.touched)
	for _, c := range h.fresh {
		h.ring.push(c)
	}
	clear(h.fresh)
	h.revision.Store(revision)
	h.advance()
}

// advance wakes those who wait for the next Publish or Poke. The caller holds mu.
func (h *Hub) advance() {
	if h.advanced != nil {
		close(h.advanced)
		h.advanced = nil
	}
}

// wakeup returns a channel that is closed at the next Publish or Poke. The caller holds mu.
func (h *Hub) wakeup() <-chan struct{} {
	if h.advanced == nil {
		h.advanced = make(chan struct{})
	}
	return h.advanced
}

// deliver gives a group's batch to its members, and empties it. A member without room leaves the group.
func (h *Hub) deliver(g *group) {
	bytes := 0
	for _, p := range g.batch {
		bytes += p.bytes
	}
	for i := len(g.members) - 1; i >= 0; i-- {
		if w := g.members[i]; !w.append(g.batch, bytes) {
			h.leave(w)
		}
	}
	clear(g.batch)
	g.batch = g.batch[:0]
}

// join puts a watcher into its span's group. The caller holds mu.
func (h *Hub) join(w *watcher) {
	w.group = h.matcher.group(w.span)
	w.slot = len(w.group.members)
	w.group.members = append(w.group.members, w)
}

// leave takes a watcher out of its group, if it is in one. The caller holds mu.
func (h *Hub) leave(w *watcher) {
	g := w.group
	if g == nil {
		return
	}
	n := len(g.members) - 1
	moved := g.members[n]
	g.members[w.slot], moved.slot = moved, w.slot
	g.members[n] = nil
	g.members = g.members[:n]
	w.group = nil
	if n == 0 {
		h.matcher.remove(g)
	}
}

// reach waits until a revision has been published; false if done is closed first.
func (h *Hub) reach(revision int64, done <-chan struct{}) bool {
	for h.revision.Load() < revision {
		h.mu.Lock()
		if h.revision.Load() >= revision {
			h.mu.Unlock()
			return true
		}
		advanced := h.wakeup()
		h.mu.Unlock()
		select {
		case <-advanced:
		case <-done:
			return false
		}
	}
	return true
}

// enter counts a goroutine that Close waits for. The caller holds mu.
func (h *Hub) enter() { h.running++ }

// exit is called when a counted goroutine ends.
func (h *Hub) exit() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running--
	if h.closed && h.running == 0 {
		close(h.drained)
	}
}

// Close ends the streams and the calls of Follow with an Unavailable error and waits for them for at most 5 s. Publish does nothing
// from then on.
func (h *Hub) Close() {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		if h.running == 0 {
			close(h.drained)
		}
	}
	for s := range h.streams {
		s.stop(errClosed)
	}
	h.mu.Unlock()
	h.cancel()
	bound := time.NewTimer(closeWait)
	defer bound.Stop()
	select {
	case <-h.drained:
	case <-bound.C:
		h.mu.Lock()
		left := h.running
		h.mu.Unlock()
		h.log.Warn("watch streams did not end in time", "goroutines", left)
	}
}
