package raftwitness

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"kineshim/pki"
)

// enrolled gives the identity certificates that are good for lifetime.
func enrolled(t *testing.T, a *pki.Authority, id Identity, lifetime time.Duration) *pki.Credentials {
	t.Helper()
	dir := t.TempDir()
	e, err := id.Enrolment(a, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Certificates.Save(CertificatesDir(dir)); err != nil {
		t.Fatal(err)
	}
	c, err := id.LoadCredentials(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newAuthority(t *testing.T, cluster string) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority(cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// secure makes the cluster's voters, which have not been started, speak TLS.
func (c *testCluster) secure(a *pki.Authority) {
	c.t.Helper()
	for _, name := range voters {
		c.nodes[name].cfg.Credentials = enrolled(c.t, a, c.ids[name], time.Hour)
	}
}

func TestVotersSpeakTLS(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testPromise)
	a := newAuthority(t, c.ids["a"].ClusterID)
	c.secure(a)
	for _, name := range voters {
		c.start(name)
	}
	c.initialise()
	c.lead("a")
	c.agree()
	term := c.node("a").Term()
	c.stop("a")
	credentials := c.nodes["a"].cfg.Credentials
	if err := Depart(withTimeout(t, patience), credentials, c.ids["a"], peer(t, c.ids["a"], "w"), term); err != nil {
		t.Error(err)
	}
	c.takeover("b", time.Now())
	c.start("a")
	c.agree()

	// Whoever is not what he says, or says it without TLS, is not heard.
	b := peer(t, c.ids["a"], "b")
	for _, tc := range []struct {
		name        string
		credentials *pki.Credentials
		id          Identity
		want        string
	}{
		{"without TLS", nil, c.ids["a"], "TLS only"},
		{"the witness in a's name", enrolled(t, a, c.ids["w"], time.Hour), c.ids["a"], "its certificate is that of"},
		{"of another authority", enrolled(t, newAuthority(t, c.ids["a"].ClusterID), c.ids["a"], time.Hour), c.ids["a"], "not from this cluster's authority"},
	} {
		err := Depart(withTimeout(t, patience), tc.credentials, tc.id, b, term)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	// A voter that answers in another's name is no more believed than one that calls so.
	ln := newTestListener(t, "false b")
	newTestGroup(t, c.ids["b"], ln).tls = enrolled(t, a, c.ids["w"], time.Hour).Server(anybody, raftProtocol)
	caller := &group{id: c.ids["a"], tls: credentials.Server(anybody)}
	conn, err := credentials.Over(dialTCP, anybody, raftProtocol)(ln.Addr().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = caller.greet(conn, hello{Cluster: c.ids["a"].ClusterID, From: c.ids["a"].ServerID, To: b.ServerID, Promise: testPromise, Ask: true})
	if err == nil || !strings.Contains(err.Error(), "its certificate is that of") {
		t.Errorf("a false b was believed: %v", err)
	}
}

// What begins like TLS and goes on as rubbish, or says nothing, is closed, and nobody waits for it.
func TestHalfATLSConnectionIsClosed(t *testing.T) {
	l := newTestListener(t, "w")
	for _, begin := range []string{"\x16", "\x16\x03\x01\xff\xffrubbish", "\x16\x03\x01\x00\x05hello"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		deadline, _ := ctx.Deadline()
		c.SetDeadline(deadline)
		if _, err := c.Write([]byte(begin)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1024)
		for err == nil {
			_, err = c.Read(b)
		}
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("%q: still open", begin)
		}
		c.Close()
		cancel()
	}
}

// A voter without the authority has its certificate renewed by one that has it, while the other one is away, and without a pause.
func TestCertificatesAreRenewedByWhoeverCan(t *testing.T) {
	t.Parallel()
	const lifetime = 20 * time.Second
	c := newTestCluster(t, testPromise)
	a := newAuthority(t, c.ids["a"].ClusterID)
	c.secure(a)
	certified := make(chan pki.ID, 16)
	for _, name := range []string{"a", "b"} {
		c.nodes[name].cfg.Certify = func(id pki.ID, request []byte) ([]byte, error) {
			cert, err := a.Answer(request, id, time.Hour, time.Now())
			if err != nil {
				return nil, err
			}
			certified <- id
			return cert.Raw, nil
		}
	}
	w := enrolled(t, a, c.ids["w"], lifetime)
	c.nodes["w"].cfg.Credentials = w
	c.start("a")
	c.start("w") // b is away
	c.initialise()
	before := w.Validity().NotAfter
	eventually(t, "the witness's certificate is renewed", func() bool { return w.Validity().NotAfter.After(before) })
	if id := <-certified; id != c.ids["w"].Subject() {
		t.Errorf("certified %v", id)
	}
	eventually(t, "the others know when it ends", func() bool { return c.node("a").Certificates()["w"] == w.Validity() })

	// It renews nobody's who is no voter, and only its caller's own.
	stranger := c.ids["w"]
	stranger.ServerID = NewServerID("w")
	s := enrolled(t, a, stranger, time.Hour)
	g := &group{id: stranger, tls: s.Server(anybody)}
	conn, err := s.Over(dialTCP, anybody, raftProtocol)(peer(t, c.ids["w"], "a").Raft, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request, err := s.Request()
	if err != nil {
		t.Fatal(err)
	}
	r, err := g.greet(conn, hello{Cluster: stranger.ClusterID, From: stranger.ServerID, To: c.ids["a"].ServerID, Promise: testPromise, Renew: request})
	if err != nil || r.Error == "" || r.Certificate != nil {
		t.Errorf("a stranger's certificate was renewed: %+v, %v", r, err)
	}
	if _, err := c.node("w").meet(peer(t, c.ids["w"], "a").Member, hello{Renew: []byte("rubbish")}); err == nil || !strings.Contains(err.Error(), "certificate request") {
		t.Errorf("rubbish was answered: %v", err)
	}
}
