package raftwitness

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"kineshim/pki"
)

// raftProtocol is what voters agree on speaking, by ALPN.
const raftProtocol = "kineshim-raft/1"

// recordTypeHandshake is the first byte of a TLS connection; that of a hello is helloMagic's.
const recordTypeHandshake = 0x16

// anybody takes each member of the cluster: which of them may speak as whom is decided when it has said who it is.
func anybody(id pki.ID) error {
	if !id.Role.Member() {
		return fmt.Errorf("the certificate is that of %s, who is %s and no voter", id.Server, id.Role)
	}
	return nil
}

// secure makes TLS of a connection that begins with it. The caller names the cluster it means, whose certificates are then used; without TLS it has to
// mean one that has none. A connection that is nil was received by a reception.
func (l *Listener) secure(ctx context.Context, c net.Conn) (net.Conn, error) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(c, first); err != nil {
		return c, fmt.Errorf("read hello: %w", err)
	}
	c = &begun{Conn: c, r: io.MultiReader(bytes.NewReader(first), c)}
	if first[0] != recordTypeHandshake {
		return c, nil
	}
	var at *reception
	server := tls.Server(c, &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if at = l.receptionFor(h); at != nil {
				return at.tls, nil
			}
			return l.configFor(h.ServerName)
		},
	})
	if err := server.HandshakeContext(ctx); err != nil {
		return c, fmt.Errorf("TLS: %w", err)
	}
	if at != nil {
		at.receive(ctx, server)
		return nil, nil
	}
	tc, err := pki.Known(server)
	if err != nil {
		return c, fmt.Errorf("TLS: %w", err)
	}
	return tc, nil
}

// reception takes connections that are none of the voters': of those who are to become one.
type reception struct {
	server, protocol string
	tls              *tls.Config
	receive          func(context.Context, net.Conn)
}

// Receive gives the connections to a function that want to speak a protocol with a cluster, by SNI and ALPN. The function closes them; the context that
// it gets ends soon.
func (l *Listener) Receive(cluster, protocol string, config *tls.Config, receive func(context.Context, net.Conn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.receptions = append(l.receptions, reception{pki.ServerName(cluster), protocol, config, receive})
}

func (l *Listener) receptionFor(h *tls.ClientHelloInfo) *reception {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range l.receptions {
		if r.server == h.ServerName && slices.Contains(h.SupportedProtos, r.protocol) {
			return &l.receptions[i]
		}
	}
	return nil
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
