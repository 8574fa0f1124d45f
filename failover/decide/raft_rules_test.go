package decide

import (
	"time"

	"kineshim/raftwitness/record"
)

// Rules that change the record.
var proposalCases = []ruleCase{
	{
		rule: "settle", name: "a pairing's outcome is unknown", in: joiningPrimary, action: Settle, why: "not a failure",
		set: func(in *Input) { in.Pairing = true },
		not: map[string]func(*Input){
			"all outcomes are known": func(in *Input) { in.Pairing = false },
			"this node cannot know":  func(in *Input) { in.Raft.Leader = false },
			"no barrier yet":         func(in *Input) { in.Raft.Barrier = false },
		},
	},
	{
		rule: "init", name: "the first database runs", in: freshFounder, action: Propose, kind: record.Init, why: "first database",
		set: func(in *Input) { in.Local.Role, in.Local.SystemID, in.Local.Frozen = Standby, systemID, true },
		not: map[string]func(*Input){
			"the cluster exists":      func(in *Input) { setRecord(in, soloRecord()) },
			"the other node founds":   func(in *Input) { in.Founder = false },
			"it does not lead":        func(in *Input) { in.Raft.Leader = false },
			"no barrier yet":          func(in *Input) { in.Raft.Barrier = false },
			"PostgreSQL is down":      func(in *Input) { in.Local.Role = Stopped },
			"the database is unknown": func(in *Input) { in.Local.SystemID = 0 },
		},
	},
	{
		rule: "force", name: "frozen, outside the in-sync set", in: bereaved, action: Propose, kind: record.Force, why: "operator ordered",
		set: func(in *Input) { setRecord(in, soloRecord()); in.Wish.Force = true },
		not: map[string]func(*Input){
			"nobody orders it":           func(in *Input) { in.Wish.Force = false },
			"WAL may still be received":  func(in *Input) { in.Local.Frozen = false },
			"it is the primary already":  func(in *Input) { setRecord(in, failedOver()) },
			"it does not lead":           func(in *Input) { in.Raft.Leader = false },
			"no barrier yet":             func(in *Input) { in.Raft.Barrier = false },
			"PostgreSQL is down":         func(in *Input) { in.Local.Role = Stopped },
			"the database is another":    func(in *Input) { in.Local.SystemID = 8 },
			"the cluster is not founded": func(in *Input) { setRecord(in, record.Record{}) },
		},
	},
	{
		rule: "record-timeline", name: "just promoted", in: newPrimary, action: Propose, kind: record.Timeline, why: "timeline 3",
		not: map[string]func(*Input){
			"it is recorded":       func(in *Input) { setRecord(in, after(*in.Record, timelineOf("b", 3, 1000))) },
			"PostgreSQL is fenced": func(in *Input) { in.Local.PromotedEpoch = 1 },
			"it does not lead":     func(in *Input) { in.Raft.Leader = false },
			"no barrier yet":       func(in *Input) { in.Raft.Barrier = false },
			"the record would refuse a timeline that is not new": func(in *Input) { in.Local.Timeline = 2 },
		},
	},
	{
		rule: "record-timeline", name: "promoted again in the same epoch", in: soloPrimary, action: Propose, kind: record.Timeline, why: "timeline 3",
		set: func(in *Input) { in.Local.Timeline = 3 },
		not: map[string]func(*Input){
			"the record says paired": func(in *Input) { setRecord(in, pairedRecord()) },
		},
	},
	{
		rule: "restart-epoch", name: "a primary came back", in: restartedPrimary, action: Propose, kind: record.Promote, why: "in a new epoch",
		not: notRestarted,
	},
	{
		rule: "restart-epoch", name: "a paired primary came back before anybody took over", in: restartedPrimary, action: Propose, kind: record.Promote, why: "in a new epoch",
		set: func(in *Input) { setRecord(in, pairedRecord()) },
		not: notRestarted,
	},
	{
		rule: "go-solo", name: "the standby is silent", in: pairedPrimary, action: Propose, kind: record.Solo, why: "the standby has been silent for 1s",
		set: func(in *Input) { in.Peer.Age, in.Peer.Silent = 1001*ms, 1001*ms },
		not: map[string]func(*Input){
			"solo is recorded":      func(in *Input) { setRecord(in, soloRecord()) },
			"another is primary":    func(in *Input) { setRecord(in, failedOver()) },
			"it does not lead":      func(in *Input) { in.Raft.Leader = false },
			"no barrier yet":        func(in *Input) { in.Raft.Barrier = false },
			"it may only be late":   func(in *Input) { in.Peer.Silent = time.Second },
			"the cluster is unborn": func(in *Input) { setRecord(in, record.Record{}) },
			"its data are gone":     func(in *Input) { in.Local = Local{Role: Absent} },
			"PostgreSQL is fenced":  func(in *Input) { in.Local.PromotedEpoch = 0 },
			"PostgreSQL restarts":   func(in *Input) { in.Local.Role = Standby },
		},
	},
	{
		rule: "go-solo", name: "the standby acknowledges nothing", in: pairedPrimary, action: Propose, kind: record.Solo, why: "has acknowledged nothing for 1s",
		set: func(in *Input) { in.Local.StandbyStalled = 1001 * ms },
		not: map[string]func(*Input){
			"it may only be late": func(in *Input) { in.Local.StandbyStalled = time.Second },
			"this node may be the sick one, and the other can take over": func(in *Input) { in.Local.UnwellFor = 1 },
		},
	},
	{
		rule: "go-solo", name: "the standby acknowledges nothing, this node may be the sick one, and nobody can take over", in: pairedPrimary, action: Propose, kind: record.Solo, why: "has acknowledged nothing for 1s",
		set: func(in *Input) {
			in.Local.StandbyStalled, in.Local.UnwellFor, in.Peer.Role = 1001*ms, time.Second, Stopped
		},
		not: map[string]func(*Input){
			"the other can take over": func(in *Input) { in.Peer.Role = Standby },
		},
	},
	{
		rule: "go-solo", name: "the standby acknowledges nothing, this node may be the sick one, and failover is paused", in: pairedPrimary, action: Propose, kind: record.Solo, why: "has acknowledged nothing for 1s",
		set: func(in *Input) {
			pause(in)
			in.Local.StandbyStalled, in.Local.UnwellFor = 1001*ms, time.Second
		},
		not: map[string]func(*Input){
			"not paused": func(in *Input) { in.Record.Paused = false },
		},
	},
	{
		rule: "go-solo", name: "the witness is lost", in: pairedPrimary, action: Propose, kind: record.Solo, why: "the witness has been silent for 10s",
		set: func(in *Input) { in.Raft.WitnessHeard, in.Raft.WitnessSilent = 10001*ms, 10001*ms },
		not: map[string]func(*Input){"it may come back": func(in *Input) { in.Raft.WitnessSilent = 10 * time.Second }},
	},
	{
		rule: "go-solo", name: "the standby's voter is lost, and the standby is not", in: pairedPrimary, action: Propose, kind: record.Solo, why: "the standby's Raft voter has been silent for 10s",
		set: func(in *Input) { in.Raft.OtherHeard, in.Raft.OtherSilent = 10001*ms, 10001*ms },
		not: map[string]func(*Input){"it may come back": func(in *Input) { in.Raft.OtherSilent = 10 * time.Second }},
	},
	{
		rule: "go-solo", name: "the standby is being stopped", in: pairedPrimary, action: Propose, kind: record.Solo, why: "being stopped",
		set: func(in *Input) { in.Peer.Leaving = true },
		not: map[string]func(*Input){
			"it stays":                           func(in *Input) { in.Peer.Leaving = false },
			"that was said long ago":             func(in *Input) { in.Peer.Age = 600 * ms },
			"it is to become primary at present": func(in *Input) { in.Wish.SwitchTo = "b" },
		},
	},
	{
		rule: "go-solo", name: "a member is enrolled anew", in: pairedPrimary, action: Propose, kind: record.Solo, why: "an operator has w enrolled anew",
		set: func(in *Input) { in.Wish.Replace = "w" },
		not: map[string]func(*Input){"none is": func(in *Input) { in.Wish.Replace = "" }},
	},
	{
		rule: "pair", name: "all is proved", in: joiningPrimary, action: Propose, kind: record.Pair, why: "all three are healthy",
		not: map[string]func(*Input){
			"a member is being enrolled anew":    func(in *Input) { in.Wish.Replace = "w" },
			"it is recorded":                     func(in *Input) { setRecord(in, pairedRecord()) },
			"an attempt's outcome is unknown":    func(in *Input) { in.Pairing = true },
			"kineshim acknowledges by itself":    func(in *Input) { in.Local.Solo = true },
			"the gating is not proved":           func(in *Input) { in.Local.Proven = false },
			"there is no lease":                  func(in *Input) { in.Raft.LeaseLeft = 0 },
			"it does not lead":                   func(in *Input) { in.Raft.Leader = false },
			"no barrier yet":                     func(in *Input) { in.Raft.Barrier = false },
			"the witness is not there":           func(in *Input) { in.Raft.WitnessHeard = voterFresh + 1 },
			"the standby's voter is not there":   func(in *Input) { in.Raft.OtherHeard = voterFresh + 1 },
			"the witness was never heard":        func(in *Input) { in.Raft.WitnessHeard = Never },
			"the standby is not eligible":        func(in *Input) { in.Local.StandbyStreams = false },
			"the standby's data may be replaced": func(in *Input) { in.Local.Granted = true },
			"the epoch is not committed":         func(in *Input) { in.Local.EpochCommitted = false },
			"the engine does not run":            func(in *Input) { in.Local.Engine = false },
			"the role is to be handed over":      func(in *Input) { in.Wish.SwitchTo = "b" },
			"the process is ending":              func(in *Input) { in.Wish.Stopping = true },
			"PostgreSQL is fenced":               func(in *Input) { in.Local.PromotedEpoch = 0 },
		},
	},
	{
		rule: "take-over", name: "the primary is silent", in: bereaved, action: Propose, kind: record.Promote, why: "the primary is silent",
		not: map[string]func(*Input){
			"WAL may still be received":        func(in *Input) { in.Local.Frozen = false },
			"it does not lead":                 func(in *Input) { in.Raft.Leader = false },
			"no barrier yet":                   func(in *Input) { in.Raft.Barrier = false },
			"it may lack acknowledged writes":  func(in *Input) { setRecord(in, soloRecord()) },
			"its disk was replaced":            func(in *Input) { in.Local.SystemID = 8 },
			"its clone is not whole":           func(in *Input) { in.Local.Role = Broken },
			"its database is older":            func(in *Input) { in.Local.Timeline = 1 },
			"its WAL ends before the timeline": func(in *Input) { in.Local.LSN = 99 },
			"failover is paused":               func(in *Input) { setRecord(in, paused(*in.Record)) },
			"the process is ending":            func(in *Input) { in.Wish.Stopping = true },
			"the primary is heard":             func(in *Input) { in.Peer.Age = 500 * ms },
			"it has been promoted":             func(in *Input) { setRecord(in, after(pairedRecord(), promotionOf("b", 2))) },
		},
	},
	{
		rule: "take-over", name: "the primary asks for it", in: leadingStandby, action: Propose, kind: record.Promote, why: "asks to be relieved",
		set: func(in *Input) { in.Peer.Relief = true },
		not: map[string]func(*Input){
			"it does not":                     func(in *Input) { in.Peer.Relief = false },
			"it did before this node led":     func(in *Input) { in.Peer.SinceLeader = false },
			"it may lack acknowledged writes": func(in *Input) { setRecord(in, soloRecord()) },
		},
	},
	{
		rule: "take-over", name: "a switchover while failover is paused", in: leadingStandby, action: Propose, kind: record.Promote, why: "asks to be relieved",
		set: func(in *Input) { setRecord(in, paused(pairedRecord())); in.Peer.Relief = true },
		not: map[string]func(*Input){
			"the primary does not ask": func(in *Input) { in.Peer.Relief = false; in.Peer.Age = time.Second },
		},
	},
}

var notRestarted = map[string]func(*Input){
	"another is primary":           func(in *Input) { setRecord(in, failedOver()) },
	"it does not lead":             func(in *Input) { in.Raft.Leader = false },
	"no barrier yet":               func(in *Input) { in.Raft.Barrier = false },
	"the epoch is not used yet":    func(in *Input) { setRecord(in, after(soloRecord(), promotionOf("a", 2))) },
	"solo goes on without":         func(in *Input) { setRecord(in, soloRecord()); in.Local.Served = true },
	"PostgreSQL does not run":      func(in *Input) { in.Local.Role = Stopped },
	"PostgreSQL serves":            func(in *Input) { in.Local.Role, in.Local.PromotedEpoch = Primary, 1 },
	"the database is another":      func(in *Input) { in.Local.SystemID = 8 },
	"the database is an old image": func(in *Input) { in.Local.Timeline = 1 },
	"its WAL ends too early":       func(in *Input) { in.Local.LSN = 99 },
	"WAL may still be received":    func(in *Input) { in.Local.Frozen = false },
	"the process is ending":        func(in *Input) { in.Wish.Stopping = true },
}

// Rules that offer the leadership.
var leadershipCases = []ruleCase{
	{
		rule: "relieve", name: "PostgreSQL has died", in: pairedPrimary, action: HandOver, to: "b", why: "PostgreSQL has died",
		set: died,
		not: map[string]func(*Input){
			"it does not lead":             func(in *Input) { in.Raft.Leader = false },
			"the standby is not in sync":   func(in *Input) { setRecord(in, soloRecord()) },
			"the standby is silent":        func(in *Input) { in.Peer.Age = 600 * ms },
			"failover is paused":           func(in *Input) { setRecord(in, paused(*in.Record)) },
			"PostgreSQL is back":           func(in *Input) { in.Local.Role, in.Local.Frozen = Standby, true },
			"somebody else is the primary": func(in *Input) { setRecord(in, failedOver()) },
		},
	},
	{
		rule: "relieve", name: "a drained switchover", in: pairedPrimary, action: HandOver, to: "b", why: "switchover",
		set: func(in *Input) { in.Wish.SwitchTo, in.Wish.Drained, in.Local.Engine = "b", true, false },
		not: map[string]func(*Input){
			"it is not drained": func(in *Input) { in.Wish.Drained = false },
			"it is called off":  func(in *Input) { in.Wish = Wish{} },
		},
	},
	{
		rule: "hand-back", name: "the primary is well", in: leadingStandby, action: HandOver, to: "a", why: "leadership follows the primary",
		not: map[string]func(*Input){
			"it does not lead":               func(in *Input) { in.Raft.Leader = false },
			"no barrier yet":                 func(in *Input) { in.Raft.Barrier = false },
			"it is the primary":              func(in *Input) { setRecord(in, failedOver()) },
			"the primary is silent":          func(in *Input) { in.Peer.Age = 600 * ms },
			"the primary is dead":            func(in *Input) { in.Peer.Refused = true },
			"the primary was not asked":      func(in *Input) { in.Peer.SinceLeader = false },
			"its PostgreSQL is down":         func(in *Input) { in.Peer.Role = Stopped },
			"it asks to be relieved":         func(in *Input) { in.Peer.Relief = true },
			"an operator forces a promotion": func(in *Input) { in.Wish.Force = true },
		},
	},
	{
		rule: "hand-back", name: "to a solo primary whose PostgreSQL waits for it", in: leadingStandby, action: HandOver, to: "a", why: "leadership follows the primary",
		set: func(in *Input) { setRecord(in, soloRecord()); in.Peer.Role = Standby },
		not: map[string]func(*Input){"its data are gone": func(in *Input) { in.Peer.Role = Absent }},
	},
	{
		rule: "hand-to-founder", name: "the other node founds the cluster", in: freshOther, action: HandOver, to: "a", why: "founds the cluster",
		set: leads,
		not: map[string]func(*Input){
			"it does not lead":    func(in *Input) { in.Raft.Leader = false },
			"no barrier yet":      func(in *Input) { in.Raft.Barrier = false },
			"the cluster exists":  func(in *Input) { setRecord(in, soloRecord()) },
			"it founds it itself": func(in *Input) { in.Founder = true },
			"the other is silent": func(in *Input) { in.Peer.Age = Never },
		},
	},
	{
		rule: "renew-term", name: "by way of the witness", in: pairedPrimary, action: HandOver, to: "w", why: "a new term",
		set: func(in *Input) { in.Raft.Forfeited, in.Raft.LeaseLeft = true, 0 },
		not: map[string]func(*Input){
			"the term is good":   func(in *Input) { in.Raft.Forfeited = false },
			"it does not lead":   func(in *Input) { in.Raft.Leader = false },
			"no barrier yet":     func(in *Input) { in.Raft.Barrier = false },
			"another is primary": func(in *Input) { setRecord(in, failedOver()) },
		},
	},
	{
		rule: "renew-term", name: "by way of the standby", in: pairedPrimary, action: HandOver, to: "b", why: "a new term",
		set: func(in *Input) {
			in.Raft.Forfeited, in.Raft.LeaseLeft, in.Raft.WitnessHeard = true, 0, 600*ms
		},
		not: map[string]func(*Input){"the term is good": func(in *Input) { in.Raft.Forfeited = false }},
	},
}

// died is a primary whose PostgreSQL has just ended.
func died(in *Input) {
	l := &in.Local
	l.Role, l.PromotedEpoch, l.Session, l.EpochCommitted, l.Engine, l.Proven, l.Slot, l.StandbyStreams = Stopped, 0, false, false, false, false, false, false
	l.DownFor = 1
}
