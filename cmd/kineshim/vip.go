package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"kineshim/config"
	"kineshim/failover"
	"kineshim/failover/vip"
	pb "kineshim/proto"
)

// newVIPs makes what keeps the virtual addresses; nil if there are none. It may be asked for its status before the agent is there, and
// is to be run once that is.
func (n *node) newVIPs() (*vip.Runner, error) {
	if len(n.cfg.VIPs) == 0 {
		return nil, nil
	}
	cfg := vip.Config{
		Node: n.cfg.Name, Cluster: n.id.ClusterID, Role: n.agent.Addresses(), PeerMACs: peerMACs(n.agent),
		Connections: &n.vipConns, Host: &n.kernel, Log: n.log,
	}
	var err error
	if cfg.VIPs, err = configuredVIPs(n.cfg); err != nil {
		return nil, err
	}
	return vip.New(cfg)
}

func configuredVIPs(cfg config.Node) ([]vip.VIP, error) {
	var all []vip.VIP
	for _, v := range cfg.VIPs {
		p, err := v.Prefix()
		if err != nil {
			return nil, fmt.Errorf("vips: %w", err)
		}
		all = append(all, vip.VIP{Address: p, Interface: v.Interface, Hook: v.Hook, HookOnly: v.HookOnly, HookTimeout: v.HookTimeout})
	}
	return all, nil
}

// peerMACs are what the other data node has said that it answers with.
func peerMACs(a *failover.Agent) func(netip.Addr) []string {
	return func(addr netip.Addr) []string {
		var macs []string
		for _, v := range a.PeerVIPs() {
			if v.Address == addr.String() && v.Mac != "" {
				macs = append(macs, v.Mac)
			}
		}
		return macs
	}
}

// vipStates are this node's virtual addresses for the status.
func (n *node) vipStates() []*pb.VipState {
	if n.vips == nil {
		return nil
	}
	var out []*pb.VipState
	for _, s := range n.vips.Status() {
		out = append(out, &pb.VipState{
			Address: s.Address.Addr().String(), Interface: s.Interface, Mac: s.MAC, Held: s.Held, HookOnly: s.HookOnly, Problem: s.Problem,
			ForeignMac: s.ForeignMAC, Hook: s.Hook, HookFailing: s.HookFailing, HookMoved: s.HookMoved, Conflicts: s.Conflicts, Takeovers: s.Takeovers, HookFailures: s.HookFailures,
		})
	}
	return out
}

// vipListeners opens a port on each virtual address. Connections to them end when the address leaves.
func vipListeners(vips []config.VIP, port int, conns *vip.Connections) ([]net.Listener, error) {
	var all []net.Listener
	for _, v := range vips {
		p, err := v.Prefix()
		if err == nil {
			var ln net.Listener
			if ln, err = vip.Listen(context.Background(), netip.AddrPortFrom(p.Addr(), uint16(port))); err == nil {
				all = append(all, conns.Wrap(ln))
				continue
			}
		}
		for _, ln := range all {
			ln.Close()
		}
		return nil, err
	}
	return all, nil
}
