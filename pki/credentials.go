package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"kineshim/durable"
)

// Credentials are a running member's: its own certificate, and the authority by which it knows others. They may be used by anybody at any time.
type Credentials struct {
	dir string
	id  ID
	ca  *x509.Certificate
	// roots has ca.
	roots *x509.CertPool
	own   atomic.Pointer[pair]
}

// ErrOther reports certificates that are not those of the member, or not of the authority beside them.
var ErrOther = errors.New("not this member's certificate")

// Load reads the credentials in dir; ErrNone if there are none. They must be those of the member, or it is ErrOther.
func Load(dir string, id ID) (*Credentials, error) {
	ca, err := readCertificate(filepath.Join(dir, authorityFile))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, memberFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	own, err := decodePair(b)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", path, err)
	}
	c, err := newCredentials(dir, id, ca, own)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func newCredentials(dir string, id ID, ca *x509.Certificate, own pair) (*Credentials, error) {
	c := &Credentials{dir: dir, id: id, ca: ca, roots: x509.NewCertPool()}
	c.roots.AddCert(ca)
	if err := c.fits(own.cert); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOther, err)
	}
	c.own.Store(&own)
	return c, nil
}

// fits says why a certificate cannot be this member's.
func (c *Credentials) fits(cert *x509.Certificate) error {
	if got, err := IDOf(cert); err != nil || got != c.id {
		return fmt.Errorf("the certificate is that of %v, this is %v", got, c.id)
	}
	return cert.CheckSignatureFrom(c.ca)
}

// ID is the member that these are of.
func (c *Credentials) ID() ID { return c.id }

// Validity is that of the member's certificate.
func (c *Credentials) Validity() Validity { return ValidityOf(c.own.Load().cert) }

// Request asks for a new certificate for the present key; see Authority.Answer.
func (c *Credentials) Request() ([]byte, error) { return Request(c.own.Load().key) }

// Renew takes a new certificate, DER, for the present key, into use at once and durably. Connections that are open stay so.
func (c *Credentials) Renew(der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("renew the certificate: %w", err)
	}
	now := c.own.Load()
	if err := c.fits(cert); err != nil {
		return fmt.Errorf("renew the certificate: %w", err)
	}
	if !now.key.PublicKey.Equal(cert.PublicKey) {
		return errors.New("renew the certificate: it is for another key")
	}
	if !cert.NotAfter.After(now.cert.NotAfter) {
		return errors.New("renew the certificate: the new one ends no later than the present one")
	}
	next := &pair{cert, now.key}
	b, err := encodePair(next.key, next.cert)
	if err == nil {
		err = durable.Write(filepath.Join(c.dir, memberFile), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("renew the certificate: %w", err)
	}
	c.own.Store(next)
	return nil
}

// at is the time by which somebody's certificate is judged: whether it has ended, not whether it has begun. A Raspberry Pi without a clock begins in the past
// until it hears of the time, if it ever does, and a witness that did not vote until then could take part in no election after a power cut.
func at(leaf *x509.Certificate) time.Time {
	if t := time.Now(); !t.Before(leaf.NotBefore) {
		return t
	}
	return leaf.NotBefore
}

func (c *Credentials) certificate() *tls.Certificate {
	own := c.own.Load()
	return &tls.Certificate{Certificate: [][]byte{own.cert.Raw}, PrivateKey: own.key, Leaf: own.cert}
}

// config is what clients and servers have in common: a certificate of this cluster's authority, of somebody whom accept takes, and nothing older than TLS 1.3.
func (c *Credentials) config(usage x509.ExtKeyUsage, accept func(ID) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// A resumed session would not be checked anew.
		SessionTicketsDisabled: true,
		// Not the names in the certificates are checked, but who they are of: by VerifyConnection, at every handshake.
		InsecureSkipVerify: true,
		VerifyConnection:   func(s tls.ConnectionState) error { return c.verify(s, usage, accept) },
	}
}

func (c *Credentials) verify(s tls.ConnectionState, usage x509.ExtKeyUsage, accept func(ID) error) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("no certificate was shown")
	}
	leaf := s.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: c.roots, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: at(leaf)}); err != nil {
		return explain(leaf, err, time.Now())
	}
	id, err := IDOf(leaf)
	if err != nil {
		return err
	}
	if id.Cluster != c.id.Cluster {
		return fmt.Errorf("the certificate is that of a member of cluster %s, this is cluster %s", id.Cluster, c.id.Cluster)
	}
	return accept(id)
}

// explain says in an operator's words why a certificate is not believed.
func explain(leaf *x509.Certificate, err error, now time.Time) error {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("the certificate of %q is not from this cluster's authority: another cluster, or a stranger: %w", leaf.Subject.CommonName, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the certificate of %q ended on %s; by the clock here it is %s: %w",
			leaf.Subject.CommonName, leaf.NotAfter.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime), err)
	}
	return fmt.Errorf("the certificate of %q: %w", leaf.Subject.CommonName, err)
}

// Server is the configuration of a server of this cluster, whose clients must show a certificate that accept takes; protocols are ALPN's, none for any.
func (c *Credentials) Server(accept func(ID) error, protocols ...string) *tls.Config {
	t := c.config(x509.ExtKeyUsageClientAuth, accept)
	t.ClientAuth, t.NextProtos = tls.RequireAnyClientCert, protocols
	t.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.certificate(), nil }
	return t
}

// Reception is the configuration of a server for those who have no certificate yet. They know it by the authority's, which is shown with its own.
func (c *Credentials) Reception(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, NextProtos: protocols,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert := c.certificate()
			cert.Certificate = append(cert.Certificate, c.ca.Raw)
			return cert, nil
		},
	}
}

// Client is the configuration of a client, whose server must show a certificate that accept takes. The server is told which cluster is meant.
func (c *Credentials) Client(accept func(ID) error, protocols ...string) *tls.Config {
	t := c.config(x509.ExtKeyUsageServerAuth, accept)
	t.ServerName, t.NextProtos = ServerName(c.id.Cluster), protocols
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.certificate(), nil }
	return t
}

const serverNameSuffix = ".kineshim.internal"

// ServerName is what a client calls a cluster in its first TLS message, so that a port shared by clusters can tell them apart.
func ServerName(cluster string) string { return cluster + serverNameSuffix }
