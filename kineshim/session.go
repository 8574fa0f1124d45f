package kineshim

import (
	"context"
	"sync"
	"time"
)

const (
	// maxCalls bounds the unary calls of one session that are in the engine, with those whose client has gone away: a
	// commit that waits for its standby is never cancelled, so such calls can pile up while clients retry.
	maxCalls = 4096
	// callBound ends an engine call. It is far above every client's patience: it bounds what is left behind, nothing else.
	callBound = 2 * time.Minute
	// drainBound is how long the end of a session waits for its calls and streams after the engine has been closed.
	drainBound = 5 * time.Second
)

// session is one engine at work. Calls and streams are counted, so that its end can wait for them.
type session struct {
	Session
	engine Engine
	inline bool // the engine is an InlineEngine
	// ctx ends with the session; its cause says why.
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu      sync.Mutex // guards the fields below
	ended   bool
	calls   int
	streams int
	drained chan struct{} // closed when ended and nothing is left
	once    sync.Once     // closes drained
}

func newSession(s Session, engine Engine) *session {
	ctx, cancel := context.WithCancelCause(context.Background())
	_, inline := engine.(InlineEngine)
	return &session{Session: s, engine: engine, inline: inline, ctx: ctx, cancel: cancel, drained: make(chan struct{})}
}

// beginCall counts a unary call in, or says why it may not begin.
func (s *session) beginCall() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return Unavailable(errSessionEnded.Error())
	}
	if s.calls >= maxCalls {
		return errTooManyCalls
	}
	s.calls++
	return nil
}

func (s *session) endCall() { s.leave(&s.calls) }

// beginStream counts a stream in. Streams are bounded by what clients open; each costs them a connection's stream.
func (s *session) beginStream() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return Unavailable(errSessionEnded.Error())
	}
	s.streams++
	return nil
}

func (s *session) endStream() { s.leave(&s.streams) }

func (s *session) leave(count *int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*count--
	s.checkDrained()
}

// checkDrained is called with mu held.
func (s *session) checkDrained() {
	if s.ended && s.calls == 0 && s.streams == 0 {
		s.once.Do(func() { close(s.drained) })
	}
}

// end refuses what has not begun, ends the streams, closes the engine and waits, bounded, for what was in flight. left is
// what had not returned by then.
func (s *session) end(cause error) (left int, err error) {
	s.mu.Lock()
	s.ended = true
	s.checkDrained()
	s.mu.Unlock()
	// Before the engine closes: nothing that a closing engine says may reach a stream.
	s.cancel(cause)
	err = s.engine.Close()
	timeout := time.NewTimer(drainBound)
	defer timeout.Stop()
	select {
	case <-s.drained:
		return 0, err
	case <-timeout.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls + s.streams, err
}

// watchFailure ends the session's streams when its engine breaks. It returns when the session ends.
func (s *session) watchFailure() {
	select {
	case <-s.engine.Failed():
		s.cancel(errEngineBroken)
	case <-s.ctx.Done():
	}
}
