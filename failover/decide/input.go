// Package decide says what a data node does next, given what is observed: a pure function, with no I/O, no clock and no
// goroutine, so that every rule is a row of a table test and a simulation can run millions of schedules through it.
//
// Safety does not rest on it: it rests on the cluster record's own rules, on PostgreSQL's synchronous replication and on the
// gate. Decide gives liveness, and asks for nothing that the record would have to refuse.
package decide

import (
	"time"

	"kineshim/raftwitness/record"
)

// Role is what the local PostgreSQL is at the moment.
type Role string

const (
	// Absent: there is no data directory.
	Absent Role = "absent"
	// Broken: there is a data directory, but a clone or a rewind of it was interrupted.
	Broken Role = "broken"
	// Stopped: the data directory is whole and no PostgreSQL runs on it.
	Stopped Role = "stopped"
	// Standby: PostgreSQL runs and recovers.
	Standby Role = "standby"
	// Primary: PostgreSQL runs read-write.
	Primary Role = "primary"
)

// Never is the age of what has not happened.
const Never = time.Duration(1<<63 - 1)

// Input is all that a decision may depend on. Ages are durations before now; Never if it has not happened.
type Input struct {
	Self, Other, Witness string
	// Founder: this node makes the cluster's first database.
	Founder bool
	// Record is the cluster record as applied here.
	Record *record.Record
	// Confirmed: a majority has confirmed the record since this process started.
	Confirmed bool
	// Pairing: a proposal of this node to pair may be under way: its outcome is not known.
	Pairing bool
	Raft    Raft
	Local   Local
	Peer    Peer
	Wish    Wish
	Timing  Timing
}

// Raft is this voter's view.
type Raft struct {
	Leader bool
	// Barrier: as leader, it has applied all that was committed before its term.
	Barrier bool
	// Forfeited: as leader, it has offered its leadership and has no lease in this term any more.
	Forfeited bool
	LeaseLeft time.Duration
	// Void says why this voter is none any more: the others know that it was wiped, restored, copied, replaced or given up. "": it is one.
	Void string
	// WitnessHeard is, on a leader, the time since the witness answered in this term; Never if it has not. WitnessSilent is the
	// same, but counts from the beginning of this leadership if it has not.
	WitnessHeard, WitnessSilent time.Duration
	// Regained: this node leads, and just now it had known of nobody who led for longer than an election takes. The network may be back since a moment ago, and
	// connections through it take another moment.
	Regained bool
	// OtherHeard and OtherSilent are the same of the other data node's voter: that may be out of reach while the node itself is heard.
	OtherHeard, OtherSilent time.Duration
}

// Leads: this node may propose, and knows the outcome of all that was proposed before its term.
func (r Raft) Leads() bool { return r.Leader && r.Barrier }

// Local is this node's PostgreSQL.
type Local struct {
	Role     Role
	SystemID uint64
	Timeline uint32
	// LSN is the end of the WAL that is safe here: flushed on a primary, received and flushed or replayed on a standby.
	LSN record.LSN
	// MarkerEpoch and MarkerTimeline say which timeline this node itself began last, and in which epoch; 0: none. With an
	// epoch and no timeline, the promotion was interrupted.
	MarkerEpoch    uint64
	MarkerTimeline uint32
	// PromotedEpoch is the epoch under which this process promoted the PostgreSQL that runs; 0: it did not.
	PromotedEpoch uint64
	PromotedLSN   record.LSN
	// Frozen: the standby's walreceiver was stopped by this node, so that LSN stands still.
	Frozen bool
	// Adrift: stopping or starting the walreceiver was begun and has not succeeded: LSN may move, or nothing may stream.
	Adrift bool
	// Streaming: the standby's walreceiver is connected. NotStreaming is for how long it has not been although the primary served.
	Streaming    bool
	NotStreaming time.Duration
	// WALRemoved: the standby does not stream, and the primary no longer has the WAL that comes next here.
	WALRemoved bool
	// Served: this process has answered as primary in the record's epoch.
	Served bool
	// DownFor is for how long PostgreSQL has not been running; UnwellFor for how long write probes have failed.
	DownFor, UnwellFor time.Duration
	// StartFailures counts starts that failed in a row.
	StartFailures int
	// RewoundEpoch is the epoch in which a rewind was last tried, so that it is tried once.
	RewoundEpoch uint64
	Disk         Disk

	// The rest is of a primary.

	// Session: the sentinel session is open and alive. EpochCommitted: the epoch row is committed in it. Engine: the etcd
	// engine runs on it.
	Session, EpochCommitted, Engine bool
	// Solo: kineshim acknowledges commits itself.
	Solo bool
	// StandbyStalled is for how long the standby has acknowledged nothing of what it should; 0: it keeps up.
	StandbyStalled time.Duration
	// StandbyStreams: the standby's walsender is in state streaming. LagBytes is what it has yet to flush.
	StandbyStreams bool
	LagBytes       uint64
	// Proven: since the acknowledger was disconnected, every commit has been shown to wait for the standby.
	Proven bool
	// JoinBackoff: an attempt to let the standby gate commits has failed lately.
	JoinBackoff bool
	// Slot: the standby's replication slot exists. StaleWalsender: one serves a standby that has gone.
	Slot, StaleWalsender bool
	// SlotLost: that slot has lost WAL, and nobody streams from it.
	SlotLost bool
	// Granted: this primary has allowed the standby to destroy its data and has not seen it stream since.
	Granted bool
}

// Peer is the other data node, as it said of itself.
type Peer struct {
	// Age of the last word from it; Never if there was none. Silent is the same, but counts from this process's start if there
	// was none.
	Age, Silent time.Duration
	// SinceLeader: it was asked, and answered, after this node became leader.
	SinceLeader bool
	// Refused: its port refuses connections: its process is dead while its machine lives.
	Refused  bool
	Epoch    uint64
	Role     Role
	Timeline uint32
	SystemID uint64
	LSN      record.LSN
	// Whole: its data directory is complete.
	Whole     bool
	Streaming bool
	GateOpen  bool
	// Relief: it is the primary and asks to be relieved.
	Relief bool
	// Leaving: it is being stopped.
	Leaving bool
	Disk    Disk
	// NotReadyFor is for how long it has been saying that its PostgreSQL does not run.
	NotReadyFor time.Duration
}

// Wish is what operators asked for.
type Wish struct {
	// SwitchTo is the node to hand the primary role to; "" is none.
	SwitchTo string
	// Drained: since SwitchTo was set, the engine has been stopped and no request is under way.
	Drained bool
	// Force: promote this node though it may lack writes.
	Force bool
	// Replace is the member that is being enrolled anew; "": none. Until that is done, nobody is paired.
	Replace string
	// Stopping: this process is about to end.
	Stopping bool
}

// Timing holds the thresholds.
type Timing struct {
	// Silence is for how long the other data node may say nothing before it counts as gone: the Raft promise.
	Silence time.Duration
	// ReplicationStall is how long commits may wait for a standby.
	ReplicationStall time.Duration
	// WitnessLostAfter is the witness's silence after which the record no longer counts on it.
	WitnessLostAfter time.Duration
}

const (
	// unwellAfter is for how long write probes must fail before the primary gives up its role: above a slow checkpoint.
	unwellAfter = 3 * time.Second
	// hungAfter is when a PostgreSQL that nobody can relieve is killed and started again.
	hungAfter = 15 * time.Second
	// yieldFor is how long PostgreSQL's start waits for the other node's promotion: several times what that takes.
	yieldFor = time.Second
	// startGrace is how long a primary's PostgreSQL may take to start before the other node is asked to take over.
	startGrace = 3 * time.Second
	// notReadyGrace is how long a leader waits for the recorded primary's PostgreSQL to run, before it takes over.
	notReadyGrace = time.Second
	// followPatience is how long a standby tries to stream from a primary that serves, before it is rewound or cloned.
	followPatience = 10 * time.Second
	// startAttempts is how often a standby's PostgreSQL may fail to start before it is cloned.
	startAttempts = 5
	// voterFresh is how lately both other voters must have answered for the cluster to be paired: any two of the three must be able to go on.
	voterFresh = time.Second
	// joinLagBytes is how far the standby may be behind when commits begin to wait for it.
	joinLagBytes = 1 << 20
	// crashCutsOff is more than a standby may have received of a last record that a crash has cut short on the primary: replay ends before it.
	crashCutsOff = 1 << 20
)

func (in *Input) isPrimary() bool {
	return in.Record.Initialised() && in.Record.Primary == in.Self
}

func (in *Input) otherIsPrimary() bool {
	return in.Record.Initialised() && in.Record.Primary == in.Other
}

// serves: PostgreSQL runs read-write as the record's epoch wants it.
func (in *Input) serves() bool {
	return in.isPrimary() && in.Local.Role == Primary && in.Local.PromotedEpoch == in.Record.Epoch && in.Raft.Void == ""
}

// peerFresh: the other node has been heard from lately.
func (in *Input) peerFresh() bool { return in.Peer.Age <= in.Timing.Silence && !in.Peer.Refused }

// CanHandOver: as far as this primary knows, the other node would be promoted at once.
func (in *Input) CanHandOver() bool {
	return in.Record.Paired() && in.Record.InSyncHas(in.Other) && in.peerFresh() && !in.Peer.Leaving && in.Peer.Disk.unfit() == "" &&
		in.Peer.Role == Standby && in.Peer.Whole && in.Peer.SystemID == in.Record.SystemID && in.Peer.Timeline == in.Record.Timeline
}

// PeerServes: the other node is the primary and its PostgreSQL can be followed and copied.
func (in *Input) PeerServes() bool {
	return in.otherIsPrimary() && in.peerFresh() && in.Peer.Role == Primary && in.Peer.Epoch == in.Record.Epoch &&
		in.Record.Timeline != 0 && in.Peer.Timeline == in.Record.Timeline
}

// standbyEligible: the other node's PostgreSQL keeps up with this primary, and may begin to gate its commits.
func (in *Input) standbyEligible() bool {
	l, p := &in.Local, &in.Peer
	return in.peerFresh() && !p.Leaving && p.Disk.mayNotGate() == "" && p.Role == Standby && p.Whole && p.Epoch == in.Record.Epoch && p.SystemID == in.Record.SystemID &&
		p.Streaming && p.Timeline == l.Timeline && in.Record.Timeline == l.Timeline && l.Timeline != 0 &&
		l.StandbyStreams && l.StandbyStalled == 0 && l.LagBytes <= joinLagBytes && !l.Granted
}

// notCandidate says why this node must not be promoted; "" if it may.
func (in *Input) notCandidate() string {
	l, r := &in.Local, in.Record
	switch {
	case !r.InSyncHas(in.Self):
		return WhyMayLack
	case l.Role != Standby:
		return "its PostgreSQL is " + string(l.Role)
	case l.SystemID != r.SystemID:
		return WhyDatabase + "not the cluster's"
	case r.Primary != in.Self && l.Timeline != r.Timeline:
		return WhyDatabase + "on another timeline"
	case l.Timeline < r.Timeline || l.LSN < r.SwitchLSN:
		return WhyDatabase + "older than the cluster remembers"
	case in.standbyIsAhead():
		return WhyDatabase + "older than the standby's"
	}
	return ""
}

// standbyIsAhead: this node is the primary, and the standby, in sync and at hand, holds more WAL of the same timeline. A standby never gets
// what its primary has not on its own disk, so the database here is an older copy of what it was.
func (in *Input) standbyIsAhead() bool {
	return in.isPrimary() && in.CanHandOver() && in.Local.Timeline == in.Record.Timeline && in.Peer.LSN > in.Local.LSN+crashCutsOff
}

// timelineTaken: this epoch's timeline is not newer than all that are recorded, so that the record must refuse it.
func (in *Input) timelineTaken() bool {
	n := len(in.Record.Forks)
	return n > 0 && in.Local.Timeline <= in.Record.Forks[n-1].Timeline
}

// Reasons that others tell apart. Those of PostgreSQL's have its name in them.
const (
	WhyProcess    = "the primary's process is dead"
	WhySilent     = "the primary is silent"
	WhyRelief     = "the primary asks to be relieved"
	WhySwitchover = "switchover"
	WhyMayLack    = "it may lack acknowledged writes"
	// WhyDatabase begins those that say what is wrong with a copy of the data.
	WhyDatabase = "its database is "
)

// primaryGone says why the other node, the primary, can no longer serve; "" if it can, or if that is not yet known.
func (in *Input) primaryGone() string {
	p := &in.Peer
	switch {
	case p.Refused:
		return WhyProcess
	case p.Age > in.Timing.Silence && in.Raft.Regained:
		return ""
	case p.Age > in.Timing.Silence:
		return WhySilent
	case !p.SinceLeader:
		return ""
	case p.Relief:
		return WhyRelief
	case p.Role != Standby && p.Role != Primary && p.NotReadyFor > notReadyGrace:
		return "the primary's PostgreSQL does not run"
	}
	return ""
}

// relief says why this primary wants the other node to take over; "" if it does not.
func (in *Input) relief() string {
	l := &in.Local
	if !in.isPrimary() || !in.CanHandOver() {
		return ""
	}
	switch {
	case in.Wish.SwitchTo == in.Other && in.Wish.Drained:
		return WhySwitchover
	case in.Record.Paused:
		return ""
	case l.Role != Primary && l.Role != Standby && l.Served:
		return "its PostgreSQL has died"
	case l.Role != Primary && l.Role != Standby && l.DownFor > startGrace:
		return "its PostgreSQL does not start"
	case l.Role == Standby && in.notCandidate() != "":
		return in.notCandidate()
	case l.Role == Primary && l.UnwellFor > unwellAfter:
		return "its PostgreSQL takes no writes"
	}
	return ""
}
