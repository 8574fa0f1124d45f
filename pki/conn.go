package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// Conn is a connection whose other end is known.
type Conn struct {
	*tls.Conn
	// Peer is who is at the other end.
	Peer ID
}

// Close closes the connection at once. TLS's own Close says goodbye first, and waits up to five seconds for a peer that is frozen.
func (c *Conn) Close() error { return c.NetConn().Close() }

// Handshake makes TLS of a connection, and closes it if that fails. ctx and the connection's deadline bound it.
func Handshake(ctx context.Context, c *tls.Conn) (*Conn, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		c.NetConn().Close()
		return nil, err
	}
	return Known(c)
}

// Known makes a Conn of a connection whose handshake is done, and closes it if the other end has shown no member's certificate.
func Known(c *tls.Conn) (*Conn, error) {
	peers := c.ConnectionState().PeerCertificates
	if len(peers) == 0 {
		c.NetConn().Close()
		return nil, errors.New("no certificate was shown")
	}
	id, err := IDOf(peers[0])
	if err != nil {
		c.NetConn().Close()
		return nil, err
	}
	return &Conn{c, id}, nil
}

// Over makes a dial function of another one: its connections are TLS, to somebody whom accept takes.
func (c *Credentials) Over(dial func(address string, timeout time.Duration) (net.Conn, error), accept func(ID) error, protocols ...string) func(string, time.Duration) (net.Conn, error) {
	config := c.Client(accept, protocols...)
	return func(address string, timeout time.Duration) (net.Conn, error) {
		deadline := time.Now().Add(timeout)
		raw, err := dial(address, timeout)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		return Handshake(ctx, tls.Client(raw, config))
	}
}
