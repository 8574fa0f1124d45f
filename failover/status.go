package failover

import (
	"fmt"
	"slices"
	"time"

	"kineshim/failover/decide"
	"kineshim/pki"
	pb "kineshim/proto"
)

// status is this node's view of the cluster.
func (a *Agent) status() *pb.StatusResponse {
	self := a.nodeState()
	rec, _ := a.store.Record()
	rs := a.store.Status()

	a.mu.Lock()
	defer a.mu.Unlock()
	in := a.input()
	r := &pb.StatusResponse{
		ClusterId: a.cfg.ClusterID, Node: a.cfg.Self, Epoch: rec.Epoch, Primary: rec.Primary, Mode: rec.Mode(), InSync: slices.Clone(rec.InSync),
		Timeline: rec.Timeline, Paused: rec.Paused, Revoked: slices.Clone(rec.Revoked), Leader: rs.LeaderName, Term: rs.Term, Version: a.cfg.Version, Busy: a.busyText(),
	}
	me := a.nodeStatus(&in, self, true)
	other := &pb.NodeStatus{Name: a.cfg.Other, Role: "data", HeardMs: -1}
	if a.peer.state != nil {
		other = a.nodeStatus(&in, a.peer.state, false)
	} else {
		other.Health = "never heard since this process started"
	}
	if why := rs.Apart[a.cfg.Other]; why != "" && !other.Reachable {
		other.Health = why
	}
	w := a.witnessStatus(rs)
	r.Nodes = []*pb.NodeStatus{me, other, w}
	slices.SortFunc(r.Nodes[:2], func(x, y *pb.NodeStatus) int {
		if x.Name < y.Name {
			return -1
		}
		return 1
	})
	r.Serving = self.GateOpen || other.Reachable && other.State.GateOpen
	for _, n := range []*pb.NodeStatus{me, other} {
		if n.Reachable && n.State != nil && n.Name == rec.Primary {
			r.Synchronous = n.State.StandbyGates
		}
	}
	r.NotArmed = a.notArmed(&in, me, other, rs.Apart[a.cfg.Witness], r.Serving)
	r.Armed = len(r.NotArmed) == 0
	for _, n := range r.Nodes[:2] {
		n.InSync = slices.Contains(rec.InSync, n.Name)
	}
	now, certificates := time.Now(), a.store.Certificates()
	for _, n := range r.Nodes {
		n.Health = withCertificate(n.Health, certificates[n.Name], now)
	}
	a.setLag(r)
	return r
}

// notArmed says why an automatic failover would not succeed, from whichever side this node sees the cluster. witnessApart is why no word is exchanged
// with the witness; "": there is no such reason. a.mu is held.
func (a *Agent) notArmed(in *decide.Input, me, other *pb.NodeStatus, witnessApart string, serving bool) []string {
	if in.Raft.Void != "" {
		return decide.NotArmed(in)
	}
	if in.Record.Primary == a.cfg.Self {
		why := slices.Clone(a.raft.notArmed)
		if !serving {
			why = append(why, "the primary "+a.cfg.Self+" does not answer clients: "+a.raft.plan.Closed)
		}
		return why
	}
	var why []string
	switch {
	case !in.Record.Initialised() && in.Local.Role != decide.Absent: // what is in its log is not known to hold until somebody leads
		return []string{"there is no majority: " + a.cfg.Self + " has met none since it started, and does not know who may serve. Bring another node back; " + lostForGood}
	case !in.Record.Initialised():
		return []string{"the cluster is not initialised yet"}
	case !other.Reachable && witnessApart != "":
		why = append(why, "there is no majority: the primary "+a.cfg.Other+" is not reachable from here, and there is no failover without the witness, "+a.cfg.Witness+": "+witnessApart+". Bring the primary back; "+lostForGood)
	case !other.Reachable:
		why = append(why, "the primary "+a.cfg.Other+" is not reachable from here: ask there, or wait for the failover")
	case !serving:
		why = append(why, "the primary "+a.cfg.Other+" does not answer clients: "+other.State.GateReason)
	}
	if in.Record.Paused {
		why = append(why, "an operator has paused automatic failover (shimctl resume)")
	}
	if !in.Record.Paired() {
		why = append(why, "the record says that "+a.cfg.Self+" may lack acknowledged writes; "+a.cfg.Other+" knows why")
		if me.Health != "ok" {
			why = append(why, a.cfg.Self+": "+me.Health)
		}
	}
	return why
}

// lostForGood ends what an operator of the last node is told.
const lostForGood = "if both others are lost for good: shimctl serve --alone"

// setLag fills in how far the standby is behind the primary.
func (a *Agent) setLag(r *pb.StatusResponse) {
	var primary *pb.NodeStatus
	for _, n := range r.Nodes[:2] {
		if n.Name == r.Primary {
			primary = n
		}
	}
	if primary == nil || primary.State == nil || !primary.Reachable {
		return
	}
	for _, n := range r.Nodes[:2] {
		if n != primary && n.State != nil && n.State.DataComplete && n.State.FlushLsn != 0 {
			n.LagKnown = true
			if primary.State.FlushLsn > n.State.FlushLsn {
				n.LagBytes = primary.State.FlushLsn - n.State.FlushLsn
			}
		}
	}
}

// nodeStatus describes a data node. a.mu is held.
func (a *Agent) nodeStatus(in *decide.Input, s *pb.NodeState, self bool) *pb.NodeStatus {
	n := &pb.NodeStatus{Name: s.Node, Role: "data", Self: self, Reachable: true, State: s, Health: "ok"}
	if !self {
		n.HeardMs = in.Peer.Age.Milliseconds()
		n.Reachable = in.Peer.Age <= in.Timing.Silence && !in.Peer.Refused
	}
	primary := in.Record.Primary == s.Node
	switch {
	case s.Void != "":
		n.Health = "out of the cluster: " + s.Void
	case !n.Reachable && in.Peer.Refused && !self:
		n.Health = "not running"
	case !n.Reachable:
		n.Health = fmt.Sprintf("silent for %v", (time.Duration(n.HeardMs) * time.Millisecond).Round(100*time.Millisecond))
	case primary && !s.GateOpen:
		n.Health = "does not answer: " + s.GateReason
	case !primary && s.Role == string(decide.Standby) && !s.Streaming && in.Record.Initialised():
		n.Health = "does not stream"
	case s.Role != string(decide.Standby) && s.Role != string(decide.Primary):
		n.Health = s.Role
		if s.RoleReason != "" {
			n.Health += ": " + s.RoleReason
		}
	}
	if s.DiskTrouble != "" && n.Reachable {
		n.Health = withTrouble(n.Health, s.DiskTrouble)
	}
	return n
}

// witnessStatus is what the leader knows of the witness. a.mu is held.
func (a *Agent) witnessStatus(rs RaftStatus) *pb.NodeStatus {
	w := &pb.NodeStatus{Name: a.cfg.Witness, Role: "witness", HeardMs: -1, Health: "not known: only the leading node hears it"}
	if why := rs.Apart[a.cfg.Witness]; why != "" {
		w.Health = why
		return w
	}
	if age, ok := rs.Heard[a.cfg.Witness]; ok {
		w.HeardMs = age.Milliseconds()
	} else if p := a.peer.state; !rs.Leader && p != nil && p.Leader && p.WitnessContactMs >= 0 {
		w.HeardMs = p.WitnessContactMs + time.Since(a.peer.at).Milliseconds()
	} else if rs.Leader || p != nil && p.Leader {
		w.Health = "not heard since the last election"
	}
	if w.HeardMs >= 0 {
		w.Reachable = w.HeardMs < witnessReachable.Milliseconds()
		w.Health = "ok"
		if !w.Reachable {
			w.Health = fmt.Sprintf("silent for %v", (time.Duration(w.HeardMs) * time.Millisecond).Round(100*time.Millisecond))
		}
	}
	return w
}

// witnessReachable is the age of the last word from the witness up to which status calls it reachable.
const witnessReachable = 2 * time.Second

// withCertificate adds to a member's health that its certificate ends soon.
func withCertificate(health string, v pki.Validity, now time.Time) string {
	if !v.Late(now) {
		return health
	}
	text := fmt.Sprintf("its certificate ends on %s and was not renewed: see its log", v.NotAfter.UTC().Format(time.DateTime))
	if !v.NotAfter.After(now) {
		text = fmt.Sprintf("its certificate ended on %s: see its log", v.NotAfter.UTC().Format(time.DateTime))
	}
	return withTrouble(health, text)
}

// withTrouble adds to a member's health what else is wrong.
func withTrouble(health, trouble string) string {
	if health == "ok" {
		return trouble
	}
	return health + "; " + trouble
}

// busyText says what is under way. a.mu is held.
func (a *Agent) busyText() string {
	switch {
	case a.wish.switchTo != "":
		return "switching over to " + a.wish.switchTo
	case time.Now().Before(a.wish.force):
		return "promoting by force"
	case a.wish.leaving:
		return "stopping"
	}
	if p := a.raft.plan.Postgres; p.Action != decide.None && a.postgresLane.busy() == p.Action {
		return string(p.Action) + ": " + p.Why
	}
	return ""
}
