package raftwitness

import "net"

// dialledConn is a connection that this voter has made; its group closes it if nobody else does.
type dialledConn struct {
	net.Conn
	group *group
	// to is the called one's server ID.
	to string
}

func (c *dialledConn) Close() error {
	c.group.mu.Lock()
	delete(c.group.dialled, c)
	c.group.mu.Unlock()
	return c.Conn.Close()
}

// keep takes note of a connection that was made, or closes it if it came too late.
func (g *group) keep(c net.Conn, to string) (net.Conn, error) {
	d := &dialledConn{c, g, to}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sealed {
		c.Close()
		return nil, errVoid
	}
	g.dialled[d] = struct{}{}
	return d, nil
}

// drop closes all connections with the server, in both directions: they are of an earlier life, which may not have ended, if what calls now is a
// copy that is taken for it. Whichever of the two is to be heard has to say hello again.
func (g *group) drop(server string) {
	g.cut(func(s string) bool { return s == server })
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.dialled {
		if c.to == server {
			c.Conn.Close()
			delete(g.dialled, c)
		}
	}
}

// seal closes all connections of the group, for good: a void voter neither hears nor says anything.
func (g *group) seal() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sealed = true
	for c := range g.open {
		c.Conn.Close()
	}
	for c := range g.dialled {
		c.Conn.Close()
	}
	clear(g.open)
	clear(g.dialled)
}

// cut closes the accepted connections of the servers.
func (g *group) cut(whose func(server string) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.open {
		if whose(c.from) {
			c.Conn.Close()
			delete(g.open, c)
		}
	}
}
