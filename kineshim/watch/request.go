package watch

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// noID is the watch ID of what concerns no watch, or all of a stream.
	noID = -1
	// autoID asks for an ID of the server's choice.
	autoID = 0
	// maxAsked is how many requests for progress may wait to be answered; there is no sense in more.
	maxAsked = 64

	// The reasons of etcd's mvcc package, which reach the client as text.
	reasonEmptyRange  = "mvcc: watcher range is empty"
	reasonDuplicateID = "mvcc: duplicate watch ID provided on the WatchStream"
)

// handle does what a request asks for; unknown ones are ignored, as etcd does. It returns false when the stream has ended.
func (s *stream) handle(r *pb.WatchRequest) bool {
	switch u := r.RequestUnion.(type) {
	case *pb.WatchRequest_CreateRequest:
		return u.CreateRequest == nil || s.settle() && s.create(u.CreateRequest)
	case *pb.WatchRequest_CancelRequest:
		return u.CancelRequest == nil || s.settle() && s.remove(u.CancelRequest.WatchId)
	case *pb.WatchRequest_ProgressRequest:
		return u.ProgressRequest == nil || s.settle() && s.ask()
	}
	return true
}

// settle waits until there is room for one more answer, and until what reads may have shown already is published. It returns
// false when the stream has ended.
func (s *stream) settle() bool {
	for {
		s.mu.Lock()
		full := len(s.control) >= maxControl
		s.mu.Unlock()
		if !full {
			break
		}
		select {
		case <-s.room:
		case <-s.done:
			return false
		}
	}
	return s.hub.committed == nil || s.hub.reach(s.hub.committed(), s.done)
}

// create makes a watcher, or says why not.
func (s *stream) create(r *pb.WatchCreateRequest) bool {
	w := newWatcher(s, r)
	h := s.hub
	var forbidden error
	if h.permit != nil {
		forbidden = h.permit(s.ctx, r)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	_, taken := s.watchers[r.WatchId]
	full := h.full(s)
	switch {
	case w.start < 0:
		s.refuse(rpctypes.ErrCompacted.Error())
		return true
	case forbidden != nil:
		s.refuse(forbidden.Error())
		return true
	case w.span.Empty():
		s.refuse(reasonEmptyRange)
		return true
	case full != nil:
		s.refuse(full.Error())
		return true
	case r.WatchId == autoID:
		for s.watchers[s.nextID] != nil {
			s.nextID++
		}
		w.id = s.nextID
		s.nextID++
	case taken:
		s.refuse(reasonDuplicateID)
		return true
	default:
		w.id = r.WatchId
	}
	s.watchers[w.id] = w
	h.watchers++
	s.latest = max(s.latest, w.start)
	now := h.revision.Load()
	if w.start == 0 || w.start > now {
		w.next = max(w.start, now+1)
		h.join(w)
	} else {
		w.state, w.next = lagging, w.start
		s.lagging++
		s.turn(w)
	}
	s.answer(&pb.WatchResponse{WatchId: w.id, Created: true})
	return true
}

// refuse answers a request for a watch that there will not be. The caller holds mu.
func (s *stream) refuse(reason string) {
	s.answer(&pb.WatchResponse{WatchId: noID, Created: true, Canceled: true, CancelReason: reason})
}

// answer queues the answer to a request. The caller holds mu.
func (s *stream) answer(r *pb.WatchResponse) {
	r.Header = &pb.ResponseHeader{Revision: s.hub.revision.Load()}
	s.control = append(s.control, r)
	s.wake()
}

// remove cancels a watch. For an unknown one there is no answer.
func (s *stream) remove(id int64) bool {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	w := s.watchers[id]
	if w == nil {
		return true
	}
	delete(s.watchers, id)
	h.watchers--
	switch w.state {
	case lagging:
		s.lagging--
	case ended:
		s.ended--
	}
	w.state = gone
	w.drop()
	h.leave(w)
	delete(h.waiting, w)
	s.answer(&pb.WatchResponse{WatchId: id, Canceled: true})
	return true
}

// ask has the sending goroutine tell the progress of all watchers.
func (s *stream) ask() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = min(s.asked+1, maxAsked)
	s.wake()
	return !s.stopped
}
