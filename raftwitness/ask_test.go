package raftwitness

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"kineshim/pki"
)

// askAt connects to the listener and asks there, as id.
func askAt(t *testing.T, l *Listener, credentials *pki.Credentials, id Identity) (Answer, error) {
	t.Helper()
	ctx := withTimeout(t, patience)
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return Ask(ctx, c, credentials, id, "whoever")
}

func TestAskBringsWhoAnswersAndItsClock(t *testing.T) {
	t.Parallel()
	l := newTestListener(t, "w")
	ids := identities(testPromise, map[string]string{"a": "127.0.0.1:1", "b": "127.0.0.1:1", "w": l.Addr().String()})
	authority := newAuthority(t, ids["a"].ClusterID)
	w := enrolled(t, authority, ids["w"], time.Hour)
	newTestGroup(t, ids["w"], l).tls = w.Server(anybody, raftProtocol)
	l.groups[ids["w"].ClusterID].who = unjudging{}

	before := time.Now()
	a, err := askAt(t, l, enrolled(t, authority, ids["a"], time.Hour), ids["a"])
	if err != nil {
		t.Fatal(err)
	}
	if a.Voter != ids["w"].Subject() || a.Certificate != w.Validity() {
		t.Errorf("%+v answers, want %v, good for %v", a, ids["w"].Subject(), w.Validity())
	}
	if a.Clock.Before(before.Round(0)) || a.Clock.After(time.Now()) || a.Asked.Before(before) || a.Answered.Before(a.Asked) {
		t.Errorf("asked at %v, answered at %v, by the other's clock %v", a.Asked, a.Answered, a.Clock)
	}

	refusing := newTestListener(t, "w, which judges")
	newTestGroup(t, ids["w"], refusing).tls = w.Server(anybody, raftProtocol)
	_, err = askAt(t, refusing, enrolled(t, authority, ids["a"], time.Hour), ids["a"])
	if err == nil || !strings.Contains(err.Error(), `you want "whoever"`) {
		t.Errorf("a refusal was taken for an answer: %v", err)
	}
	_, err = askAt(t, l, enrolled(t, newAuthority(t, ids["a"].ClusterID), ids["a"], time.Hour), ids["a"])
	if err == nil || !strings.Contains(err.Error(), "not from this cluster's authority") {
		t.Errorf("another authority's voter was believed: %v", err)
	}
	other := identities(testPromise, nil)["a"]
	_, err = askAt(t, l, enrolled(t, newAuthority(t, other.ClusterID), other, time.Hour), other)
	if err == nil || !strings.Contains(err.Error(), "remote error") {
		t.Errorf("another cluster's member was answered: %v", err)
	}
}

// unjudging is an acquaintance that admits who asks, as a Node does.
type unjudging struct{ acquaintance }

func (unjudging) claim() claim      { return claim{} }
func (unjudging) admit(hello) error { return nil }

// Who shakes hands and then says nothing is not waited for longer than the caller wants.
func TestAskEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ids := identities(testPromise, nil)
	authority := newAuthority(t, ids["a"].ClusterID)
	near, far := net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithCancel(t.Context())
	server, caller := enrolled(t, authority, ids["w"], time.Hour).Server(anybody, raftProtocol), enrolled(t, authority, ids["a"], time.Hour)
	silent := make(chan error, 1)
	go func() {
		c, err := pki.Handshake(ctx, tls.Server(far, server))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		silent <- err
		cancel()
	}()
	began := time.Now()
	if _, err := Ask(ctx, near, caller, ids["a"], "w"); err == nil {
		t.Error("nobody has answered")
	}
	if err := <-silent; err != nil {
		t.Errorf("the hello did not come: %v", err)
	}
	if took := time.Since(began); took >= helloTimeout {
		t.Errorf("it took %v", took)
	}
}
