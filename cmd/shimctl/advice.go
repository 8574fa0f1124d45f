package main

import (
	"fmt"
	"slices"

	"kineshim/proto"
)

// reasons says why the cluster is not armed, or not served: the node's own words.
func reasons(st *proto.StatusResponse) []string {
	out := slices.Clone(st.GetNotArmed())
	if len(out) == 0 && st.GetPaused() {
		out = append(out, "automatic failover is paused")
	}
	if !st.GetServing() {
		if p := find(st, st.GetPrimary()); p.GetReachable() && p.GetState().GetGateReason() != "" {
			out = append(out, fmt.Sprintf("%s does not answer clients: %s", p.GetName(), p.GetState().GetGateReason()))
		}
	}
	return out
}

// advice says what an operator can do about a cluster that is not armed or not served. It reads the nodes' states and
// never promises what only the nodes can know.
func advice(st *proto.StatusResponse) []string {
	var out []string
	if st.GetPaused() {
		out = append(out, "when the maintenance is over: shimctl resume")
	}
	for _, n := range st.GetNodes() {
		if a := nodeAdvice(n); a != "" {
			out = append(out, a)
		}
	}
	if !st.GetServing() {
		out = append(out, outageAdvice(st)...)
	}
	if len(out) == 0 {
		out = append(out, "wait a few seconds; if it stays so, look into kineshim's log on both data nodes (journalctl -u kineshim)")
	}
	return out
}

// nodeAdvice is about one node; "" when nothing is to be done about it.
func nodeAdvice(n *proto.NodeStatus) string {
	if !n.GetReachable() && !n.GetSelf() {
		program := "kineshim"
		if n.GetRole() == witnessRole {
			program = "raftwitness"
		}
		return fmt.Sprintf("look after %s: is the machine up, does %s run there (systemctl status %s), does the network between the nodes work?",
			n.GetName(), program, program)
	}
	s := n.GetState()
	if s.GetVoid() != "" {
		return fmt.Sprintf("enrol %s anew, on the primary's machine: shimctl node replace %s", n.GetName(), n.GetName())
	}
	switch s.GetRole() {
	case "absent", "stopped":
		if s.GetRoleReason() != "" {
			return fmt.Sprintf("look into kineshim's log on %s (journalctl -u kineshim): it tries again by itself, and says why that fails", n.GetName())
		}
	case "broken":
		return fmt.Sprintf("wait: %s gets its data anew by itself. If that comes to nothing, its log says why (journalctl -u kineshim)", n.GetName())
	case "cloning", "rewinding":
		return fmt.Sprintf("wait: %s is getting its data (%s), and is paired again by itself", n.GetName(), s.GetRole())
	case "starting", "promoting", "stopping":
		return fmt.Sprintf("wait: PostgreSQL on %s is %s", n.GetName(), s.GetRole())
	}
	return ""
}

// outageAdvice is for a cluster that nobody serves: who may, and what is left if those are lost.
func outageAdvice(st *proto.StatusResponse) []string {
	if st.GetPrimary() == "" {
		return []string{"start kineshim on the node where kineshim init was run, and one more of the three"}
	}
	var up, down []string
	for _, name := range st.GetInSync() {
		if find(st, name).GetReachable() {
			up = append(up, name)
		} else {
			down = append(down, name)
		}
	}
	var out []string
	if st.GetLeader() == "" {
		out = append(out, "two of the three nodes must run and reach each other; a forced promotion needs that too",
			"only if both others are lost for good: shimctl serve --alone (shows first what would be lost)")
	}
	if len(up) > 0 || len(down) == 0 {
		return out // what is left is to wait for a failover or a start
	}
	out = append(out, fmt.Sprintf("bring %s back: only it is sure to have every acknowledged write", down[0]))
	for _, n := range st.GetNodes() {
		if n.GetRole() != witnessRole && n.GetReachable() {
			out = append(out, fmt.Sprintf("only if %s is lost for good: shimctl promote %s --force (shows first what would be lost)", down[0], n.GetName()))
		}
	}
	return out
}

// find returns the named node's status, nil if there is none.
func find(st *proto.StatusResponse, name string) *proto.NodeStatus {
	i := slices.IndexFunc(st.GetNodes(), func(n *proto.NodeStatus) bool { return n.GetName() == name })
	if i < 0 {
		return nil
	}
	return st.GetNodes()[i]
}
