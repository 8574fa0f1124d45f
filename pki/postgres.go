package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"time"
)

// Pair is a certificate and its key, PEM, for a program that is no member: PostgreSQL.
type Pair struct{ Cert, Key []byte }

// ServerPair makes a certificate for the server that clients call by one of the names, whatever its address.
func (a *Authority) ServerPair(names []string, lifetime time.Duration, now time.Time) (Pair, error) {
	return a.pair(&x509.Certificate{
		Subject: pkix.Name{CommonName: "PostgreSQL"}, DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, lifetime, now)
}

// ClientPair makes a certificate for the database role, of somebody who has the ID.
func (a *Authority) ClientPair(role string, id ID, lifetime time.Duration, now time.Time) (Pair, error) {
	return a.pair(&x509.Certificate{
		Subject: pkix.Name{CommonName: role}, URIs: id.uris(), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, lifetime, now)
}

func (a *Authority) pair(template *x509.Certificate, lifetime time.Duration, now time.Time) (Pair, error) {
	template.NotBefore = always
	key, err := NewKey()
	if err != nil {
		return Pair{}, err
	}
	c, err := a.issue(template, key.Public(), lifetime, now)
	if err != nil {
		return Pair{}, err
	}
	k, err := EncodeKey(key)
	return Pair{Cert: encodeCertificate(c), Key: k}, err
}

// PEM is the authority's own certificate.
func (a *Authority) PEM() []byte { return encodeCertificate(a.cert) }
