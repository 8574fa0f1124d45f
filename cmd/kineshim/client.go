package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"

	"kineshim/config"
	"kineshim/tlsfiles"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// overrideClient lets the flags of the etcd endpoint win over the file. Paths may be relative, as etcd's.
func (o options) overrideClient(cfg *config.Node) error {
	if o.clientListen != "" {
		cfg.ClientListen = config.ParseClientListen(o.clientListen)
	}
	t := &cfg.ClientTLS
	for _, f := range []struct {
		path  string
		field *string
	}{{o.certFile, &t.CertFile}, {o.keyFile, &t.KeyFile}, {o.trustedCAFile, &t.TrustedCAFile}} {
		if f.path == "" {
			continue
		}
		abs, err := filepath.Abs(f.path)
		if err != nil {
			return err
		}
		*f.field = abs
	}
	t.ClientCertAuth = t.ClientCertAuth || o.clientCertAuth
	return nil
}

// openTLS reads the files that the configuration names under key, for connections in which the protocol (ALPN) is spoken; nil if there are none.
func openTLS(key, protocol string, t config.ClientTLS, log *slog.Logger) (*tlsfiles.Source, error) {
	if !t.Enabled() {
		return nil, nil
	}
	s, err := tlsfiles.Open(tlsfiles.Files{Cert: t.CertFile, Key: t.KeyFile, CA: t.TrustedCAFile, Protocol: protocol}, log)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return s, nil
}

// openClientTLS reads the etcd endpoint's, and openApplicationTLS that of applications' connections; nil if there is none.
func openClientTLS(cfg config.Node, log *slog.Logger) (*tlsfiles.Source, error) {
	return openTLS("client_tls", "h2", cfg.ClientTLS, log)
}

func openApplicationTLS(cfg config.Node, log *slog.Logger) (*tlsfiles.Source, error) {
	return openTLS("applications", "postgresql", cfg.Applications.TLS(), log)
}

// checkTLS reports what keeps the files from being used that open reads, and prints what should be known of them although they can.
func checkTLS(key string, open func(config.Node, *slog.Logger) (*tlsfiles.Source, error), cfg config.Node, stderr io.Writer) error {
	s, err := open(cfg, slog.New(slog.DiscardHandler))
	if err != nil || s == nil {
		return err
	}
	for _, w := range s.Warnings() {
		fmt.Fprintf(stderr, "kineshim: warning: %s: %s\n", key, w)
	}
	return nil
}

// clientURLs are where clients reach the etcd API at the node's own addresses.
func clientURLs(cfg config.Node) string {
	var all []string
	for _, a := range cfg.ClientAddresses() {
		all = append(all, a.URL())
	}
	return strings.Join(all, ",")
}

// newClientServer serves the etcd API, with TLS or in plain text.
func (n *node) newClientServer(encrypted bool) *grpc.Server {
	options := n.endpoint.ClientServerOptions()
	if encrypted {
		options = append(options, grpc.Creds(credentials.NewTLS(n.clientTLS.ServerConfig())))
	}
	s := grpc.NewServer(options...)
	n.endpoint.Register(s)
	return s
}

// listenForClients serves the etcd API at the node's addresses, and on the virtual addresses if the operator wants that.
func (n *node) listenForClients() error {
	servers := map[bool]*grpc.Server{false: n.newClientServer(false)}
	if n.clientTLS != nil {
		servers[true] = n.newClientServer(true)
	}
	for _, a := range n.cfg.ClientAddresses() {
		ln, err := net.Listen("tcp", a.HostPort)
		if err != nil {
			return fmt.Errorf("client_listen: %w", err)
		}
		// It may listen on all addresses, and a connection to a virtual one must end when that leaves.
		n.serveOn(servers[a.TLS], n.limits.wrap(n.limits.clients, n.vipConns.Wrap(ln), "client_listen"), "client_listen")
	}
	if n.cfg.VIPEtcd.Port == 0 {
		return nil
	}
	lns, err := vipListeners(n.cfg.VIPs, n.cfg.VIPEtcd.Port, &n.vipConns)
	if err != nil {
		return fmt.Errorf("vip_etcd: %w", err)
	}
	for _, ln := range lns {
		n.serveOn(servers[n.clientTLS != nil], n.limits.wrap(n.limits.clients, ln, "vip_etcd"), "vip_etcd")
	}
	return nil
}
