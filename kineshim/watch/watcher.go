package watch

import (
	"kineshim/kineshim/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// state is where a watcher stands.
type state uint8

const (
	// synced: it is in its span's group, and everything published is delivered to it.
	synced state = iota
	// lagging: it has to read on from next, in the ring or in history.
	lagging
	// ended: its start is compacted. Its ID stays taken until the client cancels it.
	ended
	// gone: it was canceled, or its stream has ended.
	gone
)

// watcher is one watch of a stream.
type watcher struct {
	stream           *stream
	id               int64
	span             mvcc.Span
	start            int64 // as asked for; 0: from its creation on
	noPut, noDelete  bool
	prevKV, fragment bool
	progress         bool

	// group and slot are guarded by Hub.mu.
	group *group
	slot  int

	// Guarded by stream.mu. next is the least revision whose events may still be delivered; while synced it is kept only as
	// far as needed to leave out what is before the start.
	state        state
	next         int64
	pending      []part
	pendingBytes int
	dirty        bool // in stream.dirty

	// The sending goroutine's. quiet: no event has been sent since the last progress tick. spare is memory for pending.
	quiet bool
	spare []part
}

// wants applies the filters.
func (w *watcher) wants(e *entry) bool {
	if e.plain.Type == mvccpb.DELETE {
		return !w.noDelete
	}
	return !w.noPut
}

// append delivers a batch that has that many bytes. It returns false if there is no room: then the watcher lags, and the
// caller must take it out of its group. The caller holds Hub.mu.
func (w *watcher) append(batch []part, bytes int) bool {
	s := w.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(batch) > 0 && batch[0].commit.revision < w.next {
		bytes -= batch[0].bytes
		batch = batch[1:]
	}
	if len(batch) == 0 {
		return true
	}
	many := len(w.pending)+len(batch) > maxPendingCommits || w.pendingBytes+bytes > s.hub.pendingBytes
	if many && len(w.pending)+len(batch) > 1 || s.crowded(bytes) {
		w.next = batch[0].commit.revision
		if len(w.pending) > 0 {
			w.next = w.pending[0].commit.revision
		}
		w.drop()
		w.state = lagging
		s.lagging++
		s.turn(w)
		return false
	}
	w.put(batch, bytes)
	return true
}

// put appends a batch to the pending list. The caller holds stream.mu.
func (w *watcher) put(batch []part, bytes int) {
	w.pending = append(w.pending, batch...)
	w.pendingBytes += bytes
	w.stream.hold(bytes)
	if !w.dirty {
		w.dirty = true
		w.stream.dirty = append(w.stream.dirty, w)
	}
	w.stream.wake()
}

// take takes what is pending, which the stream goes on to hold until it is sent. The caller holds stream.mu.
func (w *watcher) take() batch {
	b := batch{w: w, parts: w.pending, bytes: w.pendingBytes}
	w.pending, w.pendingBytes, w.spare = w.spare, 0, nil
	if n := len(b.parts); n > 0 {
		b.through = b.parts[n-1].commit.revision
	}
	if w.state == lagging {
		b.through = max(b.through, w.next-1)
	}
	return b
}

// drop empties the pending list. The caller holds stream.mu.
func (w *watcher) drop() {
	clear(w.pending)
	w.stream.hold(-w.pendingBytes)
	w.pending, w.pendingBytes = w.pending[:0], 0
}

// newWatcher returns the watcher that a request asks for, as etcd reads it. It has no ID yet.
func newWatcher(s *stream, r *pb.WatchCreateRequest) *watcher {
	key, end := r.Key, r.RangeEnd
	if len(key) == 0 {
		key = []byte{0} // the smallest key
	}
	w := &watcher{
		stream: s, span: mvcc.SpanOf(key, end), start: r.StartRevision, quiet: true,
		prevKV: r.PrevKv, fragment: r.Fragment, progress: r.ProgressNotify,
	}
	for _, f := range r.Filters {
		switch f {
		case pb.WatchCreateRequest_NOPUT:
			w.noPut = true
		case pb.WatchCreateRequest_NODELETE:
			w.noDelete = true
		}
	}
	return w
}
