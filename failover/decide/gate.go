package decide

import "fmt"

// closed says why the gate must be closed, whatever the lease says; "" if it may be open.
func closed(in *Input) string {
	l, r := &in.Local, in.Record
	switch {
	case in.Raft.Void != "":
		return in.Raft.Void
	case !r.Initialised():
		return "the cluster is not initialised"
	case !in.isPrimary():
		return r.Primary + " is the primary"
	case l.Role == Standby && in.notCandidate() != "":
		return "this node cannot serve: " + in.notCandidate()
	case l.Role != Primary:
		return "PostgreSQL is " + string(l.Role)
	case !in.serves():
		return "PostgreSQL has not been promoted in this epoch"
	case !l.Session:
		return "PostgreSQL has just started"
	case !l.EpochCommitted:
		return "waiting for the epoch's first commit to become durable"
	case !l.Engine:
		return "the engine is starting"
	case r.Timeline == 0 && in.timelineTaken():
		return fmt.Sprintf("timeline %d belongs to an earlier epoch", l.Timeline)
	case r.Timeline != l.Timeline && !in.mayServeUnrecorded():
		return "the timeline is not in the record yet"
	case r.Solo() && !in.Pairing && !in.Confirmed:
		return "no majority has confirmed the cluster record since this process started"
	case in.Wish.SwitchTo != "":
		return "switching over to " + in.Wish.SwitchTo
	case in.Wish.Stopping:
		return "stopping"
	case in.relief() != "":
		return in.relief()
	}
	return ""
}

// mayServeUnrecorded: this node may answer on a timeline that the record does not name. The record is known to say solo, so that nobody else can take
// over: the timeline is recorded for those who are to follow. If this node has not answered in this epoch yet, it records the timeline first, unless
// it cannot: the witness may have been lost just after it had voted for the promotion.
func (in *Input) mayServeUnrecorded() bool {
	if !in.Record.Solo() || !in.Confirmed || in.Pairing {
		return false
	}
	return in.Local.Served || in.Record.Timeline == 0 && !in.Raft.Leads()
}

// NotArmed says, as the primary sees it, why a failover would not succeed at this moment; nil when it would.
func NotArmed(in *Input) []string {
	r := in.Record
	var why []string
	add := func(cond bool, s string) {
		if cond {
			why = append(why, s)
		}
	}
	if in.Raft.Void != "" {
		return []string{"this node is out of the cluster: " + in.Raft.Void}
	}
	if !r.Initialised() {
		return []string{"the cluster is not initialised yet"}
	}
	if r.Paused {
		why = append(why, "an operator has paused automatic failover (shimctl resume)")
	}
	if r.Paired() {
		return why
	}
	n := len(why)
	if in.isPrimary() {
		p := &in.Peer
		add(!in.peerFresh(), "the standby "+in.Other+" is not reachable")
		if in.peerFresh() {
			add(p.Role == Absent || p.Role == Broken, "the standby "+in.Other+" has no whole copy of the data yet")
			add(p.Role == Stopped, "PostgreSQL on the standby "+in.Other+" does not run")
			add(p.Disk.mayNotGate() != "", "of the standby "+in.Other+": "+p.Disk.mayNotGate())
			add(p.Role == Standby && !p.Streaming, "the standby "+in.Other+" does not stream from the primary yet")
			add(p.Role == Standby && p.Streaming && in.Local.LagBytes > joinLagBytes, "the standby "+in.Other+" is still catching up")
		}
		add(in.Raft.Leader && in.Raft.WitnessHeard > voterFresh, "the witness "+in.Witness+" is not reachable")
		add(in.Raft.Leader && in.peerFresh() && in.Raft.OtherHeard > voterFresh, "the standby "+in.Other+" does not answer at its port for Raft: look at its firewall")
		add(!in.Raft.Leader, "this primary has no contact to a majority")
	}
	if len(why) == n {
		why = append(why, "the standby is being proved in sync")
	}
	return why
}
