package pki

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// What somebody who is no member may be, whose certificate is from the cluster's authority all the same.
const (
	// Viewer may look, Operator may change things too.
	Viewer   Role = "viewer"
	Operator Role = "operator"
	// Replication is a data node's PostgreSQL, as a client of the other one's. Who has its key is no member.
	Replication Role = "replication"
)

// Member says whether the role is that of a member of the cluster.
func (r Role) Member() bool { return r == Data || r == Witness }

// Pass is the file by which an operator is known from afar.
type Pass struct {
	ID ID `json:"id"`
	// Nodes are where the data nodes answer operators, host:port.
	Nodes        []string `json:"nodes"`
	Certificates Bundle   `json:"certificates"`
}

// Pass makes one.
func (a *Authority) Pass(id ID, nodes []string, lifetime time.Duration, now time.Time) (Pass, error) {
	p := Pass{ID: id, Nodes: nodes}
	key, err := NewKey()
	if err != nil {
		return p, err
	}
	cert, err := a.issue(&x509.Certificate{Subject: subject(id), URIs: id.uris(), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key.Public(), lifetime, now)
	if err != nil {
		return p, err
	}
	b, err := a.Grant(cert, false)
	if err == nil {
		p.Certificates, err = b.With(key)
	}
	return p, err
}

// LoadPass reads the file of a pass.
func LoadPass(path string) (Pass, error) {
	var p Pass
	b, err := os.ReadFile(path)
	if err != nil {
		return p, fmt.Errorf("read the credentials: %w", err)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("read the credentials %s: %w", path, err)
	}
	if err := p.Certificates.Check(p.ID); err != nil {
		return p, fmt.Errorf("read the credentials %s: %w", path, err)
	}
	return p, nil
}

// Credentials are those of the pass. They cannot be renewed.
func (p Pass) Credentials() (*Credentials, error) {
	ca, err := decodeCertificate([]byte(p.Certificates.CA))
	if err != nil {
		return nil, err
	}
	own, err := decodePair([]byte(p.Certificates.Member))
	if err != nil {
		return nil, err
	}
	return newCredentials("", p.ID, ca, own)
}
