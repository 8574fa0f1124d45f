package watch

import (
	"context"
	"errors"
	"fmt"
	"math"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// maxPage and minPage bound the events that are asked for at a time; within them a page is to have about pageBytes.
	// The first one, of which the events' size is not known, has firstPage events.
	maxPage   = 1000
	minPage   = 16
	firstPage = 200
	pageBytes = 4 << 20
)

// errHistory says that the Source has given what it must not.
var errHistory = errors.New("the history is not in order")

// wait puts a lagging watcher among those that the sweep serves, and starts the sweep if it does not run. The caller
// holds mu.
func (h *Hub) wait(w *watcher, from int64) {
	h.waiting[w] = from
	if !h.sweeping && !h.closed {
		h.sweeping = true
		h.enter()
		go h.sweep()
	}
}

// sweep reads history for all waiting watchers, one page after the other, in the way of a lift: a page begins at the
// first revision at or above the last page's end that somebody waits for, or else at the very first one. Watchers that
// wait for the same page share it, and go on together; nobody waits longer than it takes to read the whole history twice.
// While the history cannot be read they go on to wait. The sweep ends when nobody waits.
func (h *Hub) sweep() {
	defer h.exit()
	var at int64
	interrupted := false
	for {
		compacted := h.source.Compacted()
		from, upto, ok := h.next(at, compacted)
		if !ok {
			return
		}
		commits, through, err := h.page(from, upto, h.pageEvents)
		if errors.Is(err, ErrNotNow) {
			if !interrupted {
				h.log.Info("watches wait: their history cannot be read at the moment", "from", from, "err", err)
			}
			interrupted = true
			pause(h.ctx)
			continue
		}
		interrupted = false
		if err != nil {
			h.abandon(from, from+int64(h.pageEvents), err)
			continue
		}
		h.distribute(from, through, commits)
		at = through + 1
		events, bytes := 0, 0
		for _, c := range commits {
			events, bytes = events+len(c.entries), bytes+c.bytes
		}
		h.pageEvents = pageLimit(events, bytes, h.pageEvents)
	}
}

// next chooses the next page. Those who wait for what is compacted, or in the ring again, are handed back. It returns
// false, and the sweep has ended, if nobody waits.
func (h *Hub) next(at, compacted int64) (from, upto int64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first, above := int64(math.MaxInt64), int64(math.MaxInt64)
	for w, next := range h.waiting {
		if next < compacted || next >= h.ring.first {
			h.handBack(w)
			continue
		}
		first = min(first, next)
		if next >= at {
			above = min(above, next)
		}
	}
	if len(h.waiting) == 0 || h.closed {
		h.sweeping = false
		return 0, 0, false
	}
	if above == math.MaxInt64 {
		above = first
	}
	return above, h.ring.first - 1, true
}

// handBack returns a watcher to its stream's sending goroutine. The caller holds mu.
func (h *Hub) handBack(w *watcher) {
	delete(h.waiting, w)
	w.stream.mu.Lock()
	defer w.stream.mu.Unlock()
	w.stream.turn(w)
}

// page reads history from a revision on, and says how far it reaches.
func (h *Hub) page(from, upto int64, limit int) ([]*commit, int64, error) {
	read, through, err := h.read(h.ctx, from, upto, limit)
	if err != nil {
		return nil, 0, err
	}
	var commits []*commit
	for _, c := range read {
		if len(c.Events) > 0 {
			commits = append(commits, newCommit(c))
		}
	}
	return commits, through, nil
}

// read asks the Source for commits from a revision on, checks their order, and says how far they reach.
func (h *Hub) read(ctx context.Context, from, upto int64, limit int) ([]Commit, int64, error) {
	commits, more, err := h.source.History(ctx, from-1, upto, limit)
	if err != nil {
		return nil, 0, err
	}
	last := from - 1
	for _, c := range commits {
		if c.Revision <= last || c.Revision > upto {
			return nil, 0, fmt.Errorf("%w: revision %d after %d, up to %d", errHistory, c.Revision, last, upto)
		}
		last = c.Revision
	}
	if !more {
		return commits, upto, nil
	}
	if last < from {
		return nil, 0, fmt.Errorf("%w: there is more from revision %d on, but nothing was returned", errHistory, from)
	}
	return commits, last, nil
}

// pageLimit adapts how many events a page has to their size: a page of that many events had that many bytes.
func pageLimit(events, bytes, limit int) int {
	if events == 0 {
		return limit
	}
	return max(minPage, min(maxPage, pageBytes/(bytes/events)))
}

// distribute delivers a page to all who wait for it.
func (h *Hub) distribute(from, through int64, commits []*commit) {
	var m matcher
	h.mu.Lock()
	served := make(map[*watcher]int64)
	for w, next := range h.waiting {
		if next >= from && next <= through {
			served[w] = next
		}
	}
	h.mu.Unlock()
	for w := range served {
		g := m.group(w.span)
		g.members = append(g.members, w)
	}
	batches := make(map[*watcher][]part)
	for _, g := range m.assemble(nil, commits...) {
		for _, w := range g.members {
			batches[w] = g.batch
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for w, next := range served {
		// It may have been canceled meanwhile, with its ID used anew, but not by the same watcher.
		if _, waits := h.waiting[w]; !waits {
			continue
		}
		h.waiting[w] = through + 1
		if !w.supply(batches[w], next, through) {
			h.handBack(w)
		}
	}
}

// supply appends history to a lagging watcher's pending list; the watcher has then all up to through. It returns false if
// there is no room for more.
func (w *watcher) supply(parts []part, next, through int64) bool {
	s := w.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(parts) > 0 && parts[0].commit.revision < next {
		parts = parts[1:]
	}
	w.next = through + 1
	if len(parts) == 0 {
		return true
	}
	bytes := 0
	for _, p := range parts {
		bytes += p.bytes
	}
	w.put(parts, bytes)
	return w.pendingBytes < s.hub.pendingBytes && len(w.pending) < maxPendingCommits && !s.crowded(0)
}

// isCompacted says that the Source has no longer what it was asked for.
func isCompacted(err error) bool {
	return errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrGRPCCompacted)
}

// abandon is called when no page could be read from a revision on. The streams of those who wait for what it would have
// brought are ended: their clients resume.
func (h *Hub) abandon(from, below int64, err error) {
	if h.ctx.Err() != nil {
		return
	}
	compacted := h.source.Compacted()
	if isCompacted(err) && from < compacted {
		return // compacted meanwhile: they are handed back
	}
	h.log.Warn("the history of watches could not be read", "from", from, "err", err)
	err = status.Errorf(codes.Unavailable, "etcdserver: watch: read the history from revision %d on: %v", from, err)
	h.mu.Lock()
	defer h.mu.Unlock()
	for w, next := range h.waiting {
		if next >= from && next < below {
			delete(h.waiting, w)
			w.stream.stop(err)
		}
	}
}
