package failover

import (
	"context"
	"errors"
	"sync"
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/postgres"
)

// lane carries out one action at a time.
type lane struct {
	agent *Agent

	mu      sync.Mutex // guards the fields below
	running decide.Step
	cancel  context.CancelFunc
	done    chan struct{}
	last    decide.Step
	// failure is why the last action was not done; "" if it was.
	failure  string
	failures int
	notUntil time.Time
	// noRoom is why the last clone was given up for want of room, and noRoomUntil when the next may be tried, whatever is done in between.
	noRoom      string
	noRoomUntil time.Time
	stopped     bool
}

const (
	// retryFirst and retryMax bound the pause after an action that failed.
	retryFirst, retryMax = 50 * time.Millisecond, 5 * time.Second
	// againAfter is the pause before the same rule asks for the same again though it was done: it should not, and must not spin.
	againAfter = 25 * time.Millisecond
	// noRoomAgain is the pause after a clone for which there was no room: each attempt makes the primary's PostgreSQL do a checkpoint.
	noRoomAgain = 30 * time.Second
)

// busy returns the action under way.
func (l *lane) busy() decide.Action {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running.Action
}

// lastFailure says why the last action was not done; "" if it was.
func (l *lane) lastFailure() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.noRoomUntil) {
		return l.noRoom
	}
	return l.failure
}

// offer starts the step unless the lane is busy with another, or has just failed at the same.
func (l *lane) offer(ctx context.Context, s decide.Step) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return
	}
	if l.running.Action != decide.None {
		if s.Action != l.running.Action && preempts(s.Action, l.running.Action) {
			l.cancel()
		}
		return
	}
	if s.Action == decide.None {
		return
	}
	if s.Action != l.last.Action || s.Rule != l.last.Rule {
		l.failures, l.notUntil = 0, time.Time{}
	}
	if now := time.Now(); now.Before(l.notUntil) || s.Action == decide.Clone && now.Before(l.noRoomUntil) {
		return
	}
	if s.Action != l.last.Action || s.Why != l.last.Why || l.failures == 0 {
		l.agent.log.Info("decided", "rule", s.Rule, "action", s.Action, "to", s.To, "command", string(s.Command.Kind), "why", s.Why)
	}
	op, cancel := context.WithCancel(ctx)
	l.running, l.last, l.cancel, l.done = s, s, cancel, make(chan struct{})
	go l.run(op, s)
}

// preempts says whether the action that is wanted now is worth giving up the one under way.
func preempts(wanted, running decide.Action) bool {
	switch running {
	case decide.DisconnectSolo, decide.EnsureSlot, decide.DropStale:
		return wanted == decide.ConnectSolo // commits wait for it
	case decide.ProveGating, decide.CommitEpoch, decide.OpenSession, decide.StartEngine, decide.Drain:
		return wanted != decide.None
	case decide.Clone, decide.Rewind, decide.Start, decide.Promote, decide.Freeze, decide.Follow:
		return wanted == decide.Stop
	}
	return false
}

func (l *lane) run(ctx context.Context, s decide.Step) {
	began := time.Now()
	err := l.agent.perform(ctx, s)
	l.mu.Lock()
	cancelled := ctx.Err() != nil
	l.cancel()
	l.running = decide.Step{}
	switch {
	case err == nil:
		l.failures, l.notUntil, l.failure = 0, time.Now().Add(againAfter), ""
	case cancelled || errors.Is(err, errNotNow):
		l.notUntil = time.Now().Add(retryFirst)
	default:
		l.failures++
		l.failure = string(s.Action) + ": " + err.Error()
		l.notUntil = time.Now().Add(min(retryMax, retryFirst<<min(l.failures, 10)))
		if errors.Is(err, postgres.ErrNoRoom) {
			l.noRoom, l.noRoomUntil = l.failure, time.Now().Add(noRoomAgain)
		}
	}
	failures := l.failures
	close(l.done)
	l.mu.Unlock()
	switch {
	case err == nil:
		l.agent.log.Info("done", "action", s.Action, "took", time.Since(began).Round(time.Microsecond))
	case cancelled || errors.Is(err, errNotNow):
		l.agent.log.Debug("not done", "action", s.Action, "error", err)
	case failures <= 3 || failures%20 == 0:
		l.agent.log.Warn("not done", "action", s.Action, "why", s.Why, "error", err, "attempt", failures)
	}
	l.agent.wake()
}

// errNotNow marks an action that could not be carried out for a reason that passes by itself.
var errNotNow = errors.New("not at the moment")

// stop ends what is under way and takes nothing more.
func (l *lane) stop() {
	l.mu.Lock()
	l.stopped = true
	done := l.done
	if l.running.Action == decide.None {
		done = nil
	} else {
		l.cancel()
	}
	l.mu.Unlock()
	if done != nil {
		<-done
	}
}
