package raftwitness

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"kineshim/pki"
	"kineshim/raftwitness/record"
)

// Enrolment is the file that the founding node makes for another member: its identity, its certificate and the key of that, and, for a data node, the secrets
// and the settings that the two data nodes share.
type Enrolment struct {
	Identity     Identity        `json:"identity"`
	Certificates pki.Bundle      `json:"certificates"`
	Secrets      json.RawMessage `json:"secrets,omitempty"`
	// Settings is YAML for the member's configuration, if it has none yet.
	Settings string `json:"settings,omitempty"`
}

// Subject is whom the voter's certificate must name.
func (id Identity) Subject() pki.ID {
	return pki.ID{Cluster: id.ClusterID, Role: pki.Role(id.Role), Server: id.ServerID}
}

// certificatesDir is where a member keeps its certificates, below the directory of its identity.
const certificatesDir = "tls"

// CertificatesDir is that of the member whose identity is in dir.
func CertificatesDir(dir string) string { return filepath.Join(dir, certificatesDir) }

// LoadCredentials reads the certificates of the member whose identity is in dir.
func (id Identity) LoadCredentials(dir string) (*pki.Credentials, error) {
	c, err := pki.Load(CertificatesDir(dir), id.Subject())
	if errors.Is(err, pki.ErrNone) {
		return nil, fmt.Errorf("%w: %s was enrolled by a version that knew no TLS; found the cluster anew", err, id.ServerID)
	}
	return c, err
}

// Save takes the enrolment into dir, in an order in which it can be done again if it was interrupted: with its identity, the member is enrolled. If it is
// already, nothing changes: its certificate may have been renewed.
func (e Enrolment) Save(dir string) error {
	if old, err := LoadIdentity(dir); err == nil {
		if old.ServerID == e.Identity.ServerID {
			return nil
		}
		if !e.Identity.Renews(old) {
			return e.Identity.Save(dir) // which says why not
		}
	}
	if err := e.Certificates.Save(CertificatesDir(dir)); err != nil {
		return err
	}
	return e.Identity.Save(dir)
}

// Enrolment makes the voter's, with a certificate that is good for lifetime.
func (id Identity) Enrolment(a *pki.Authority, lifetime time.Duration) (Enrolment, error) {
	e := Enrolment{Identity: id}
	key, err := pki.NewKey()
	if err != nil {
		return e, fmt.Errorf("enrol %s: %w", id.Name, err)
	}
	cert, err := a.Issue(id.Subject(), key.Public(), lifetime, time.Now())
	if err != nil {
		return e, fmt.Errorf("enrol %s: %w", id.Name, err)
	}
	if e.Certificates, err = a.Grant(cert, id.Role == record.Data); err == nil {
		e.Certificates, err = e.Certificates.With(key)
	}
	if err != nil {
		return e, fmt.Errorf("enrol %s: %w", id.Name, err)
	}
	return e, nil
}

// ReadEnrolment reads an enrolment file.
func ReadEnrolment(path string) (Enrolment, error) {
	var e Enrolment
	b, err := os.ReadFile(path)
	if err != nil {
		return e, fmt.Errorf("read enrolment: %w", err)
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("read enrolment %s: %w", path, err)
	}
	if err := e.Check(); err != nil {
		return e, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}

// Check reports what is wrong with the enrolment.
func (e Enrolment) Check() error {
	if err := e.Identity.Validate(); err != nil {
		return err
	}
	return e.Certificates.Check(e.Identity.Subject())
}

// Found makes the identities of a new cluster: one for each voter.
func Found(founder string, promise time.Duration, voters []Peer) []Identity {
	cluster := NewClusterID()
	voters = slices.Clone(voters)
	for i := range voters {
		voters[i].ServerID = NewServerID(voters[i].Name)
	}
	var ids []Identity
	for _, v := range voters {
		ids = append(ids, Identity{
			ClusterID: cluster, Name: v.Name, ServerID: v.ServerID, Role: v.Role, Founder: founder, Promise: promise, Peers: voters,
		})
	}
	return ids
}

// Enrol makes the identity of the member that the record has given a new server ID, as this voter knows the cluster. address gives the
// Raft address of a member by its name; "" falls back to what this voter was enrolled with.
func (id Identity) Enrol(r *record.Record, name string, address func(name string) string) (Identity, error) {
	m, ok := r.Member(name)
	if !ok || m.Lost {
		return Identity{}, fmt.Errorf("enrol %s: it is no voter", name)
	}
	next := Identity{
		ClusterID: r.ClusterID, Name: m.Name, ServerID: m.ServerID, Role: m.Role, Founder: r.Primary, Promise: id.Promise,
		Incarnation: r.Incarnation, Generation: r.Generation, GenerationID: r.GenerationID,
	}
	for _, m := range r.Members {
		known, _ := id.PeerByName(m.Name)
		p := Peer{Member: m, Peer: known.Peer, Postgres: known.Postgres}
		for _, a := range []string{m.Address, address(m.Name), known.Raft} {
			if p.Raft == "" {
				p.Raft = a
			}
		}
		p.follow(known.Raft)
		next.Peers = append(next.Peers, p)
	}
	return next, next.Validate()
}

// follow has a data node's other addresses move with that of its Raft, which was at another host before.
func (p *Peer) follow(before string) {
	old, _, _ := net.SplitHostPort(before)
	host, _, err := net.SplitHostPort(p.Raft)
	if err != nil || host == old {
		return
	}
	for _, a := range []*string{&p.Peer, &p.Postgres} {
		if h, port, err := net.SplitHostPort(*a); err == nil && h == old {
			*a = net.JoinHostPort(host, port)
		}
	}
}

// Renews reports whether this is a later identity of the member than old: that of the voter which has taken its place.
func (id Identity) Renews(old Identity) bool {
	if id.ClusterID != old.ClusterID || id.Name != old.Name || id.Role != old.Role || id.ServerID == old.ServerID {
		return false
	}
	// Of two histories that have parted, the operator has chosen one by enrolling the member there.
	return id.standing().supersedes(old.standing()) || id.GenerationID != old.GenerationID && id.Generation >= old.Generation
}

// LogDir is where the voter keeps its Raft log: the directory founded if the cluster was founded with it; else one of its own below dir, so
// that no voter ever finds the log of its predecessor.
func (id Identity) LogDir(dir, founded string) string {
	if id.founds() {
		return founded
	}
	return filepath.Join(dir, "raft-"+id.ServerID)
}

// IsFounder reports whether this is the data node that makes the first database.
func (id Identity) IsFounder() bool { return id.Role == record.Data && id.Name == id.Founder }
