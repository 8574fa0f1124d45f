// Package tlsfiles serves TLS with certificates and keys from files, as they are now: a file that is replaced counts from the next connection
// on, without a restart. A file that is broken then does not: what was read before stays, and that is said once.
package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
)

// Files are PEM files.
type Files struct {
	// Cert is this side's certificate, with the intermediate ones after it, and Key its private key.
	Cert, Key string
	// CA are the authorities that clients' certificates are verified with; "": clients are not asked for any.
	CA string
	// Protocol is what is spoken inside (ALPN); "": clients are not told.
	Protocol string
}

// Source has what the files held when they were last good. Its methods may be called from any goroutine.
type Source struct {
	files Files
	log   *slog.Logger

	mu sync.Mutex // guards the rest
	// seen is what the files were like when they were last read, good or not.
	seen   [3]fs.FileInfo
	served *tls.Config
	leaf   *x509.Certificate
}

// same says whether a file is the one that was seen before. One that took its place by a rename is another inode; one that was written anew has
// another time, or, within the grain of the clock, as a rule another size; one that may be read now, and could not before, has changed as an inode only.
func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && changed(a) == changed(b)
}

// changed is when a file was last changed as an inode, its owner and mode included.
func changed(f fs.FileInfo) syscall.Timespec {
	if s, ok := f.Sys().(*syscall.Stat_t); ok {
		return s.Ctim
	}
	return syscall.Timespec{}
}

// Open reads the files. The error names each that is missing or broken.
func Open(files Files, log *slog.Logger) (*Source, error) {
	s := &Source{files: files, log: log, seen: files.look()}
	if err := s.read(); err != nil {
		return nil, err
	}
	for _, w := range s.warnings(time.Now()) {
		log.Warn("a certificate's file wants attention", "problem", w)
	}
	return s, nil
}

// ServerConfig is for a server that speaks HTTP/2, gRPC's. Each connection gets what the files hold then.
func (s *Source) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current(), nil },
	}
}

// Leaf is the certificate that is served now.
func (s *Source) Leaf() *x509.Certificate {
	s.current()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaf
}

// current is what to serve now. It costs a stat of each file, which a handshake's signature outweighs by far.
func (s *Source) current() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.files.look()
	if same(now[0], s.seen[0]) && same(now[1], s.seen[1]) && same(now[2], s.seen[2]) {
		return s.served
	}
	s.seen = now // taken before the files are read: what is written meanwhile is read again
	if err := s.read(); err != nil {
		// Often a certificate whose key is about to be written. If not, this is all that is said until a file changes again.
		s.log.Warn("the certificate's files have changed and cannot be used: what was read before stays", "error", err)
		return s.served
	}
	s.log.Info("certificates are read anew", "cert", s.files.Cert, "subject", s.leaf.Subject.String(), "not_after", s.leaf.NotAfter)
	for _, w := range s.warnings(time.Now()) {
		s.log.Warn("a certificate's file wants attention", "problem", w)
	}
	return s.served
}

// look is what the files are like now: Cert, Key, CA. One that is missing, or not named, is nil.
func (f Files) look() (all [3]fs.FileInfo) {
	for i, path := range [3]string{f.Cert, f.Key, f.CA} {
		if info, err := os.Stat(path); err == nil {
			all[i] = info
		}
	}
	return all
}

// suites are the ciphers of TLS 1.2 that HTTP/2 allows (RFC 9113, appendix A), all with forward secrecy. Those of 1.3 need no choice.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// read replaces what is served by what the files hold, if all of them are good. mu is held, or s is not shared yet.
func (s *Source) read() error {
	cert, err := readPair(s.files.Cert, s.files.Key)
	var ca *x509.CertPool
	if s.files.CA != "" {
		var caErr error
		ca, caErr = readCA(s.files.CA)
		err = errors.Join(err, caErr)
	}
	if err != nil {
		return err
	}
	next := &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: suites, Certificates: []tls.Certificate{cert},
		SessionTicketsDisabled: true, // a resumed session would rest on authorities that may be gone
	}
	if s.files.Protocol != "" {
		next.NextProtos = []string{s.files.Protocol}
	}
	if ca != nil {
		next.ClientAuth, next.ClientCAs = tls.RequireAndVerifyClientCert, ca
	}
	s.served, s.leaf = next, cert.Leaf
	return nil
}

func readPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := os.ReadFile(certFile)
	key, keyErr := os.ReadFile(keyFile)
	if err := errors.Join(err, keyErr); err != nil {
		return tls.Certificate{}, err // each names its file
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return pair, fmt.Errorf("%s with %s: %w", certFile, keyFile, err)
	}
	return pair, nil
}

func readCA(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: holds no certificate in PEM", path)
	}
	return pool, nil
}

// soon is how long before its end a certificate is spoken of.
const soon = 7 * 24 * time.Hour

// warnings are what an operator should know of files that can be used. A certificate whose time is over is none of the reasons to stop a node: it
// has to vote and to take over all the same, and a new one is read as soon as it is there.
func (s *Source) warnings(now time.Time) []string {
	var all []string
	switch l := s.leaf; {
	case now.After(l.NotAfter):
		all = append(all, fmt.Sprintf("%s has expired, on %s: clients refuse it", s.files.Cert, l.NotAfter.Format(time.RFC3339)))
	case now.Before(l.NotBefore):
		all = append(all, fmt.Sprintf("%s begins on %s only: clients refuse it until then", s.files.Cert, l.NotBefore.Format(time.RFC3339)))
	case now.Add(soon).After(l.NotAfter):
		all = append(all, fmt.Sprintf("%s expires on %s", s.files.Cert, l.NotAfter.Format(time.RFC3339)))
	}
	if len(s.leaf.DNSNames) == 0 && len(s.leaf.IPAddresses) == 0 {
		all = append(all, fmt.Sprintf("%s names no host or address (subjectAltName): clients refuse it", s.files.Cert))
	}
	if info, err := os.Stat(s.files.Key); err == nil && info.Mode().Perm()&0o007 != 0 {
		all = append(all, fmt.Sprintf("%s can be read by everybody on this machine (%v): chmod o= %s", s.files.Key, info.Mode().Perm(), s.files.Key))
	}
	return all
}

// Warnings are what an operator should know of the files although they can be used, a sentence each.
func (s *Source) Warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.warnings(time.Now())
}
