package doctor

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"kineshim/pki"
)

// judgeAnswer judges who has answered at a member's Raft port.
func (n *node) judgeAnswer(f *notes, r reached, p port) {
	m, id := r.member, n.enrolment.id
	at := fmt.Sprintf("%s at %s (%s)", m.name, p.address, p.name)
	if r.askErr != nil {
		found, do := n.explainAsk(m, r.askErr)
		f.fail(do, "%s: %s", at, found)
		return
	}
	a := r.answer
	role := pki.Data
	if m.witness() {
		role = pki.Witness
	}
	switch {
	case nameOf(a.Voter.Server) != m.name:
		f.fail(fmt.Sprintf("correct members.%s.raft, or the address that %s listens at", m.name, m.name), "%s: it is %s that answers there", at, a.Voter.Server)
	case a.Voter.Role != role:
		f.fail(fmt.Sprintf("correct members.%s: only a witness has raft alone", m.name),
			"%s: who answers has the part %q in the cluster, and the configuration says %q", at, a.Voter.Role, role)
	case a.Voter.Server != m.server:
		f.ok("%s answers at %s (%s), as %s: it was enrolled anew since this node was, as %s then", m.name, p.address, p.name, a.Voter.Server, m.server)
	default:
		f.ok("%s answers at %s (%s), as %s of cluster %s", m.name, p.address, p.name, a.Voter.Server, id.ClusterID)
	}
	if a.Certificate.Late(n.now) {
		f.warn(fmt.Sprintf("see its log for why it is not renewed: on %s: journalctl -u %s\nwhen it has ended, on the primary's machine: sudo shimctl %s", m.name, programOf(m), replaceCommand(m)),
			"the certificate of %s ends on %s, in %s, and should have been renewed long since",
			a.Voter.Server, day(a.Certificate.NotAfter), days(a.Certificate.NotAfter.Sub(n.now)))
	}
}

func replaceCommand(m member) string {
	if m.witness() {
		return "witness replace"
	}
	return "node replace " + m.name
}

// The words of TLS alerts, which Go has no type for outside of QUIC. A voter answers with the first when it is called by the name of a cluster that it
// is not in, and with the second when it does not believe the caller's certificate.
const (
	unknownCluster = "remote error: tls: internal error"
	notBelieved    = "remote error: tls: bad certificate"
)

// explainAsk says what an error of Ask means, and what to do.
func (n *node) explainAsk(m member, err error) (found, do string) {
	id := n.enrolment.id
	elsewhere := fmt.Sprintf("correct members.%s.raft, or what listens there: on %s: ss -ltnp", m.name, m.name)
	var stranger x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var plain tls.RecordHeaderError
	var slow net.Error
	text := err.Error()
	switch {
	case errors.As(err, &stranger):
		return strangerIs(stranger.Cert), elsewhere
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has ended: " + invalidEnd(invalid) + ", by the clock here",
			fmt.Sprintf("if the clock here is right: sudo shimctl %s, on the primary's machine", replaceCommand(m))
	case errors.As(err, &plain), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Sprintf("somebody else answers there: no %s, as it does not speak TLS (%v)", programOf(m), err), elsewhere
	case errors.As(err, &slow) && slow.Timeout():
		return fmt.Sprintf("the connection is made, and then nobody says anything for %v: a frozen %s, or another program", askBound, programOf(m)),
			fmt.Sprintf("on %s: systemctl status %s\n%s", m.name, programOf(m), elsewhere)
	case strings.Contains(text, unknownCluster):
		return fmt.Sprintf("who answers there is not a member of cluster %s: it has not joined yet, or is in another cluster", id.ClusterID),
			fmt.Sprintf("on %s: %s join, with the command that kineshim init has printed, or with %s.json\nif it is not %s that answers: %s", m.name, programOf(m), m.name, m.name, elsewhere)
	case strings.Contains(text, notBelieved):
		return "it does not believe this node's certificate", n.disbelieved(m)
	case strings.Contains(text, "no application protocol"):
		return "who answers there speaks TLS, but not this version's protocol", "give all nodes the same version: shimctl version"
	}
	return text, fmt.Sprintf("see its log: on %s: journalctl -u %s | grep 'refused Raft connection'", m.name, programOf(m))
}

// disbelieved is what to do when a member does not believe this node's certificate.
func (n *node) disbelieved(m member) string {
	if v := n.enrolment.credentials.Validity(); !n.now.Before(v.NotAfter) {
		return fmt.Sprintf("it ended on %s: systemctl restart kineshim renews it", day(v.NotAfter))
	}
	return fmt.Sprintf("compare the clocks: by that of %s it may have ended\nits log says why: on %s: journalctl -u %s | grep 'refused Raft connection'",
		m.name, m.name, programOf(m))
}

// strangerIs says whose certificate is not of this cluster's authority.
func strangerIs(cert *x509.Certificate) string {
	if cert == nil {
		return "somebody else answers there: its certificate is not from this cluster's authority"
	}
	id, err := pki.IDOf(cert)
	if err != nil {
		return fmt.Sprintf("somebody else answers there: no kineshim, its certificate is that of %q", cert.Subject.CommonName)
	}
	return fmt.Sprintf("another cluster answers there: it is %s of cluster %s, with another certificate authority", id.Server, id.Cluster)
}

func invalidEnd(e x509.CertificateInvalidError) string {
	if e.Cert == nil {
		return "when is not known"
	}
	return "on " + day(e.Cert.NotAfter)
}
