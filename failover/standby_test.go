package failover

import (
	"context"
	"testing"
	"time"

	"kineshim/failover/postgres"
	"kineshim/raftwitness/record"
)

// following makes it a standby that streams on the given timeline.
func (f agentFixture) following(timeline uint32) agentFixture {
	f.Agent.mu.Lock()
	defer f.Agent.mu.Unlock()
	l := &f.Agent.local
	l.data = postgres.DataState{Exists: true, Complete: true, SystemID: 7, Timeline: timeline}
	l.up, l.life = true, 1
	l.obsAt = time.Now()
	l.obs = postgres.Observation{InRecovery: true, Timeline: timeline, WalReceiver: postgres.WalReceiver{PID: 9, Status: "streaming", Timeline: timeline}}
	f.noteStreaming(l.obs)
	f.noteStreaming(l.obs) // one that lasts
	return f
}

func TestAStandbyIsReadOnlyWhileItStreamsFromTheRecordedPrimary(t *testing.T) {
	for name, not := range map[string]func(agentFixture){
		"PostgreSQL runs":       func(f agentFixture) { f.local.up = false },
		"it follows":            func(f agentFixture) { f.setUpstream(true, false) },
		"what it does is known": func(f agentFixture) { f.setUpstream(false, true) },
		"it is not promoted":    func(f agentFixture) { f.setPromoting(true) },
		"it is no primary":      func(f agentFixture) { f.local.promotedEpoch = 1 },
		"it streams":            func(f agentFixture) { f.noteStreaming(postgres.Observation{InRecovery: true}) },
		"on the right timeline": func(f agentFixture) { f.local.obs.WalReceiver.Timeline = 1 },
		"the timeline is known": func(f agentFixture) {
			f.store.set(recordAfter(record.Command{Kind: record.Promote, By: "a", Node: "a", Timeline: 2}))
		},
		"the other is primary": func(f agentFixture) { f.store.set(failedOver()) },
		"there is a cluster":   func(f agentFixture) { f.store.set(&record.Record{}) },
		"it was seen to since": func(f agentFixture) { f.setUpstream(false, false) },
		"it streams the same way": func(f agentFixture) {
			f.local.obs.WalReceiver = postgres.WalReceiver{PID: 9, Status: "streaming", Timeline: 3}
		},
	} {
		f := newAgent(t, "b", soloRecord()).following(2)
		if life, ok := f.StandbyLife(); life != 1 || !ok {
			t.Fatalf("life %d, ok %v", life, ok)
		}
		not(f)
		if _, ok := f.StandbyLife(); ok {
			t.Errorf("read, though it is not so that %s", name)
		}
	}
}

func TestTheLifeOfAStandbyEndsWithItsWalreceiver(t *testing.T) {
	for name, end := range map[string]func(agentFixture){
		"stopped or started": func(f agentFixture) { f.setUpstream(false, false) },
		"PostgreSQL starts":  func(f agentFixture) { f.nowUp() },
	} {
		f := newAgent(t, "b", soloRecord()).following(2)
		before, _ := f.StandbyLife()
		end(f)
		f.Agent.mu.Lock()
		f.noteStreaming(postgres.Observation{InRecovery: true, WalReceiver: postgres.WalReceiver{Status: "streaming", Timeline: 2}})
		f.Agent.mu.Unlock()
		if after, _ := f.StandbyLife(); after == before {
			t.Errorf("%s: the life goes on", name)
		}
	}
}

// What the engine is told of forced promotions depends on when this process began to keep a copy.
func TestTheEngineIsToldOfAForcedPromotionThatTheCopyMayNotKnow(t *testing.T) {
	forcedUnderB := []record.Command{{Kind: record.Force, By: "b", Node: "b"}, {Kind: record.Timeline, By: "b", Timeline: 3, SwitchLSN: 200}}
	start := func(f agentFixture, epoch uint64) bool {
		t.Helper()
		f.serving(epoch)
		if err := f.startEngine(t.Context()); err != nil && err != errTest {
			t.Fatal(err)
		}
		return f.engine.session.Forced
	}
	f := newAgent(t, "b", soloRecord()).following(2)
	f.StandbyLife() // the copy is begun, in epoch 1
	f.store.set(recordAfter(forcedUnderB...))
	f.engine.start = func(context.Context) error { return errTest }
	if !start(f, 2) {
		t.Error("the epoch was forced, and the engine is not told")
	}
	f.engine.start = nil
	if !start(f, 2) {
		t.Error("the engine has not started yet, and its next attempt is not told")
	}
	if start(f, 2) {
		t.Error("the copy is this epoch's own, and is thrown away")
	}

	f = newAgent(t, "b", recordAfter(forcedUnderB...)) // a process that begins after it
	f.store.set(recordAfter(append(forcedUnderB, record.Command{Kind: record.Pair, By: "b", Node: "a", Timeline: 3},
		record.Command{Kind: record.Promote, By: "a", Node: "a", Timeline: 3}, record.Command{Kind: record.Timeline, By: "a", Timeline: 4, SwitchLSN: 300},
		record.Command{Kind: record.Pair, By: "a", Node: "b", Timeline: 4})...))
	f.following(4)
	if _, ok := f.StandbyLife(); !ok {
		t.Fatal("it cannot be read")
	}
	f.store.set(recordAfter(append(forcedUnderB, record.Command{Kind: record.Pair, By: "b", Node: "a", Timeline: 3},
		record.Command{Kind: record.Promote, By: "a", Node: "a", Timeline: 3}, record.Command{Kind: record.Timeline, By: "a", Timeline: 4, SwitchLSN: 300},
		record.Command{Kind: record.Pair, By: "a", Node: "b", Timeline: 4}, record.Command{Kind: record.Promote, By: "b", Node: "b", Timeline: 4})...))
	if start(f, 4) {
		t.Error("a copy that was loaded after the forced promotion is thrown away")
	}

	// One whose copy is older than a forced promotion of the other node, which was paired since: its PostgreSQL has all of that.
	f = newAgent(t, "b", soloRecord()).following(2)
	f.StandbyLife()
	f.store.set(recordAfter(record.Command{Kind: record.Pair, By: "a", Node: "b", Timeline: 2},
		record.Command{Kind: record.Promote, By: "b", Node: "b", Timeline: 2}, record.Command{Kind: record.Timeline, By: "b", Timeline: 3, SwitchLSN: 200},
		record.Command{Kind: record.Force, By: "a", Node: "a"}, record.Command{Kind: record.Timeline, By: "a", Timeline: 4, SwitchLSN: 300},
		record.Command{Kind: record.Pair, By: "a", Node: "b", Timeline: 4}, record.Command{Kind: record.Promote, By: "b", Node: "b", Timeline: 4}))
	rec, _ := f.store.Record()
	if rec.Primary != "b" || !forcedSince(rec, 1) {
		t.Fatalf("nothing is tried: %+v", rec)
	}
	if start(f, rec.Epoch) {
		t.Error("an ordinary promotion counts as forced, because of one before the cluster was paired")
	}
}
