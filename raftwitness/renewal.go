package raftwitness

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"kineshim/pki"
	"kineshim/quiet"
	"kineshim/raftwitness/record"
)

const (
	// lookAtCertificate is how often a voter looks whether its certificate is to be renewed. A third of the certificate's life is left for it then.
	lookAtCertificate = time.Minute
	// lookAtShort is how often it looks at one that lives for minutes.
	lookAtShort = time.Second
	// shortLife is what is left of such a one.
	shortLife = time.Hour
	// renewalItself is the one thing of which a voter says once why it did not work.
	renewalItself = "renewal"
)

// LookAtCertificate is how long the holder of a certificate may wait before it looks whether to renew it.
func LookAtCertificate(v pki.Validity) time.Duration {
	if time.Until(v.NotAfter) < shortLife {
		return lookAtShort
	}
	return lookAtCertificate
}

// renewals keeps this voter's certificate from ending, if others can renew it, until ctx ends. The data nodes have the authority's key and do it
// themselves; a witness asks either of them. The others are shown each new one, since connections that are open go on with what was shown once.
func (n *Node) renewals(ctx context.Context) {
	if n.cfg.Credentials == nil {
		return
	}
	said, shown := quiet.New(quiet.Once), map[string]pki.Validity{}
	for ctx.Err() == nil {
		n.showCertificate(shown)
		if n.cfg.Certify == nil && n.cfg.Credentials.Validity().Due(time.Now()) && n.memory.void() == nil {
			err := n.renew()
			switch {
			case err == nil:
				n.cfg.Log.Info("this voter's certificate was renewed", "ends", n.cfg.Credentials.Validity().NotAfter)
				said.Forget(renewalItself)
				n.showCertificate(shown)
			case said.Happened(time.Now(), renewalItself, err.Error()).Say: // it may stay so for months
				n.cfg.Log.Warn("this voter's certificate could not be renewed yet: tried again and again", "ends", n.cfg.Credentials.Validity().NotAfter, "error", err)
			}
		}
		n.pauseFor(ctx, LookAtCertificate(n.cfg.Credentials.Validity()))
	}
}

// showCertificate shows this voter's certificate to those of the others who have seen an earlier one.
func (n *Node) showCertificate(shown map[string]pki.Validity) {
	now := n.cfg.Credentials.Validity()
	for _, p := range n.peers() {
		before, seen := shown[p.ServerID]
		if p.ServerID == n.cfg.Identity.ServerID || before == now {
			continue
		}
		if seen {
			if _, err := n.meet(p.Member, hello{Meet: true}); err != nil {
				continue // it is tried again
			}
		}
		shown[p.ServerID] = now
	}
}

// renew asks each data node in turn.
func (n *Node) renew() error {
	request, err := n.cfg.Credentials.Request()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range n.peers() {
		if p.Role != record.Data {
			continue
		}
		r, err := n.meet(p.Member, hello{Renew: request})
		if err == nil {
			err = n.cfg.Credentials.Renew(r.Certificate)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("ask %s: %w", p.Name, err))
	}
	return errors.Join(errs...)
}

// certify answers a voter's request for a new certificate.
func (g *group) certify(id pki.ID, request []byte) ([]byte, error) {
	if g.renew == nil {
		return nil, errors.New("this voter cannot renew certificates: ask a data node")
	}
	return g.renew(id, request)
}

// note keeps how long the certificate is good that a voter has shown.
func (g *group) note(server string, leaf *x509.Certificate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shown == nil {
		g.shown = map[string]pki.Validity{}
	}
	g.shown[server] = pki.ValidityOf(leaf)
}

// Certificates is how long the voters' certificates are good, by name, as far as they have been seen; none without TLS.
func (n *Node) Certificates() map[string]pki.Validity {
	out := map[string]pki.Validity{}
	if n.cfg.Credentials == nil {
		return out
	}
	peers := n.peers()
	n.group.mu.Lock()
	defer n.group.mu.Unlock()
	for _, p := range peers {
		if v, ok := n.group.shown[p.ServerID]; ok {
			out[p.Name] = v
		}
	}
	out[n.cfg.Identity.Name] = n.cfg.Credentials.Validity()
	return out
}
