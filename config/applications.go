package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
)

// Applications lets other applications use the primary's PostgreSQL.
type Applications struct {
	// Port on the virtual addresses; 0: not there.
	Port int `yaml:"port,omitempty"`
	// Listen are further addresses, host:port.
	Listen []string `yaml:"listen,omitempty"`
	// CertFile and KeyFile are what applications are shown; "": there is no TLS.
	CertFile string `yaml:"cert_file,omitempty"`
	KeyFile  string `yaml:"key_file,omitempty"`
	// AcceptPlainText is the operator's word that what applications send and get without TLS may be read on the way. Passwords are not (SCRAM).
	AcceptPlainText bool `yaml:"accept_plain_text,omitempty"`
	// From are the networks that applications may come from; none: any.
	From []string `yaml:"from,omitempty"`
	// Databases are made if they are missing. One that is no longer named here is left, and nobody gets to it.
	Databases []Application `yaml:"databases,omitempty"`
}

// Application is a database with the role that owns it.
type Application struct {
	// Name is the database's; User the role's; "" is the same as Name.
	Name string `yaml:"name"`
	User string `yaml:"user,omitempty"`
	// PasswordFile holds the password, or PostgreSQL's verifier for it, on both nodes.
	PasswordFile string `yaml:"password_file"`
	// Connections bounds the sessions of the role; 0 is DefaultAppConnections.
	Connections int `yaml:"connections,omitempty"`
}

const (
	// DefaultAppConnections is a small pool.
	DefaultAppConnections = 20
	// ownConnections are those of max_connections that kineshim must find free: its superuser's, its engine's (kine's own pool is 20), and those
	// that are ending.
	ownConnections        = 50
	defaultMaxConnections = 200
	// AppsBeginning is how many connections of applications may be beginning, or be refused, besides those that they may have.
	AppsBeginning   = 20
	maxApplications = 100
)

// Networks are From.
func (a Applications) Networks() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range a.From {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not a network such as 192.168.1.0/24", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// TotalConnections is how many sessions applications may have at once.
func (a Applications) TotalConnections() int {
	n := 0
	for _, d := range a.Databases {
		n += d.Connections
	}
	return n
}

// TLS is that of applications' connections.
func (a Applications) TLS() ClientTLS { return ClientTLS{CertFile: a.CertFile, KeyFile: a.KeyFile} }

func (a *Applications) setDefaults() {
	for i := range a.Databases {
		d := &a.Databases[i]
		setInt(&d.Connections, DefaultAppConnections)
		if d.User == "" {
			d.User = d.Name
		}
	}
}

func (m *mistakes) applications(n *Node) {
	a := n.Applications
	if a.Port == 0 && len(a.Listen) == 0 && len(a.Databases) == 0 && len(a.From) == 0 && !a.AcceptPlainText && a.TLS() == (ClientTLS{}) {
		return
	}
	if a.Port != 0 {
		m.port("applications.port", a.Port)
		if len(n.VIPs) == 0 {
			m.add("applications.port", "there are no vips to listen on; use applications.listen")
		}
	}
	if a.Port == 0 && len(a.Listen) == 0 {
		m.add("applications", "neither port nor listen says where")
	}
	for i, hp := range a.Listen {
		m.hostPort(fmt.Sprintf("applications.listen.%d", i), hp)
	}
	if _, err := a.Networks(); err != nil {
		m.add("applications.from", "%v", err)
	}
	m.tls("applications", a.TLS())
	if !a.AcceptPlainText && !a.TLS().Enabled() {
		m.add("applications.accept_plain_text", "there is no TLS: queries and answers can be read on the way, though not passwords. Set cert_file and key_file, or this to true if you accept that")
	}
	m.databases(n)
}

func (m *mistakes) databases(n *Node) {
	all := n.Applications.Databases
	if len(all) == 0 || len(all) > maxApplications {
		m.add("applications.databases", "%d is outside 1 to %d", len(all), maxApplications)
	}
	names, users := map[string]bool{}, map[string]bool{}
	for i, d := range all {
		key := fmt.Sprintf("applications.databases.%d", i)
		if names[d.Name] || users[d.User] {
			m.add(key, "the database or the user is named before: each application has one database and one user")
		}
		names[d.Name], users[d.User] = true, true
		if !filepath.IsAbs(d.PasswordFile) {
			m.add(key+".password_file", "%q is not an absolute path", d.PasswordFile)
		}
		if d.Connections < 1 {
			m.add(key+".connections", "%d is less than 1", d.Connections)
		}
	}
	limit := defaultMaxConnections
	if v, err := strconv.Atoi(n.Postgres.Settings["max_connections"]); err == nil {
		limit = v
	}
	// Twice: sessions whose clients are gone, and as many connections that have not said yet who they are, must not keep kineshim out.
	if sum := n.Applications.TotalConnections(); 2*sum+AppsBeginning+ownConnections > limit {
		m.add("applications.databases", "twice %d connections in all, %d that begin, and %d for kineshim itself, are more than PostgreSQL's max_connections, %d: raise it in postgres.settings",
			sum, AppsBeginning, ownConnections, limit)
	}
}
