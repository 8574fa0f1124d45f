package raftwitness

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// links are the connections between the voters of a test. A link that is cut loses what is sent, silently, as a network does;
// the connections on which something was lost are of no use after it heals.
type links struct {
	mu  sync.Mutex // guards cut
	cut map[[2]string]bool
}

func newLinks() *links { return &links{cut: map[[2]string]bool{}} }

func pairOf(x, y string) [2]string {
	if x > y {
		x, y = y, x
	}
	return [2]string{x, y}
}

// setCut cuts or heals the link between two voters.
func (l *links) setCut(x, y string, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut[pairOf(x, y)] = cut
}

// isolate cuts or heals both links of a voter.
func (l *links) isolate(x string, cut bool) {
	for _, y := range voters {
		if y != x {
			l.setCut(x, y, cut)
		}
	}
}

func (l *links) isCut(x, y string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut[pairOf(x, y)]
}

// dialer is Config.Dial of the named voter.
func (l *links) dialer(from string, address map[string]string) func(string, time.Duration) (net.Conn, error) {
	nameOf := map[string]string{}
	for name, a := range address {
		nameOf[a] = name
	}
	return func(a string, timeout time.Duration) (net.Conn, error) {
		to := nameOf[a]
		for end := time.Now().Add(timeout); l.isCut(from, to); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				return nil, errors.New("connect: timed out (the link is cut)")
			}
		}
		c, err := net.DialTimeout("tcp", a, timeout)
		if err != nil {
			return nil, err
		}
		return &cutConn{Conn: c, isCut: func() bool { return l.isCut(from, to) }}, nil
	}
}

// cutConn is the dialler's end of a connection over a link.
type cutConn struct {
	net.Conn
	isCut func() bool
	lost  atomic.Bool
}

var errLost = errors.New("connection reset (something was lost while the link was cut)")

func (c *cutConn) Write(b []byte) (int, error) {
	if c.isCut() {
		c.lost.Store(true)
		return len(b), nil
	}
	if c.lost.Load() {
		return 0, errLost
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil {
			return 0, err
		}
		if !c.isCut() && !c.lost.Load() {
			return n, nil
		}
		c.lost.Store(true)
	}
}
