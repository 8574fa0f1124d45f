package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"kineshim/durable"
)

// The files of a member, in a directory of their own. A key and what it belongs to are written in such an order that a crash in between leaves a pair that
// fits, or none.
const (
	authorityFile    = "ca.crt"
	authorityKeyFile = "ca.key" // on data nodes
	memberFile       = "member.pem"
)

// The kinds of PEM blocks.
const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

// Bundle is all that a member is given at its enrolment, as PEM. But for CA it is secret.
type Bundle struct {
	// CA is the authority's certificate; CAKey its key, for data nodes only.
	CA    string `json:"ca"`
	CAKey string `json:"caKey,omitempty"`
	// Member is the member's certificate and, before it, its key.
	Member string `json:"member"`
}

// ErrNone reports a directory without certificates.
var ErrNone = errors.New("no certificates")

// Save writes the bundle into dir, readable by its owner alone.
func (b Bundle) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save certificates: %w", err)
	}
	for _, f := range []struct{ name, content string }{{authorityFile, b.CA}, {authorityKeyFile, b.CAKey}, {memberFile, b.Member}} {
		if f.content == "" {
			continue
		}
		if err := durable.Write(filepath.Join(dir, f.name), []byte(f.content), 0o600); err != nil {
			return fmt.Errorf("save certificates: %w", err)
		}
	}
	return nil
}

// Grant makes the bundle of a new member, but for the member's key; see With. withAuthority: it may make certificates too.
func (a *Authority) Grant(cert *x509.Certificate, withAuthority bool) (Bundle, error) {
	b := Bundle{CA: string(encodeCertificate(a.cert)), Member: string(encodeCertificate(cert))}
	if withAuthority {
		k, err := EncodeKey(a.key)
		if err != nil {
			return b, err
		}
		b.CAKey = string(k)
	}
	return b, nil
}

// With completes a bundle by the member's key.
func (b Bundle) With(key *ecdsa.PrivateKey) (Bundle, error) {
	k, err := EncodeKey(key)
	if err != nil {
		return b, err
	}
	b.Member = string(k) + b.Member
	return b, nil
}

// Authority is the fingerprint of the bundle's authority; see Authority.Fingerprint.
func (b Bundle) Authority() (fingerprint [sha256.Size]byte, err error) {
	ca, err := decodeCertificate([]byte(b.CA))
	if err != nil {
		return fingerprint, fmt.Errorf("the authority's certificate: %w", err)
	}
	return sha256.Sum256(ca.Raw), nil
}

// Check reports what is wrong with the bundle, for the member that it is to be of.
func (b Bundle) Check(id ID) error {
	ca, err := decodeCertificate([]byte(b.CA))
	if err != nil {
		return fmt.Errorf("the authority's certificate: %w", err)
	}
	if b.CAKey != "" {
		if _, err := newAuthority(ca, []byte(b.CAKey)); err != nil {
			return err
		}
	}
	m, err := decodePair([]byte(b.Member))
	if err != nil {
		return fmt.Errorf("the member's certificate: %w", err)
	}
	if got, err := IDOf(m.cert); err != nil || got != id {
		return fmt.Errorf("the member's certificate is that of %v, not of %v", got, id)
	}
	return m.cert.CheckSignatureFrom(ca)
}

// LoadAuthority reads the authority in dir; fs.ErrNotExist if dir has none, as a witness's.
func LoadAuthority(dir string) (*Authority, error) {
	ca, err := readCertificate(filepath.Join(dir, authorityFile))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, authorityKeyFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the key of the cluster's certificate authority: %w", err)
	}
	a, err := newAuthority(ca, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

func newAuthority(ca *x509.Certificate, keyPEM []byte) (*Authority, error) {
	key, err := DecodeKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the authority's key: %w", err)
	}
	if !key.PublicKey.Equal(ca.PublicKey) {
		return nil, errors.New("the authority's key does not belong to its certificate")
	}
	return &Authority{ca, key}, nil
}

func readCertificate(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	c, err := decodeCertificate(b)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", path, err)
	}
	return c, nil
}

// pair is a certificate and its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func encodeCertificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c.Raw})
}

// EncodeKey makes PEM of a private key.
func EncodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

func encodePair(key *ecdsa.PrivateKey, cert *x509.Certificate) ([]byte, error) {
	k, err := EncodeKey(key)
	return append(k, encodeCertificate(cert)...), err
}

func decodeBlock(b []byte, kind string) (der []byte, rest []byte, err error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != kind {
		return nil, nil, fmt.Errorf("no PEM block %q", kind)
	}
	return block.Bytes, rest, nil
}

func decodeCertificate(b []byte) (*x509.Certificate, error) {
	der, rest, err := decodeBlock(b, certificateBlock)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("more than one certificate")
	}
	return x509.ParseCertificate(der)
}

// DecodeKey reads what EncodeKey has made.
func DecodeKey(b []byte) (*ecdsa.PrivateKey, error) {
	der, _, err := decodeBlock(b, keyBlock)
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T, not ECDSA", k)
	}
	return key, nil
}

func decodePair(b []byte) (pair, error) {
	key, err := DecodeKey(b)
	if err != nil {
		return pair{}, err
	}
	_, rest, _ := decodeBlock(b, keyBlock)
	cert, err := decodeCertificate(rest)
	if err != nil {
		return pair{}, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return pair{}, errors.New("the key does not belong to the certificate")
	}
	return pair{cert, key}, nil
}
