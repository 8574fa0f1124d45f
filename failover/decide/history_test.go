package decide

import (
	"strings"
	"testing"
	"time"

	"kineshim/raftwitness/record"
)

// node b's data in a cluster that a serves on timeline 5: a began 2 at 100, b 3 at 300, a 4 at 500 and 5 at 600. The one
// timeline that a began and never recorded in between, had it begun any, has no fork here.
func longHistory() *Input {
	r := after(record.Record{}, initOf("a"), timelineOf("a", 2, 100), pairOf("a", "b", 2),
		promotionOf("b", 2), timelineOf("b", 3, 300), pairOf("b", "a", 3),
		promotionOf("a", 3), timelineOf("a", 4, 500), promotionOf("a", 4), timelineOf("a", 5, 600))
	in := newInput("b", "a", r)
	in.Local = Local{Role: Standby, SystemID: systemID, Timeline: 5, LSN: 700, Streaming: true}
	in.Peer = Peer{Age: 50 * ms, Silent: 50 * ms, Epoch: r.Epoch, Role: Primary, Timeline: 5, SystemID: systemID, LSN: 700, Whole: true, GateOpen: true}
	return in
}

func data(timeline uint32, lsn record.LSN, markerEpoch uint64, markerTimeline uint32) func(*Input) {
	return func(in *Input) {
		in.Local.Timeline, in.Local.LSN, in.Local.MarkerEpoch, in.Local.MarkerTimeline = timeline, lsn, markerEpoch, markerTimeline
		in.Local.Streaming, in.Local.Frozen = false, true
	}
}

func TestWhatBecomesOfAReturningNodesData(t *testing.T) {
	for _, c := range []struct {
		name              string
		set               func(*Input)
		clone             string // part of the reason; "" is none
		foreign, diverged bool
		postgres          Action
	}{
		{name: "up to date", postgres: None},
		{name: "frozen, up to date", set: data(5, 700, 0, 0), postgres: Follow},
		{name: "a timeline behind, nothing written since", set: data(4, 600, 0, 0), postgres: Follow},
		{name: "a timeline behind, with a tail", set: data(4, 601, 0, 0), diverged: true, postgres: Rewind},
		{name: "its own timeline, ended where the next began", set: data(3, 500, 2, 3), postgres: Follow},
		{name: "its own timeline, with a tail", set: data(3, 501, 2, 3), diverged: true, postgres: Rewind},
		{name: "two timelines behind, short of the first fork", set: data(2, 250, 0, 0), postgres: Follow},
		{name: "the database before the first promotion", set: data(1, 90, 0, 0), postgres: Follow},
		{name: "the database before the first promotion, with a tail", set: data(1, 101, 0, 0), diverged: true, postgres: Rewind},
		{name: "a timeline that it began and never recorded", set: data(4, 510, 2, 4), clone: "another node began too", foreign: true, postgres: Clone},
		{name: "a timeline of the epoch that another recorded", set: data(5, 610, 5, 5), clone: "another node began too", foreign: true, postgres: Clone},
		{name: "a promotion that may have happened", set: data(3, 400, 4, 0), clone: "another node began too", foreign: true, postgres: Clone},
		{name: "a foreign timeline that it has left", set: data(5, 700, 2, 4), postgres: Follow},
		{name: "a timeline from the future", set: data(6, 700, 0, 0), clone: "does not know", postgres: Clone},
		{name: "rewound in this epoch, diverged all the same", set: func(in *Input) { data(4, 601, 0, 0)(in); in.Local.RewoundEpoch = in.Record.Epoch }, clone: "did not help", diverged: true, postgres: Clone},
		{name: "rewound in an earlier epoch", set: func(in *Input) { data(4, 601, 0, 0)(in); in.Local.RewoundEpoch = in.Record.Epoch - 1 }, diverged: true, postgres: Rewind},
		{name: "rewound in this epoch, cannot follow", set: func(in *Input) {
			in.Local.RewoundEpoch, in.Local.Streaming, in.Local.NotStreaming = in.Record.Epoch, false, followPatience+1
		}, clone: "did not help", postgres: Clone},
		{name: "cannot follow", set: func(in *Input) { in.Local.Streaming, in.Local.NotStreaming = false, followPatience+1 }, postgres: Rewind},
		{name: "does not follow yet", set: func(in *Input) { in.Local.Streaming, in.Local.NotStreaming = false, followPatience }, postgres: None},
		{name: "down", set: func(in *Input) { in.Local.Role = Stopped }, postgres: Start},
		{name: "gone", set: func(in *Input) { in.Local = Local{Role: Absent} }, clone: "no data directory", postgres: Clone},
		{name: "half made", set: func(in *Input) { in.Local = Local{Role: Broken} }, clone: "interrupted", postgres: Clone},
		{name: "another database's", set: func(in *Input) { in.Local.SystemID = 8 }, clone: "not the cluster's", postgres: Clone},
		{name: "unable to start", set: func(in *Input) { in.Local.Role, in.Local.StartFailures = Stopped, startAttempts }, clone: "does not start", postgres: Clone},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := with(longHistory(), c.set)
			if got := in.cloneNeeded(); (got == "") != (c.clone == "") || !strings.Contains(got, c.clone) {
				t.Errorf("cloneNeeded = %q, want %q", got, c.clone)
			}
			if got := in.foreignTimeline(); got != c.foreign {
				t.Errorf("foreignTimeline = %v", got)
			}
			if got := in.diverged(); got != c.diverged {
				t.Errorf("diverged = %v", got)
			}
			if got := Decide(in).Postgres; got.Action != c.postgres {
				t.Errorf("rule %s wants %s, want %s", got.Rule, got.Action, c.postgres)
			}
		})
	}
}

// A node whose timeline is older than all that the record remembers cannot tell where it was left.
func TestANodeOlderThanTheRecordIsCloned(t *testing.T) {
	r := soloRecord()
	for tli := uint32(3); tli < 300; tli++ {
		r = after(r, timelineOf("a", tli, record.LSN(tli)*100))
	}
	oldest := r.Forks[0].Timeline
	if oldest <= 2 {
		t.Fatalf("the record still remembers timeline %d", oldest)
	}
	for timeline, want := range map[uint32]bool{oldest - 2: true, oldest - 1: false, oldest: false} {
		in := with(blankStandby(), whole, func(in *Input) { setRecord(in, r); in.Local.Timeline, in.Local.LSN = timeline, 1 })
		if got := in.cloneNeeded() != ""; got != want {
			t.Errorf("timeline %d, the oldest fork's is %d: clone %v (%q)", timeline, oldest, got, in.cloneNeeded())
		}
	}
}

// After a forced promotion the two nodes have timelines of one number. The one that the record does not name is thrown away,
// not followed and not rewound: to PostgreSQL they look alike.
func TestAForcedPromotionMakesTheOldPrimarysUnrecordedTimelineForeign(t *testing.T) {
	unrecorded := after(soloRecord(), promotionOf("a", 2)) // a's PostgreSQL goes to timeline 3, and a is cut off
	r := after(unrecorded, forceOf("b"), timelineOf("b", 3, 1000))
	in := with(oldPrimary(), func(in *Input) {
		setRecord(in, r)
		in.Peer.Epoch = r.Epoch
		in.Local.Timeline, in.Local.MarkerEpoch, in.Local.MarkerTimeline, in.Local.LSN = 3, 2, 3, 900
	})
	if !in.foreignTimeline() {
		t.Fatal("the timeline is not foreign")
	}
	if s := Decide(in).Postgres; s.Action != Clone {
		t.Errorf("rule %s wants %s", s.Rule, s.Action)
	}
	in.Peer.Age = time.Second
	if s := Decide(in).Postgres; s.Action != None {
		t.Errorf("with the primary silent, rule %s wants %s", s.Rule, s.Action)
	}
}
