package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"time"

	"kineshim/failover/postgres"
	"kineshim/pgrelay"
	"kineshim/pki"
)

// replicationConnections bounds the connections of the other node's PostgreSQL: it has one, a clone two more, and each check one for a moment.
const replicationConnections = 24

// replicationRelay passes the connections of the other node's PostgreSQL on to this one's.
func (n *node) replicationRelay() (*pgrelay.Relay, error) {
	return pgrelay.New(pgrelay.Config{
		For: "replication", Hint: "This port is for the other data node's PostgreSQL.", Gate: pgrelay.Always{},
		Accounts: []pgrelay.Account{{Database: "postgres", User: postgres.ReplicationRole}}, Replicator: postgres.ReplicationRole,
		From: n.replicatesFrom(), Proven: true, Socket: n.pg.SocketPath(), MaxConnections: replicationConnections, TLS: n.replicationTLS(), NoPlainText: true, Log: n.log,
	})
}

// passReplication has the relay serve this node's port for replication.
func (n *node) passReplication(r *pgrelay.Relay) (stop func() error, err error) {
	ln, err := listenForPeer(n.cfg.Self().Postgres)
	if err != nil {
		return nil, fmt.Errorf("members.%s.postgres: %w", n.cfg.Name, err)
	}
	n.limits.count("replication", r)
	return n.background(func(ctx context.Context) error { return r.Run(ctx, []net.Listener{ln}) }), nil
}

// showOutLook is how often it is looked who is connected.
const showOutLook = 500 * time.Millisecond

// showOut closes the connections of data nodes that are members no longer, until ctx ends.
func (n *node) showOut(ctx context.Context, r *pgrelay.Relay) error {
	t := time.NewTicker(showOutLook)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		closed := n.guests.Close(func(id pki.ID) bool { return n.isDataNode(id) != nil })
		r.Cut(func(s tls.ConnectionState) bool {
			id, err := pki.IDOf(s.PeerCertificates[0])
			return err != nil || n.mayReplicate(id) != nil
		}, "a member was replaced, or given up")
		if closed > 0 {
			n.log.Info("connections of a member that was replaced are closed", "connections", closed)
		}
	}
}

// replicatesFrom is the other data node's address; nil if the configuration has only its name. Who comes is known by his certificate, wherever he comes from.
func (n *node) replicatesFrom() []netip.Prefix {
	a, err := netip.ParseAddr(n.pc.Peer.Host)
	if err != nil {
		return nil
	}
	a = a.Unmap().WithZone("")
	return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
}

// replicationTLS has the other side show a certificate for replication, of a data node of this cluster, and shows what the other node's PostgreSQL knows this one's by.
func (n *node) replicationTLS() *tls.Config {
	c := n.security.credentials.Server(n.mayReplicate)
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &n.security.replication.Load().server, nil
	}
	return c
}
