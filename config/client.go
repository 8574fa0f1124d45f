package config

import (
	"net"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ClientListen are the addresses of the etcd endpoint, host:port each. http:// before one is plain text, https:// is TLS; without either it is TLS
// if there is ClientTLS, and plain text otherwise.
type ClientListen []string

// maxClientListen is far more than a machine of such a cluster has networks.
const maxClientListen = 16

// UnmarshalYAML takes a list, or one text with commas, as etcd's --listen-client-urls.
func (l *ClientListen) UnmarshalYAML(v *yaml.Node) error {
	if v.Kind == yaml.SequenceNode {
		var list []string
		err := v.Decode(&list)
		*l = list
		return err
	}
	var text string
	err := v.Decode(&text)
	*l = ParseClientListen(text)
	return err
}

// ParseClientListen reads addresses that are separated by commas.
func ParseClientListen(text string) ClientListen {
	var l ClientListen
	for _, one := range strings.Split(text, ",") {
		l = append(l, strings.TrimSpace(one))
	}
	return l
}

// ClientTLS are the files of the etcd endpoint's TLS, etcd's flags of the same names.
type ClientTLS struct {
	// CertFile and KeyFile are what the endpoint shows; "": it has no TLS.
	CertFile string `yaml:"cert_file,omitempty"`
	KeyFile  string `yaml:"key_file,omitempty"`
	// ClientCertAuth has clients show a certificate of an authority in TrustedCAFile. As with etcd, a TrustedCAFile alone has the same effect.
	ClientCertAuth bool   `yaml:"client_cert_auth,omitempty"`
	TrustedCAFile  string `yaml:"trusted_ca_file,omitempty"`
}

// Enabled says whether there is TLS.
func (t ClientTLS) Enabled() bool { return t.CertFile != "" }

// ClientAddress is one address of the etcd endpoint.
type ClientAddress struct {
	HostPort string
	TLS      bool
}

// URL is the address as etcd's clients write it.
func (a ClientAddress) URL() string {
	if a.TLS {
		return "https://" + a.HostPort
	}
	return "http://" + a.HostPort
}

// ClientAddresses are those of ClientListen.
func (n *Node) ClientAddresses() []ClientAddress {
	var all []ClientAddress
	for _, s := range n.ClientListen {
		all = append(all, n.clientAddress(s))
	}
	return all
}

func (n *Node) clientAddress(s string) ClientAddress {
	if hp, ok := strings.CutPrefix(s, "http://"); ok {
		return ClientAddress{HostPort: hp}
	}
	if hp, ok := strings.CutPrefix(s, "https://"); ok {
		return ClientAddress{HostPort: hp, TLS: true}
	}
	return ClientAddress{HostPort: s, TLS: n.ClientTLS.Enabled()}
}

func (m *mistakes) client(n *Node) {
	if len(n.ClientListen) == 0 || len(n.ClientListen) > maxClientListen {
		m.add("client_listen", "%d addresses are outside 1 to %d", len(n.ClientListen), maxClientListen)
	}
	seen, encrypted := map[string]bool{}, n.VIPEtcd.Port != 0
	for _, a := range n.ClientAddresses() {
		m.hostPort("client_listen", a.HostPort)
		if seen[a.HostPort] {
			m.add("client_listen", "%q is named twice", a.HostPort)
		}
		seen[a.HostPort] = true
		encrypted = encrypted || a.TLS
		host, _, err := net.SplitHostPort(a.HostPort)
		switch {
		case a.TLS && !n.ClientTLS.Enabled():
			m.add("client_listen", "%q needs client_tls.cert_file and client_tls.key_file", a.URL())
		case err == nil && !a.TLS && !loopback(host) && n.ClientTLS.Enabled():
			m.add("client_listen", "%q is plain text, which only a loopback address may be: write https://%s", a.URL(), a.HostPort)
		case err == nil && !a.TLS && !loopback(host):
			m.add("client_listen", "%q is not a loopback address, and what comes from other machines needs TLS: set client_tls", a.HostPort)
		}
	}
	m.tls("client_tls", n.ClientTLS)
	if n.ClientTLS.Enabled() && !encrypted {
		m.add("client_tls", "is without effect, as client_listen has only plain addresses (http://) and there is no vip_etcd")
	}
}

func (m *mistakes) tls(key string, t ClientTLS) {
	if (t.CertFile == "") != (t.KeyFile == "") {
		m.add(key+".cert_file", "cert_file and key_file belong together")
	}
	if !t.Enabled() && t.KeyFile == "" && (t.ClientCertAuth || t.TrustedCAFile != "") {
		m.add(key+".cert_file", "is not set, so the rest of %s is without effect", key)
	}
	if t.ClientCertAuth && t.TrustedCAFile == "" {
		m.add(key+".trusted_ca_file", "client_cert_auth needs it: it holds the authorities that clients' certificates are verified with")
	}
	for _, f := range []struct{ key, path string }{{"cert_file", t.CertFile}, {"key_file", t.KeyFile}, {"trusted_ca_file", t.TrustedCAFile}} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			m.add(key+"."+f.key, "%q is not an absolute path", f.path)
		}
	}
}
