package decide

import (
	"time"

	"kineshim/raftwitness/record"
)

// Rules that make, destroy, start and stop data.
var dataRuleCases = []ruleCase{
	{
		rule: "fence", name: "another node is the primary", in: oldPrimary, action: Stop, why: "epoch 2 belongs to b",
		set: func(in *Input) { in.Local.Role, in.Local.PromotedEpoch = Primary, 1 },
		not: map[string]func(*Input){
			"PostgreSQL is a standby":      func(in *Input) { in.Local.Role = Standby },
			"it serves the record's epoch": func(in *Input) { setRecord(in, pairedRecord()) },
		},
	},
	{
		rule: "fence", name: "promoted in an earlier epoch of this node", in: restartedPrimary, action: Stop, why: "epoch 2 belongs to a",
		set: func(in *Input) {
			setRecord(in, after(soloRecord(), promotionOf("a", 2)))
			in.Local.Role, in.Local.PromotedEpoch = Primary, 1
		},
		not: map[string]func(*Input){
			"promoted in this epoch": func(in *Input) { in.Local.PromotedEpoch = 2 },
		},
	},
	{
		rule: "fence", name: "somebody promoted PostgreSQL by hand", in: pairedStandby, action: Stop, why: "epoch 1 belongs to a",
		set: func(in *Input) { in.Local.Role = Primary },
		not: map[string]func(*Input){"it is a standby": func(in *Input) { in.Local.Role = Standby }},
	},
	{
		rule: "found", name: "a new cluster", in: freshFounder, action: InitDB, why: "founds the cluster",
		not: map[string]func(*Input){
			"the cluster exists":             func(in *Input) { setRecord(in, soloRecord()) },
			"the other node founds it":       func(in *Input) { in.Founder = false },
			"there are data":                 func(in *Input) { in.Local.Role = Stopped },
			"data are half made":             func(in *Input) { in.Local.Role = Broken },
			"the record may be unknown here": func(in *Input) { in.Confirmed, in.Raft = false, Raft{} },
			"no barrier has been passed":     func(in *Input) { in.Confirmed, in.Raft.Barrier = false, false },
		},
	},
	{
		rule: "rebuild-by-clone", name: "no data", in: blankStandby, action: Clone, why: "no data directory", not: notRebuilt,
	},
	{
		rule: "rebuild-by-clone", name: "half made", in: blankStandby, action: Clone, why: "interrupted",
		set: func(in *Input) { in.Local.Role = Broken },
		not: map[string]func(*Input){"the data are whole": whole},
	},
	{
		rule: "rebuild-by-clone", name: "another database", in: blankStandby, action: Clone, why: "not the cluster's",
		set: func(in *Input) { whole(in); in.Local.SystemID = 8 },
		not: map[string]func(*Input){"it is the cluster's": whole},
	},
	{
		rule: "rebuild-by-clone", name: "does not start", in: blankStandby, action: Clone, why: "does not start",
		set: func(in *Input) { whole(in); in.Local.StartFailures = startAttempts },
		not: map[string]func(*Input){"it may yet start": func(in *Input) { in.Local.StartFailures-- }},
	},
	{
		rule: "rebuild-by-clone", name: "its slot was lost", in: blankStandby, action: Clone, why: "no longer has the WAL",
		set: func(in *Input) { whole(in); in.Local.Streaming, in.Local.WALRemoved = false, true },
		not: map[string]func(*Input){
			"the WAL is there":                func(in *Input) { in.Local.WALRemoved = false },
			"it streams after all":            func(in *Input) { in.Local.Streaming = true },
			"the record has come to count it": func(in *Input) { setRecord(in, pairedRecord()) },
		},
	},
	{
		rule: "rebuild-by-clone", name: "a foreign timeline", in: oldPrimary, action: Clone, why: "another node began too",
		set: func(in *Input) { in.Local.Timeline, in.Local.MarkerTimeline = 3, 3 },
		not: map[string]func(*Input){
			"this node has left it since":    func(in *Input) { in.Local.Timeline, in.Local.MarkerTimeline = 3, 2 },
			"this node is in sync after all": func(in *Input) { setRecord(in, after(failedOver(), pairOf("b", "a", 3))) },
		},
	},
	{
		rule: "rebuild-by-clone", name: "rewound in vain", in: oldPrimary, action: Clone, why: "did not help",
		set: func(in *Input) { in.Local.LSN, in.Local.RewoundEpoch = 1001, 2 },
		not: map[string]func(*Input){
			"the rewind was in another epoch": func(in *Input) { in.Local.RewoundEpoch = 1 },
			"nothing diverges":                func(in *Input) { in.Local.LSN = 1000 },
		},
	},
	{
		rule: "rebuild-by-clone", name: "rewound, and does not start", in: blankStandby, action: Clone, why: "did not help",
		set: func(in *Input) {
			whole(in)
			in.Local.Role, in.Local.StartFailures, in.Local.RewoundEpoch = Stopped, 1, 1
		},
		not: map[string]func(*Input){
			"it has not been tried":           func(in *Input) { in.Local.StartFailures = 0 },
			"it was not rewound":              func(in *Input) { in.Local.RewoundEpoch = 0 },
			"it runs":                         func(in *Input) { in.Local.Role = Standby },
			"the record has come to count it": func(in *Input) { setRecord(in, pairedRecord()) },
		},
	},
	{
		rule: "rebuild-by-rewind", name: "an unacknowledged tail", in: oldPrimary, action: Rewind, why: "has written to 0/3E9",
		set: func(in *Input) { in.Local.LSN = 1001 },
		not: map[string]func(*Input){
			"there is no tail":                func(in *Input) { in.Local.LSN = 1000 },
			"the primary is silent":           func(in *Input) { in.Peer.Age = 600 * ms },
			"the primary is not promoted yet": func(in *Input) { in.Peer.Role = Standby },
			"this node is stopping":           func(in *Input) { in.Wish.Stopping = true },
			"PostgreSQL does not run":         func(in *Input) { in.Local.Role = Stopped },
		},
	},
	{
		rule: "rebuild-by-rewind", name: "cannot follow", in: blankStandby, action: Rewind, why: "not been able to follow",
		set: lonely,
		not: map[string]func(*Input){
			"it streams":             func(in *Input) { in.Local.Streaming = true },
			"it has just begun":      func(in *Input) { in.Local.NotStreaming = followPatience },
			"it does not follow":     func(in *Input) { in.Local.Frozen = true },
			"it is in sync":          func(in *Input) { setRecord(in, pairedRecord()) },
			"it is on the way up":    func(in *Input) { in.Local.Role = Stopped },
			"the primary is unheard": func(in *Input) { in.Peer.Refused = true },
		},
	},
	{
		rule: "start", name: "a standby", in: pairedStandby, action: Start, why: "starts as a standby",
		set: func(in *Input) { in.Local.Role = Stopped },
		not: map[string]func(*Input){
			"it runs":               func(in *Input) { in.Local.Role = Standby },
			"there are no data":     func(in *Input) { in.Local.Role = Absent },
			"the data are damaged":  func(in *Input) { in.Local.Role = Broken },
			"the process is ending": func(in *Input) { in.Wish.Stopping = true },
			"nobody knows a cluster, and this is not its founder": func(in *Input) { setRecord(in, record.Record{}) },
		},
	},
	{
		rule: "start", name: "a primary whose PostgreSQL has died, and the standby has not taken over in time", in: pairedPrimary, action: Start, why: "starts as a standby",
		set: func(in *Input) { died(in); in.Local.DownFor = yieldFor },
		not: map[string]func(*Input){
			"the standby is to have its chance": func(in *Input) { in.Local.DownFor = yieldFor - 1 },
			"the same, in a switchover":         func(in *Input) { drained(in); in.Local.DownFor = 1 },
			"it has taken over, says it, and does not answer yet": func(in *Input) {
				in.Local.DownFor, in.Peer.Epoch, in.Peer.Role, in.Peer.Timeline = 1, 2, Primary, 3
			},
		},
	},
	{
		rule: "start", name: "a primary whose PostgreSQL has died, when the other node answers, of which Raft has not told yet", in: pairedPrimary, action: Start, why: "starts as a standby",
		set: func(in *Input) {
			died(in)
			in.Peer.Epoch, in.Peer.Role, in.Peer.Timeline, in.Peer.GateOpen = 2, Primary, 3, true
		},
		not: map[string]func(*Input){"it does not answer yet": func(in *Input) { in.Peer.GateOpen = false }},
	},
	{
		rule: "start", name: "a primary whose PostgreSQL has died, and nobody can take over", in: pairedPrimary, action: Start, why: "starts as a standby",
		set: func(in *Input) { died(in); in.Peer.Age = 600 * ms },
		not: map[string]func(*Input){"the standby can": func(in *Input) { in.Peer.Age = 0 }},
	},
	{
		rule: "start", name: "an old primary, when the new one answers", in: oldPrimary, action: Start, why: "starts as a standby",
		set: func(in *Input) { in.Local.Role, in.Local.DownFor = Stopped, 1 },
		not: map[string]func(*Input){"it does not answer yet": func(in *Input) { in.Peer.GateOpen = false }},
	},
	{
		rule: "start", name: "an old primary, when the new one does not answer in time", in: oldPrimary, action: Start, why: "starts as a standby",
		set: func(in *Input) { in.Local.Role, in.Local.DownFor, in.Peer.GateOpen = Stopped, yieldFor, false },
		not: map[string]func(*Input){"it has some time left": func(in *Input) { in.Local.DownFor-- }},
	},
	{
		rule: "start", name: "an old primary, when the new one is silent", in: oldPrimary, action: Start, why: "starts as a standby",
		set: func(in *Input) {
			in.Local.Role, in.Local.DownFor, in.Peer.GateOpen, in.Peer.Age = Stopped, 1, false, 600*ms
		},
		not: map[string]func(*Input){"it is heard": func(in *Input) { in.Peer.Age = 0 }},
	},
	{
		rule: "start", name: "a standby that was not the primary before, though the primary does not answer yet", in: pairedStandby, action: Start, why: "starts as a standby",
		set: func(in *Input) { in.Local.Role, in.Local.DownFor, in.Peer.GateOpen = Stopped, 1, false },
		not: map[string]func(*Input){"it was": func(in *Input) { setRecord(in, after(pairedRecord(), promotionOf("a", 2))); in.Local.MarkerEpoch = 1 }},
	},
	{
		rule: "start", name: "the founder's first database", in: freshFounder, action: Start, why: "starts as a standby",
		set: func(in *Input) { in.Local.Role = Stopped },
		not: map[string]func(*Input){"it is not the founder": func(in *Input) { in.Founder = false }},
	},
	{
		rule: "restart-hung", name: "no writes and nobody to take over", in: soloPrimary, action: Stop, why: "killed and started again",
		set: func(in *Input) { in.Local.UnwellFor = hungAfter + 1 },
		not: map[string]func(*Input){
			"it may recover":          func(in *Input) { in.Local.UnwellFor = hungAfter },
			"it does not serve":       func(in *Input) { in.Local.PromotedEpoch = 0 },
			"PostgreSQL is a standby": func(in *Input) { in.Local.Role = Standby },
		},
	},
}

// Rules that change what PostgreSQL is: promote, freeze, follow.
var roleRuleCases = []ruleCase{
	{
		rule: "promote", name: "the promotion is committed", in: promoted, action: Promote, why: "primary of epoch 2",
		not: map[string]func(*Input){
			"another node is the primary":          func(in *Input) { setRecord(in, pairedRecord()) },
			"PostgreSQL does not run":              func(in *Input) { in.Local.Role = Stopped },
			"the database is another":              func(in *Input) { in.Local.SystemID = 8 },
			"WAL may still be received":            func(in *Input) { in.Local.Frozen = false },
			"no majority has confirmed the record": func(in *Input) { in.Confirmed, in.Raft = false, Raft{} },
			"the epoch has been served": func(in *Input) {
				setRecord(in, after(*in.Record, timelineOf("b", 3, 1000)))
			},
		},
	},
	{
		rule: "promote", name: "confirmed, though not leading now", in: promoted, action: Promote, why: "primary of epoch 2",
		set: func(in *Input) { in.Raft = Raft{} },
		not: map[string]func(*Input){"not confirmed": func(in *Input) { in.Confirmed = false }},
	},
	{
		rule: "promote", name: "again, under a solo primary that has served", in: restartedPrimary, action: Promote, why: "primary of epoch 1",
		set: func(in *Input) { in.Local.Served, in.Raft = true, Raft{} },
		not: map[string]func(*Input){
			"the record says paired":           func(in *Input) { setRecord(in, pairedRecord()) },
			"the record might say paired soon": func(in *Input) { in.Pairing = true },
			"this process has not served":      func(in *Input) { in.Local.Served = false },
			"no majority was ever asked":       func(in *Input) { in.Confirmed = false },
			"WAL may still be received":        func(in *Input) { in.Local.Frozen = false },
		},
	},
	{
		rule: "freeze", name: "before a take-over", in: bereaved, action: Freeze, why: "must stand still",
		set: unfrozen,
		not: map[string]func(*Input){
			"it stands still":          func(in *Input) { in.Local.Frozen = true },
			"this node does not lead":  func(in *Input) { in.Raft.Leader = false },
			"no barrier yet":           func(in *Input) { in.Raft.Barrier = false },
			"the primary is well":      func(in *Input) { in.Peer.Age, in.Peer.SinceLeader = 50*ms, true },
			"this node is not in sync": func(in *Input) { setRecord(in, soloRecord()) },
			"this node is stopping":    func(in *Input) { in.Wish.Stopping = true },
			"failover is paused":       func(in *Input) { setRecord(in, paused(*in.Record)) },
			"PostgreSQL does not run":  func(in *Input) { in.Local.Role = Stopped },
		},
	},
	{
		rule: "freeze", name: "by force", in: bereaved, action: Freeze, why: "must stand still",
		set: func(in *Input) { unfrozen(in); setRecord(in, soloRecord()); in.Wish.Force = true },
		not: map[string]func(*Input){
			"nobody forces it":        func(in *Input) { in.Wish.Force = false },
			"PostgreSQL does not run": func(in *Input) { in.Local.Role = Stopped },
			"it stands still":         func(in *Input) { in.Local.Frozen = true },
		},
	},
	{
		rule: "freeze", name: "the promotion is committed, but WAL flows again", in: promoted, action: Freeze, why: "must stand still",
		set: unfrozen,
		not: map[string]func(*Input){
			"it stands still":         func(in *Input) { in.Local.Frozen = true },
			"PostgreSQL does not run": func(in *Input) { in.Local.Role = Stopped },
			"the primary is another":  func(in *Input) { setRecord(in, soloRecord()) },
		},
	},
	{
		rule: "follow", name: "after a start", in: pairedStandby, action: Follow, why: "the other node is the primary",
		set: func(in *Input) { in.Local.Frozen, in.Local.Streaming = true, false },
		not: map[string]func(*Input){
			"it follows":              func(in *Input) { in.Local.Frozen = false },
			"this node leads":         leads,
			"this node is primary":    func(in *Input) { setRecord(in, failedOver()) },
			"an operator forces it":   func(in *Input) { in.Wish.Force = true },
			"PostgreSQL does not run": func(in *Input) { in.Local.Role = Stopped },
			"its timeline is foreign": func(in *Input) { in.Local.MarkerEpoch, in.Local.MarkerTimeline = 1, 2 },
			"its promotion was interrupted": func(in *Input) {
				in.Local.MarkerEpoch, in.Local.MarkerTimeline = 1, 0
			},
		},
	},
	{
		rule: "follow", name: "what was begun with the walreceiver has not succeeded", in: pairedStandby, action: Follow, why: "the other node is the primary",
		set: func(in *Input) { in.Local.Adrift, in.Local.Streaming = true, false },
		not: map[string]func(*Input){
			"it has":           func(in *Input) { in.Local.Adrift = false },
			"this node leads":  leads,
			"it is to promote": func(in *Input) { setRecord(in, failedOver()) },
		},
	},
}

// Rules of a primary's PostgreSQL.
var serveRuleCases = []ruleCase{
	{
		rule: "open-session", name: "just promoted", in: newPrimary, action: OpenSession, why: "a new sentinel",
		not: map[string]func(*Input){
			"it is open":           func(in *Input) { in.Local.Session = true },
			"PostgreSQL is fenced": func(in *Input) { in.Local.PromotedEpoch = 1 },
		},
	},
	{
		rule: "commit-epoch", name: "a new session", in: newPrimary, action: CommitEpoch, why: "the barrier",
		set: func(in *Input) { in.Local.Session = true },
		not: map[string]func(*Input){
			"there is no session":  func(in *Input) { in.Local.Session = false },
			"it is committed":      func(in *Input) { in.Local.EpochCommitted = true },
			"PostgreSQL is fenced": func(in *Input) { in.Local.PromotedEpoch = 1 },
		},
	},
	{
		rule: "drain", name: "a switchover", in: pairedPrimary, action: Drain, why: "is to take over with everything",
		set: func(in *Input) { in.Wish.SwitchTo = "b" },
		not: map[string]func(*Input){
			"nobody wants it":            func(in *Input) { in.Wish.SwitchTo = "" },
			"it is drained":              func(in *Input) { in.Wish.Drained = true },
			"the standby is not in sync": func(in *Input) { setRecord(in, soloRecord()) },
			"the standby is silent":      func(in *Input) { in.Peer.Age = 600 * ms },
			"this node does not serve":   func(in *Input) { in.Local.Role = Stopped },
		},
	},
	{
		rule: "step-down", name: "the leadership is offered to the standby, which has everything", in: pairedPrimary, action: Stop, why: "that it has not got",
		set: func(in *Input) { drained(in); in.Raft.Forfeited, in.Raft.LeaseLeft = true, 0 },
		not: map[string]func(*Input){
			"it is not offered yet":           func(in *Input) { in.Raft.Forfeited = false },
			"the standby may lack something":  func(in *Input) { in.Wish.Drained = false },
			"the switchover is called off":    func(in *Input) { in.Wish = Wish{} },
			"PostgreSQL does not run":         func(in *Input) { in.Local.Role = Stopped },
			"PostgreSQL is a standby already": func(in *Input) { in.Local.Role = Standby },
		},
	},
	{
		rule: "step-down", name: "the standby leads", in: pairedPrimary, action: Stop, why: "that it has not got",
		set: func(in *Input) { drained(in); in.Raft = Raft{WitnessHeard: Never, OtherHeard: Never} },
		not: map[string]func(*Input){
			"this node leads":                leads,
			"the standby may lack something": func(in *Input) { in.Wish.Drained = false },
			"nobody is to take over":         func(in *Input) { in.Wish.SwitchTo = "" },
		},
	},
	{
		rule: "start-engine", name: "the epoch is committed", in: newPrimary, action: StartEngine, why: "serves the epoch",
		set: func(in *Input) { in.Local.Session, in.Local.EpochCommitted = true, true },
		not: map[string]func(*Input){
			"it runs":                    func(in *Input) { in.Local.Engine = true },
			"the epoch is not committed": func(in *Input) { in.Local.EpochCommitted = false },
			"the session has ended":      func(in *Input) { in.Local.Session = false },
			"a switchover is under way":  func(in *Input) { in.Wish.SwitchTo = "a" },
			"the process is ending":      func(in *Input) { in.Wish.Stopping = true },
			"PostgreSQL is fenced":       func(in *Input) { in.Local.PromotedEpoch = 1 },
		},
	},
}

// drained makes a primary one that has been drained for a switchover.
func drained(in *Input) { in.Wish.SwitchTo, in.Wish.Drained, in.Local.Engine = in.Other, true, false }

var notRebuilt = map[string]func(*Input){
	"the node is in sync":                func(in *Input) { setRecord(in, pairedRecord()) },
	"the node is the primary":            func(in *Input) { setRecord(in, failedOver()) },
	"the primary is silent":              func(in *Input) { in.Peer.Age = 600 * ms },
	"the primary's process is dead":      func(in *Input) { in.Peer.Refused = true },
	"the primary's PostgreSQL is down":   func(in *Input) { in.Peer.Role = Stopped },
	"the primary is of another epoch":    func(in *Input) { in.Peer.Epoch = 2 },
	"the primary is on another timeline": func(in *Input) { in.Peer.Timeline = 3 },
	"the timeline is not recorded yet":   func(in *Input) { setRecord(in, after(soloRecord(), promotionOf("a", 2))); in.Peer.Epoch = 2 },
	"the cluster is not initialised":     func(in *Input) { setRecord(in, record.Record{}) },
	"the process is ending":              func(in *Input) { in.Wish.Stopping = true },
	"the data are those of the cluster":  whole,
}

// whole gives a node outside the in-sync set data that can follow.
func whole(in *Input) {
	in.Local = Local{Role: Standby, SystemID: systemID, Timeline: 2, LSN: 900, Streaming: true}
}

// lonely gives it data that could follow and do not.
func lonely(in *Input) {
	whole(in)
	in.Local.Streaming, in.Local.NotStreaming = false, followPatience+time.Second
}

func unfrozen(in *Input) { in.Local.Frozen, in.Local.Streaming, in.Local.NotStreaming = false, true, 0 }
