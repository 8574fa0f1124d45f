// Package turnstile bounds how many connections are open at once: in all, over any number of listeners, and from one source, so that no single
// stranger can keep everybody else out, and descriptors are left for what the node itself needs.
package turnstile

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// Turnstile counts connections. Its methods may be called from any goroutine.
type Turnstile struct {
	most, mostOfOne int

	mu      sync.Mutex // guards the fields below
	open    int
	of      map[string]int // by source, those that have any
	known   map[netip.Addr]bool
	refused uint64
}

// New bounds connections at most in all, and mostOfOne from one source.
func New(most, mostOfOne int) *Turnstile {
	return &Turnstile{most: most, mostOfOne: mostOfOne, of: map[string]int{}, known: map[netip.Addr]bool{}}
}

// Know has the host, if it is an address, counted for itself: what others in its IPv6 network have open takes nothing of its room.
func (t *Turnstile) Know(host string) {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known[plain(a)] = true
}

// plain is an address as it is compared.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// source is whom a connection is counted for; t.mu is held.
func (t *Turnstile) source(from net.Addr) string {
	if len(t.known) > 0 && from != nil {
		if at, err := netip.ParseAddrPort(from.String()); err == nil && t.known[plain(at.Addr())] {
			return plain(at.Addr()).String()
		}
	}
	return Source(from)
}

// Enter counts a connection in until leave is called, once, or says why there is no room for it.
func (t *Turnstile) Enter(from net.Addr) (leave func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	source := t.source(from)
	switch {
	case t.open >= t.most:
		err = fmt.Errorf("%d connections are open already", t.most)
	case t.of[source] >= t.mostOfOne:
		err = fmt.Errorf("%d connections from there are open already", t.mostOfOne)
	}
	if err != nil {
		t.refused++
		return nil, err
	}
	t.open++
	t.of[source]++
	return func() { t.leave(source) }, nil
}

func (t *Turnstile) leave(source string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open--
	if t.of[source]--; t.of[source] == 0 {
		delete(t.of, source)
	}
}

// Count is how many connections are open, and how many were refused so far.
func (t *Turnstile) Count() (open int, refused uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open, t.refused
}

// hostBits is what one IPv6 host may have: it can take any number of addresses of its own /64.
const hostBits = 64

// Source is whom a connection is counted for: the address without its port, of IPv6 the network of one host. What is no IP address, as with unix sockets,
// is one source by its whole text.
func Source(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return addr.String()
	}
	ip := plain(at.Addr())
	if ip.Is4() {
		return ip.String()
	}
	if network, err := ip.Prefix(hostBits); err == nil && !ip.IsLinkLocalUnicast() && !ip.IsLoopback() {
		return network.String()
	}
	return ip.String()
}
