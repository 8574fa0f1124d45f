package site

import (
	"context"
	"net"
	"time"
)

// dialWithin bounds one connection attempt on a host, whose network may be cut.
const dialWithin = 2 * time.Second

// Dial opens a TCP connection from the host. The address must be an IP address with a port: no name is looked up there.
func (s *Site) Dial(ctx context.Context, host, address string) (net.Conn, error) {
	var conn net.Conn
	err := s.In(host, func() error {
		d := net.Dialer{Timeout: dialWithin}
		var err error
		conn, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}
