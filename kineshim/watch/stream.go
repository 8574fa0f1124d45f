package watch

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// maxControl is how many answers to requests may wait to be sent before no more requests are read.
	maxControl = 64
	// endWait is how long Serve waits for its goroutines. It is needed only where a send or a receive ends no sooner than
	// Serve.
	endWait = 100 * time.Millisecond
)

// stream is one client's stream of watches. Its goroutines: Serve's, which waits for the end; a receiving one, which
// alone makes and cancels watchers; a sending one, which alone sends.
type stream struct {
	hub    *Hub
	grpc   pb.Watch_WatchServer
	ctx    context.Context // for the Source; ends with the stream
	cancel context.CancelFunc

	done     chan struct{} // closed by stop
	wakeup   chan struct{} // for the sending goroutine; holds one
	room     chan struct{} // for the receiving one, when control has been taken; holds one
	received chan struct{} // closed when the receiving goroutine has ended
	sent     chan struct{} // closed when the sending one has

	mu       sync.Mutex // guards all below, and the watchers' fields that say so; comes after Hub.mu
	err      error      // why the stream has ended; set before done is closed
	stopped  bool
	watchers map[int64]*watcher
	nextID   int64
	control  []*pb.WatchResponse
	dirty    []*watcher // have pending events
	turns    []*watcher // lag, and the sending goroutine is to read on for them
	lagging  int        // how many watchers lag
	ended    int        // how many have ended by compaction
	latest   int64      // no watcher starts later than this, or than the revision
	asked    int        // requests for progress that were not answered yet
	pending  int        // bytes that wait for its watchers, or are being sent
}

// Serve runs one stream of watches until its context ends, receiving or sending fails, or the hub closes: then with an
// Unavailable error. A client that closes its sending side goes on to receive, as with etcd.
//
// When the context has ended, Serve has waited for its goroutines, if sending and receiving ends with that context or
// soon after. What they hang in, gRPC lets go when the handler has returned; they do nothing more then.
func (h *Hub) Serve(g pb.Watch_WatchServer) error {
	s, err := h.open(g)
	if err != nil {
		return err
	}
	defer h.exit()
	go s.receive()
	go s.send()
	select {
	case <-g.Context().Done():
		s.stop(canceled(g.Context().Err()))
	case <-s.done:
	}
	h.drop(s)
	s.join()
	return s.err
}

// open registers a stream, its two goroutines and Serve.
func (h *Hub) open(g pb.Watch_WatchServer) (*stream, error) {
	s := &stream{
		hub: h, grpc: g,
		done: make(chan struct{}), wakeup: make(chan struct{}, 1), room: make(chan struct{}, 1),
		received: make(chan struct{}), sent: make(chan struct{}),
		watchers: make(map[int64]*watcher),
	}
	s.ctx, s.cancel = context.WithCancel(g.Context())
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		s.cancel()
		return nil, errClosed
	}
	h.streams[s] = struct{}{}
	for range 3 {
		h.enter()
	}
	return s, nil
}

// drop forgets a stream that has been stopped, and its watchers.
func (h *Hub) drop(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watchers {
		w.state = gone
		h.leave(w)
		delete(h.waiting, w)
	}
	h.watchers -= len(s.watchers)
	s.hold(-s.pending)
	s.watchers, s.control, s.dirty, s.turns = nil, nil, nil, nil
}

// stop ends the stream with an error. Only the first call counts.
func (s *stream) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	s.stopped, s.err = true, err
	s.cancel()
	close(s.done)
}

// join waits for the goroutines, for a bounded time. If the context has not ended, receiving can't have: it is not waited
// for.
func (s *stream) join() {
	bound := time.NewTimer(endWait)
	defer bound.Stop()
	ended := []<-chan struct{}{s.sent}
	if s.grpc.Context().Err() != nil {
		ended = append(ended, s.received)
	}
	for _, c := range ended {
		select {
		case <-c:
		case <-bound.C:
			return
		}
	}
}

// canceled is how etcd reports the end of the context.
func canceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

// receive handles the client's requests, in order.
func (s *stream) receive() {
	defer s.hub.exit()
	defer close(s.received)
	for {
		r, err := s.grpc.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.stop(canceled(err))
			return
		}
		if !s.handle(r) {
			return
		}
	}
}

// wake lets the sending goroutine look for something to do.
func (s *stream) wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// turn has the sending goroutine read on for a lagging watcher. The caller holds mu.
func (s *stream) turn(w *watcher) {
	s.turns = append(s.turns, w)
	s.wake()
}
