package main

import (
	"strings"
	"testing"

	"kineshim/proto"
)

func TestVIPsAreShown(t *testing.T) {
	node := func(name string, reachable bool, vips ...*proto.VipState) *proto.NodeStatus {
		return &proto.NodeStatus{Name: name, Role: "data", Reachable: reachable, State: &proto.NodeState{Vips: vips}}
	}
	st := &proto.StatusResponse{Nodes: []*proto.NodeStatus{
		node("a", true, &proto.VipState{Address: "192.0.2.50", Interface: "eth0", Held: true},
			&proto.VipState{Address: "2001:db8::50", Interface: "eth0", Problem: "another host, 02:00:00:00:00:66, has the address"},
			&proto.VipState{Address: "203.0.113.5", HookOnly: true, Hook: "acquire: done", HookMoved: true},
			&proto.VipState{Address: "203.0.113.6", HookOnly: true, Hook: "acquire: failed 2 times: exit status 1", HookFailing: true}),
		node("b", false, &proto.VipState{Address: "192.0.2.50", Interface: "eth1", Held: true}, &proto.VipState{Address: "203.0.113.5", HookOnly: true, Hook: "release: done"}),
	}}
	text := renderStatus(st)
	for _, want := range []string{
		"VIP           ON\n", "192.0.2.50    a (eth0), b? (eth1)\n", "2001:db8::50  no node; not in b's configuration, so it does not move there\n", "203.0.113.5   a (by its hook)\n", "203.0.113.6   no node; not in b's configuration",
		"a: virtual address 2001:db8::50: another host, 02:00:00:00:00:66, has the address",
		"a: virtual address 203.0.113.6: the hook's acquire: failed 2 times: exit status 1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text := renderStatus(&proto.StatusResponse{Nodes: []*proto.NodeStatus{node("a", true)}}); strings.Contains(text, "VIP") {
		t.Errorf("there are none:\n%s", text)
	}
}
