package postgres

import (
	"bytes"
	"crypto/tls"
	"os"
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

func testTLS() *TLS { return newTLS(testAuthority()) }

func newTLS(a *pki.Authority) *TLS {
	client, err := a.ClientPair(ReplicationRole, pki.ID{Cluster: "test", Role: pki.Replication, Server: "a-1"}, time.Hour, time.Now())
	if err != nil {
		panic(err)
	}
	return &TLS{CA: a.PEM(), PeerName: peerName, ClientCert: client.Cert, ClientKey: client.Key}
}

func TestReplicationIsEncryptedAndBoundToACertificate(t *testing.T) {
	ctx := testContext(t)
	_, b := pair(t, ctx)
	eventually(t, ctx, "the standby streams", func() bool { return b.observe(ctx).WalReceiver.Status == "streaming" })

	other, err := pki.NewAuthority("test", time.Now())
	check(t, "authority", err)
	elsewhere := testTLS()
	elsewhere.PeerName = "other.kineshim.internal"
	for _, tc := range []struct {
		name string
		tls  *TLS
		want string
	}{
		{"without TLS", nil, "connections without TLS are not let in"},
		{"with a certificate of another authority", mixed(testTLS(), newTLS(other)), "unknown certificate authority"},
		{"to a server of another authority", mixed(newTLS(other), testTLS()), "unknown authority"},
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
	if v := conn.Conn().(*tls.Conn).ConnectionState().Version; v != tls.VersionTLS13 {
		t.Errorf("TLS version %x", v)
	}
	closeSession(conn)
}

// A PostgreSQL that listened on a network could be kept from serving by whoever opens connections and says nothing.
func TestPostgreSQLListensOnNoNetwork(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1, func(c *Config) { c.Settings = map[string]string{"work_mem": "8MB"} }).withData(ctx)
	a.startPrimary(ctx, 1)
	if got := a.value(ctx, `SELECT setting FROM pg_settings WHERE name = 'listen_addresses'`); got != "" {
		t.Errorf("it listens at %q", got)
	}
}

// mixed believes what the one believes, and shows what the other shows.
func mixed(believes, shows *TLS) *TLS {
	return &TLS{CA: believes.CA, PeerName: peerName, ClientCert: shows.ClientCert, ClientKey: shows.ClientKey}
}

func TestCertificatesAreRenewedWhileReplicationGoesOn(t *testing.T) {
	ctx := testContext(t)
	_, b := pair(t, ctx)
	eventually(t, ctx, "the standby streams", func() bool { return b.observe(ctx).WalReceiver.Status == "streaming" })
	walReceiver := b.observe(ctx).WalReceiver.PID
	next := testTLS()
	check(t, "renew", b.SetTLS(ctx, *next))
	if now := b.observe(ctx).WalReceiver; now.PID != walReceiver || now.Status != "streaming" {
		t.Errorf("the standby's connection was given up: %+v", now)
	}
	// What was renewed outlives a restart, and new connections use it.
	check(t, "stop", b.StopFast(ctx))
	check(t, "start", b.Start(ctx, nil))
	check(t, "follow", b.Follow(ctx))
	eventually(t, ctx, "the standby streams again", func() bool { return b.observe(ctx).WalReceiver.Status == "streaming" })
	if got, err := os.ReadFile(b.clientPath()); err != nil || !bytes.Contains(got, next.ClientCert) || !bytes.Contains(got, next.ClientKey) {
		t.Errorf("walreceivers show another certificate than the new one: %v", err)
	}
}
