package vip

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen opens a TCP port on an address that need not be on this machine: connections come when it is. To listen on all addresses
// instead would serve those that the operator has not named.
func Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			if addr.Addr().Is4() {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			}
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	ln, err := lc.Listen(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("listen on the virtual address: %w", err)
	}
	return ln, nil
}

// Connections are those that clients have made to virtual addresses. When an address leaves, the peers of a connection to it would not hear
// of that before they send something, and a client that only waits would wait for ever. Its methods may be called from any goroutine.
type Connections struct {
	mu   sync.Mutex // guards open
	open map[netip.Addr]map[net.Conn]struct{}
}

// Wrap returns a listener whose connections are known to c by the address that they came to.
func (c *Connections) Wrap(ln net.Listener) net.Listener { return &knownListener{ln, c} }

// Cut closes the connections to an address.
func (c *Connections) Cut(addr netip.Addr) {
	c.mu.Lock()
	all := c.open[addr]
	delete(c.open, addr)
	c.mu.Unlock()
	for conn := range all {
		conn.Close()
	}
}

type knownListener struct {
	net.Listener
	all *Connections
}

// Accept returns the next connection.
func (l *knownListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	at, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil || !ok {
		return conn, nil
	}
	k := &knownConn{tcp, l.all, at.Addr().Unmap()}
	l.all.add(k)
	return k, nil
}

func (c *Connections) add(k *knownConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[netip.Addr]map[net.Conn]struct{}{}
	}
	if c.open[k.at] == nil {
		c.open[k.at] = map[net.Conn]struct{}{}
	}
	c.open[k.at][k] = struct{}{}
}

// knownConn keeps TCPConn's methods, half-closing among them.
type knownConn struct {
	*net.TCPConn
	all *Connections
	at  netip.Addr
}

// Close forgets the connection too.
func (k *knownConn) Close() error {
	k.all.mu.Lock()
	delete(k.all.open[k.at], k)
	k.all.mu.Unlock()
	return k.TCPConn.Close()
}
