package decide

import "kineshim/raftwitness/record"

// Action is one effect that the agent carries out.
type Action string

// Actions on the local PostgreSQL; at most one is under way.
const (
	None   Action = ""
	InitDB Action = "initdb"
	Start  Action = "start"
	// Stop is an immediate shutdown.
	Stop   Action = "stop"
	Freeze Action = "freeze"
	Follow Action = "follow"
	// Promote makes PostgreSQL read-write under the record's epoch.
	Promote Action = "promote"
	Rewind  Action = "rewind"
	Clone   Action = "clone"
	// OpenSession opens the sentinel session on a primary.
	OpenSession Action = "open-session"
	// CommitEpoch commits the epoch row: the barrier.
	CommitEpoch Action = "commit-epoch"
	StartEngine Action = "start-engine"
	// Drain stops the engine before a switchover and waits until the standby has everything.
	Drain Action = "drain"
)

// Actions on who acknowledges commits; at most one is under way.
const (
	ConnectSolo    Action = "connect-solo"
	DisconnectSolo Action = "disconnect-solo"
	ProveGating    Action = "prove-gating"
	EnsureSlot     Action = "ensure-slot"
	DropStale      Action = "drop-stale-walsenders"
)

// Actions on Raft; at most one is under way.
const (
	// Propose commits Step.Command.
	Propose Action = "propose"
	// HandOver offers the leadership to Step.To.
	HandOver Action = "hand-over"
	// Settle finds out what became of a proposal whose outcome is unknown.
	Settle Action = "settle"
)

// Step is an action with the rule that asks for it and the reason that operators read. The zero Step is to do nothing.
type Step struct {
	Action Action
	Rule   string
	Why    string
	// To is whom HandOver offers the leadership.
	To string
	// Command is what Propose commits; the agent adds the clock.
	Command record.Command
}

// Plan is what to do next.
type Plan struct {
	Postgres, Sync, Raft Step
	// Closed says why the gate must be closed; "" if it may be open as long as the lease, or solo, allows it.
	Closed string
	// Relief says why the other node is asked to take over; "" if it is not.
	Relief string
	// Switch says why a switchover to the other node is to begin, as if an operator had asked for it; "" if none is.
	Switch string
}

// rule is one row: if When, then Do, and Why is the reason. The first row of a lane that holds wins.
type rule struct {
	name string
	when func(*Input) bool
	do   func(*Input) Step
	why  func(*Input) string
}

// Decide is the whole of a data node's policy.
func Decide(in *Input) Plan {
	return Plan{
		Postgres: first(postgresRules, in),
		Sync:     first(syncRules, in),
		Raft:     first(raftRules, in),
		Closed:   closed(in),
		Relief:   in.relief(),
		Switch:   in.switchBecause(),
	}
}

func first(rules []rule, in *Input) Step {
	for _, r := range rules {
		if r.when(in) {
			s := r.do(in)
			s.Rule, s.Why = r.name, r.why(in)
			if s.Action == Propose {
				s.Command.Epoch, s.Command.By, s.Command.Why = in.Record.Epoch, in.Self, s.Why
			}
			return s
		}
	}
	return Step{}
}

func do(a Action) func(*Input) Step { return func(*Input) Step { return Step{Action: a} } }

func because(why string) func(*Input) string { return func(*Input) string { return why } }
