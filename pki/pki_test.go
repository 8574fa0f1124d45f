package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	idA = ID{Cluster: "c1", Role: Data, Server: "a-1"}
	idW = ID{Cluster: "c1", Role: Witness, Server: "w-1"}
)

func must[V any](t *testing.T) func(V, error) V {
	return func(v V, err error) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// enrol gives a member of the authority's cluster its credentials, valid from now for lifetime.
func enrol(t *testing.T, a *Authority, id ID, lifetime time.Duration, now time.Time) *Credentials {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert := must[*x509.Certificate](t)(a.Issue(id, key.Public(), lifetime, now))
	b := must[Bundle](t)(must[Bundle](t)(a.Grant(cert, id.Role == Data)).With(key))
	if err := b.Check(id); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "tls")
	if err := b.Save(dir); err != nil {
		t.Fatal(err)
	}
	return must[*Credentials](t)(Load(dir, id))
}

func authority(t *testing.T, cluster string) *Authority {
	t.Helper()
	return must[*Authority](t)(NewAuthority(cluster, time.Now()))
}

func anybody(ID) error { return nil }

func onlyMembers(id ID) error {
	if !id.Role.Member() {
		return fmt.Errorf("%v names no member", id)
	}
	return nil
}

// meet has a client and a server shake hands; each end's error.
func meet(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		c, err := Handshake(ctx, tls.Server(raw, server))
		if err == nil {
			_, err = c.Write([]byte("x"))
			c.Close()
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Handshake(ctx, tls.Client(raw, client))
	if err == nil { // the server judges the client after the client's handshake
		_, err = io.ReadFull(c, make([]byte, 1))
		c.Close()
	}
	return err, <-done
}

func TestMembersOfAClusterMeet(t *testing.T) {
	a := authority(t, "c1")
	data, witness := enrol(t, a, idA, time.Hour, time.Now()), enrol(t, a, idW, time.Hour, time.Now())
	var seen, shown ID
	ce, se := meet(t, data.Client(func(id ID) error { seen = id; return nil }), witness.Server(func(id ID) error { shown = id; return nil }))
	if ce != nil || se != nil {
		t.Fatal(ce, se)
	}
	if seen != idW || shown != idA {
		t.Errorf("client saw %v, server saw %v", seen, shown)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	a, other := authority(t, "c1"), authority(t, "c1")
	server := enrol(t, a, idA, time.Hour, time.Now())
	for _, tc := range []struct {
		name   string
		client func() *tls.Config
		want   string
	}{
		{"of another authority", func() *tls.Config { return enrol(t, other, idW, time.Hour, time.Now()).Client(anybody) }, "not from this cluster's authority"},
		{"of another cluster by the same authority", func() *tls.Config {
			return enrol(t, a, ID{"c2", Witness, "w-1"}, time.Hour, time.Now()).Client(anybody)
		}, "this is cluster c1"},
		{"expired", func() *tls.Config {
			return enrol(t, a, idW, time.Hour, time.Now().Add(-2*time.Hour)).Client(anybody)
		}, "ended on"},
		{"without a certificate", func() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }, "certificate"},
		{"TLS 1.2", func() *tls.Config {
			c := enrol(t, a, idW, time.Hour, time.Now()).Client(anybody)
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}, "version"},
		{"with PostgreSQL's certificate", func() *tls.Config {
			p := must[Pair](t)(a.ClientPair("kineshim_repl", ID{Cluster: idW.Cluster, Role: Replication, Server: "a-1"}, time.Hour, time.Now()))
			c := must[tls.Certificate](t)(tls.X509KeyPair(p.Cert, p.Key))
			return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{c}}
		}, "names no member"},
	} {
		client := tc.client()
		client.VerifyConnection = nil // it believes anything
		ce, se := meet(t, client, server.Server(onlyMembers))
		if se == nil || !strings.Contains(se.Error(), tc.want) {
			t.Errorf("%s: the server says %v, want %q", tc.name, se, tc.want)
		}
		if ce == nil {
			t.Errorf("%s: the client was let in", tc.name)
		}
	}
	// The server is judged as well.
	ce, _ := meet(t, server.Client(anybody), enrol(t, other, idW, time.Hour, time.Now()).Server(anybody))
	if ce == nil || !strings.Contains(ce.Error(), "not from this cluster's authority") {
		t.Errorf("a false server: %v", ce)
	}
	refusal := errors.New("enrolled anew")
	_, se := meet(t, enrol(t, a, idW, time.Hour, time.Now()).Client(anybody), server.Server(func(ID) error { return refusal }))
	if !errors.Is(se, refusal) {
		t.Errorf("accept was not asked: %v", se)
	}
}

// A Raspberry Pi without a clock lives in the past; a certificate that was made after its time is as good as any.
func TestACertificateFromTheFutureIsBelieved(t *testing.T) {
	a := authority(t, "c1")
	data, future := enrol(t, a, idA, 96*time.Hour, time.Now()), enrol(t, a, idW, time.Hour, time.Now().Add(48*time.Hour))
	if ce, se := meet(t, future.Client(anybody), data.Server(anybody)); ce != nil || se != nil {
		t.Error(ce, se)
	}
}

// A node whose clock was years ahead has a certificate that begins then. It must not take everybody else's for ended when its clock is right again.
func TestAClockThatWasAheadOnceDoesNotCutANodeOff(t *testing.T) {
	a := authority(t, "c1")
	ahead, witness := enrol(t, a, idA, 96*time.Hour, time.Now().AddDate(5, 0, 0)), enrol(t, a, idW, time.Hour, time.Now())
	if ce, se := meet(t, witness.Client(anybody), ahead.Server(anybody)); ce != nil || se != nil {
		t.Error(ce, se)
	}
	if ce, se := meet(t, ahead.Client(anybody), witness.Server(anybody)); ce != nil || se != nil {
		t.Error(ce, se)
	}
}

// libpq, and whoever else goes by its own clock, must believe what was made when this machine's clock was ahead.
func TestPostgreSQLsCertificatesHaveAlwaysBegun(t *testing.T) {
	ahead := time.Now().Add(8 * time.Hour)
	a := must[*Authority](t)(NewAuthority("c1", ahead))
	server := must[Pair](t)(a.ServerPair([]string{"a.example"}, time.Hour, ahead))
	client := must[Pair](t)(a.ClientPair("kineshim_repl", ID{Cluster: "c1", Role: Replication, Server: "a-1"}, time.Hour, ahead))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.PEM())
	for _, p := range []Pair{server, client} {
		block, _ := pem.Decode(p.Cert)
		leaf := must[*x509.Certificate](t)(x509.ParseCertificate(block.Bytes))
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Error(err)
		}
	}
}

// A long request, or one with an RSA key of any size, could keep a processor busy for minutes.
func TestRequestsThatTakeLongAreRefusedUnread(t *testing.T) {
	key := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	small := must[[]byte](t)(Request(key))
	for what, der := range map[string][]byte{"its key is not ECDSA": small, "more than": make([]byte, maxRequest+1)} {
		if _, err := ParseRequest(der); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %q", err, what)
		}
	}
	own := must[[]byte](t)(Request(must[*ecdsa.PrivateKey](t)(NewKey())))
	if _, err := ParseRequest(own); err != nil || len(own) > maxRequest/2 {
		t.Errorf("%d bytes: %v", len(own), err)
	}
}

func TestRenewal(t *testing.T) {
	a := authority(t, "c1")
	now := time.Now()
	c := enrol(t, a, idW, time.Minute, now)
	if c.Validity().Due(now) || !c.Validity().Due(now.Add(50*time.Second)) {
		t.Error("due at the wrong time")
	}
	old := c.Validity().NotAfter
	request := must[[]byte](t)(c.Request())
	cert := must[*x509.Certificate](t)(a.Answer(request, idW, time.Hour, now))
	if err := c.Renew(cert.Raw); err != nil {
		t.Fatal(err)
	}
	if !c.Validity().NotAfter.After(old) {
		t.Error("no later end")
	}
	again := must[*Credentials](t)(Load(c.dir, idW))
	if !again.Validity().NotAfter.Equal(c.Validity().NotAfter) {
		t.Error("not durable")
	}
	if ce, se := meet(t, c.Client(anybody), enrol(t, a, idA, time.Hour, now).Server(anybody)); ce != nil || se != nil {
		t.Error(ce, se)
	}
	// What is not this member's, or no better, is not taken.
	key := must[*ecdsa.PrivateKey](t)(NewKey())
	for name, bad := range map[string]*x509.Certificate{
		"another's":       must[*x509.Certificate](t)(a.Answer(request, idA, 2*time.Hour, now)),
		"another key's":   must[*x509.Certificate](t)(a.Issue(idW, key.Public(), 2*time.Hour, now)),
		"a shorter":       must[*x509.Certificate](t)(a.Answer(request, idW, time.Minute, now)),
		"another cluster": must[*x509.Certificate](t)(authority(t, "c1").Answer(request, idW, 2*time.Hour, now)),
	} {
		if err := c.Renew(bad.Raw); err == nil {
			t.Errorf("%s certificate was taken", name)
		}
	}
	if _, err := a.Answer(append(request[:len(request)-1], request[len(request)-1]+1), idW, time.Hour, now); err == nil {
		t.Error("a request with a false signature was answered")
	}
}

func TestFilesOfAnotherMemberAreRefused(t *testing.T) {
	a := authority(t, "c1")
	c := enrol(t, a, idW, time.Hour, time.Now())
	if _, err := Load(c.dir, idA); err == nil || !strings.Contains(err.Error(), "w-1") {
		t.Errorf("%v", err)
	}
	if _, err := Load(t.TempDir(), idA); !errors.Is(err, ErrNone) {
		t.Errorf("%v", err)
	}
	if _, err := LoadAuthority(c.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a witness has an authority: %v", err)
	}
	data := enrol(t, a, idA, time.Hour, time.Now())
	if _, err := LoadAuthority(data.dir); err != nil {
		t.Error(err)
	}
	for _, f := range []string{memberFile, authorityKeyFile, authorityFile} {
		st, err := os.Stat(filepath.Join(data.dir, f))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, st.Mode(), err)
		}
	}
}

func TestLateCertificates(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Now()
	for _, tc := range []struct {
		life, left time.Duration
		due, late  bool
	}{
		{365 * day, 200 * day, false, false}, {365 * day, 100 * day, true, false}, {365 * day, 29 * day, true, true}, {365 * day, -day, true, true},
		{4 * time.Minute, 2 * time.Minute, false, false}, {4 * time.Minute, 70 * time.Second, true, false}, {4 * time.Minute, 50 * time.Second, true, true},
	} {
		v := Validity{now.Add(tc.left - tc.life), now.Add(tc.left)}
		if v.Due(now) != tc.due || v.Late(now) != tc.late {
			t.Errorf("%+v: due %t, late %t", tc, v.Due(now), v.Late(now))
		}
	}
	if (Validity{}).Late(now) {
		t.Error("what was not seen is late")
	}
}
