package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Host is the machine's network. Its methods are called from several goroutines; none blocks for longer than a system call.
type Host interface {
	// Able says whether this process may do what the rest needs: ErrNotPermitted with what to do, or nil.
	Able() error
	// Interfaces are all there are, with their addresses.
	Interfaces() ([]Interface, error)
	// Put adds the address, or renews it: the kernel removes it leaseFor later.
	Put(Place) error
	// Remove takes it away; one that is not there is no error.
	Remove(Place) error
	// Open listens on the interface for hosts that claim the address, and calls heard for each claim but this machine's own, from a
	// goroutine that ends with Close.
	Open(p Place, heard func(Claim)) (Segment, error)
	// Links calls changed for every change of an interface until ctx ends, then returns nil.
	Links(ctx context.Context, changed func(Link)) error
}

// Segment is what can be said to the neighbours of one address on one interface.
type Segment interface {
	// Probe asks who has the address, without claiming it (RFC 5227, 2.1.1; RFC 4862, 5.4.2).
	Probe() error
	// Announce claims it: gratuitous ARP as a request and as a reply, or an unsolicited neighbour advertisement with the override flag.
	Announce() error
	// Broken: nothing is heard any more, as after the interface was down.
	Broken() bool
	Close() error
}

// Place is an address with the interface that it is for.
type Place struct {
	Address   netip.Prefix
	Interface string
	Index     int
	MAC       net.HardwareAddr
}

// Interface is a network interface.
type Interface struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
	// Up: switched on, with a carrier.
	Up        bool
	Loopback  bool
	Addresses []HostAddress
}

// HostAddress is an address that is on an interface.
type HostAddress struct {
	netip.Prefix
	// Leased: the kernel removes it within leaseFor or little more, so a kineshim has put it there.
	Leased bool
}

// Claim is a neighbour's word that an address is its own.
type Claim struct {
	Address netip.Addr
	MAC     string
}

// Link is an interface's new state.
type Link struct {
	Index int
	Up    bool
}

var (
	// ErrNotPermitted: the process lacks a capability.
	ErrNotPermitted = errors.New("not permitted to move addresses")
	// ErrNoInterface: there is no interface for the address.
	ErrNoInterface = errors.New("no interface for the address")
	// ErrNotOurs: the address is on this machine for good, by somebody else's hand.
	ErrNotOurs = errors.New("the address is configured on this machine already")
)

// findPlace chooses the interface for an address: the named one, else the one whose subnet contains it.
func findPlace(v VIP, all []Interface) (Place, error) {
	var found []Interface
	longest := -1
	for _, i := range all {
		switch bits := subnetOf(i, v.Address.Addr()); {
		case v.Interface != "" && i.Name == v.Interface:
			return place(v, i), notOurs(v, all)
		case v.Interface != "" || i.Loopback || bits < 0 || bits < longest:
		case bits > longest:
			found, longest = []Interface{i}, bits
		default:
			found = append(found, i)
		}
	}
	switch {
	case v.Interface != "":
		return Place{}, fmt.Errorf("%w: %s has no interface %s; there are %s", ErrNoInterface, v.Address.Addr(), v.Interface, describe(all))
	case len(found) == 0:
		return Place{}, fmt.Errorf("%w: %s is in no subnet of this machine: %s; set its interface", ErrNoInterface, v.Address.Addr(), describe(all))
	case len(found) > 1:
		return Place{}, fmt.Errorf("%w: %s is in the subnet of several: %s; set its interface", ErrNoInterface, v.Address.Addr(), describe(found))
	}
	return place(v, found[0]), notOurs(v, all)
}

// place puts the address on the interface as that of a single host, whatever prefix length it is configured with: the machine's own address brings the
// route already, and beside that one Linux refuses an address of the same subnet and another scope (EINVAL, inet_insert_ifa in net/ipv4/devinet.c).
func place(v VIP, i Interface) Place {
	return Place{Address: netip.PrefixFrom(v.Address.Addr(), v.Address.Addr().BitLen()), Interface: i.Name, Index: i.Index, MAC: i.MAC}
}

// notOurs is an error when the address is on the machine for longer than a lease.
func notOurs(v VIP, all []Interface) error {
	for _, i := range all {
		for _, a := range i.Addresses {
			if a.Addr() == v.Address.Addr() && !a.Leased {
				return fmt.Errorf("%w: %s on %s, and not by kineshim: remove it there, or from kineshim's configuration", ErrNotOurs, a.Prefix, i.Name)
			}
		}
	}
	return nil
}

// subnetOf is the length of the longest of the interface's subnets that contains the address; -1: none does. The address itself is no
// subnet, nor is another single host's.
func subnetOf(i Interface, addr netip.Addr) int {
	longest := -1
	for _, a := range i.Addresses {
		if a.Addr() != addr && !a.IsSingleIP() && a.Masked().Contains(addr) {
			longest = max(longest, a.Bits())
		}
	}
	return longest
}

// describe names interfaces with their addresses, for an operator.
func describe(all []Interface) string {
	var out []string
	for _, i := range all {
		if i.Loopback {
			continue
		}
		var as []string
		for _, a := range i.Addresses {
			as = append(as, a.String())
		}
		if as == nil {
			as = []string{"no address"}
		}
		out = append(out, i.Name+" ("+strings.Join(as, ", ")+")")
	}
	if out == nil {
		return "none but loopback"
	}
	return strings.Join(out, ", ")
}
