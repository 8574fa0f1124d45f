package watch

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// turnCommits and turnBytes bound what is read from the ring for a lagging watcher at a time, so that the stream's other
	// watchers get their turn, and a client that does not read holds little. etcd sends the events of up to 1,000 revisions at a time, of any size.
	turnCommits = 2048
	turnBytes   = 2 << 20
	// maxSpare is the longest pending list whose memory is kept for the next one.
	maxSpare = 256
)

// errStopped ends the sending goroutine when the stream has been stopped for another reason.
var errStopped = errors.New("watch: the stream has ended")

// round is what the sending goroutine has to send next. All was taken at one moment. If progress is to be told, revision
// is what was published at that moment: when the round has been sent, everything up to it has been sent to every watcher
// that did not lag.
type round struct {
	revision int64
	control  []*pb.WatchResponse
	batches  []batch
	// turns is the lagging watchers for which to read on, with what is pending for them.
	turns []batch
	// asked is how often the revision is to be told for the whole stream, ticks for which watchers by themselves.
	asked int
	ticks []*watcher
	page  []*commit // for the turns
}

// batch is what was pending for a watcher. When it has been sent, the watcher has all events up to through.
type batch struct {
	w       *watcher
	parts   []part
	bytes   int
	through int64
	// compacted is the compacted revision when the events were read from the past: what was before it is not shown.
	compacted int64
}

func (r *round) empty() bool {
	return len(r.control) == 0 && len(r.batches) == 0 && len(r.turns) == 0 && r.asked == 0 && len(r.ticks) == 0
}

// send is the sending goroutine.
func (s *stream) send() {
	defer s.hub.exit()
	defer close(s.sent)
	// As with etcd the streams' ticks are spread, for clients begin many at the same time.
	every := s.hub.progressEvery + rand.N(s.hub.progressEvery/10)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var r round
	tick := false
	for {
		s.take(&r, tick)
		tick = false
		if !r.empty() {
			if err := s.run(&r); err != nil {
				s.stop(err)
				return
			}
			continue
		}
		select {
		case <-s.done:
			return
		case <-s.wakeup:
		case <-ticker.C:
			tick = true
		}
	}
}

// take fills the round, and takes back the memory of the last one.
func (s *stream) take(r *round, tick bool) {
	sent := r.clear()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold(-sent)
	if tick || s.asked > 0 {
		// Progress is told of a moment at which no commit is half delivered: else it could be of a revision below that of
		// an event which has been sent, and a client would take it for a step back.
		s.mu.Unlock()
		s.hub.mu.Lock()
		defer s.hub.mu.Unlock()
		s.mu.Lock()
		r.revision = s.hub.revision.Load()
		s.takeProgress(r)
		if tick {
			s.takeTicks(r)
		}
	}
	if s.stopped {
		return
	}
	r.control, s.control = s.control, nil
	select {
	case s.room <- struct{}{}:
	default:
	}
	for _, w := range s.turns {
		r.turns = append(r.turns, w.take())
	}
	clear(s.turns)
	s.turns = s.turns[:0]
	for _, w := range s.dirty {
		w.dirty = false
		if len(w.pending) > 0 {
			r.batches = append(r.batches, w.take())
		}
	}
	clear(s.dirty)
	s.dirty = s.dirty[:0]
}

// clear empties the round after it has been sent, and returns how many bytes of what was pending were in it.
func (r *round) clear() (bytes int) {
	for _, b := range r.turns {
		bytes += b.bytes
	}
	for _, b := range r.batches {
		bytes += b.bytes
		if cap(b.parts) <= maxSpare {
			clear(b.parts)
			b.w.spare = b.parts[:0]
		}
	}
	clear(r.batches)
	clear(r.turns)
	clear(r.ticks)
	r.control, r.batches, r.turns, r.ticks, r.asked = nil, r.batches[:0], r.turns[:0], r.ticks[:0], 0
	return bytes
}

// takeProgress decides on the requests for progress. While a watcher lags one of them is kept. For a stream with a
// watcher that begins in the future there is no answer, as with etcd: its client would take it for that watcher's, and
// resume it too early.
func (s *stream) takeProgress(r *round) {
	if s.asked == 0 {
		return
	}
	if s.latest > r.revision {
		for _, w := range s.watchers {
			if w.start > r.revision {
				s.asked = 0
				return
			}
		}
		s.latest = r.revision
	}
	switch {
	case len(s.watchers) == s.ended: // nobody to tell
		s.asked = 0
	case s.lagging > 0:
		s.asked = 1
	default:
		r.asked, s.asked = s.asked, 0
	}
}

// takeTicks finds the watchers that are to be told of the revision because they have heard nothing since the last tick.
func (s *stream) takeTicks(r *round) {
	for _, w := range s.watchers {
		if !w.progress {
			continue
		}
		if w.quiet && w.state == synced && w.start <= r.revision {
			r.ticks = append(r.ticks, w)
		}
		w.quiet = true
	}
}

// run sends a round: answers first, for a watch's creation comes before its events; progress last.
func (s *stream) run(r *round) error {
	for _, c := range r.control {
		if err := s.deliver(c); err != nil {
			return err
		}
	}
	for _, b := range r.batches {
		if err := s.events(b); err != nil {
			return err
		}
		if s.hub.lag != nil {
			s.hub.lag.Observe(time.Since(b.parts[0].commit.published).Seconds())
		}
	}
	for _, b := range r.turns {
		if err := s.readOn(b, r); err != nil {
			return err
		}
	}
	for range r.asked {
		if err := s.deliver(progress(noID, r.revision)); err != nil {
			return err
		}
	}
	for _, w := range r.ticks {
		if err := s.deliver(progress(w.id, r.revision)); err != nil {
			return err
		}
	}
	return nil
}

// deliver sends one message, unless the stream has been stopped.
func (s *stream) deliver(r *pb.WatchResponse) error {
	select {
	case <-s.done:
		return errStopped
	default:
		return s.grpc.Send(r)
	}
}

// readOn sends a lagging watcher what is pending and what comes next in the ring. If that is all, the watcher is synced
// before it is sent: what is published from then on becomes pending, and is sent after it. If the ring does not reach
// back far enough, the sweep takes over.
func (s *stream) readOn(b batch, r *round) error {
	h, w := s.hub, b.w
	compacted := h.source.Compacted()
	b.compacted = compacted
	h.mu.Lock()
	s.mu.Lock()
	if w.state != lagging {
		s.mu.Unlock()
		h.mu.Unlock()
		return nil
	}
	all := false
	switch {
	case w.next < compacted:
		w.state = ended
		s.lagging--
		s.ended++
	case w.next < h.ring.first:
		h.wait(w, w.next)
	default:
		if r.page, all = h.ring.read(r.page[:0], w.next, turnCommits, turnBytes); all {
			w.state, w.next = synced, h.revision.Load()+1
			s.lagging--
			h.join(w)
		} else {
			w.next = r.page[len(r.page)-1].revision + 1
			s.turn(w)
		}
		b.through = w.next - 1
	}
	hasEnded := w.state == ended
	s.mu.Unlock()
	h.mu.Unlock()
	for _, c := range r.page {
		p := c.part(w)
		if c.revision <= compacted {
			p.entries = settled(p.entries)
		}
		if len(p.entries) > 0 {
			b.parts = append(b.parts, p)
		}
	}
	clear(r.page)
	r.page = r.page[:0]
	if err := s.events(b); err != nil || !hasEnded {
		return err
	}
	// etcd says no revision and no reason here.
	return s.deliver(&pb.WatchResponse{
		Header: &pb.ResponseHeader{}, WatchId: w.id, Canceled: true, CompactRevision: compacted,
	})
}

// settled leaves out what was changed again in the same revision: of the compacted revision, nobody knows that any more.
func settled(entries []*entry) []*entry {
	var kept []*entry
	for i, e := range entries {
		again := func(later *entry) bool { return string(later.key()) == string(e.key()) }
		if !slices.ContainsFunc(entries[i+1:], again) {
			kept = append(kept, e)
		}
	}
	return kept
}

// part returns the events that are in a watcher's span.
func (c *commit) part(w *watcher) part {
	p := part{commit: c}
	for _, e := range c.entries {
		if contains(w.span, e.key()) {
			p.entries = append(p.entries, e)
			p.bytes += e.bytes
		}
	}
	return p
}
