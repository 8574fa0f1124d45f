package config

import (
	"net"
	"net/netip"
)

// Listener is a port that the node opens on its machine.
type Listener struct {
	// Key is where the configuration names it.
	Key string
	// Address is host:port.
	Address string
	// Virtual: it is on a virtual address, which may not be here.
	Virtual bool
}

// Listeners are all ports that the configuration has this node open, but for those at which the other members find it.
func (n *Node) Listeners() []Listener {
	var all []Listener
	for _, a := range n.ClientAddresses() {
		all = append(all, Listener{Key: "client_listen", Address: a.HostPort})
	}
	for _, l := range []Listener{{Key: "control_listen", Address: n.ControlListen}, {Key: "http_listen", Address: n.HTTPListen}, {Key: "apiserver.listen", Address: n.APIServer.Listen}} {
		if l.Address != "" {
			all = append(all, l)
		}
	}
	for _, a := range n.Applications.Listen {
		all = append(all, Listener{Key: "applications.listen", Address: a})
	}
	for _, v := range n.VIPs {
		p, err := v.Prefix()
		if err != nil {
			continue
		}
		for _, x := range []struct {
			key  string
			port int
		}{{"vip_etcd.port", n.VIPEtcd.Port}, {"applications.port", n.Applications.Port}} {
			if x.port != 0 {
				all = append(all, Listener{x.key, netip.AddrPortFrom(p.Addr(), uint16(x.port)).String(), true})
			}
		}
	}
	return all
}

// listeners refuses ports that exclude one another: the kernel gives an address to one of them only, and an address of all interfaces includes each.
func (m *mistakes) listeners(n *Node) {
	all := n.Listeners()
	if own, ok := n.Members[n.Name]; ok {
		for _, l := range []Listener{{Key: "raft", Address: own.Raft}, {Key: "peer", Address: own.Peer}, {Key: "postgres", Address: own.Postgres}} {
			l.Key = "members." + n.Name + "." + l.Key
			all = append(all, l)
		}
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if a.Key != b.Key && a.excludes(b) { // those of one key are looked at where that is
				m.add(a.Key, "%s and %s, of %s, cannot both be listened at: name the addresses instead of all, or take another port", a.Address, b.Address, b.Key)
			}
		}
	}
}

// excludes says whether the two cannot both be open.
func (l Listener) excludes(other Listener) bool {
	host, port, err := net.SplitHostPort(l.Address)
	otherHost, otherPort, otherErr := net.SplitHostPort(other.Address)
	if err != nil || otherErr != nil || port != otherPort || port == "0" {
		return false
	}
	return host == otherHost || isAll(host) || isAll(otherHost)
}

// isAll says whether the host is all interfaces.
func isAll(all string) bool {
	return all == "" || all == "::" || all == "0.0.0.0" // which Go takes for all of IPv6 too
}
