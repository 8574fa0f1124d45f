package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"
)

// VIP is a virtual address, which the primary holds.
type VIP struct {
	// Address with or without a prefix length; without, it is that of a single host.
	Address string `yaml:"address"`
	// Interface takes it; "" is the one whose subnet contains it.
	Interface string `yaml:"interface,omitempty"`
	// Hook is a command with its arguments, run when the role comes and goes.
	Hook []string `yaml:"hook,omitempty"`
	// HookOnly leaves the address to the hook.
	HookOnly bool `yaml:"hook_only,omitempty"`
	// HookTimeout ends one run of the hook; 0 is DefaultHookTimeout.
	HookTimeout time.Duration `yaml:"hook_timeout,omitempty"`
}

// VIPEtcd is the etcd endpoint on the virtual addresses.
type VIPEtcd struct {
	// Port; 0: it is not served there.
	Port int `yaml:"port,omitempty"`
	// AcceptPlainText is the operator's word, without ClientTLS, that everybody who reaches the address may read and change everything.
	AcceptPlainText bool `yaml:"accept_plain_text,omitempty"`
}

// Bounds of what VIPs are configured with.
const (
	DefaultHookTimeout = 10 * time.Second
	// maxVIPs: two are a dual stack, a few more are networks; each is asked after and renewed all the time.
	maxVIPs                        = 16
	minHookTimeout, maxHookTimeout = 100 * time.Millisecond, 5 * time.Minute
)

// Prefix is the address with its prefix length.
func (v VIP) Prefix() (netip.Prefix, error) { return parseVIP(v.Address) }

// parseVIP reads an address with or without a prefix length.
func parseVIP(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, aerr := netip.ParseAddr(s)
		if aerr != nil {
			return p, fmt.Errorf("%q is not an IP address, with or without a prefix length", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	a := p.Addr()
	switch {
	case a.Zone() != "" || a.Is4In6():
		return p, fmt.Errorf("%q: write it without a zone, and IPv4 as 192.0.2.1", s)
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast():
		return p, fmt.Errorf("%q cannot move between machines: not unspecified, loopback, multicast or link-local", s)
	case p.Bits() == 0:
		return p, fmt.Errorf("%q: the prefix length is 0", s)
	}
	return p, nil
}

func (m *mistakes) vips(n *Node) {
	if len(n.VIPs) > maxVIPs {
		m.add("vips", "%d are more than %d", len(n.VIPs), maxVIPs)
	}
	seen := map[netip.Addr]bool{}
	for i, v := range n.VIPs {
		key := fmt.Sprintf("vips.%d", i)
		p, err := v.Prefix()
		switch {
		case err != nil:
			m.add(key+".address", "%v", err)
		case seen[p.Addr()]:
			m.add(key+".address", "%s is named twice", p.Addr())
		case n.memberAt(p.Addr()) != "":
			m.add(key+".address", "%s is %s's own address: a virtual one belongs to no machine", p.Addr(), n.memberAt(p.Addr()))
		}
		seen[p.Addr()] = true
		if d := v.HookTimeout; d < minHookTimeout || d > maxHookTimeout {
			m.add(key+".hook_timeout", "%v is outside %v to %v", d, minHookTimeout, maxHookTimeout)
		}
		if len(v.Hook) > 0 && !filepath.IsAbs(v.Hook[0]) {
			m.add(key+".hook", "%q is not an absolute path", v.Hook[0])
		}
		if v.HookOnly && len(v.Hook) == 0 {
			m.add(key+".hook_only", "there is no hook")
		}
	}
	m.vipEtcd(n)
}

func (m *mistakes) vipEtcd(n *Node) {
	e := n.VIPEtcd
	if e.Port == 0 && !e.AcceptPlainText {
		return
	}
	m.port("vip_etcd.port", e.Port)
	if len(n.VIPs) == 0 {
		m.add("vip_etcd", "there are no vips to serve it on")
	}
	switch {
	case n.ClientTLS.Enabled() && e.AcceptPlainText:
		m.add("vip_etcd.accept_plain_text", "client_tls is set, so the virtual addresses are served with TLS: leave this out")
	case !n.ClientTLS.Enabled() && !e.AcceptPlainText:
		m.add("vip_etcd.accept_plain_text", "without client_tls the endpoint is in plain text and asks for no password: whoever reaches it can read and change everything. Set client_tls, or this to true if you accept that")
	}
}

func (m *mistakes) port(key string, p int) {
	if p < 1 || p > 65535 {
		m.add(key, "%d is not between 1 and 65535", p)
	}
}

// memberAt is the name of the member that is reached at an address; "" none is, as far as names of hosts tell.
func (n *Node) memberAt(addr netip.Addr) string {
	for _, name := range sortedKeys(n.Members) {
		e := n.Members[name]
		for _, hp := range []string{e.Raft, e.Peer, e.Postgres} {
			host, _, err := net.SplitHostPort(hp)
			if a, aerr := netip.ParseAddr(host); err == nil && aerr == nil && a.Unmap() == addr {
				return name
			}
		}
	}
	return ""
}
