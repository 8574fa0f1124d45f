package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"kineshim/config"
	"kineshim/failover/postgres"
	"kineshim/monitor"
	"kineshim/pki"
	"kineshim/pki/rpc"
	"kineshim/quiet"
	"kineshim/raftwitness"

	"google.golang.org/grpc/credentials"
)

// renewWithin bounds one renewal of PostgreSQL's certificates, which waits for a clone or a rewind that is under way.
const renewWithin = 10 * time.Second

// security is by what a data node is known, and knows others.
type security struct {
	credentials *pki.Credentials
	authority   *pki.Authority
	lifetime    time.Duration
	// name and other are what the two PostgreSQLs are called in their certificates; host is where the other node looks for this one's.
	name, other, host string
	// replication is what is in use between the two PostgreSQLs.
	replication atomic.Pointer[replicationCertificates]
}

// replicationCertificates are by what this node's PostgreSQL is known to the other node, and what the other one's is shown here.
type replicationCertificates struct {
	client postgres.TLS
	server tls.Certificate
	pki.Validity
}

// loadSecurity reads the node's certificates and makes new ones for its PostgreSQL.
func loadSecurity(cfg config.Node, id raftwitness.Identity, log *slog.Logger) (*security, error) {
	s := &security{lifetime: cfg.CertificateLifetime, name: postgresName(id, cfg.Name), other: postgresName(id, cfg.Other())}
	var err error
	if s.host, _, err = net.SplitHostPort(cfg.Self().Postgres); err != nil {
		return nil, err
	}
	credentials, err := id.LoadCredentials(cfg.DataDir)
	other := errors.Is(err, pki.ErrOther) // it has gone on alone, under a new server ID
	if err != nil && !other {
		return nil, err
	}
	if s.authority, err = pki.LoadAuthority(raftwitness.CertificatesDir(cfg.DataDir)); err != nil {
		return nil, err
	}
	if s.credentials = credentials; other {
		log.Info("making this node's certificate anew", "server", id.ServerID)
		s.credentials, err = s.certify(cfg.DataDir, id)
	}
	if err != nil {
		return nil, err
	}
	if err := s.renewOwn(time.Now(), log); err != nil { // it may have been switched off for a year; if its disk is full, it has to vote all the same
		log.Warn("this node's certificate could not be renewed at the start", "error", err, "ends", s.credentials.Validity().NotAfter)
	}
	return s, nil
}

// certify makes this node's certificate anew.
func (s *security) certify(dataDir string, id raftwitness.Identity) (*pki.Credentials, error) {
	e, err := id.Enrolment(s.authority, s.lifetime)
	if err != nil {
		return nil, err
	}
	if err := e.Certificates.Save(raftwitness.CertificatesDir(dataDir)); err != nil {
		return nil, err
	}
	return id.LoadCredentials(dataDir)
}

// postgresName is what a data node's PostgreSQL is called, wherever it runs.
func postgresName(id raftwitness.Identity, node string) string {
	return node + "." + pki.ServerName(id.ClusterID)
}

// forReplication makes certificates for replication.
func (s *security) forReplication(now time.Time) (*replicationCertificates, error) {
	names := []string{s.name}
	if net.ParseIP(s.host) == nil {
		names = append(names, s.host) // the other node calls it so while it cannot look the address up
	}
	server, err := s.authority.ServerPair(names, s.lifetime, now)
	if err != nil {
		return nil, err
	}
	own := s.credentials.ID()
	client, err := s.authority.ClientPair(postgres.ReplicationRole, pki.ID{Cluster: own.Cluster, Role: pki.Replication, Server: own.Server}, s.lifetime, now)
	if err != nil {
		return nil, err
	}
	r := &replicationCertificates{
		client:   postgres.TLS{CA: s.authority.PEM(), PeerName: s.other, ClientCert: client.Cert, ClientKey: client.Key},
		Validity: pki.Validity{NotBefore: now, NotAfter: now.Add(s.lifetime)},
	}
	r.server, err = tls.X509KeyPair(server.Cert, server.Key)
	return r, err
}

// certificates are those in use, by name.
func (n *node) certificates() map[string]monitor.Certificate {
	all := map[string]monitor.Certificate{}
	add := func(name string, v pki.Validity) {
		all[name] = monitor.Certificate{Begins: v.NotBefore, Ends: v.NotAfter}
	}
	add("postgresql", n.security.replication.Load().Validity)
	if n.clientTLS != nil {
		add("clients", pki.ValidityOf(n.clientTLS.Leaf()))
	}
	if n.applicationTLS != nil {
		add("applications", pki.ValidityOf(n.applicationTLS.Leaf()))
	}
	for name, v := range n.raft.Certificates() {
		add("member "+name, v)
	}
	return all
}

// client is for connections to the other data node.
func (s *security) client(accept func(pki.ID) error) credentials.TransportCredentials {
	return rpc.Credentials(s.credentials.Client(accept))
}

// isDataNode takes the certificates of the cluster's data nodes, as the record names them: whoever was enrolled anew is known by its new one only.
func (n *node) isDataNode(id pki.ID) error {
	if id.Role != pki.Data {
		return fmt.Errorf("%s is no data node", id.Server)
	}
	return n.isMember(id)
}

// mayReplicate takes the certificates that those data nodes' PostgreSQLs show.
func (n *node) mayReplicate(id pki.ID) error {
	if id.Role != pki.Replication {
		return fmt.Errorf("%s has no certificate for replication", id.Server)
	}
	return n.isMember(id)
}

func (n *node) isMember(id pki.ID) error {
	for _, m := range (members{n}).now() {
		if m.ServerID == id.Server && !m.Lost {
			return nil
		}
	}
	return fmt.Errorf("%s is not a member of this cluster: it was enrolled anew, or given up", id.Server)
}

// renewCertificates keeps this node's certificates from ending, until ctx does.
func (n *node) renewCertificates(ctx context.Context) error {
	said := quiet.New(quiet.Once) // each reason: it may stay so for months
	note := func(what string, ends time.Time, err error) {
		switch {
		case err == nil:
			said.Forget(what)
		case ctx.Err() == nil && said.Happened(time.Now(), what, err.Error()).Say:
			n.log.Warn(what+" could not be renewed yet: tried again and again", "error", err, "ends", ends)
		}
	}
	for {
		now := time.Now()
		err := n.security.renewOwn(now, n.log)
		note("this node's certificate", n.security.credentials.Validity().NotAfter, err)
		err = n.renewPostgres(ctx, now)
		note("PostgreSQL's certificates", n.security.replication.Load().NotAfter, err)
		t := time.NewTimer(raftwitness.LookAtCertificate(n.security.credentials.Validity()))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// certifyMember makes a new certificate for a member of this cluster that has shown its present one.
func (s *security) certifyMember(id pki.ID, request []byte) ([]byte, error) {
	cert, err := s.authority.Answer(request, id, s.lifetime, time.Now())
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}

func (s *security) renewOwn(now time.Time, log *slog.Logger) error {
	if !s.credentials.Validity().Due(now) {
		return nil
	}
	request, err := s.credentials.Request()
	if err != nil {
		return err
	}
	cert, err := s.certifyMember(s.credentials.ID(), request)
	if err != nil {
		return err
	}
	if err := s.credentials.Renew(cert); err != nil {
		return err
	}
	log.Info("this node's certificate was renewed", "ends", s.credentials.Validity().NotAfter)
	return nil
}

// renewPostgres makes new certificates when the present ones are due.
func (n *node) renewPostgres(ctx context.Context, now time.Time) error {
	s := n.security
	if !s.replication.Load().Due(now) {
		return nil
	}
	next, err := s.forReplication(now)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, renewWithin)
	defer cancel()
	if err := n.pg.SetTLS(ctx, next.client); err != nil {
		return err
	}
	s.replication.Store(next)
	n.log.Info("PostgreSQL's certificates were renewed")
	return nil
}
