package kineshim

import (
	"context"
	"time"
)

// drainPoll is how often Drain looks: a commit takes about as long.
const drainPoll = time.Millisecond

// Drain returns when no unary call is in the engine, or when ctx ends. It lets calls in: the gate must be closed before.
func (e *Endpoint) Drain(ctx context.Context) {
	s := e.current.Load()
	if s == nil {
		return
	}
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for s.busy() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// busy says whether a unary call is in the engine.
func (s *session) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls > 0
}
