package doctor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"

	"kineshim/failover/vip"
	"kineshim/proto"
)

const peerMAC, strangerMAC = "02:00:00:00:00:0b", "02:00:00:00:00:66"

// fakeHost is a machine with one link, 192.168.1.10/24. owner answers for every address; "": nobody does.
type fakeHost struct {
	able, broken error
	down         bool
	addresses    []vip.HostAddress
	owner        string
}

func (h fakeHost) Able() error { return h.able }

func (h fakeHost) Interfaces() ([]vip.Interface, error) {
	own := vip.HostAddress{Prefix: netip.MustParsePrefix("192.168.1.10/24")}
	return []vip.Interface{{Name: "eth0", Index: 2, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 10}, Up: !h.down, Addresses: append([]vip.HostAddress{own}, h.addresses...)}}, h.broken
}

func (h fakeHost) Open(p vip.Place, heard func(vip.Claim)) (vip.Segment, error) {
	return fakeSegment{h, p, heard}, nil
}

func (fakeHost) Put(vip.Place) error                         { panic("an address was put on an interface") }
func (fakeHost) Remove(vip.Place) error                      { panic("an address was taken away") }
func (fakeHost) Links(context.Context, func(vip.Link)) error { panic("links are watched") }

type fakeSegment struct {
	host  fakeHost
	place vip.Place
	heard func(vip.Claim)
}

func (s fakeSegment) Probe() error {
	if s.host.owner != "" {
		s.heard(vip.Claim{Address: s.place.Address.Addr(), MAC: s.host.owner})
	}
	return nil
}
func (fakeSegment) Announce() error { panic("an address was claimed") }
func (fakeSegment) Broken() bool    { return false }
func (fakeSegment) Close() error    { return nil }

func TestVirtualAddressesMustBeFreeAndHaveAPlace(t *testing.T) {
	const may = "ok kineshim.service gives kineshim CAP_NET_ADMIN and CAP_NET_RAW"
	on := func(prefix string, leased bool) []vip.HostAddress {
		return []vip.HostAddress{{Prefix: netip.MustParsePrefix(prefix), Leased: leased}}
	}
	for name, tc := range map[string]struct {
		vip   string
		host  fakeHost
		spoil func(*node)
		want  []string
	}{
		"none":                      {vip: "vips: []"},
		"free":                      {want: []string{"ok 192.168.1.50 would be on eth0, and no neighbour has it", may}},
		"held here":                 {host: fakeHost{addresses: on("192.168.1.50/32", true), owner: strangerMAC}, want: []string{"ok is on eth0 here: this node holds it", may}},
		"configured here":           {host: fakeHost{addresses: on("192.168.1.50/24", false)}, want: []string{"FAIL not by kineshim // ip address del 192.168.1.50/32 dev eth0", may}},
		"in no subnet":              {vip: "vips: [{address: 10.9.9.9}]", want: []string{"FAIL is in no subnet // vips.interface", may}},
		"on an unlikely interface":  {vip: "vips: [{address: 10.9.9.9, interface: eth0}]", want: []string{"ok would be on eth0", "warn is in no subnet of eth0 // vips.interface", may}},
		"on none":                   {vip: "vips: [{address: 192.168.1.50, interface: eth7}]", want: []string{"FAIL no interface eth7 // ip -brief address", may}},
		"no carrier":                {host: fakeHost{down: true}, want: []string{"FAIL eth0, which has no carrier // ip link show eth0", may}},
		"not root":                  {host: fakeHost{able: vip.ErrNotPermitted}, want: []string{"warn was not asked // sudo shimctl doctor", may}},
		"no answer of the kernel":   {host: fakeHost{broken: errors.New("netlink")}, want: []string{"FAIL netlink // ip address show", may}},
		"somebody's, b's perhaps":   {host: fakeHost{owner: strangerMAC}, want: []string{"warn " + strangerMAC + " answers for 192.168.1.50: this may be b // on b: ip -brief link", may}},
		"b's":                       {host: fakeHost{owner: peerMAC}, spoil: heardOf, want: []string{"ok b has it (" + peerMAC + ")", may}},
		"a stranger's":              {host: fakeHost{owner: strangerMAC}, spoil: heardOf, want: []string{"FAIL is another host's: " + strangerMAC + " answers for it, which is not b // ip neighbour", may}},
		"a unit without capability": {spoil: func(n *node) { n.unit["AmbientCapabilities"] = "cap_net_raw" }, want: []string{"ok no neighbour has it", "FAIL does not give kineshim CAP_NET_ADMIN: // AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW"}},
		"a unit of root's":          {spoil: func(n *node) { n.unit["User"], n.unit["AmbientCapabilities"] = "", "" }, want: []string{"ok no neighbour has it", may}},
		"no unit":                   {spoil: func(n *node) { n.unit = nil }, want: []string{"ok no neighbour has it"}},
		"a hook's":                  {vip: "vips: [{address: 203.0.113.5, hook: [/bin/move], hook_only: true}]", want: []string{"ok 203.0.113.5 is moved by its hook alone"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tc.vip == "" {
					tc.vip = "vips: [{address: 192.168.1.50}]"
				}
				n := newNode(t, tc.vip)
				if tc.spoil != nil {
					tc.spoil(n)
				}
				expect(t, n.checkVIPs(t.Context(), tc.host), tc.want...)
			})
		})
	}
}

// heardOf: the kineshim here has heard what b answers with.
func heardOf(n *node) {
	n.status = runningStatus()
	n.status.Nodes[0].State.Vips = []*proto.VipState{{Address: "192.168.1.50", Mac: strangerMAC}} // its own says nothing of b's
	n.status.Nodes[1].State.Vips = []*proto.VipState{{Address: "192.168.1.50", Mac: peerMAC}}
}
