package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"

	"kineshim/balancer"
	"kineshim/config"
)

// startBalancer serves the Kubernetes API's balancer until stop is called, if there is to be one.
func (n *node) startBalancer() (stop func() error, err error) {
	cfg := n.cfg.APIServer
	if cfg.Listen == "" {
		return func() error { return nil }, nil
	}
	b, err := balancer.New(balancer.Config{Servers: cfg.Servers, TLS: apiServerTLS(cfg), MaxConnections: cfg.MaxConnections, Log: n.log})
	if err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("apiserver.listen: %w", err)
	}
	n.log.Info("the Kubernetes API is balanced", "listen", cfg.Listen, "servers", cfg.Servers)
	lns := []net.Listener{n.vipConns.Wrap(ln)}
	return n.background(func(ctx context.Context) error { return b.Run(ctx, lns) }), nil
}

// apiServerTLS is for the health checks; nil: nothing is verified, nor shown. The files are read for each check: k3s makes them only once its
// datastore serves, and renews them.
func apiServerTLS(cfg config.APIServer) *tls.Config {
	if cfg.CAFile == "" && cfg.CertFile == "" {
		return nil
	}
	conf := &tls.Config{InsecureSkipVerify: true} // VerifyConnection does it
	if cfg.CAFile != "" {
		conf.VerifyConnection = func(s tls.ConnectionState) error { return verify(s, cfg.CAFile) }
	}
	if cfg.CertFile != "" {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
			return &c, err
		}
	}
	return conf
}

// warnOfUnreadable tells of files that cannot be read: k3s may have yet to make them; but if they are root's, health checks fail for good.
func warnOfUnreadable(cfg config.APIServer, stderr io.Writer) {
	for _, f := range []struct{ key, path string }{{"ca_file", cfg.CAFile}, {"cert_file", cfg.CertFile}, {"key_file", cfg.KeyFile}} {
		if f.path == "" {
			continue
		}
		if _, err := os.ReadFile(f.path); err != nil {
			fmt.Fprintf(stderr, "kineshim: warning: apiserver.%s: %v: until it can be read, no API server counts as ready, and all are tried\n", f.key, err)
		}
	}
}

// verify is what crypto/tls does by itself when it is given the CA beforehand.
func verify(s tls.ConnectionState, caFile string) error {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return fmt.Errorf("apiserver.ca_file: %w", err)
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), DNSName: s.ServerName}
	if !o.Roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("apiserver.ca_file: %s holds no certificate", caFile)
	}
	for _, c := range s.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err = s.PeerCertificates[0].Verify(o)
	return err
}
