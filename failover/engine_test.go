package failover

import "testing"

// An engine that has failed stays the endpoint's current one until the next has started: it must not undo the barrier that the
// next one waits for, again and again.
func TestFailedEngineIsNoticedOnce(t *testing.T) {
	f := newAgent(t, "a", pairedRecord()).serving(1)
	l := &f.Agent.local
	l.generation, l.epochCommitted, l.engine = 3, 3, 3
	failed := make(chan struct{})
	f.engine.failed = failed
	look := func() (epochCommitted, engine uint64) {
		f.Agent.mu.Lock()
		defer f.Agent.mu.Unlock()
		f.Agent.input()
		return l.epochCommitted, l.engine
	}
	if e, g := look(); e != 3 || g != 3 {
		t.Fatalf("while it works: epoch committed in %d, engine on %d", e, g)
	}
	close(failed)
	if e, g := look(); e != 0 || g != 0 {
		t.Errorf("failed: epoch committed in %d, engine on %d: the barrier must be repeated first", e, g)
	}
	l.epochCommitted = 3 // the barrier has been repeated
	if e, _ := look(); e != 3 {
		t.Error("the failure that is known already undid the barrier")
	}
}
