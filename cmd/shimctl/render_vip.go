package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"kineshim/proto"
)

// vipTable says where each virtual address is; "" without any.
func vipTable(st *proto.StatusResponse) string {
	var order []string
	on := map[string][]string{}
	for _, n := range st.GetNodes() {
		for _, v := range n.GetState().GetVips() {
			if _, seen := on[v.GetAddress()]; !seen {
				order, on[v.GetAddress()] = append(order, v.GetAddress()), nil
			}
			if where := vipOn(n, v); where != "" {
				on[v.GetAddress()] = append(on[v.GetAddress()], where)
			}
		}
	}
	if order == nil {
		return ""
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nVIP\tON")
	for _, addr := range order {
		where := strings.Join(on[addr], ", ")
		if where == "" {
			where = "no node"
		}
		for _, name := range withoutVIP(st, addr) {
			where += fmt.Sprintf("; not in %s's configuration, so it does not move there", name)
		}
		fmt.Fprintf(w, "%s\t%s\n", addr, where)
	}
	_ = w.Flush() // to a strings.Builder
	return b.String()
}

// withoutVIP are the data nodes that have another configuration than the one that has the address.
func withoutVIP(st *proto.StatusResponse, address string) []string {
	var names []string
	for _, n := range st.GetNodes() {
		has := func(v *proto.VipState) bool { return v.GetAddress() == address }
		if n.GetRole() == "data" && n.GetState() != nil && !slices.ContainsFunc(n.GetState().GetVips(), has) {
			names = append(names, n.GetName())
		}
	}
	return names
}

// vipOn is "a (eth0)" where the node holds the address, "a (by its hook)" where the hook has moved it there, else "".
func vipOn(n *proto.NodeStatus, v *proto.VipState) string {
	name := n.GetName()
	if !n.GetReachable() {
		name += "?"
	}
	switch {
	case v.GetHeld():
		return fmt.Sprintf("%s (%s)", name, v.GetInterface())
	case v.GetHookOnly() && v.GetHookMoved():
		return name + " (by its hook)"
	}
	return ""
}

// vipNotes are what is wrong with a node's virtual addresses.
func vipNotes(n *proto.NodeStatus) []string {
	var notes []string
	for _, v := range n.GetState().GetVips() {
		if v.GetProblem() != "" {
			notes = append(notes, fmt.Sprintf("virtual address %s: %s", v.GetAddress(), v.GetProblem()))
		}
		if v.GetHookFailing() {
			notes = append(notes, fmt.Sprintf("virtual address %s: the hook's %s", v.GetAddress(), v.GetHook()))
		}
	}
	return notes
}
