package tlsfiles

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var serial int64

// issue makes a certificate with a key of its own, signed by a; a nil a signs itself and is an authority.
func issue(t *testing.T, a *authority, change func(*x509.Certificate)) (cert, key []byte, made *authority) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	serial++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: a == nil, BasicConstraintsValid: true,
	}
	if change != nil {
		change(c)
	}
	parent, signer := c, k
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, signer)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	parsed, err := x509.ParseCertificate(der)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), &authority{parsed, k}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place is a directory with a server's files, which an authority has signed.
type place struct {
	Files
	ca    *authority
	caPEM []byte
	log   lockedLog
}

// lockedLog may be read while it is written.
type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take is what was written since it was taken before.
func (l *lockedLog) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.b.String()
	l.b.Reset()
	return s
}

func newPlace(t *testing.T) *place {
	t.Helper()
	dir := t.TempDir()
	p := &place{Files: Files{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}}
	p.caPEM, _, p.ca = issue(t, nil, nil)
	cert, key, _ := issue(t, p.ca, nil)
	p.write(t, cert, key)
	return p
}

func (p *place) write(t *testing.T, cert, key []byte) {
	t.Helper()
	replace(t, p.Cert, cert)
	replace(t, p.Key, key)
}

// replace puts a file in place of another one, as a tool that renews certificates does.
func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	must(t, os.WriteFile(path+".new", content, 0o600))
	must(t, os.Rename(path+".new", path))
}

// serve answers TLS connections with a byte until the test ends, and returns the address.
func (p *place) serve(t *testing.T) string {
	t.Helper()
	s, err := Open(p.Files, slog.New(slog.NewTextHandler(&p.log, nil)))
	must(t, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", s.ServerConfig())
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("x")) // shakes hands
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

// shown is the serial number that a client is shown, which has its own certificate if own is not nil.
func (p *place) shown(addr string, own *tls.Certificate, change func(*tls.Config)) (int64, error) {
	conf := &tls.Config{RootCAs: x509.NewCertPool(), NextProtos: []string{"h2"}}
	conf.RootCAs.AddCert(p.ca.cert)
	if own != nil {
		conf.Certificates = []tls.Certificate{*own}
	}
	if change != nil {
		change(conf)
	}
	c, err := tls.Dial("tcp", addr, conf)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // only now a server of TLS 1.3 has refused a client's certificate
		return 0, err
	}
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

func TestReplacedFilesCountFromTheNextConnectionOn(t *testing.T) {
	p := newPlace(t)
	addr := p.serve(t)
	first, err := p.shown(addr, nil, nil)
	must(t, err)
	cert, key, made := issue(t, p.ca, nil)
	p.write(t, cert, key)
	second, err := p.shown(addr, nil, nil)
	if err != nil || second == first || second != made.cert.SerialNumber.Int64() {
		t.Fatalf("shown %d, then %d, %v", first, second, err)
	}
}

func TestBrokenFilesLeaveWhatWasThereAndAreSaidOnce(t *testing.T) {
	p := newPlace(t)
	addr := p.serve(t)
	first, err := p.shown(addr, nil, nil)
	must(t, err)
	cert, key, made := issue(t, p.ca, nil)
	for name, breakIt := range map[string]func(){
		"cut short":     func() { replace(t, p.Cert, cert[:len(cert)/2]) },
		"another's key": func() { replace(t, p.Cert, cert) },
		"not there":     func() { must(t, os.Remove(p.Key)) },
	} {
		p.log.take()
		breakIt()
		for range 3 {
			if got, err := p.shown(addr, nil, nil); err != nil || got != first {
				t.Errorf("%s: shown %d, %v", name, got, err)
			}
		}
		log := p.log.take()
		if said := strings.Count(log, "cannot be used"); said != 1 || !strings.Contains(log, p.Cert) && !strings.Contains(log, p.Key) {
			t.Errorf("%s: said %d times: %s", name, said, log)
		}
	}
	p.write(t, cert, key)
	if got, err := p.shown(addr, nil, nil); err != nil || got != made.cert.SerialNumber.Int64() {
		t.Errorf("mended: shown %d, %v", got, err)
	}
}

// An operator who corrects the mode of a file has not touched what is in it.
func TestFileWhoseModeWasCorrectedIsAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(path, []byte("x"), 0o600))
	before, err := os.Stat(path)
	must(t, err)
	time.Sleep(20 * time.Millisecond) // beyond the grain of the file system's clock
	must(t, os.Chmod(path, 0o640))
	after, err := os.Stat(path)
	must(t, err)
	if same(before, after) || !same(after, after) {
		t.Error("it is taken for the same")
	}
}

func TestClientsShowACertificateOfATrustedAuthority(t *testing.T) {
	p := newPlace(t)
	p.CA = filepath.Join(filepath.Dir(p.Cert), "ca")
	clientsPEM, _, clients := issue(t, nil, nil)
	replace(t, p.CA, clientsPEM)
	addr := p.serve(t)
	of := func(a *authority, change func(*x509.Certificate)) *tls.Certificate {
		c, k, _ := issue(t, a, change)
		pair, err := tls.X509KeyPair(c, k)
		must(t, err)
		return &pair
	}
	client := of(clients, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	if _, err := p.shown(addr, client, nil); err != nil {
		t.Errorf("a client with a certificate is refused: %v", err)
	}
	for name, c := range map[string]*tls.Certificate{
		"none": nil, "of another authority": of(p.ca, nil),
		"expired":    of(clients, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"a server's": of(clients, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
	} {
		// Whatever authorities the server names, the client shows what it has.
		force := func(conf *tls.Config) {
			if c != nil {
				conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
			}
		}
		if _, err := p.shown(addr, nil, force); err == nil {
			t.Errorf("a client is let in with a certificate that is %s", name)
		}
	}
	replace(t, p.CA, p.caPEM) // other clients are trusted now
	if _, err := p.shown(addr, client, func(conf *tls.Config) {
		conf.Certificates, conf.GetClientCertificate = nil, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return client, nil }
	}); err == nil {
		t.Error("a client of an authority that is trusted no more is let in")
	}
	if _, err := p.shown(addr, of(p.ca, nil), nil); err != nil {
		t.Errorf("a client of the new authority is refused: %v", err)
	}
}

func TestOldProtocolsAreRefused(t *testing.T) {
	p := newPlace(t)
	addr := p.serve(t)
	for what, c := range map[string]struct {
		change func(*tls.Config)
		ok     bool
	}{
		"TLS 1.1": {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, false},
		"TLS 1.2": {func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, true},
		"TLS 1.3": {func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, true},
		"CBC": {func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}
		}, false},
	} {
		if _, err := p.shown(addr, nil, c.change); (err == nil) != c.ok {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestFilesThatCannotBeUsedAreNamed(t *testing.T) {
	p := newPlace(t)
	dir := filepath.Dir(p.Cert)
	empty := filepath.Join(dir, "empty")
	replace(t, empty, nil)
	other, _, _ := issue(t, p.ca, nil)
	replace(t, filepath.Join(dir, "other"), other)
	for _, c := range []struct {
		files Files
		want  []string
	}{
		{Files{Cert: filepath.Join(dir, "x"), Key: filepath.Join(dir, "y"), CA: filepath.Join(dir, "z")}, []string{"/x: no such file", "/y: no such file", "/z: no such file"}},
		{Files{Cert: empty, Key: p.Key}, []string{empty, "failed to find any PEM data"}},
		{Files{Cert: filepath.Join(dir, "other"), Key: p.Key}, []string{"/other with " + p.Key, "does not match"}},
		{Files{Cert: p.Cert, Key: p.Key, CA: empty}, []string{empty + ": holds no certificate"}},
	} {
		_, err := Open(c.files, slog.New(slog.DiscardHandler))
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %s", c.files, err, want)
			}
		}
	}
}

func TestWarnings(t *testing.T) {
	for want, c := range map[string]struct {
		change func(*x509.Certificate)
		mode   os.FileMode
	}{
		"":                         {nil, 0o640},
		"can be read by everybody": {nil, 0o644},
		"has expired":              {func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, 0o600},
		"expires on":               {func(c *x509.Certificate) { c.NotAfter = time.Now().Add(24 * time.Hour) }, 0o600},
		"begins on":                {func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, 0o600},
		"names no host":            {func(c *x509.Certificate) { c.IPAddresses = nil }, 0o600},
	} {
		p := newPlace(t)
		cert, key, made := issue(t, p.ca, c.change)
		p.write(t, cert, key)
		must(t, os.Chmod(p.Key, c.mode))
		s, err := Open(p.Files, slog.New(slog.NewTextHandler(&p.log, nil)))
		must(t, err)
		got, log := strings.Join(s.Warnings(), "; "), p.log.take()
		if (want == "") != (got == "") || !strings.Contains(got, want) || !strings.Contains(log, want) {
			t.Errorf("%q, want %q; log: %s", got, want, log)
		}
		if !s.Leaf().NotAfter.Equal(made.cert.NotAfter) {
			t.Errorf("ends at %v, want %v", s.Leaf().NotAfter, made.cert.NotAfter)
		}
	}
}
