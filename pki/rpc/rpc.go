// Package rpc makes gRPC's credentials of package pki's TLS configurations. It stands apart so that the witness does not link gRPC.
package rpc

import (
	"context"
	"crypto/tls"
	"net"

	"google.golang.org/grpc/credentials"
)

// transport is gRPC's TLS, whose connections close at once.
type transport struct {
	credentials.TransportCredentials
	guests *Guests // nil: nobody asks who is connected
}

// Credentials are those of a configuration.
func Credentials(c *tls.Config) credentials.TransportCredentials {
	return transport{credentials.NewTLS(c), nil}
}

func (t transport) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := t.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, info, err
	}
	return abruptConn{Conn: c, raw: raw}, info, nil
}

func (t transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := t.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, info, err
	}
	t.guests.welcome(raw, info)
	return abruptConn{c, raw, t.guests}, info, nil
}

func (t transport) Clone() credentials.TransportCredentials {
	return transport{t.TransportCredentials.Clone(), t.guests}
}

// abruptConn closes what is below TLS.
type abruptConn struct {
	net.Conn
	raw    net.Conn
	guests *Guests
}

func (c abruptConn) Close() error {
	c.guests.left(c.raw)
	return c.raw.Close()
}
