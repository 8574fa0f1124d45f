package failover

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

func proposal(kind record.Kind) decide.Step {
	return decide.Step{Action: decide.Propose, Rule: string(kind), Why: "test", Command: record.Command{Kind: kind, Epoch: 1, By: "a", Node: "a"}}
}

func TestLaneDoesOneThingAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newAgent(t, "a", soloRecord())
		var calls atomic.Int32
		release := make(chan struct{})
		f.store.propose = func(context.Context, record.Command) (Outcome, error) {
			calls.Add(1)
			<-release
			return Done, nil
		}
		l := f.raftLane
		for range 3 {
			l.offer(t.Context(), proposal(record.Solo))
			l.offer(t.Context(), decide.Step{Action: decide.Settle})
			l.offer(t.Context(), decide.Step{})
			synctest.Wait()
		}
		if calls.Load() != 1 || l.busy() != decide.Propose {
			t.Errorf("%d calls, busy with %q", calls.Load(), l.busy())
		}
		close(release)
		synctest.Wait()
		if l.busy() != decide.None {
			t.Errorf("busy with %q after the end", l.busy())
		}
		l.offer(t.Context(), proposal(record.Solo))
		synctest.Wait()
		if calls.Load() != 1 {
			t.Errorf("%d calls: the same rule, asking again at once, must not spin", calls.Load())
		}
		time.Sleep(againAfter)
		l.offer(t.Context(), proposal(record.Solo))
		synctest.Wait()
		if calls.Load() != 2 {
			t.Errorf("%d calls: after a success the same is held back for %v only", calls.Load(), againAfter)
		}
	})
}

// offered counts how often the step is begun when it is offered every 10 ms for so long.
func offered(t *testing.T, f agentFixture, s decide.Step, d time.Duration, count *atomic.Int32) int32 {
	t.Helper()
	before := count.Load()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		f.raftLane.offer(t.Context(), s)
		synctest.Wait()
	}
	return count.Load() - before
}

func TestLanePausesLongerAfterEachFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newAgent(t, "a", soloRecord())
		var calls atomic.Int32
		f.store.propose = func(context.Context, record.Command) (Outcome, error) {
			calls.Add(1)
			return NotDone, errTest
		}
		// 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5 … s
		if n := offered(t, f, proposal(record.Solo), time.Second, &calls); n != 4 {
			t.Errorf("%d attempts in the first second", n)
		}
		offered(t, f, proposal(record.Solo), 10*time.Second, &calls)
		if n := offered(t, f, proposal(record.Solo), time.Minute, &calls); n < 11 || n > 13 {
			t.Errorf("%d attempts in a minute, want one every %v", n, retryMax)
		}
		if f.raftLane.lastFailure() == "" {
			t.Error("the failure is not told")
		}
		// Another action is tried at once, and then the first again.
		f.store.settle = func(context.Context) error { return nil }
		f.raftLane.offer(t.Context(), decide.Step{Action: decide.Settle})
		synctest.Wait()
		if f.raftLane.lastFailure() != "" {
			t.Error("the failure is told after a success")
		}
		if n := offered(t, f, proposal(record.Solo), 50*time.Millisecond, &calls); n != 1 {
			t.Errorf("%d attempts after another action", n)
		}
	})
}

// A clone for which there was no room is not tried again because PostgreSQL was started in between, as it is when the old data are whole.
func TestLaneWaitsWithACloneForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newAgent(t, "a", soloRecord())
		l := f.raftLane
		l.noRoom, l.noRoomUntil = "clone: no room", time.Now().Add(noRoomAgain)
		f.store.settle = func(context.Context) error { return nil }
		l.offer(t.Context(), decide.Step{Action: decide.Settle, Rule: "another"})
		synctest.Wait()
		clone := decide.Step{Action: decide.Clone, Rule: "rebuild-by-clone"}
		l.offer(t.Context(), clone)
		if l.busy() != decide.None || l.lastFailure() != "clone: no room" {
			t.Errorf("%q is under way; told is %q", l.busy(), l.lastFailure())
		}
		time.Sleep(noRoomAgain)
		if l.lastFailure() != "" {
			t.Errorf("told is %q, though nothing was tried for so long", l.lastFailure())
		}
	})
}

// What passes by itself is tried again soon, however often.
func TestLaneDoesNotCountWhatPassesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newAgent(t, "a", soloRecord())
		f.store.propose = func(context.Context, record.Command) (Outcome, error) {
			t.Error("proposed without a proof")
			return NotDone, errTest
		}
		for range 50 {
			f.raftLane.offer(t.Context(), proposal(record.Pair)) // refused by beginPairing: nothing is proved
			synctest.Wait()
			time.Sleep(retryFirst)
		}
		if f.raftLane.failures != 0 {
			t.Errorf("%d failures", f.raftLane.failures)
		}
	})
}

func TestPreemption(t *testing.T) {
	all := []decide.Action{decide.None, decide.InitDB, decide.Start, decide.Stop, decide.Freeze, decide.Follow, decide.Promote, decide.Rewind, decide.Clone,
		decide.OpenSession, decide.CommitEpoch, decide.StartEngine, decide.Drain, decide.ConnectSolo, decide.DisconnectSolo, decide.ProveGating,
		decide.EnsureSlot, decide.DropStale, decide.Propose, decide.HandOver, decide.Settle}
	for _, running := range all {
		for _, wanted := range all {
			got := preempts(wanted, running)
			var want bool
			switch running {
			case decide.DisconnectSolo, decide.EnsureSlot, decide.DropStale:
				want = wanted == decide.ConnectSolo
			case decide.ProveGating, decide.CommitEpoch, decide.OpenSession, decide.StartEngine, decide.Drain:
				want = wanted != decide.None
			case decide.Clone, decide.Rewind, decide.Start, decide.Promote, decide.Freeze, decide.Follow:
				want = wanted == decide.Stop
			}
			if got != want {
				t.Errorf("%q given up for %q: %v", running, wanted, got)
			}
		}
	}
}

func TestLaneGivesUpAnEngineThatStartsForANewSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newAgent(t, "a", soloRecord())
		var ended error
		f.engine.start = func(ctx context.Context) error {
			<-ctx.Done()
			ended = context.Cause(ctx)
			return ctx.Err()
		}
		l := f.postgresLane
		start := decide.Step{Action: decide.StartEngine, Why: "test"}
		l.offer(t.Context(), start)
		synctest.Wait()
		l.offer(t.Context(), start) // the same: goes on
		l.offer(t.Context(), decide.Step{})
		synctest.Wait()
		if l.busy() != decide.StartEngine {
			t.Fatalf("busy with %q", l.busy())
		}
		l.offer(t.Context(), decide.Step{Action: decide.CommitEpoch, Why: "test"})
		synctest.Wait()
		if l.busy() != decide.None || ended == nil || l.failures != 0 {
			t.Errorf("busy with %q, ended by %v, %d failures", l.busy(), ended, l.failures)
		}
	})
}

// A proposal is never cut short: its outcome would be unknown for no reason.
func TestStoppedLaneWaitsForItsProposalAndTakesNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newAgent(t, "a", soloRecord())
		var calls atomic.Int32
		f.store.propose = func(ctx context.Context, _ record.Command) (Outcome, error) {
			calls.Add(1)
			<-ctx.Done()
			return Unknown, ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		f.raftLane.offer(ctx, proposal(record.Solo))
		synctest.Wait()
		began := time.Now()
		cancel()
		f.raftLane.stop()
		if d := time.Since(began); d != proposeTimeout {
			t.Errorf("stopped after %v, want the proposal's own bound %v", d, proposeTimeout)
		}
		f.raftLane.offer(t.Context(), proposal(record.Solo))
		synctest.Wait()
		if calls.Load() != 1 {
			t.Errorf("%d proposals", calls.Load())
		}
		f.raftLane.stop() // again
	})
}
