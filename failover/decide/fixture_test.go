package decide

import (
	"testing"
	"time"

	"kineshim/raftwitness/record"
)

var members = []record.Member{
	{Name: "a", ServerID: "a-1", Role: record.Data},
	{Name: "b", ServerID: "b-1", Role: record.Data},
	{Name: "w", ServerID: "w-1", Role: record.Witness},
}

const (
	systemID = 7
	ms       = time.Millisecond
)

// after applies commands to a record; the epoch of each is filled in. It panics when one is refused.
func after(r record.Record, commands ...record.Command) record.Record {
	for _, c := range commands {
		c.Epoch = r.Epoch
		next, err := r.Apply(c)
		if err != nil {
			panic(err)
		}
		r = next
	}
	return r
}

func initOf(node string) record.Command {
	return record.Command{Kind: record.Init, By: node, Node: node, ClusterID: "c", SystemID: systemID, Members: members}
}

func timelineOf(node string, timeline uint32, at record.LSN) record.Command {
	return record.Command{Kind: record.Timeline, By: node, Timeline: timeline, SwitchLSN: at}
}

func pairOf(primary, standby string, timeline uint32) record.Command {
	return record.Command{Kind: record.Pair, By: primary, Node: standby, Timeline: timeline}
}

func promotionOf(node string, timeline uint32) record.Command {
	return record.Command{Kind: record.Promote, By: node, Node: node, Timeline: timeline}
}

func forceOf(node string) record.Command {
	return record.Command{Kind: record.Force, By: node, Node: node}
}

// soloRecord: a serves epoch 1 alone, on timeline 2, which began at 100.
func soloRecord() record.Record {
	return after(record.Record{}, initOf("a"), timelineOf("a", 2, 100))
}

// pairedRecord: a serves epoch 1 on timeline 2, and b is in sync.
func pairedRecord() record.Record { return after(soloRecord(), pairOf("a", "b", 2)) }

// failedOver: b serves epoch 2 alone, on timeline 3, which left timeline 2 at 1000.
func failedOver() record.Record {
	return after(pairedRecord(), promotionOf("b", 2), timelineOf("b", 3, 1000))
}

func paused(r record.Record) record.Record {
	return after(r, record.Command{Kind: record.Pause, By: "a"})
}

var timing = Timing{Silence: 500 * ms, ReplicationStall: time.Second, WitnessLostAfter: 10 * time.Second}

// newInput is what a node sees that knows nothing yet of its PostgreSQL, its peer and Raft.
func newInput(self, other string, r record.Record) *Input {
	return &Input{
		Self: self, Other: other, Witness: "w", Founder: self == "a", Record: &r, Timing: timing,
		Raft: Raft{WitnessHeard: Never, OtherHeard: Never}, Peer: Peer{Age: Never, Silent: 50 * ms},
	}
}

func leads(in *Input) {
	in.Confirmed = true
	in.Raft = Raft{Leader: true, Barrier: true, LeaseLeft: 300 * ms, WitnessHeard: 50 * ms, WitnessSilent: 50 * ms, OtherHeard: 50 * ms, OtherSilent: 50 * ms}
}

// pairedPrimary is a, well, leading, with its standby in sync.
func pairedPrimary() *Input {
	in := newInput("a", "b", pairedRecord())
	leads(in)
	in.Local = Local{
		Role: Primary, SystemID: systemID, Timeline: 2, LSN: 1000, MarkerEpoch: 1, MarkerTimeline: 2, PromotedEpoch: 1, PromotedLSN: 100,
		Served: true, Session: true, EpochCommitted: true, Engine: true, StandbyStreams: true, Proven: true, Slot: true,
	}
	in.Peer = Peer{
		Age: 50 * ms, Silent: 50 * ms, SinceLeader: true, Epoch: 1, Role: Standby, Timeline: 2, SystemID: systemID, LSN: 1000, Whole: true, Streaming: true,
	}
	return in
}

// soloPrimary is a, well, leading, its commits acknowledged by itself, with no standby.
func soloPrimary() *Input {
	in := pairedPrimary()
	setRecord(in, soloRecord())
	in.Local.Solo, in.Local.Proven, in.Local.StandbyStreams, in.Local.StandbyStalled = true, false, false, time.Minute
	in.Peer = Peer{Age: Never, Silent: time.Minute}
	return in
}

// joiningPrimary is a in solo, with a standby that keeps up and gates commits, and is proved to.
func joiningPrimary() *Input {
	in := pairedPrimary()
	setRecord(in, soloRecord())
	return in
}

// pairedStandby is b, well, following a.
func pairedStandby() *Input {
	in := newInput("b", "a", pairedRecord())
	in.Local = Local{Role: Standby, SystemID: systemID, Timeline: 2, LSN: 1000, Streaming: true}
	in.Peer = Peer{
		Age: 50 * ms, Silent: 50 * ms, Epoch: 1, Role: Primary, Timeline: 2, SystemID: systemID, LSN: 1000, Whole: true, GateOpen: true,
	}
	return in
}

// leadingStandby is b in sync, just elected, its WAL frozen; it has asked a since, and a is well.
func leadingStandby() *Input {
	in := pairedStandby()
	leads(in)
	in.Local.Frozen, in.Local.Streaming, in.Local.NotStreaming = true, false, 100*ms
	in.Peer.SinceLeader = true
	return in
}

// bereaved is b in sync, leading, frozen, with a silent.
func bereaved() *Input {
	in := leadingStandby()
	in.Peer.Age, in.Peer.Silent, in.Peer.SinceLeader = 600*ms, 600*ms, false
	return in
}

// promoted is b after its promotion in epoch 2 is committed, its PostgreSQL not promoted yet.
func promoted() *Input {
	in := bereaved()
	setRecord(in, after(pairedRecord(), promotionOf("b", 2)))
	return in
}

// newPrimary is b in epoch 2, its PostgreSQL just promoted to timeline 3, which nothing says yet.
func newPrimary() *Input {
	in := promoted()
	l := &in.Local
	l.Role, l.Frozen, l.Timeline, l.MarkerEpoch, l.MarkerTimeline, l.PromotedEpoch, l.PromotedLSN = Primary, false, 3, 2, 3, 2, 1000
	l.LSN, l.StandbyStalled = 1001, 1
	return in
}

// oldPrimary is a after b has taken over: its PostgreSQL runs as a standby, frozen, and b serves.
func oldPrimary() *Input {
	in := newInput("a", "b", failedOver())
	in.Local = Local{Role: Standby, SystemID: systemID, Timeline: 2, LSN: 1000, MarkerEpoch: 1, MarkerTimeline: 2, Frozen: true, NotStreaming: time.Second}
	in.Peer = Peer{Age: 50 * ms, Silent: 50 * ms, Epoch: 2, Role: Primary, Timeline: 3, SystemID: systemID, LSN: 1500, Whole: true, GateOpen: true}
	return in
}

// restartedPrimary is a after its process was restarted: the record names it, PostgreSQL runs as a standby, and it leads.
func restartedPrimary() *Input {
	in := newInput("a", "b", soloRecord())
	leads(in)
	in.Local = Local{Role: Standby, SystemID: systemID, Timeline: 2, LSN: 1000, MarkerEpoch: 1, MarkerTimeline: 2, Frozen: true}
	return in
}

// freshFounder is a on its first start, elected.
func freshFounder() *Input {
	in := newInput("a", "b", record.Record{})
	leads(in)
	in.Local = Local{Role: Absent, DownFor: time.Second}
	return in
}

// freshOther is b on its first start.
func freshOther() *Input {
	in := newInput("b", "a", record.Record{})
	in.Local = Local{Role: Absent, DownFor: time.Second}
	in.Peer = Peer{Age: 50 * ms, Silent: 50 * ms, Role: Absent}
	return in
}

// blankStandby is b without data, while a serves alone.
func blankStandby() *Input {
	in := pairedStandby()
	setRecord(in, soloRecord())
	in.Local = Local{Role: Absent, DownFor: time.Minute}
	return in
}

func setRecord(in *Input, r record.Record) { in.Record = &r }

// with applies changes to an input in order; nil is none.
func with(in *Input, changes ...func(*Input)) *Input {
	for _, c := range changes {
		if c != nil {
			c(in)
		}
	}
	return in
}

func TestClustersThatAreWellDoNothing(t *testing.T) {
	for name, in := range map[string]*Input{
		"paired primary":           pairedPrimary(),
		"paired standby":           pairedStandby(),
		"solo primary":             soloPrimary(),
		"standby outside the set":  with(pairedStandby(), func(in *Input) { setRecord(in, soloRecord()) }),
		"uninitialised other node": freshOther(),
		"primary whose witness is lost": with(joiningPrimary(), func(in *Input) {
			in.Raft.WitnessHeard, in.Raft.WitnessSilent = time.Minute, time.Minute
		}),
	} {
		t.Run(name, func(t *testing.T) {
			p := Decide(in)
			for lane, s := range map[string]Step{"postgres": p.Postgres, "sync": p.Sync, "raft": p.Raft} {
				if s.Action != None {
					t.Errorf("%s: rule %s wants %s: %s", lane, s.Rule, s.Action, s.Why)
				}
			}
			if wantOpen := in.isPrimary(); wantOpen != (p.Closed == "") {
				t.Errorf("Closed = %q", p.Closed)
			}
			if p.Relief != "" {
				t.Errorf("Relief = %q", p.Relief)
			}
		})
	}
}
