package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// TLS is for connections to the peer, which end at what listens there for its PostgreSQL: certificates of the cluster's own authority, PEM.
type TLS struct {
	// CA is the authority's certificate.
	CA []byte
	// PeerName is what the peer is called in its certificate. Addresses prove nothing and may change.
	PeerName string
	// ClientCert and ClientKey are for ReplicationRole.
	ClientCert, ClientKey []byte
}

// tlsVersion is the oldest that is spoken; all PostgreSQLs of today are built with libraries that know it.
const tlsVersion = "TLSv1.3"

func (s *Server) caPath() string { return s.statePath("tls-ca.crt") }

// clientPath holds key and certificate both, so that they are always of one another, also when the disk was full amid their renewal.
func (s *Server) clientPath() string { return s.statePath("tls-client.pem") }

// tls is the present one; nil: without.
func (s *Server) tls() *TLS {
	if t := s.renewed.Load(); t != nil {
		return t
	}
	return s.cfg.TLS
}

// SetTLS takes new certificates into use: by the next connection. Those that are open stay so. The server need not run.
func (s *Server) SetTLS(ctx context.Context, t TLS) error {
	if s.cfg.TLS == nil {
		return errors.New("renew PostgreSQL's certificates: it was started without")
	}
	release, err := s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("renew PostgreSQL's certificates: %w", err)
	}
	defer release()
	s.renewed.Store(&t)
	if !s.Running() {
		return nil // every verb that may need them writes them first
	}
	if err := s.writeTLS(); err != nil {
		return fmt.Errorf("renew PostgreSQL's certificates: %w", err)
	}
	return nil
}

// writeTLS writes the certificates for walreceivers and PostgreSQL's tools, which read them at each connection.
func (s *Server) writeTLS() error {
	t := s.tls()
	if t == nil {
		return nil
	}
	if err := s.writeConfig(s.caPath(), t.CA); err != nil {
		return err
	}
	return s.writeConfig(s.clientPath(), slices.Concat(t.ClientKey, t.ClientCert))
}

// peerHost says whom to connect to, and where. With TLS the host is the peer's name in the cluster, which its certificate must have, and the address is given
// beside it; while its address cannot be found, the host is the name that could not be looked up, which the peer's certificate has too.
func (s *Server) peerHost(hostaddr string) string {
	t := s.tls()
	if _, err := netip.ParseAddr(s.cfg.Peer.Host); err == nil && t != nil {
		hostaddr = s.cfg.Peer.Host
	}
	switch {
	case hostaddr == "":
		return "host=" + s.cfg.Peer.Host
	case t == nil:
		return fmt.Sprintf("host=%s hostaddr=%s", s.cfg.Peer.Host, hostaddr)
	}
	return fmt.Sprintf("host=%s hostaddr=%s", t.PeerName, hostaddr)
}

func (s *Server) conninfoTLS() string {
	if s.tls() == nil {
		return "sslmode=disable" // which saves two round trips at every connection
	}
	return fmt.Sprintf("sslmode=verify-full sslrootcert=%s sslcert=%s sslkey=%s ssl_min_protocol_version=%s",
		s.caPath(), s.clientPath(), s.clientPath(), tlsVersion)
}

// connectPeer opens a session with the peer's PostgreSQL as ReplicationRole.
func (s *Server) connectPeer(ctx context.Context, database string, params map[string]string) (*pgconn.PgConn, error) {
	secure, err := s.clientConfig()
	if err != nil {
		return nil, err
	}
	return connectTLS(ctx, secure, s.cfg.Peer.Host, s.cfg.Peer.Port, ReplicationRole, s.cfg.Secrets.Replication, database, params)
}

// clientConfig is nil without TLS.
func (s *Server) clientConfig() (*tls.Config, error) {
	t := s.tls()
	if t == nil {
		return nil, nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(t.CA) {
		return nil, errors.New("the certificate of the cluster's authority cannot be read")
	}
	cert, err := tls.X509KeyPair(t.ClientCert, t.ClientKey)
	if err != nil {
		return nil, fmt.Errorf("the certificate for %s: %w", ReplicationRole, err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: t.PeerName, Certificates: []tls.Certificate{cert}}, nil
}
