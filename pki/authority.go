package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const (
	// authorityLifetime is that of the authority's own certificate. To change it, all three members have to be enrolled anew, so it outlives them.
	authorityLifetime = 30 * 365 * 24 * time.Hour
	// backdated is how much earlier members' certificates begin than they were made, for clocks that differ.
	backdated = time.Hour
	// serialBits is what RFC 5280 allows, and enough never to be guessed.
	serialBits = 127
)

// Authority makes the certificates of one cluster.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// always is when certificates begin whose beginning is looked at by those who also look at clocks, as PostgreSQL's programs do: one that was made when a clock was
// ahead would be refused for as long as that was.
var always = time.Unix(0, 0)

// NewKey makes a private key: P-256, which OpenSSL, Go and old Raspberry Pis all know, and the latter in milliseconds.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// NewAuthority makes the authority of a new cluster.
func NewAuthority(cluster string, now time.Time) (*Authority, error) {
	key, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("make the cluster's certificate authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "kineshim cluster " + cluster},
		NotBefore: always, NotAfter: now.Add(authorityLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's certificate authority: %w", err)
	}
	return &Authority{cert, key}, nil
}

// Fingerprint is by what somebody who has nothing of the cluster yet knows its authority: the SHA-256 of its certificate, DER.
func (a *Authority) Fingerprint() [sha256.Size]byte { return sha256.Sum256(a.cert.Raw) }

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}

func sign(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Issue makes a member's certificate for its public key, which begins now and ends after lifetime, but not after the authority itself.
func (a *Authority) Issue(id ID, pub crypto.PublicKey, lifetime time.Duration, now time.Time) (*x509.Certificate, error) {
	return a.issue(&x509.Certificate{
		Subject: subject(id), URIs: id.uris(), NotBefore: now.Add(-min(backdated, lifetime)),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, pub, lifetime, now)
}

func subject(id ID) pkix.Name { return pkix.Name{CommonName: id.Server} }

func (a *Authority) issue(template *x509.Certificate, pub crypto.PublicKey, lifetime time.Duration, now time.Time) (*x509.Certificate, error) {
	template.SerialNumber, template.KeyUsage, template.BasicConstraintsValid = serial(), x509.KeyUsageDigitalSignature, true
	template.NotAfter = now.Add(lifetime)
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	c, err := sign(template, a.cert, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return c, nil
}

// Request is what a member asks a new certificate with: a PKCS #10 request, DER, that proves that it has the key. Who it is, its present certificate says.
func Request(key crypto.Signer) ([]byte, error) {
	b, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return b, nil
}

// Answer issues a certificate to the member that has made the request.
func (a *Authority) Answer(request []byte, id ID, lifetime time.Duration, now time.Time) (*x509.Certificate, error) {
	r, err := ParseRequest(request)
	if err != nil {
		return nil, err
	}
	return a.Issue(id, r.PublicKey, lifetime, now)
}

// maxRequest bounds a certificate request; that of a P-256 key has some 250 bytes.
const maxRequest = 1024

// ParseRequest reads a certificate request, DER, of somebody who has its key. Whoever sends a long one, or one with an RSA key, which may be of any size, could have
// this machine calculate for minutes.
func ParseRequest(der []byte) (*x509.CertificateRequest, error) {
	if len(der) > maxRequest {
		return nil, fmt.Errorf("read a certificate request: it has %d bytes, more than %d", len(der), maxRequest)
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("read a certificate request: %w", err)
	}
	if _, ok := r.PublicKey.(*ecdsa.PublicKey); !ok {
		return nil, errors.New("read a certificate request: its key is not ECDSA")
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("read a certificate request: %w", err)
	}
	return r, nil
}
