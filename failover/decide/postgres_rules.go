package decide

import "fmt"

// postgresRules say what to do with the local PostgreSQL.
var postgresRules = []rule{
	{
		// Whatever the others do now, they do without this node: what it holds is kept as it is until it is enrolled anew.
		name: "void",
		when: func(in *Input) bool { return in.Raft.Void != "" },
		do: func(in *Input) Step {
			if in.Local.Role == Primary || in.Local.Role == Standby {
				return Step{Action: Stop}
			}
			return Step{}
		},
		why: func(in *Input) string { return in.Raft.Void },
	},
	{
		name: "fence",
		when: func(in *Input) bool { return in.Local.Role == Primary && !in.serves() },
		do:   do(Stop),
		why: func(in *Input) string {
			return fmt.Sprintf("PostgreSQL runs read-write, but epoch %d belongs to %s", in.Record.Epoch, in.Record.Primary)
		},
	},
	{
		name: "found",
		when: func(in *Input) bool {
			// Behind a barrier only: a founder that was restarted knows no cluster either until it has heard from a majority.
			return !in.Record.Initialised() && (in.Raft.Leads() || in.Confirmed) && in.Founder && in.Local.Role == Absent
		},
		do:  do(InitDB),
		why: because("this node founds the cluster"),
	},
	{
		name: "rebuild-by-clone",
		when: func(in *Input) bool { return in.mayRebuild() && in.cloneNeeded() != "" },
		do:   do(Clone),
		why:  func(in *Input) string { return in.cloneNeeded() },
	},
	{
		name: "rebuild-by-rewind",
		when: func(in *Input) bool { return in.mayRebuild() && in.rewindNeeded() != "" },
		do:   do(Rewind),
		why:  func(in *Input) string { return in.rewindNeeded() },
	},
	{
		name: "start",
		when: func(in *Input) bool {
			return in.Local.Role == Stopped && (in.Record.Initialised() || in.Founder) && !in.Wish.Stopping && !in.yields()
		},
		do:  do(Start),
		why: because("PostgreSQL does not run; it starts as a standby, whatever the record says"),
	},
	{
		name: "restart-hung",
		when: func(in *Input) bool {
			return in.serves() && in.Local.UnwellFor > hungAfter
		},
		do:  do(Stop),
		why: because("PostgreSQL takes no writes and nobody has taken over: it is killed and started again"),
	},
	{
		name: "promote",
		when: func(in *Input) bool {
			return in.isPrimary() && in.Local.Role == Standby && in.Local.Frozen && in.Local.SystemID == in.Record.SystemID &&
				(in.Record.Timeline == 0 && (in.Raft.Leads() || in.Confirmed) || in.repromote())
		},
		do: do(Promote),
		why: func(in *Input) string {
			return fmt.Sprintf("the record names this node primary of epoch %d", in.Record.Epoch)
		},
	},
	{
		name: "freeze",
		when: func(in *Input) bool {
			return in.Local.Role == Standby && !in.Local.Frozen &&
				(in.isPrimary() || in.otherIsPrimary() && (in.mayTakeOver() != "" || in.Wish.Force))
		},
		do:  do(Freeze),
		why: because("before a promotion, the WAL position must stand still"),
	},
	{
		name: "follow",
		when: func(in *Input) bool {
			return in.otherIsPrimary() && in.Local.Role == Standby && (in.Local.Frozen || in.Local.Adrift) && !in.Raft.Leader && !in.Wish.Force && !in.foreignTimeline()
		},
		do:  do(Follow),
		why: because("the other node is the primary"),
	},
	{
		name: "open-session",
		when: func(in *Input) bool { return in.serves() && !in.Local.Session },
		do:   do(OpenSession),
		why:  because("a new life of PostgreSQL needs a new sentinel"),
	},
	{
		name: "commit-epoch",
		when: func(in *Input) bool { return in.serves() && in.Local.Session && !in.Local.EpochCommitted },
		do:   do(CommitEpoch),
		why:  because("the barrier: everything before it is durable once it is"),
	},
	{
		name: "drain",
		when: func(in *Input) bool {
			return in.serves() && in.Wish.SwitchTo == in.Other && !in.Wish.Drained && in.CanHandOver()
		},
		do:  do(Drain),
		why: because("the other node is to take over with everything that was written here"),
	},
	{
		// PostgreSQL itself writes WAL at any time, without being asked: vacuums, snapshots of running transactions. What the standby no longer
		// receives would have to be rewound here.
		name: "step-down",
		when: func(in *Input) bool {
			return in.serves() && in.Wish.SwitchTo == in.Other && in.Wish.Drained && (in.Raft.Forfeited || !in.Raft.Leader)
		},
		do:  do(Stop),
		why: because("the other node may take over from now on: nothing is to be written here that it has not got"),
	},
	{
		name: "start-engine",
		when: func(in *Input) bool {
			return in.serves() && in.Local.Session && in.Local.EpochCommitted && !in.Local.Engine && in.Wish.SwitchTo == "" && !in.Wish.Stopping
		},
		do:  do(StartEngine),
		why: because("PostgreSQL serves the epoch"),
	},
}

// yields: this node was the primary until a moment ago, and the other one is about to serve in its place. PostgreSQL, when it starts after
// a crash, syncs all of its data directory, and the nodes may share a disk, as virtual machines do: what clients wait for goes first.
func (in *Input) yields() bool {
	switch l := &in.Local; {
	case l.DownFor >= yieldFor:
		return false
	case in.isPrimary() && in.Peer.Epoch > in.Record.Epoch: // of which this node has not heard through Raft yet
		return l.Served && in.peerFresh() && !in.Peer.GateOpen
	case in.isPrimary():
		return l.Served && in.relief() != ""
	case in.otherIsPrimary():
		return l.MarkerEpoch != 0 && l.MarkerEpoch+1 == in.Record.Epoch && in.peerFresh() && !in.Peer.GateOpen
	}
	return false
}

// repromote: PostgreSQL has been restarted under a solo primary. Nobody else can have taken over, so the epoch goes on and no
// majority is asked.
func (in *Input) repromote() bool {
	return in.Record.Timeline != 0 && in.Record.Solo() && in.Confirmed && !in.Pairing && in.Local.Served
}

// mayRebuild: the node's data may be destroyed and made anew: the record excludes it, and there is a primary to copy. The
// agent asks that primary once more before it destroys anything.
func (in *Input) mayRebuild() bool {
	return in.otherIsPrimary() && !in.Record.InSyncHas(in.Self) && in.PeerServes() && !in.Wish.Stopping
}

// cloneNeeded says why nothing of the local data can be used; "" if some can, or might.
func (in *Input) cloneNeeded() string {
	l, r := &in.Local, in.Record
	switch {
	case l.Role == Absent:
		return "there is no data directory"
	case l.Role == Broken:
		return "a clone or a rewind was interrupted"
	case l.SystemID != r.SystemID:
		return "the database here is not the cluster's"
	case l.WALRemoved && l.Role == Standby && !l.Streaming:
		return "the primary no longer has the WAL that comes next here"
	case l.Disk.Damaged:
		return "PostgreSQL has found damaged pages in the data here"
	case l.StartFailures >= startAttempts:
		return "PostgreSQL does not start"
	case l.Timeline > r.Timeline:
		return "the database here is on a timeline that the cluster does not know"
	case in.foreignTimeline():
		return "the database here has written a timeline that another node began too"
	case l.Timeline < r.Timeline && !in.knowsFork():
		return "the database here is older than the cluster remembers"
	case l.RewoundEpoch == r.Epoch && (in.diverged() || in.cannotFollow() || l.Role == Stopped && l.StartFailures > 0):
		return "the rewind did not help"
	}
	return ""
}

// rewindNeeded says why the local data cannot simply follow.
func (in *Input) rewindNeeded() string {
	switch {
	case in.diverged():
		return fmt.Sprintf("this node has written to %s; the primary left that timeline before", in.Local.LSN)
	case in.cannotFollow():
		return "PostgreSQL has not been able to follow the primary"
	}
	return ""
}

// cannotFollow: the standby runs, the primary serves, and yet nothing streams.
func (in *Input) cannotFollow() bool {
	return in.Local.Role == Standby && !in.Local.Frozen && !in.Local.Streaming && in.Local.NotStreaming > followPatience
}

// foreignTimeline: this node began its timeline in an epoch in which, says the record, another one did, or never recorded it.
// Two timelines of one number look alike to PostgreSQL.
func (in *Input) foreignTimeline() bool {
	l := &in.Local
	if l.MarkerEpoch == 0 {
		return false
	}
	if l.MarkerTimeline == 0 { // interrupted: it may or may not have begun the next timeline
		return true
	}
	if l.MarkerTimeline != l.Timeline { // it has followed others since
		return false
	}
	f, ok := in.Record.ForkOf(l.MarkerTimeline)
	return !ok || f.Epoch != l.MarkerEpoch || f.Primary != in.Self
}

func (in *Input) knowsFork() bool {
	if len(in.Record.Forks) == 0 {
		return false
	}
	_, ok := in.Record.ForkOf(in.Local.Timeline)
	return ok || in.Record.Forks[0].Timeline == in.Local.Timeline+1
}

// diverged: the node holds WAL that the primary's history does not have.
func (in *Input) diverged() bool {
	l := &in.Local
	if l.Role != Standby || l.Timeline == in.Record.Timeline {
		return false
	}
	f, ok := in.Record.FirstForkAfter(l.Timeline)
	return ok && l.LSN > f.SwitchLSN
}

// mayTakeOver says why this leader takes the primary role over; "" if it must not.
func (in *Input) mayTakeOver() string {
	if !in.otherIsPrimary() || !in.Raft.Leads() || in.Wish.Stopping || in.notCandidate() != "" || in.Local.Disk.unfit() != "" {
		return ""
	}
	gone := in.primaryGone()
	if in.Record.Paused && !in.Peer.Relief {
		return ""
	}
	return gone
}
