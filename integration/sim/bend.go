package sim

import (
	"slices"

	"kineshim/failover/decide"
	"kineshim/raftwitness/record"
)

// bend is decide with one rule broken, by what it is shown or in what it says.
func (w *World) bend(k *kine, in *decide.Input) decide.Plan {
	shown := *in
	switch w.opt.Mutant {
	case "insync":
		if in.Record.Initialised() && in.Record.Solo() && in.Record.Primary == names[k.other] && in.Raft.Leads() {
			shown.Record = withInSync(in.Record, in.Record.Primary, in.Self)
		}
	case "destroys-in-sync":
		if in.Record.Paired() && in.Record.Primary == names[k.other] {
			shown.Record = withInSync(in.Record, in.Record.Primary)
		}
	case "wrong-timeline":
		if in.Record.InSyncHas(in.Self) && in.Local.Role == decide.Standby && in.Record.Timeline != 0 {
			shown.Local.Timeline = in.Record.Timeline
			shown.Local.LSN = max(in.Local.LSN, in.Record.SwitchLSN)
		}
	case "restart-unconfirmed":
		k.confirmed.Store(true)
		shown.Confirmed = true
		shown.Local.Served = in.Record.Initialised()
	case "shut-before-handing-over", "transfer":
		p := decide.Decide(in)
		if in.Wish.SwitchTo != "" && p.Closed == "switching over to "+in.Wish.SwitchTo {
			p.Closed = ""
		}
		if p.Postgres.Action == decide.Drain || p.Postgres.Rule == "step-down" {
			p.Postgres = decide.Step{}
		}
		if in.Wish.SwitchTo != "" && in.Raft.Leader && in.CanHandOver() && !in.Raft.Forfeited {
			p.Raft = decide.Step{Action: decide.HandOver, To: in.Other, Rule: "relieve"}
		}
		return p
	}
	p := decide.Decide(&shown)
	l := &in.Local
	serves := in.Record.Primary == in.Self && l.Role == decide.Primary && l.PromotedEpoch == in.Record.Epoch
	switch w.opt.Mutant {
	case "order":
		if serves && in.Record.Paired() && l.StandbyStalled > 200*ms && !l.Solo {
			p.Sync = decide.Step{Action: decide.ConnectSolo, Rule: "order"}
		}
	case "solo-before-recorded":
		if j := k.lanes[laneRaft].job; serves && j != nil && j.step.Command.Kind == record.Solo && !l.Solo {
			p.Sync = decide.Step{Action: decide.ConnectSolo, Rule: "solo-before-recorded"}
		}
	}
	return p
}

func withInSync(r *record.Record, nodes ...string) *record.Record {
	c := r.Clone()
	slices.Sort(nodes)
	c.InSync = nodes
	return &c
}

// Mutant is one rule broken, and why it matters.
type Mutant struct{ Name, Rule string }

// Mutants are the rules that the simulation must miss when they are broken.
var Mutants = []Mutant{
	{"pairing", "a primary acts as paired from before it proposes it"},
	{"silence", "a voter that has just started keeps silent"},
	{"barrier", "a leader has no lease before its barrier"},
	{"order", "leaving the in-sync set: first the record, then PostgreSQL"},
	{"insync", "only a member of the in-sync set is promoted"},
	{"transfer", "a leader that hands over closes its gate first, and has no lease any more"},
	{"whole", "only whole data are promoted"},
	{"identity", "a voter that has lost its log does not vote"},
	{"lease-longer-than-promise", "a lease is shorter than the promise it rests on"},
	{"gate-not-checked-after-gathering", "the gate is checked after an answer's data have been gathered"},
	{"lease-from-receipt", "a lease counts from when the heartbeat was sent"},
	{"forfeit-ignored", "an offer of leadership forfeits the lease of its term for good"},
	{"departure-term", "proof of death voids only what was promised to that life"},
	{"solo-before-recorded", "kineshim acknowledges commits only after the record says solo"},
	{"epoch-row-skipped", "the epoch's row is the barrier before the first answer"},
	{"freeze-skipped", "a standby's WAL stands still before its promotion is proposed"},
	{"grant-ignored", "a standby destroys its data only with the primary's leave"},
	{"destroys-in-sync", "data are destroyed only while the record excludes the node"},
	{"restart-unconfirmed", "a restarted node confirms the record with a majority before it serves"},
	{"wrong-timeline", "a node is promoted only on the recorded timeline"},
	{"flag-believed", "gating is proved by the standby's position, not by PostgreSQL's word"},
	{"unknown-is-failure", "an unknown outcome of a proposal is not a failure"},
	{"vip-by-role", "the virtual address follows the gate"},
}
