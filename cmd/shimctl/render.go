package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"kineshim/proto"
)

const (
	witnessRole = "witness" // NodeStatus.role
	primaryRole = "primary" // NodeState.role
	modePaired  = "paired"
	modeSolo    = "solo"
	// staleMillis is the age from which a node's row says how old it is: nodes hear from each other every 100 ms.
	staleMillis = 2000
)

// renderStatus is the status for people: who serves and whether a failover is armed, what to do if not, then each node.
func renderStatus(st *proto.StatusResponse) string {
	var b strings.Builder
	b.WriteString(st.Headline() + "\n")
	facts := func(label string, lines []string) {
		for _, l := range lines {
			fmt.Fprintf(&b, "  %-5s %s\n", label, l)
			label = ""
		}
	}
	if busy := st.GetBusy(); busy != "" {
		facts("now:", []string{busy})
	}
	if !st.GetServing() || !st.GetArmed() {
		facts("why:", reasons(st))
		facts("do:", advice(st))
	}
	fmt.Fprintf(&b, "  %s\n\n", recordLine(st))
	b.WriteString(nodeTable(st))
	b.WriteString(vipTable(st))
	for _, n := range st.GetNodes() {
		for _, note := range nodeNotes(n) {
			fmt.Fprintf(&b, "\n%s: %s", n.GetName(), note)
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// recordLine is what the cluster record says.
func recordLine(st *proto.StatusResponse) string {
	parts := []string{"cluster " + orDash(st.GetClusterId())}
	mode := orDash(st.GetMode())
	if in := st.GetInSync(); len(in) > 0 {
		mode += " (in sync: " + strings.Join(in, ", ") + ")"
	}
	if st.GetMode() == modeSolo && st.GetSynchronous() {
		mode += ", yet every commit waits for " + st.OtherData(st.GetPrimary()) + " too"
	}
	parts = append(parts, fmt.Sprintf("epoch %d", st.GetEpoch()), mode)
	if st.GetTimeline() != 0 {
		parts = append(parts, fmt.Sprintf("timeline %d", st.GetTimeline()))
	}
	if st.GetLeader() != "" {
		parts = append(parts, fmt.Sprintf("Raft leader %s in term %d", st.GetLeader(), st.GetTerm()))
	} else {
		parts = append(parts, "no Raft leader")
	}
	return strings.Join(append(parts, "seen by "+orDash(st.GetNode())), ", ")
}

func nodeTable(st *proto.StatusResponse) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tROLE\tHEALTH\tLSN\tLAG\tTIMELINE\tLEASE\tGATE")
	for _, n := range st.GetNodes() {
		fmt.Fprintln(w, strings.Join(nodeRow(st, n), "\t"))
	}
	_ = w.Flush() // to a strings.Builder
	return b.String()
}

// nodeRow is one line of the table. What comes from a node that is not heard any more is marked as old.
func nodeRow(st *proto.StatusResponse, n *proto.NodeStatus) []string {
	health := n.GetHealth()
	if health == "" && !n.GetReachable() {
		health = "unreachable"
	}
	if n.GetRole() == witnessRole {
		return []string{n.GetName(), witnessRole, orDash(health), "-", "-", "-", "-", orDash(heardAgo(n))}
	}
	s := n.GetState()
	if s == nil {
		return []string{n.GetName(), "unknown", orDash(health), "-", "-", "-", "-", "never heard"}
	}
	role := orDash(s.GetRole())
	if n.GetInSync() && s.GetRole() != primaryRole {
		role += " (in sync)"
	}
	if !n.GetReachable() {
		role += "?"
	}
	timeline := "-"
	if s.GetTimeline() != 0 {
		timeline = fmt.Sprint(s.GetTimeline())
	}
	return []string{n.GetName(), role, orDash(health), showLSN(s.GetFlushLsn()), lag(n), timeline, lease(st, n), gate(n)}
}

func lag(n *proto.NodeStatus) string {
	switch {
	case n.GetState().GetRole() == primaryRole:
		return "-"
	case !n.GetLagKnown():
		return "unknown"
	default:
		return showBytes(n.GetLagBytes())
	}
}

// lease is the Raft lease on which a paired primary answers; a solo one goes on without.
func lease(st *proto.StatusResponse, n *proto.NodeStatus) string {
	s := n.GetState()
	switch {
	case !n.GetReachable():
		return "-"
	case s.GetLeaseLeftMs() > 0:
		return showMillis(s.GetLeaseLeftMs())
	case s.GetRole() == primaryRole && st.GetMode() == modeSolo:
		return "not needed"
	case s.GetRole() == primaryRole:
		return "none"
	default:
		return "-"
	}
}

func gate(n *proto.NodeStatus) string {
	s := n.GetState()
	text := "open"
	if !s.GetGateOpen() {
		text = "closed"
		if s.GetGateReason() != "" {
			text += ": " + s.GetGateReason()
		}
	}
	age := heardAgo(n)
	switch {
	case age == "":
		return text
	case !n.GetReachable():
		return fmt.Sprintf("unknown (was %s, %s)", text, age)
	default:
		return fmt.Sprintf("%s (%s)", text, age)
	}
}

// heardAgo is "" while what is known of the node is fresh.
func heardAgo(n *proto.NodeStatus) string {
	switch {
	case n.GetSelf() || n.GetReachable() && n.GetHeardMs() >= 0 && n.GetHeardMs() < staleMillis:
		return ""
	case n.GetHeardMs() < 0:
		if n.GetRole() == witnessRole && n.GetReachable() {
			return "" // only the Raft leader hears from the witness
		}
		return "never heard"
	default:
		return showMillis(n.GetHeardMs()) + " ago"
	}
}

// nodeNotes are what doesn't fit into the row: long works, and a primary's wish to be relieved.
func nodeNotes(n *proto.NodeStatus) []string {
	var notes []string
	if p := n.GetState().GetProgress(); p.GetWhat() != "" {
		notes = append(notes, progressLine(p))
	}
	if s := n.GetState(); s.GetWantsRelief() {
		notes = append(notes, "asks to be relieved: "+orDash(s.GetReliefReason()))
	}
	if s := n.GetState(); s.GetRoleReason() != "" {
		notes = append(notes, s.GetRole()+": "+s.GetRoleReason())
	}
	if unknown := n.GetState().GetUnknownOutcomes(); unknown > 0 {
		notes = append(notes, fmt.Sprintf("writes whose outcome its clients were not told, since its start: %d", unknown))
	}
	return append(notes, vipNotes(n)...)
}

// progressLine is "clone 45 %, 120.0 MiB of 268.0 MiB, for 12.0 s, about 15.0 s left, waiting on checkpoint".
func progressLine(p *proto.Progress) string {
	done, total := p.GetDoneBytes(), p.GetTotalBytes()
	parts := []string{p.GetWhat()}
	switch {
	case total > 0 && done <= total:
		parts[0] += fmt.Sprintf(" %.0f %%", 100*float64(done)/float64(total))
		parts = append(parts, showBytes(done)+" of "+showBytes(total))
	case done > 0:
		parts = append(parts, showBytes(done))
	}
	parts = append(parts, "for "+showMillis(p.GetElapsedMs()))
	// Below a tenth, the speed so far says little about the rest.
	if total > 0 && done < total && done > total/10 {
		left := float64(p.GetElapsedMs()) * float64(total-done) / float64(done)
		parts = append(parts, "about "+showMillis(int64(left))+" left")
	}
	if p.GetStep() != "" {
		parts = append(parts, p.GetStep())
	}
	return strings.Join(parts, ", ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
