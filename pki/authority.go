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
	// backdated is how much earlier certificates begin than they were made, for clocks that differ.
	backdated = time.Hour
	// serialBits is what RFC 5280 allows, and enough never to be guessed.
	serialBits = 127
)

// Authority makes the certificates of one cluster.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

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
		NotBefore: now.Add(-backdated), NotAfter: now.Add(authorityLifetime),
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
		Subject: subject(id), URIs: id.uris(),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, pub, lifetime, now)
}

func subject(id ID) pkix.Name { return pkix.Name{CommonName: id.Server} }

func (a *Authority) issue(template *x509.Certificate, pub crypto.PublicKey, lifetime time.Duration, now time.Time) (*x509.Certificate, error) {
	template.SerialNumber, template.KeyUsage, template.BasicConstraintsValid = serial(), x509.KeyUsageDigitalSignature, true
	template.NotBefore, template.NotAfter = now.Add(-min(backdated, lifetime)), now.Add(lifetime)
	if template.NotBefore.Before(a.cert.NotBefore) {
		template.NotBefore = a.cert.NotBefore
	}
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
	r, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, fmt.Errorf("read a certificate request: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("read a certificate request: %w", err)
	}
	if _, ok := r.PublicKey.(*ecdsa.PublicKey); !ok {
		return nil, errors.New("read a certificate request: its key is not ECDSA")
	}
	return a.Issue(id, r.PublicKey, lifetime, now)
}
