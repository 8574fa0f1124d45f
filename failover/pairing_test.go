package failover

import (
	"context"
	"errors"
	"testing"
	"time"

	pb "kineshim/proto"
	"kineshim/raftwitness/record"
)

func pairCommand() record.Command {
	return record.Command{Kind: record.Pair, Epoch: 1, By: "a", Node: "b", Timeline: 2}
}

// joining is a, serving alone, with a lease and a standby whose gating is proved.
func joining(t *testing.T) agentFixture {
	f := newAgent(t, "a", soloRecord()).serving(1)
	f.store.setLease(300 * time.Millisecond)
	return f
}

func TestPrimaryActsAsPairedFromBeforeItProposes(t *testing.T) {
	for _, c := range []struct {
		name    string
		outcome Outcome
		err     error
		after   bool
	}{
		{"done", Done, nil, false},
		{"not done", NotDone, errTest, false},
		{"unknown", Unknown, errTest, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := joining(t)
			proposed := false
			f.store.propose = func(context.Context, record.Command) (Outcome, error) {
				if proposed = true; !f.pairing.Load() {
					t.Error("the proposal is under way, and the primary acts as solo")
				}
				if f.beginSolo() {
					t.Error("commits would go on without the standby")
				}
				if c.outcome == Done {
					f.store.set(pairedRecord())
				}
				return c.outcome, c.err
			}
			if err := f.propose(t.Context(), pairCommand()); !errors.Is(err, c.err) {
				t.Errorf("propose: %v", err)
			}
			if !proposed || f.pairing.Load() != c.after {
				t.Errorf("proposed %v, afterwards pairing %v, want %v", proposed, f.pairing.Load(), c.after)
			}
			if got := f.beginSolo(); got != (c.outcome == NotDone) {
				t.Errorf("commits may go on without the standby: %v", got)
			}
		})
	}
}

func TestAnUnknownPairingIsSettledByALeaderOnly(t *testing.T) {
	f := joining(t)
	f.pairing.Store(true)
	f.store.settle = func(context.Context) error { return errTest }
	if err := f.settle(t.Context()); !errors.Is(err, errTest) || !f.pairing.Load() {
		t.Errorf("settle: %v, pairing %v", err, f.pairing.Load())
	}
	f.store.settle = func(context.Context) error { return nil }
	if err := f.settle(t.Context()); err != nil || f.pairing.Load() {
		t.Errorf("settle: %v, pairing %v", err, f.pairing.Load())
	}
}

func TestPairingIsNotBegunWhenWhatItRestsOnHasGone(t *testing.T) {
	for name, not := range map[string]func(agentFixture){
		"the lease":          func(f agentFixture) { f.store.setLease(0) },
		"the proof":          func(f agentFixture) { f.local.proven = false },
		"the standby's data": func(f agentFixture) { f.local.grant = grant{"i", "n"} },
		"the standby's acknowledgement": func(f agentFixture) {
			if !f.beginSolo() { // kineshim is about to acknowledge by itself
				t.Error("solo is refused")
			}
		},
	} {
		f := joining(t)
		not(f)
		if f.beginPairing() || f.pairing.Load() {
			t.Errorf("pairing begins without %s", name)
		}
	}
	if f := joining(t); !f.beginPairing() || !f.pairing.Load() {
		t.Error("pairing does not begin though all is there")
	}
}

func TestSoloIsNotBegunUnlessTheRecordSaysSoForCertain(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(agentFixture)
		want bool
	}{
		"solo":               {func(agentFixture) {}, true},
		"paired":             {func(f agentFixture) { f.store.set(pairedRecord()) }, false},
		"perhaps paired":     {func(f agentFixture) { f.pairing.Store(true) }, false},
		"another is primary": {func(f agentFixture) { f.store.set(failedOver()) }, false},
		"another epoch of the same node": {func(f agentFixture) {
			f.store.set(recordAfter(record.Command{Kind: record.Promote, By: "a", Node: "a"}))
		}, false},
		"a pairing is known to have failed": {func(f agentFixture) { f.pairing.Store(true); f.pairing.Store(false) }, true},
	} {
		f := joining(t)
		c.set(f)
		if got := f.beginSolo(); got != c.want || got == f.local.proven {
			t.Errorf("%s: begun %v, the proof kept %v", name, got, f.local.proven)
		}
	}
}

// A pairing becomes known between the two looks: the flag goes down when the record already says paired.
func TestSoloReadsPairingBeforeTheRecord(t *testing.T) {
	f := joining(t)
	f.pairing.Store(true)
	f.store.afterRecord = func() {
		f.store.set(pairedRecord())
		f.pairing.Store(false)
	}
	if f.beginSolo() {
		t.Error("commits would go on without the standby, in a paired cluster")
	}
}

func TestTheStandbyDestroysItsDataOnlyWithThePrimarysLeave(t *testing.T) {
	ask := &pb.BeginRebuildRequest{Node: "b", Epoch: 1, Instance: "i1", Nonce: "n1"}
	for name, set := range map[string]func(agentFixture, *pb.BeginRebuildRequest){
		"it is in sync":                   func(f agentFixture, _ *pb.BeginRebuildRequest) { f.store.set(pairedRecord()) },
		"it may be in sync soon":          func(f agentFixture, _ *pb.BeginRebuildRequest) { f.pairing.Store(true) },
		"this node is not the primary":    func(f agentFixture, _ *pb.BeginRebuildRequest) { f.store.set(failedOver()) },
		"the epoch has moved on":          func(_ agentFixture, r *pb.BeginRebuildRequest) { r.Epoch = 0 },
		"it is a stranger":                func(_ agentFixture, r *pb.BeginRebuildRequest) { r.Node = "c" },
		"PostgreSQL does not serve":       func(f agentFixture, _ *pb.BeginRebuildRequest) { f.local.up = false },
		"PostgreSQL serves another epoch": func(f agentFixture, _ *pb.BeginRebuildRequest) { f.local.promotedEpoch = 9 },
	} {
		f := joining(t)
		r := &pb.BeginRebuildRequest{Node: ask.Node, Epoch: ask.Epoch, Instance: ask.Instance, Nonce: ask.Nonce}
		set(f, r)
		got, err := PeerServer{Agent: f.Agent}.BeginRebuild(t.Context(), r)
		if err != nil || got.Granted || got.Reason == "" || f.local.grant != (grant{}) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	f := joining(t)
	got, err := PeerServer{Agent: f.Agent}.BeginRebuild(t.Context(), ask)
	if err != nil || !got.Granted {
		t.Fatalf("leave refused: %v, %v", got, err)
	}
	if f.beginPairing() || f.local.proven {
		t.Error("the primary pairs with a standby that may destroy its data")
	}
}

// Leave ends when the standby says that this rebuilding is over, or when the process that had the leave is gone; not before,
// and not by a word that was said before.
func TestLeaveToDestroyDataEndsWithTheRebuildingOrTheProcess(t *testing.T) {
	for _, c := range []struct {
		name  string
		state *pb.NodeState
		over  bool
	}{
		{"it streams again, by an old word", &pb.NodeState{Node: "b", Instance: "i1", Role: "standby", Streaming: true}, false},
		{"an earlier rebuilding is over", &pb.NodeState{Node: "b", Instance: "i1", Role: "standby", Rebuilt: "n0"}, false},
		{"this rebuilding is over", &pb.NodeState{Node: "b", Instance: "i1", Role: "stopped", Rebuilt: "n1"}, true},
		{"the process is another", &pb.NodeState{Node: "b", Instance: "i2", Role: "broken"}, true},
	} {
		f := joining(t)
		f.local.grant = grant{"i1", "n1"}
		f.hear(c.state, time.Time{})
		if over := f.local.grant == (grant{}); over != c.over {
			t.Errorf("%s: leave over %v", c.name, over)
		}
	}
}
