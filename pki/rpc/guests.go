package rpc

import (
	"crypto/tls"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"

	"kineshim/pki"
)

// Guests are the open connections of a server, and who is at the other end of each. The zero Guests has none.
type Guests struct {
	mu    sync.Mutex // guards conns
	conns map[net.Conn]pki.ID
}

// Credentials are those of a configuration, for a server whose connections are to be known.
func (g *Guests) Credentials(c *tls.Config) credentials.TransportCredentials {
	return transport{credentials.NewTLS(c), g}
}

// Close closes the connections of those whom unwelcome names, and returns how many.
func (g *Guests) Close(unwelcome func(pki.ID) bool) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for c, id := range g.conns {
		if unwelcome(id) {
			c.Close() // whoever serves it sees that, and leaves
			n++
		}
	}
	return n
}

func (g *Guests) welcome(raw net.Conn, info credentials.AuthInfo) {
	t, ok := info.(credentials.TLSInfo)
	if g == nil || !ok || len(t.State.PeerCertificates) == 0 {
		return
	}
	id, err := pki.IDOf(t.State.PeerCertificates[0])
	if err != nil {
		return // whether somebody without an ID is let in, the configuration says
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns == nil {
		g.conns = map[net.Conn]pki.ID{}
	}
	g.conns[raw] = id
}

func (g *Guests) left(raw net.Conn) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, raw)
}
