package watch

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// followCommits and followBytes bound a page for a follower. A page is one message to another node: below the usual bound of
	// one, and small enough that the other node works on one page while the next is on its way. The last commit of a page may
	// exceed followBytes, for a commit is never split.
	followCommits = 1000
	followBytes   = 1 << 20
)

// Followed is what Follow sends at a time.
type Followed struct {
	// Commits is the commits that come next, oldest first. What it holds is shared and must not be changed.
	Commits []Commit
	// Revision is the published revision up to which everything has been sent when this has been.
	Revision int64
}

// Follow sends all commits after a revision, oldest first, whole, in pages of a bounded size, first those that there are, then
// those that are published while it runs; what is published while send runs is sent together. It calls send
//   - with commits: Revision is the last one's, or the published one if there are no more;
//   - without commits when the published revision is another than the one that send was told last, in particular once at the
//     beginning if there is nothing to send;
//   - without commits after Poke, as soon as everything is sent.
//
// after may be ahead of the published revision: commits up to it are left out when they are published.
//
// It reads on from the ring, whatever has been compacted, or where the ring does not reach back from the Source, so that a slow
// caller costs the hub nothing. It returns the error of ctx or of send, an Unavailable error when the hub has been closed,
// rpctypes.ErrGRPCCompacted if what comes next is neither in the ring nor in the Source any more, or the error of the Source if
// it is not ErrNotNow. Close waits for it: send must not hang for long.
func (h *Hub) Follow(ctx context.Context, after int64, send func(Followed) error) error {
	f := follower{hub: h, send: send, next: after + 1, told: -1, events: firstPage}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return errClosed
	}
	h.enter()
	f.pokes = h.pokes
	h.mu.Unlock()
	defer h.exit()
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	if err := f.run(both); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errClosed
}

// Poke has every Follow call its send once more, as soon as everything is sent, so that its caller can send what is not a commit.
func (h *Hub) Poke() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pokes++
	h.advance()
}

// follower is one call of Follow. It belongs to that call's goroutine.
type follower struct {
	hub  *Hub
	send func(Followed) error
	// next is the revision from which on commits are to be sent, told what send was told last; -1: nothing yet.
	next, told int64
	// pokes is how many of the hub's have been answered.
	pokes uint64
	// events is how many the Source is asked for at a time.
	events int
	page   []*commit // memory for look
}

// sight is what a follower finds at one moment.
type sight struct {
	// past: what comes next is not in the ring. revision is then the last one that is not.
	past bool
	// commits is what comes next. When it has been sent, everything up to revision has been.
	commits  []Commit
	revision int64
	// poked: Poke has been called, and when the commits have been sent, everything has been.
	poked bool
	// changed is closed when there is something to send; nil if there is already.
	changed <-chan struct{}
}

// run returns nil when ctx has ended.
func (f *follower) run(ctx context.Context) error {
	for ctx.Err() == nil {
		var err error
		switch s := f.look(); {
		case s.past:
			err = f.readPast(ctx, s.revision)
		case s.changed != nil:
			select {
			case <-s.changed:
			case <-ctx.Done():
			}
		default:
			err = f.tell(s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// look takes what comes next from the ring, as much as fits into a page.
func (f *follower) look() sight {
	s, page := f.take()
	s.commits = published(page)
	clear(page)
	return s
}

// take is the part of look that needs the hub's lock.
func (f *follower) take() (sight, []*commit) {
	h := f.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.next < h.ring.first {
		return sight{past: true, revision: h.ring.first - 1}, nil
	}
	page, all := h.ring.read(f.page[:0], f.next, followCommits, followBytes)
	f.page = page
	if !all {
		last := page[len(page)-1].revision
		f.next = last + 1
		return sight{revision: last}, page
	}
	s := sight{revision: h.revision.Load(), poked: f.pokes != h.pokes}
	f.next, f.pokes = max(f.next, s.revision+1), h.pokes
	if len(page) == 0 && s.revision == f.told && !s.poked {
		s.changed = h.wakeup()
	}
	return s, page
}

// tell sends what look has found.
func (f *follower) tell(s sight) error {
	if len(s.commits) > 0 {
		if err := f.sendPage(s.commits, s.revision); err != nil || !s.poked {
			return err
		}
	}
	return f.sendPage(nil, s.revision)
}

func (f *follower) sendPage(commits []Commit, revision int64) error {
	f.told = revision
	return f.send(Followed{Commits: commits, Revision: revision})
}

// readPast sends what the Source has from the next revision on, in pages, as far as one answer of it reaches. While it cannot be
// read it waits for a moment.
func (f *follower) readPast(ctx context.Context, upto int64) error {
	h := f.hub
	if f.next < h.source.Compacted() {
		return rpctypes.ErrGRPCCompacted
	}
	commits, through, err := h.read(ctx, f.next, upto, f.events)
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, ErrNotNow):
		pause(ctx)
		return nil
	case isCompacted(err):
		return rpctypes.ErrGRPCCompacted
	case err != nil:
		return fmt.Errorf("read the history from revision %d on: %w", f.next, err)
	}
	events, bytes := 0, 0
	for len(commits) > 0 && ctx.Err() == nil {
		n, pageEvents, pageBytes := firstPageOf(commits)
		if err := f.sendPage(commits[:n:n], commits[n-1].Revision); err != nil {
			return err
		}
		events, bytes = events+pageEvents, bytes+pageBytes
		f.next = commits[n-1].Revision + 1
		commits = commits[n:]
	}
	if len(commits) == 0 {
		f.next = through + 1
		f.events = pageLimit(events, bytes, f.events)
	}
	return nil
}

// firstPageOf returns how many of the commits go into one page, and how many events and bytes they have.
func firstPageOf(commits []Commit) (n, events, bytes int) {
	for n < min(len(commits), followCommits) && bytes < followBytes {
		for i := range commits[n].Events {
			bytes += commits[n].Events[i].size()
		}
		events += len(commits[n].Events)
		n++
	}
	return n, events, bytes
}

// published returns commits as they were published. The slices are new.
func published(page []*commit) []Commit {
	if len(page) == 0 {
		return nil
	}
	n := 0
	for _, c := range page {
		n += len(c.entries)
	}
	commits, events := make([]Commit, len(page)), make([]Event, 0, n)
	for i, c := range page {
		first := len(events)
		for _, e := range c.entries {
			events = append(events, e.event())
		}
		commits[i] = Commit{Revision: c.revision, Events: events[first:len(events):len(events)]}
	}
	return commits
}
