package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Kernel is this machine's network, in the namespace of the process. The zero Kernel is ready; it must be closed.
type Kernel struct {
	mu     sync.Mutex // guards handle
	handle *netlink.Handle
}

var _ Host = (*Kernel)(nil)

// netlinkBound ends a request that the kernel does not answer, which it does while another holds its lock for long.
const netlinkBound = time.Second

// netlink opens what the requests go through, once.
func (k *Kernel) netlink() (*netlink.Handle, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.handle != nil {
		return k.handle, nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err == nil {
		err = h.SetSocketTimeout(netlinkBound)
	}
	if err != nil {
		return nil, explain("open netlink", err)
	}
	k.handle = h
	return h, nil
}

// Close ends all that Host's methods need.
func (k *Kernel) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.handle != nil {
		k.handle.Close()
		k.handle = nil
	}
}

// Able looks at the capabilities of the process.
func (k *Kernel) Able() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	missing := ""
	for _, c := range []struct {
		bit  uint
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}} {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing += " " + c.name
		}
	}
	if missing != "" {
		return fmt.Errorf("%w: this process lacks%s: run kineshim as root, or give its unit AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW", ErrNotPermitted, missing)
	}
	return nil
}

// Interfaces asks the kernel.
func (k *Kernel) Interfaces() ([]Interface, error) {
	h, err := k.netlink()
	if err != nil {
		return nil, err
	}
	links, err := whole(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	var all []Interface
	for _, l := range links {
		at := l.Attrs()
		i := Interface{Name: at.Name, Index: at.Index, MAC: at.HardwareAddr, Up: linkUp(at), Loopback: at.Flags&net.FlagLoopback != 0}
		for _, a := range addrs {
			if p, ok := prefixOf(a); ok && a.LinkIndex == at.Index {
				i.Addresses = append(i.Addresses, HostAddress{p, a.ValidLft > 0 && time.Duration(a.ValidLft)*time.Second <= leaseFor+time.Second})
			}
		}
		all = append(all, i)
	}
	return all, nil
}

// listAgain is how often a list is asked for that changes while it is read, as while containers are started.
const listAgain = 5

// whole asks for a list until it has not changed while it was read.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range listAgain {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

func linkUp(at *netlink.LinkAttrs) bool {
	return at.Flags&net.FlagUp != 0 && at.RawFlags&unix.IFF_RUNNING != 0
}

func prefixOf(a netlink.Addr) (netip.Prefix, bool) {
	if a.IPNet == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	ones, _ := a.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), ones), ok
}

// Put makes an address that is no connection's source: IPv4 by its scope, since a host's own address is not used to speak with others
// (inet_select_addr), IPv6 because it is deprecated from the beginning (RFC 6724, rule 3). Neither brings a route with it.
func (k *Kernel) Put(p Place) error {
	h, err := k.netlink()
	if err != nil {
		return err
	}
	if err := h.AddrReplace(linkOf(p), request(p)); err != nil {
		return explain("put "+p.Address.String()+" on "+p.Interface, err)
	}
	return nil
}

// Remove takes the address away.
func (k *Kernel) Remove(p Place) error {
	h, err := k.netlink()
	if err != nil {
		return err
	}
	err = h.AddrDel(linkOf(p), request(p))
	if err == nil || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return explain("take "+p.Address.String()+" off "+p.Interface, err)
}

func linkOf(p Place) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: p.Index, Name: p.Interface}}
}

func request(p Place) *netlink.Addr {
	a := &netlink.Addr{
		IPNet:    &net.IPNet{IP: p.Address.Addr().AsSlice(), Mask: net.CIDRMask(p.Address.Bits(), p.Address.Addr().BitLen())},
		Flags:    unix.IFA_F_NOPREFIXROUTE,
		ValidLft: int(leaseFor / time.Second),
	}
	if p.Address.Addr().Is4() {
		a.Scope = unix.RT_SCOPE_HOST
	} else {
		a.Flags |= unix.IFA_F_NODAD // Probe has asked already, and tentative addresses do not answer
	}
	return a
}

func explain(what string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w: %w", what, ErrNotPermitted, err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s: %w: is IPv6 switched off there (net.ipv6.conf.*.disable_ipv6)?", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Links reports changes of interfaces.
func (k *Kernel) Links(ctx context.Context, changed func(Link)) error {
	updates, done := make(chan netlink.LinkUpdate), make(chan struct{})
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		return fmt.Errorf("watch the interfaces: %w", err)
	}
	var closing sync.Once
	stop := func() { closing.Do(func() { close(done) }) }
	defer stop()
	for {
		select {
		case u, more := <-updates:
			switch {
			case more:
				changed(Link{Index: u.Attrs().Index, Up: linkUp(u.Attrs()) && u.Header.Type != unix.RTM_DELLINK})
			case ctx.Err() != nil:
				return nil
			default:
				return errors.New("watch the interfaces: the kernel has ended it")
			}
		case <-ctx.Done():
			stop()
			for range updates { // until the library's goroutine has ended
			}
			return nil
		}
	}
}
