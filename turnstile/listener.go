package turnstile

import (
	"net"
	"sync"
)

// Wrap returns a listener whose connections are counted. One for which there is no room is closed at once, and refused is told, unless it is nil; it must
// not block.
func (t *Turnstile) Wrap(ln net.Listener, refused func(from net.Addr, why error)) net.Listener {
	return &listener{ln, t, refused}
}

type listener struct {
	net.Listener
	turnstile *Turnstile
	refused   func(net.Addr, error)
}

// Accept returns the next connection that there is room for.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		leave, err := l.turnstile.Enter(c.RemoteAddr())
		if err == nil {
			return &conn{Conn: c, leave: sync.OnceFunc(leave)}, nil
		}
		c.Close()
		if l.refused != nil {
			l.refused(c.RemoteAddr(), err)
		}
	}
}

type conn struct {
	net.Conn
	leave func()
}

// Close makes room for another one.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}
