package failover

import (
	"strings"
	"testing"
	"time"

	pb "kineshim/proto"
	"kineshim/raftwitness/record"
)

func TestForcedPromotionsAreRememberedUntilTheCopyIsNewer(t *testing.T) {
	force := record.Command{Kind: record.Force, By: "b", Node: "b"}
	forced := recordAfter(force) // epoch 2
	later := recordAfter(force, record.Command{Kind: record.Timeline, By: "b", Timeline: 3, SwitchLSN: 200},
		record.Command{Kind: record.Pair, By: "b", Node: "a", Timeline: 3}, record.Command{Kind: record.Promote, By: "a", Node: "a", Timeline: 3}) // epoch 3
	for _, c := range []struct {
		name  string
		rec   *record.Record
		epoch uint64
		want  bool
	}{
		{"nothing was ever forced", failedOver(), 0, false},
		{"nothing was forced since", failedOver(), 1, false},
		{"this epoch was forced", forced, 1, true},
		{"this epoch was forced, and there is no copy", forced, 0, true},
		{"the copy was begun in the forced epoch", forced, 2, false},
		{"the epoch before was forced", later, 1, true},
		{"the copy was begun in it", later, 2, false},
		{"the copy is this epoch's", later, 3, false},
	} {
		if got := forcedSince(c.rec, c.epoch); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// The record keeps a bounded history: what it has forgotten may have been a forced promotion.
func TestAForgottenHistoryCountsAsForced(t *testing.T) {
	r := *failedOver() // epoch 2
	for range 300 {
		for _, c := range []record.Command{{Kind: record.Pair, By: "b", Node: "a", Timeline: 3}, {Kind: record.Solo, By: "b"}} {
			c.Epoch = r.Epoch
			next, err := r.Apply(c)
			if err != nil {
				t.Fatal(err)
			}
			r = next
		}
	}
	if first := r.History[0]; first.Epoch != 2 || first.Kind == record.Promote {
		t.Fatalf("the history still begins with %+v", first)
	}
	if !forcedSince(&r, 1) {
		t.Error("the beginning of epoch 2 is forgotten, and it counts as an ordinary one")
	}
	if forcedSince(&r, 2) {
		t.Error("nothing was forced in epoch 2")
	}
}

// A process that has just started has no copy. What the history has forgotten does not matter to it if the cluster has paired since.
func TestAForgottenHistoryDoesNotCountAsForcedOnceTheClusterHasPaired(t *testing.T) {
	apply := func(r *record.Record, commands ...record.Command) *record.Record {
		t.Helper()
		for _, c := range commands {
			c.Epoch = r.Epoch
			next, err := r.Apply(c)
			if err != nil {
				t.Fatal(err)
			}
			r = &next
		}
		return r
	}
	pair, solo := record.Command{Kind: record.Pair, By: "b", Node: "a", Timeline: 3}, record.Command{Kind: record.Solo, By: "b"}
	r := failedOver() // epoch 2, in which nobody has paired
	if epoch := lastServed(r); epoch != 1 {
		t.Errorf("epoch %d counts as served, not the one that was left", epoch)
	}
	if epoch := lastServed(&record.Record{}); epoch != 0 {
		t.Errorf("nobody has paired, and epoch %d counts as served", epoch)
	}
	for range 300 {
		r = apply(r, pair, solo)
	}
	if r.History[0].Kind == record.Init {
		t.Fatal("the history still has its beginning, so that nothing is tried")
	}
	if forcedSince(r, lastServed(r)) {
		t.Error("nothing was forced, and the primary's next start counts as forced")
	}
	again := apply(r, record.Command{Kind: record.Promote, By: "b", Node: "b", Timeline: 3}) // the primary was restarted
	if forcedSince(again, lastServed(again)) {
		t.Error("a restart counts as forced")
	}
	forced := apply(r, record.Command{Kind: record.Force, By: "a", Node: "a"})
	if !forcedSince(forced, lastServed(forced)) {
		t.Error("a forced promotion does not count as one")
	}
	// The forced primary was restarted before it was known to serve.
	restarted := apply(forced, record.Command{Kind: record.Timeline, By: "a", Timeline: 4, SwitchLSN: 300}, record.Command{Kind: record.Promote, By: "a", Node: "a", Timeline: 4})
	if !forcedSince(restarted, lastServed(restarted)) {
		t.Error("a restart after a forced promotion does not count as forced")
	}
	paired := apply(restarted, record.Command{Kind: record.Timeline, By: "a", Timeline: 5, SwitchLSN: 400}, record.Command{Kind: record.Pair, By: "a", Node: "b", Timeline: 5})
	if forcedSince(paired, lastServed(paired)) {
		t.Error("the cluster has paired since the forced promotion, and it still counts")
	}
}

// What an operator who forces a promotion reads must be what is in the way.
func TestForcedPromotionSaysWhatIsInTheWay(t *testing.T) {
	leads := RaftStatus{Leader: true, Barrier: true, LeaderName: "b"}
	for name, c := range map[string]struct {
		raft RaftStatus
		peer *pb.NodeState // nil: not heard
		want string        // "": it may be forced
	}{
		"nothing":             {leads, nil, ""},
		"nobody leads":        {RaftStatus{}, nil, "both out of reach"},
		"the primary answers": {leads, &pb.NodeState{Node: "a", Role: "primary", GateOpen: true}, "without --force"},
		"the primary has lost its data, and still leads": {RaftStatus{LeaderName: "a"}, &pb.NodeState{Node: "a", Role: "absent"}, "stop kineshim there"},
	} {
		f := newAgent(t, "b", soloRecord()).following(2)
		f.store.status = c.raft
		if c.peer != nil {
			f.hear(c.peer, time.Time{})
		}
		if r := f.previewForce(); r.Possible != (c.want == "") || !strings.Contains(r.Reason, c.want) {
			t.Errorf("%s: possible %v, %q; want %q", name, r.Possible, r.Reason, c.want)
		}
	}
}
