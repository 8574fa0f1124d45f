package raftwitness

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"kineshim/pki"
)

// raftProtocol is what voters agree on speaking, by ALPN.
const raftProtocol = "kineshim-raft/1"

// recordTypeHandshake is the first byte of a TLS connection; that of a hello is helloMagic's.
const recordTypeHandshake = 0x16

// anybody takes each member of the cluster: which of them may speak as whom is decided when it has said who it is.
func anybody(pki.ID) error { return nil }

// secure makes TLS of a connection that begins with it. The caller names the cluster it means, whose certificates are then used; without TLS it has to
// mean one that has none.
func (l *Listener) secure(ctx context.Context, c net.Conn) (net.Conn, error) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(c, first); err != nil {
		return c, fmt.Errorf("read hello: %w", err)
	}
	c = &begun{Conn: c, r: io.MultiReader(bytes.NewReader(first), c)}
	if first[0] != recordTypeHandshake {
		return c, nil
	}
	tc, err := pki.Handshake(ctx, tls.Server(c, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) { return l.configFor(h.ServerName) },
	}))
	if err != nil {
		return c, fmt.Errorf("TLS: %w", err)
	}
	return tc, nil
}

func (l *Listener) configFor(name string) (*tls.Config, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.groups {
		if g.tls != nil && pki.ServerName(g.id.ClusterID) == name {
			return g.tls, nil
		}
	}
	return nil, fmt.Errorf("cluster %q is not known here", strings.SplitN(name, ".", 2)[0])
}

// begun is a connection of which a byte has been read.
type begun struct {
	net.Conn
	r io.Reader
}

func (c *begun) Read(b []byte) (int, error) { return c.r.Read(b) }

// errPlain refuses a voter that speaks without TLS.
var errPlain = errors.New("this cluster's voters speak TLS only: the caller runs another version, or is none of them")

// authentic says whether who is at the other end of the connection may speak as the server of this group's cluster.
func (g *group) authentic(c net.Conn, server string) error {
	if g.tls == nil {
		return nil
	}
	tc, ok := c.(*pki.Conn)
	switch {
	case !ok:
		return errPlain
	case tc.Peer.Cluster != g.id.ClusterID:
		return fmt.Errorf("the certificate is that of a member of cluster %s", tc.Peer.Cluster)
	case tc.Peer.Server != server:
		return fmt.Errorf("it says that it is %q, but its certificate is that of %q", server, tc.Peer.Server)
	}
	g.note(server, tc.ConnectionState().PeerCertificates[0])
	return nil
}
