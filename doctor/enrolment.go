package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"kineshim/pki"
	"kineshim/raftwitness"
)

const enrolmentCheck = "enrolment"

// enrolment is who the node is.
type enrolment struct {
	id  *raftwitness.Identity // nil: not enrolled, or err
	err error
	// credentials are its certificates; nil with credentialsErr.
	credentials    *pki.Credentials
	credentialsErr error
	authorityErr   error
}

// loadEnrolment reads it as kineshim does, and renews nothing.
func loadEnrolment(dataDir string) enrolment {
	id, err := raftwitness.LoadIdentity(dataDir)
	if err != nil {
		return enrolment{err: err}
	}
	e := enrolment{id: &id}
	e.credentials, e.credentialsErr = id.LoadCredentials(dataDir)
	_, e.authorityErr = pki.LoadAuthority(raftwitness.CertificatesDir(dataDir))
	return e
}

// checkEnrolment judges the identity, its files and its certificates.
func (n *node) checkEnrolment(files Files) []Finding {
	f := notes{check: enrolmentCheck}
	e := n.enrolment
	switch {
	case errors.Is(e.err, raftwitness.ErrNotEnrolled):
		f.fail("on the first data node, once, as root: kineshim init\non the other one, with the command that it prints: echo TOKEN | kineshim join\n"+
			"if that has been done: the founding waits for all three; kineshim token, on the first one, prints the commands anew",
			"this node is in no cluster yet: there is no identity in %s", n.cfg.DataDir)
		return f.all
	case errors.Is(e.err, fs.ErrPermission):
		f.fail("run it as root: sudo shimctl doctor", "the identity cannot be read: %v", e.err)
		return f.all
	case e.err != nil:
		f.fail("move it aside; "+n.enrolAnew(), "%v", e.err)
		return f.all
	}
	if mismatches := n.identityMismatches(); len(mismatches) > 0 {
		for _, m := range mismatches {
			f.fail("make the configuration fit: kineshim does not start so", "%s", m)
		}
	} else {
		f.ok("this is %s, a data node of cluster %s", e.id.ServerID, e.id.ClusterID)
	}
	n.checkCertificates(&f)
	n.checkOwners(&f, files)
	return f.all
}

// enrolAnew is how a node gets an identity whose own is lost.
func (n *node) enrolAnew() string {
	return fmt.Sprintf("enrol it anew; on the primary's machine: sudo shimctl node replace %s", n.cfg.Name)
}

// identityMismatches is what kineshim would refuse at its start.
func (n *node) identityMismatches() []string {
	id, cfg := n.enrolment.id, n.cfg
	var out []string
	if id.Name != cfg.Name {
		out = append(out, fmt.Sprintf("%s is enrolled as %q, the configuration says node: %s", cfg.DataDir, id.Name, cfg.Name))
	}
	known := map[string]bool{n.self.name: true}
	for _, m := range n.others {
		known[m.name] = true
	}
	for _, p := range id.Peers {
		if !known[p.Name] {
			out = append(out, fmt.Sprintf("the cluster has a member %q, which the configuration does not name", p.Name))
		}
	}
	if id.Promise != cfg.Timing.HeartbeatTimeout {
		out = append(out, fmt.Sprintf("timing.heartbeat_timeout is %v, but the cluster was founded with %v, which all members share", cfg.Timing.HeartbeatTimeout, id.Promise))
	}
	return out
}

func (n *node) checkCertificates(f *notes) {
	e := n.enrolment
	switch {
	case errors.Is(e.credentialsErr, pki.ErrOther):
		f.warn("systemctl restart kineshim: it makes its certificate anew, as after serve --alone; if this stays, "+n.enrolAnew(), "%v", e.credentialsErr)
	case e.credentialsErr != nil:
		f.fail(n.enrolAnew(), "the certificates: %v", e.credentialsErr)
	default:
		v := e.credentials.Validity()
		n.judgeValidity(f, "the certificate of "+e.id.ServerID, v,
			"kineshim renews it by itself, when it starts and while it runs: systemctl restart kineshim, then journalctl -u kineshim | grep certificate")
	}
	if e.authorityErr != nil && e.credentialsErr == nil {
		f.fail(n.enrolAnew(), "the key with which this node renews certificates: %v", e.authorityErr)
	}
}

// judgeValidity says how long the certificate is good, and what to do if that is short.
func (n *node) judgeValidity(f *notes, whose string, v pki.Validity, do string) {
	switch left := v.NotAfter.Sub(n.now); {
	case left <= 0:
		f.fail(do, "%s ended on %s, by the clock here", whose, day(v.NotAfter))
	case v.Late(n.now):
		f.warn(do, "%s ends on %s, in %s, and should have been renewed long since", whose, day(v.NotAfter), days(left))
	default:
		f.ok("%s is good until %s, for %s", whose, day(v.NotAfter), days(left))
	}
}

// day is a time as operators need it for certificates.
func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func days(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Round(time.Minute).String()
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// mine are the files that kineshim must be able to use, below the data directory; those that are missing are made later, but for the first two.
var mine = []string{"identity.json", "secrets.json", "tls", "tls/member.pem", "tls/ca.key", "raft"}

// checkOwners finds what root has made and not given to the service.
func (n *node) checkOwners(f *notes, files Files) {
	for i, name := range mine {
		path := filepath.Join(n.cfg.DataDir, name)
		s, err := files.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && i < 2:
			f.fail(n.enrolAnew(), "there is no %s", path)
		case err != nil, !n.user.known, n.user.root():
		case s.UID != n.user.UID:
			f.fail(fmt.Sprintf("chown -R %s: %s", n.user.Name, n.cfg.DataDir), "%s belongs to the user %d, and the service runs as %s (%d)", path, s.UID, n.user.Name, n.user.UID)
			return // one command mends all
		case s.Mode.Perm()&0o077 != 0 && !s.Mode.IsDir():
			f.warn("chmod 600 "+path, "%s is secret, and others than its owner can use it (mode %04o)", path, s.Mode.Perm())
		}
	}
}
