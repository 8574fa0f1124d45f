package doctor

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"kineshim/pki"
	"kineshim/raftwitness"
)

// listen opens a port on loopback until the test ends.
func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// closedPort is one that nobody listens at.
func closedPort(t *testing.T) string {
	t.Helper()
	ln := listen(t)
	ln.Close()
	return ln.Addr().String()
}

// answering accepts connections, gives each to f, and closes it, until the test ends.
func answering(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	ln := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(20 * time.Second))
			f(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

// voter runs a real voter, which has nobody to speak with, until the test ends, and returns where it listens.
func voter(t *testing.T, a *pki.Authority, id raftwitness.Identity, lifetime time.Duration) string {
	t.Helper()
	dir := t.TempDir()
	e := enrol(t, dir, a, id, lifetime)
	if e.credentialsErr != nil {
		t.Fatal(e.credentialsErr)
	}
	log := slog.New(slog.DiscardHandler)
	l := raftwitness.NewListener(listen(t), log)
	n, err := raftwitness.Open(raftwitness.Config{
		Dir: dir, Identity: id, Credentials: e.credentials, Listener: l, Log: log,
		Dial: func(string, time.Duration) (net.Conn, error) { return nil, io.ErrClosedPipe },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		l.Close()
	})
	return l.Addr().String()
}

// enrolledNode is a, with certificates that are good for lifetime, of a cluster whose identities and authority are returned too.
func enrolledNode(t *testing.T, lifetime time.Duration, more ...string) (*node, map[string]raftwitness.Identity, *pki.Authority) {
	t.Helper()
	n := newNode(t, more...)
	ids := founded(n.cfg)
	a := newAuthority(t, ids["a"].ClusterID)
	n.enrolment = enrol(t, n.cfg.DataDir, a, ids["a"], lifetime)
	if n.enrolment.credentialsErr != nil {
		t.Fatal(n.enrolment.credentialsErr)
	}
	n.now = time.Now()
	n.self, n.others = membersOf(n.cfg, n.enrolment.id)
	return n, ids, a
}

// authorityOf is the authority of n's cluster.
func authorityOf(t *testing.T, n *node) *pki.Authority {
	t.Helper()
	a, err := pki.LoadAuthority(raftwitness.CertificatesDir(n.cfg.DataDir))
	if err != nil {
		t.Fatal(err)
	}
	return a
}
