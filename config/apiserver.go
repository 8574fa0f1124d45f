package config

import (
	"fmt"
	"net"
	"path/filepath"
)

// APIServer is the balancer for the Kubernetes API.
type APIServer struct {
	// Listen is host:port, the host may be empty; "": there is no balancer.
	Listen string `yaml:"listen,omitempty"`
	// Servers are the API servers, host:port; none: DefaultAPIPort at the hosts of both data nodes' peer addresses.
	Servers []string `yaml:"servers,omitempty"`
	// CAFile verifies the servers' certificates in health checks; "": they are not verified.
	CAFile string `yaml:"ca_file,omitempty"`
	// CertFile and KeyFile identify kineshim to the servers in health checks; "": it asks anonymously.
	CertFile string `yaml:"cert_file,omitempty"`
	KeyFile  string `yaml:"key_file,omitempty"`
	// MaxConnections bounds the connections at once; 0 is DefaultAPIConnections.
	MaxConnections int `yaml:"max_connections,omitempty"`
}

// Defaults and bounds of APIServer.
const (
	DefaultAPIPort = 6443
	// DefaultAPIConnections is far more than the nodes of a cluster of this size need, and well below the descriptors of its unit.
	DefaultAPIConnections = 5000
	maxAPIConnections     = 100_000
	maxAPIServers         = 16
)

// SetAPIServerListen has the Kubernetes API balanced there.
func (n *Node) SetAPIServerListen(addr string) {
	n.APIServer.Listen = addr
	n.setAPIServerDefaults()
}

func (n *Node) setAPIServerDefaults() {
	a := &n.APIServer
	if a.Listen == "" {
		return
	}
	setInt(&a.MaxConnections, DefaultAPIConnections)
	if len(a.Servers) > 0 || len(n.Members) < voters {
		return
	}
	for _, name := range sortedKeys(n.Members) {
		if e := n.Members[name]; !e.Witness() {
			if host, _, err := net.SplitHostPort(e.Peer); err == nil {
				a.Servers = append(a.Servers, net.JoinHostPort(host, fmt.Sprint(DefaultAPIPort)))
			}
		}
	}
}

func (m *mistakes) apiServer(a APIServer) {
	if a.Listen == "" {
		if len(a.Servers) > 0 || a.CAFile != "" || a.CertFile != "" || a.KeyFile != "" || a.MaxConnections != 0 {
			m.add("apiserver.listen", "is not set, so the rest of apiserver is without effect")
		}
		return
	}
	m.hostPort("apiserver.listen", a.Listen)
	if len(a.Servers) > maxAPIServers {
		m.add("apiserver.servers", "%d are more than %d", len(a.Servers), maxAPIServers)
	}
	for i, s := range a.Servers {
		key := fmt.Sprintf("apiserver.servers.%d", i)
		m.hostPort(key, s)
		host, port, _ := net.SplitHostPort(s)
		if host == "" {
			m.add(key, "%q has no host", s)
		}
		if lhost, lport, err := net.SplitHostPort(a.Listen); err == nil && port == lport && (lhost == host || (lhost == "" || lhost == "0.0.0.0" || lhost == "::")) {
			m.add(key, "%q may be the balancer itself, which listens on %s", s, a.Listen)
		}
	}
	for _, f := range []struct{ key, path string }{{"ca_file", a.CAFile}, {"cert_file", a.CertFile}, {"key_file", a.KeyFile}} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			m.add("apiserver."+f.key, "%q is not an absolute path", f.path)
		}
	}
	if (a.CertFile == "") != (a.KeyFile == "") {
		m.add("apiserver.cert_file", "cert_file and key_file belong together")
	}
	if a.MaxConnections < 1 || a.MaxConnections > maxAPIConnections {
		m.add("apiserver.max_connections", "%d is outside 1 to %d", a.MaxConnections, maxAPIConnections)
	}
}
