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
}

// Credentials are those of a configuration.
func Credentials(c *tls.Config) credentials.TransportCredentials {
	return transport{credentials.NewTLS(c)}
}

func (t transport) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := t.TransportCredentials.ClientHandshake(ctx, authority, raw)
	return abrupt(c, raw), info, err
}

func (t transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := t.TransportCredentials.ServerHandshake(raw)
	return abrupt(c, raw), info, err
}

func (t transport) Clone() credentials.TransportCredentials {
	return transport{t.TransportCredentials.Clone()}
}

// abruptConn closes what is below TLS.
type abruptConn struct {
	net.Conn
	raw net.Conn
}

func (c abruptConn) Close() error { return c.raw.Close() }

func abrupt(c, raw net.Conn) net.Conn {
	if c == nil {
		return nil
	}
	return abruptConn{c, raw}
}
