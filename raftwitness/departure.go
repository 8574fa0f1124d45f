package raftwitness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"kineshim/pki"

	"github.com/hashicorp/raft"
)

// departure is the news that the process which was the server, leader of no term beyond the given one, has ended; see promised.
type departure struct {
	server string
	term   uint64
	// known is closed when the voter acts on it.
	known chan struct{}
}

// errUnheard reports a voter that answers as one does that knows nothing of departures.
var errUnheard = errors.New("this voter knows nothing of departures")

// Depart tells the voter to, in the name of the identity's server, that the server's process has ended, and that it has led in no
// term beyond the given one. The caller must have proof: every thread of the process is gone. A connection that was refused or
// reset is none, nor is silence. When Depart returns nil, the voter acts on it; then it may be repeated, and it may come late.
//
// The address is to.Raft; credentials are the server's, nil without TLS. ctx bounds all of it.
func Depart(ctx context.Context, credentials *pki.Credentials, id Identity, to Peer, term uint64) error {
	if term == 0 {
		return errors.New("depart: no term")
	}
	g, dial := &group{id: id}, dialTCP
	if credentials != nil {
		g.tls, dial = credentials.Server(anybody, raftProtocol), credentials.Over(dialTCP, anybody, raftProtocol)
	}
	return g.tell(ctx, dial, to, term)
}

// tell is Depart.
func (g *group) tell(ctx context.Context, dial func(string, time.Duration) (net.Conn, error), to Peer, term uint64) error {
	deadline := time.Now().Add(helloTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	err := g.tellOnce(ctx, dial, to, term, deadline)
	var other *otherServer
	if errors.As(err, &other) { // enrolled anew since the identity was read: it is whoever votes there now that has to know
		to.ServerID = other.server
		err = g.tellOnce(ctx, dial, to, term, deadline)
	}
	return err
}

// otherServer reports that another server of the cluster answers at the address.
type otherServer struct {
	server string
	err    error
}

func (o *otherServer) Error() string { return o.err.Error() }

func (g *group) tellOnce(ctx context.Context, dial func(string, time.Duration) (net.Conn, error), to Peer, term uint64, deadline time.Time) error {
	c, err := dial(to.Raft, max(time.Millisecond, time.Until(deadline)))
	if err != nil {
		return fmt.Errorf("tell %s of the departure: %w", to.Name, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	c.SetDeadline(deadline)
	r, err := g.greet(c, hello{Cluster: g.id.ClusterID, From: g.id.ServerID, To: to.ServerID, Promise: g.id.Promise, Departed: term})
	switch {
	case err != nil:
	case r.Error != "" && r.Server != "" && r.Server != to.ServerID:
		err = &otherServer{r.Server, errors.New(r.Error)}
	case r.Error != "":
		err = errors.New(r.Error)
	case r.Departed != term:
		err = errUnheard
	}
	if err != nil {
		return fmt.Errorf("tell %s of the departure: %w", to.Name, err)
	}
	return nil
}

// depart gives the news to the voter and waits until it acts on it.
func (g *group) depart(server string, term uint64) error {
	if server == g.id.ServerID {
		return errors.New("this server has not departed: it hears you")
	}
	d := departure{server, term, make(chan struct{})}
	t := time.NewTimer(helloTimeout)
	defer t.Stop()
	departures := g.departures
	for {
		select {
		case departures <- d:
			departures = nil
		case <-d.known:
			return nil
		case <-g.done:
			return net.ErrClosed
		case <-t.C:
			return errors.New("this voter is too busy")
		}
	}
}

// depart acts on a departure, between two requests to Raft. If it ends what bound this server as a follower, and this server may
// campaign, it does so at once. The campaign is an ordinary one: nobody's promise is overridden, neither the others' nor what this
// server has promised since. If it is lost, Raft tries again after its election timeout.
func (v *voter) depart(ctx context.Context, done <-chan struct{}, d departure) {
	followed := v.promised.depart(d.server, d.term)
	close(d.known)
	v.log.Info("a server's process has ended", "server", d.server, "term", d.term, "followed", followed)
	// During the silence after start, this server may be bound by what an earlier life has promised to somebody else: the timer, on
	// which it campaigns otherwise, is longer. A candidate campaigns already; hashicorp/raft, told so once more, would not give way
	// to the winner of its term.
	if !followed || !v.campaigns || v.silent() || v.raft.State() != raft.Follower || v.raft.CurrentTerm() > d.term {
		return
	}
	v.campaign(ctx, done)
}
