package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"

	"kineshim/failover/postgres"
	"kineshim/pgrelay"
)

// replicationConnections bounds the connections of the other node's PostgreSQL: it has one, a clone two more, and each check one for a moment.
const replicationConnections = 24

// passReplication passes the connections of the other node's PostgreSQL on to this one's.
func (n *node) passReplication() (stop func() error, err error) {
	key := "members." + n.cfg.Name + ".postgres"
	r, err := pgrelay.New(pgrelay.Config{
		For: "replication", Hint: "This port is for the other data node's PostgreSQL.", Gate: pgrelay.Always{},
		Accounts: []pgrelay.Account{{Database: "postgres", User: postgres.ReplicationRole}}, Replicator: postgres.ReplicationRole,
		From: n.replicatesFrom(), Proven: true, Socket: n.pg.SocketPath(), MaxConnections: replicationConnections, TLS: n.replicationTLS(), NoPlainText: true, Log: n.log,
	})
	if err != nil {
		return nil, err
	}
	ln, err := listenForPeer(n.cfg.Self().Postgres)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return n.background(func(ctx context.Context) error { return r.Run(ctx, []net.Listener{ln}) }), nil
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
