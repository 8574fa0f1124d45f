package raftwitness

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// memNet is a network in memory: connections that keep the order of what is sent, and delay it. A direction that is cut holds what is sent, as
// TCP does, and delivers it when it heals, if the connection still lives. All its waiting is for time and channels, so that it works in a
// synctest bubble.
type memNet struct {
	mu        sync.Mutex // guards the fields below
	rng       *rand.Rand
	listeners map[string]*memListener
	cut       map[[2]string]bool // from, to
	// slow is the most that a message takes.
	slow time.Duration
	// changed is closed when a direction is cut or heals.
	changed chan struct{}
	open    map[*memConn]struct{}
}

func newMemNet(seed uint64) *memNet {
	return &memNet{rng: rand.New(rand.NewPCG(seed, 3)), listeners: map[string]*memListener{}, cut: map[[2]string]bool{}, slow: time.Millisecond,
		changed: make(chan struct{}), open: map[*memConn]struct{}{}}
}

func (n *memNet) set(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{from, to}] = cut
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *memNet) setSlow(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow = d
}

// crash ends all connections of a node without a word to the others if mute, as a machine does that loses power.
func (n *memNet) crash(node string, mute bool) {
	n.mu.Lock()
	var ends []*memConn
	for c := range n.open {
		if c.from == node {
			ends = append(ends, c)
		}
	}
	n.mu.Unlock()
	for _, c := range ends {
		c.shut(!mute)
	}
}

type memListener struct {
	net  *memNet
	node string
	// conns has been accepted by the kernel.
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (n *memNet) listen(node string) *memListener {
	l := &memListener{net: n, node: node, conns: make(chan net.Conn, 64), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[node] = l
	return l
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.done) })
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.net.listeners[l.node] == l {
		delete(l.net.listeners, l.node)
	}
	return nil
}

func (l *memListener) Addr() net.Addr { return serverAddr(l.node) }

// dialer is the node's Config.Dial; addresses are names.
func (n *memNet) dialer(from string) func(string, time.Duration) (net.Conn, error) {
	return func(to string, timeout time.Duration) (net.Conn, error) {
		end := time.Now().Add(timeout)
		for {
			n.mu.Lock()
			l, cut, changed := n.listeners[to], n.cut[[2]string{from, to}] || n.cut[[2]string{to, from}], n.changed
			n.mu.Unlock()
			if !cut {
				if l == nil {
					return nil, errors.New("connection refused")
				}
				near, far := n.pair(from, to)
				select {
				case l.conns <- far:
					return near, nil
				default:
					return nil, errors.New("connection refused: backlog")
				}
			}
			if !waitFor(changed, end) {
				return nil, os.ErrDeadlineExceeded
			}
		}
	}
}

// waitFor reports whether c is ready before the time.
func waitFor(c <-chan struct{}, end time.Time) bool {
	t := time.NewTimer(time.Until(end))
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}

// memConn is one end of a connection: what it receives waits in in.
type memConn struct {
	net      *memNet
	from, to string // this end and the other one
	peer     *memConn

	mu       sync.Mutex // guards the fields below
	in       []packet
	eof      bool // after in
	closed   bool
	deadline time.Time
	// news is poked when one of them has changed.
	news chan struct{}
}

type packet struct {
	data []byte
	at   time.Time
}

func (n *memNet) pair(from, to string) (near, far *memConn) {
	near = &memConn{net: n, from: from, to: to, news: make(chan struct{}, 1)}
	far = &memConn{net: n, from: to, to: from, news: make(chan struct{}, 1), peer: near}
	near.peer = far
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[near], n.open[far] = struct{}{}, struct{}{}
	return near, far
}

func (c *memConn) poke() {
	select {
	case c.news <- struct{}{}:
	default:
	}
}

func (c *memConn) Read(b []byte) (int, error) {
	for {
		c.net.mu.Lock()
		cut, changed := c.net.cut[[2]string{c.to, c.from}], c.net.changed
		c.net.mu.Unlock()
		c.mu.Lock()
		now := time.Now()
		end := now.Add(time.Hour)
		switch {
		case c.closed:
			c.mu.Unlock()
			return 0, net.ErrClosed
		case len(c.in) > 0 && !cut && !c.in[0].at.After(now):
			k := copy(b, c.in[0].data)
			if c.in[0].data = c.in[0].data[k:]; len(c.in[0].data) == 0 {
				c.in = c.in[1:]
			}
			c.mu.Unlock()
			return k, nil
		case len(c.in) == 0 && c.eof && !cut:
			c.mu.Unlock()
			return 0, io.EOF
		case !c.deadline.IsZero() && !now.Before(c.deadline):
			c.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		if len(c.in) > 0 && !cut {
			end = c.in[0].at
		}
		if !c.deadline.IsZero() && c.deadline.Before(end) {
			end = c.deadline
		}
		c.mu.Unlock()
		t := time.NewTimer(time.Until(end))
		select {
		case <-t.C:
		case <-c.news:
		case <-changed:
		}
		t.Stop()
	}
}

func (c *memConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	closed := c.closed || c.eof && len(c.in) == 0
	c.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	c.net.mu.Lock()
	at := time.Now().Add(time.Duration(c.net.rng.Int64N(int64(c.net.slow))))
	c.net.mu.Unlock()
	p := c.peer
	p.mu.Lock()
	if n := len(p.in); n > 0 && p.in[n-1].at.After(at) {
		at = p.in[n-1].at // in order
	}
	p.in = append(p.in, packet{append([]byte(nil), b...), at})
	p.mu.Unlock()
	p.poke()
	return len(b), nil
}

func (c *memConn) Close() error {
	c.shut(true)
	return nil
}

// shut closes this end; tell: the other one will hear of it.
func (c *memConn) shut(tell bool) {
	c.net.mu.Lock()
	delete(c.net.open, c)
	c.net.mu.Unlock()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.poke()
	if tell {
		p := c.peer
		p.mu.Lock()
		p.eof = true
		p.mu.Unlock()
		p.poke()
	}
}

func (c *memConn) LocalAddr() net.Addr  { return serverAddr(c.from) }
func (c *memConn) RemoteAddr() net.Addr { return serverAddr(c.to) }

func (c *memConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	c.poke()
	return nil
}

func (c *memConn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }
func (c *memConn) SetWriteDeadline(time.Time) error  { return nil } // nothing waits to write
