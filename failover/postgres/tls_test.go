package postgres

import (
	"context"
	"crypto/tls"
	"strings"
	"sync"
	"testing"
	"time"

	"kineshim/pki"
)

// peerName is what all test servers are called in their cluster.
const peerName = "pg.kineshim.internal"

// testAuthority makes the certificates of all test servers.
var testAuthority = sync.OnceValue(func() *pki.Authority {
	a, err := pki.NewAuthority("test", time.Now())
	if err != nil {
		panic(err)
	}
	return a
})

func testTLS() *TLS { return newTLS(testAuthority(), ReplicationRole, peerName) }

func newTLS(a *pki.Authority, role, name string) *TLS {
	server, err := a.ServerPair([]string{name}, time.Hour, time.Now())
	if err != nil {
		panic(err)
	}
	client, err := a.ClientPair(role, time.Hour, time.Now())
	if err != nil {
		panic(err)
	}
	return &TLS{CA: a.PEM(), ServerCert: server.Cert, ServerKey: server.Key, PeerName: peerName, ClientCert: client.Cert, ClientKey: client.Key}
}

func TestReplicationIsEncryptedAndBoundToACertificate(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	eventually(t, ctx, "the standby streams", func() bool { return b.observe(ctx).WalReceiver.Status == "streaming" })
	got := a.value(ctx, `SELECT string_agg(DISTINCT s.version || ' ' || s.client_dn, ',') FROM pg_stat_ssl s JOIN pg_stat_replication r USING (pid) WHERE s.ssl`)
	if want := "TLSv1.3 /CN=" + ReplicationRole; got != want {
		t.Errorf("the standby's connection is %q, want %q", got, want)
	}

	other, err := pki.NewAuthority("test", time.Now())
	check(t, "authority", err)
	elsewhere := testTLS()
	elsewhere.PeerName = "other.kineshim.internal"
	for _, tc := range []struct {
		name string
		tls  *TLS
		want string
	}{
		{"without TLS", nil, "no pg_hba.conf entry"},
		{"with a certificate for another role", newTLS(testAuthority(), KineRole, peerName), "authentication failed"},
		{"with a certificate of another authority", mixed(testTLS(), newTLS(other, ReplicationRole, peerName)), "unknown certificate authority"},
		{"to a server of another authority", mixed(newTLS(other, ReplicationRole, peerName), testTLS()), "unknown authority"},
		{"to a server of another name", elsewhere, "not other.kineshim.internal"},
	} {
		s := &Server{cfg: b.cfg, log: b.log}
		s.cfg.TLS = tc.tls
		conn, err := s.connectPeer(ctx, "postgres", nil)
		if err == nil {
			closeSession(conn)
			t.Errorf("%s: let in", tc.name)
		} else if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	conn, err := b.connectPeer(ctx, "postgres", nil)
	check(t, "with all that is right", err)
	closeSession(conn)
}

// mixed believes what the one believes, and shows what the other shows.
func mixed(believes, shows *TLS) *TLS {
	return &TLS{CA: believes.CA, PeerName: peerName, ClientCert: shows.ClientCert, ClientKey: shows.ClientKey}
}

func TestCertificatesAreRenewedWhileReplicationGoesOn(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	eventually(t, ctx, "the standby streams", func() bool { return b.observe(ctx).WalReceiver.Status == "streaming" })
	walReceiver := b.observe(ctx).WalReceiver.PID
	before := serial(ctx, b)
	for _, n := range []*node{a, b} {
		check(t, "renew", n.SetTLS(ctx, *testTLS()))
	}
	eventually(t, ctx, "the new certificate is shown", func() bool { return serial(ctx, b) != before })
	if now := b.observe(ctx).WalReceiver; now.PID != walReceiver || now.Status != "streaming" {
		t.Errorf("the standby's connection was given up: %+v", now)
	}
	// What was renewed outlives a restart, and new connections use it.
	check(t, "stop", b.StopFast(ctx))
	check(t, "start", b.Start(ctx, nil))
	check(t, "follow", b.Follow(ctx))
	eventually(t, ctx, "the standby streams again", func() bool { return b.observe(ctx).WalReceiver.Status == "streaming" })
}

// serial is that of the certificate that the peer of n shows.
func serial(ctx context.Context, n *node) string {
	t := n.t
	t.Helper()
	conn, err := n.connectPeer(ctx, "postgres", nil)
	check(t, "connect to the peer", err)
	defer closeSession(conn)
	return conn.Conn().(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
}
