package raftwitness

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"kineshim/pki"
)

// Answer is what a voter says when it is asked who it is.
type Answer struct {
	// Voter is who answers, by its certificate, and Certificate is how long that is good.
	Voter       pki.ID
	Certificate pki.Validity
	// Clock is the voter's wall clock at some moment between Asked and Answered, which are by this one's. It is zero from a version that does not
	// say it.
	Clock, Asked, Answered time.Time
}

// Ask asks who answers at the other end of a connection to a voter's Raft port, in the name of the identity's server, whose credentials they are.
// Whoever is asked answers every member of its cluster, judges nobody, and nothing changes by it. The connection is closed; ctx bounds all of it.
//
// An error of TLS is the other end's word, or this one's judgement of it, and says which by its type: an alert is a *net.OpError.
func Ask(ctx context.Context, c net.Conn, credentials *pki.Credentials, id Identity, to string) (Answer, error) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	c.SetDeadline(time.Now().Add(helloTimeout))
	tc, err := pki.Handshake(ctx, tls.Client(c, credentials.Client(anybody, raftProtocol)))
	if err != nil {
		return Answer{}, fmt.Errorf("TLS: %w", err)
	}
	g := &group{id: id, tls: credentials.Server(anybody, raftProtocol)}
	a := Answer{Voter: tc.Peer, Certificate: pki.ValidityOf(tc.ConnectionState().PeerCertificates[0]), Asked: time.Now()}
	r, err := g.greet(tc, hello{Cluster: id.ClusterID, From: id.ServerID, To: to, Promise: id.Promise, Ask: true})
	a.Answered = time.Now()
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err != nil {
		return Answer{}, fmt.Errorf("ask who answers: %w", err)
	}
	a.Clock = r.Clock
	return a, nil
}
