package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"kineshim/config"
	"kineshim/failover/vip"
)

const vipCheck = "virtual addresses"

// checkVIPs judges each virtual address, and whether kineshim may move addresses. The neighbours are asked side by side.
func (n *node) checkVIPs(ctx context.Context, host vip.Host) []Finding {
	if len(n.cfg.VIPs) == 0 {
		return nil
	}
	all := make([]notes, len(n.cfg.VIPs))
	var asked sync.WaitGroup
	for i, v := range n.cfg.VIPs {
		all[i].check = vipCheck
		asked.Go(func() { n.checkVIP(ctx, &all[i], host, v) })
	}
	asked.Wait()
	f := notes{check: vipCheck}
	for _, one := range all {
		f.all = append(f.all, one.all...)
	}
	n.checkCapabilities(&f)
	return f.all
}

func (n *node) checkVIP(ctx context.Context, f *notes, host vip.Host, v config.VIP) {
	if v.HookOnly {
		f.ok("%s is moved by its hook alone, %s", v.Address, v.Hook[0])
		return
	}
	p, err := v.Prefix()
	if err != nil { // Validate has refused it
		f.fail("correct it", "%v", err)
		return
	}
	s, err := vip.Look(ctx, host, vip.VIP{Address: p, Interface: v.Interface})
	addr := p.Addr().String()
	switch {
	case errors.Is(err, vip.ErrNoInterface):
		f.fail("set vips.interface, or correct the address; what this machine has: ip -brief address", "%v", err)
	case errors.Is(err, vip.ErrNotOurs):
		f.fail("take it out of the machine's network configuration, or of keepalived; then: ip address del "+p.String()+" dev "+s.Place.Interface, "%v", err)
	case s.Held:
		f.ok("%s is on %s here: this node holds it", addr, s.Place.Interface)
	case errors.Is(err, vip.ErrNotPermitted):
		f.warn("run it as root: sudo shimctl doctor", "%s would be on %s; whether another host has it was not asked: %v", addr, s.Place.Interface, err)
	case err != nil:
		f.fail("ip address show", "%s: whether another host has it could not be asked: %v", addr, err)
	case !s.Up:
		f.fail("ip link show "+s.Place.Interface+"; is the cable in?", "%s would be on %s, which has no carrier", addr, s.Place.Interface)
	default:
		n.judgeClaims(f, addr, s)
	}
	if err == nil && !s.Subnet && !s.Held {
		f.warn("set vips.interface to one that has its subnet, or be sure that the neighbours there have a route to it",
			"%s is in no subnet of %s, which the configuration names: neighbours do not look for it there by themselves", addr, s.Place.Interface)
	}
}

// judgeClaims: somebody else may be the other data node, which holds the address as the primary.
func (n *node) judgeClaims(f *notes, addr string, s vip.Sight) {
	other := n.other()
	macs, known := n.otherMACs(addr)
	foreign := slices.DeleteFunc(slices.Clone(s.Claims), func(mac string) bool { return slices.Contains(macs, mac) })
	switch {
	case len(s.Claims) == 0:
		f.ok("%s would be on %s, and no neighbour has it", addr, s.Place.Interface)
	case len(foreign) == 0:
		f.ok("%s would be on %s; %s has it (%s)", addr, s.Place.Interface, other, strings.Join(s.Claims, ", "))
	case known:
		f.fail("find that host by its hardware address, in the switch or by ip neighbour, and give it another address",
			"%s is another host's: %s answers for it, which is not %s", addr, strings.Join(foreign, ", "), other)
	default:
		f.warn(fmt.Sprintf("on %s: ip -brief link: if none of its interfaces has that hardware address, find the host that has it, and give it another address", other),
			"%s answers for %s: this may be %s as the primary, which is not known from here", strings.Join(foreign, ", "), addr, other)
	}
}

// otherMACs are what the other data node answers with for the address, by the running kineshim here; known: it has said so.
func (n *node) otherMACs(addr string) (macs []string, known bool) {
	for _, s := range n.status.GetNodes() {
		if s.GetSelf() || !s.GetReachable() {
			continue
		}
		for _, v := range s.GetState().GetVips() {
			if v.GetAddress() == addr && v.GetMac() != "" {
				macs = append(macs, v.GetMac())
			}
		}
	}
	return macs, len(macs) > 0
}

// checkCapabilities: to put an address on an interface takes CAP_NET_ADMIN, to tell the neighbours CAP_NET_RAW. Without a unit nothing is known of what
// the service will have; that is said elsewhere.
func (n *node) checkCapabilities(f *notes) {
	if !slices.ContainsFunc(n.cfg.VIPs, func(v config.VIP) bool { return !v.HookOnly }) || !n.unit.installed() {
		return
	}
	var missing []string
	for _, c := range []string{"CAP_NET_ADMIN", "CAP_NET_RAW"} {
		if !n.unit.has(strings.ToLower(c)) {
			missing = append(missing, c)
		}
	}
	if missing != nil {
		f.fail("systemctl edit kineshim, and put in: [Service] and below it AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW and CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW",
			"%s does not give kineshim %s: it could not move addresses", ourUnit, strings.Join(missing, " and "))
		return
	}
	f.ok("%s gives kineshim CAP_NET_ADMIN and CAP_NET_RAW, to move them", ourUnit)
}
