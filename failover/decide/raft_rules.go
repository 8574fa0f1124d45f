package decide

import (
	"fmt"

	"kineshim/raftwitness/record"
)

// raftRules say what to propose and whom to offer the leadership.
var raftRules = []rule{
	{
		name: "settle",
		when: func(in *Input) bool { return in.Pairing && in.Raft.Leads() },
		do:   do(Settle),
		why:  because("an unknown outcome is not a failure: what became of the pairing must be known"),
	},
	{
		name: "init",
		when: func(in *Input) bool {
			return !in.Record.Initialised() && in.Founder && in.Raft.Leads() && in.Local.Role == Standby && in.Local.SystemID != 0
		},
		do: func(in *Input) Step {
			return Step{Action: Propose, Command: record.Command{Kind: record.Init, Node: in.Self, SystemID: in.Local.SystemID}}
		},
		why: because("the first database is there"),
	},
	{
		name: "force",
		when: func(in *Input) bool {
			return in.Wish.Force && in.otherIsPrimary() && in.Raft.Leads() && in.Local.Role == Standby && in.Local.SystemID == in.Record.SystemID && in.Local.Frozen
		},
		do: func(in *Input) Step {
			return Step{Action: Propose, Command: record.Command{Kind: record.Force, Node: in.Self}}
		},
		why: because("an operator ordered it, knowing what is lost"),
	},
	{
		name: "record-timeline",
		when: func(in *Input) bool {
			return in.serves() && in.Raft.Leads() && in.Record.Solo() && in.Record.Timeline != in.Local.Timeline && !in.timelineTaken()
		},
		do: func(in *Input) Step {
			return Step{Action: Propose, Command: record.Command{Kind: record.Timeline, Timeline: in.Local.Timeline, SwitchLSN: in.Local.PromotedLSN}}
		},
		why: func(in *Input) string { return fmt.Sprintf("PostgreSQL serves on timeline %d", in.Local.Timeline) },
	},
	{
		name: "relieve",
		when: func(in *Input) bool { return in.Raft.Leader && in.relief() != "" },
		do:   func(in *Input) Step { return Step{Action: HandOver, To: in.Other} },
		why:  func(in *Input) string { return "please take over: " + in.relief() },
	},
	{
		name: "restart-epoch",
		when: func(in *Input) bool {
			return in.isPrimary() && in.Raft.Leads() && in.Record.Timeline != 0 && !in.repromote() && in.notCandidate() == "" && in.Local.Frozen && !in.Wish.Stopping
		},
		do: func(in *Input) Step {
			return Step{Action: Propose, Command: record.Command{Kind: record.Promote, Node: in.Self, Timeline: in.Record.Timeline}}
		},
		why: because("this primary was restarted: it serves again, alone, in a new epoch"),
	},
	{
		name: "go-solo",
		when: func(in *Input) bool {
			// Only while it serves: a primary that has lost its data must not exclude the one that has them. If they are
			// there but not served, it begins a new epoch, which is solo.
			return in.serves() && in.Raft.Leads() && in.Record.Paired() && in.soloBecause() != ""
		},
		do: func(in *Input) Step {
			return Step{Action: Propose, Command: record.Command{Kind: record.Solo}}
		},
		why: func(in *Input) string { return in.soloBecause() },
	},
	{
		name: "pair",
		when: func(in *Input) bool {
			return in.serves() && in.Raft.Leads() && in.Raft.LeaseLeft > 0 && in.Record.Solo() && !in.Pairing && !in.Local.Solo &&
				in.Local.Proven && in.Local.EpochCommitted && in.Local.Engine && in.standbyEligible() &&
				in.Raft.WitnessHeard <= voterFresh && in.Raft.OtherHeard <= voterFresh && in.Wish.SwitchTo == "" && in.Wish.Replace == "" && !in.Wish.Stopping
		},
		do: func(in *Input) Step {
			return Step{Action: Propose, Command: record.Command{Kind: record.Pair, Node: in.Other, Timeline: in.Record.Timeline}}
		},
		why: because("all three are healthy and every commit waits for the standby"),
	},
	{
		name: "take-over",
		when: func(in *Input) bool { return in.mayTakeOver() != "" && in.Local.Frozen },
		do: func(in *Input) Step {
			return Step{Action: Propose, Command: record.Command{Kind: record.Promote, Node: in.Self, Timeline: in.Record.Timeline}}
		},
		why: func(in *Input) string { return in.mayTakeOver() },
	},
	{
		name: "hand-back",
		when: func(in *Input) bool {
			return in.Raft.Leads() && in.otherIsPrimary() && in.peerFresh() && in.Peer.SinceLeader && in.primaryReady() && in.mayTakeOver() == "" && !in.Wish.Force
		},
		do:  func(in *Input) Step { return Step{Action: HandOver, To: in.Other} },
		why: because("leadership follows the primary, and it is well"),
	},
	{
		name: "hand-to-founder",
		when: func(in *Input) bool {
			return in.Raft.Leads() && !in.Record.Initialised() && !in.Founder && in.peerFresh()
		},
		do:  func(in *Input) Step { return Step{Action: HandOver, To: in.Other} },
		why: because("the other node founds the cluster"),
	},
	{
		name: "renew-term",
		when: func(in *Input) bool { return in.isPrimary() && in.Raft.Leads() && in.Raft.Forfeited },
		do: func(in *Input) Step {
			if in.Raft.WitnessHeard <= in.Timing.Silence {
				return Step{Action: HandOver, To: in.Witness}
			}
			return Step{Action: HandOver, To: in.Other}
		},
		why: because("an offer of leadership came to nothing: a new term is needed for a new lease"),
	},
}

// primaryReady: the other node, the primary, can make use of the leadership.
func (in *Input) primaryReady() bool { return in.Peer.Role == Primary || in.Peer.Role == Standby }

// soloBecause says why the record must no longer count on the standby, or on the witness; "" if it may.
func (in *Input) soloBecause() string {
	l := &in.Local
	switch {
	case in.Wish.Replace != "":
		return "an operator has " + in.Wish.Replace + " enrolled anew"
	case in.Peer.Leaving && in.peerFresh() && in.Wish.SwitchTo == "":
		return "the standby is being stopped"
	case in.peerFresh() && in.Peer.Disk.mayNotGate() != "" && in.Wish.SwitchTo == "":
		return "of the standby: " + in.Peer.Disk.mayNotGate()
	case in.Peer.Silent > in.Timing.ReplicationStall:
		return fmt.Sprintf("the standby has been silent for %v", in.Timing.ReplicationStall)
	case l.StandbyStalled > in.Timing.ReplicationStall && !(l.UnwellFor > 0 && in.CanHandOver() && !in.Record.Paused): // else who is sick is not clear
		return fmt.Sprintf("the standby has acknowledged nothing for %v", in.Timing.ReplicationStall)
	case in.Raft.WitnessSilent > in.Timing.WitnessLostAfter:
		return fmt.Sprintf("the witness has been silent for %v", in.Timing.WitnessLostAfter)
	case in.Raft.OtherSilent > in.Timing.WitnessLostAfter:
		return fmt.Sprintf("the standby's Raft voter has been silent for %v", in.Timing.WitnessLostAfter)
	}
	return ""
}
