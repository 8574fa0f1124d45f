package postgres

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"

	"kineshim/statfs"
)

// The fixed names inside the database. They are the same on both nodes and never change.
const (
	// Superuser is the role that kineshim itself uses, over the unix socket only.
	Superuser = "kineshim"
	// ReplicationRole streams WAL, and reads files for pg_rewind.
	ReplicationRole = "kineshim_repl"
	// KineRole owns Database.
	KineRole = "kine"
	// Database holds kine's table.
	Database = "kubernetes"
	// StandbyName is the walreceiver's application_name and the name of its slot.
	StandbyName = "kineshim_standby"
	// SoloName is the application_name under which kineshim acknowledges commits itself.
	SoloName = "kineshim_solo"
	// SynchronousStandbyNames is the value of synchronous_standby_names, for ever: nothing commits unless the standby or
	// kineshim itself is connected and acknowledges.
	SynchronousStandbyNames = "ANY 1 (" + StandbyName + ", " + SoloName + ")"
)

// maxSocketPath is the longest path that fits into sockaddr_un, without its terminating zero.
const maxSocketPath = 107

// HostPort is a TCP address. Host is an IP address or a name.
type HostPort struct {
	Host string
	Port int
}

// Secrets are the passwords of the three roles. Both nodes hold the same ones.
type Secrets struct {
	Superuser   string `json:"superuser"`
	Replication string `json:"replication"`
	Kine        string `json:"kine"`
}

// Config says which PostgreSQL a Server owns. Paths are absolute.
type Config struct {
	// BinDir holds postgres, initdb, pg_basebackup and so on; "" means the installed version that fits DataDir, else the newest.
	BinDir string
	// DataDir is PGDATA. DataDir+".new" and DataDir+".old" are used too; all three must be on one file system.
	DataDir string
	// StateDir takes what must survive a replaced DataDir: configuration, markers, log, diverged WAL.
	StateDir string
	// SocketDir takes PostgreSQL's unix socket; "" means StateDir/postgres/run.
	SocketDir string
	// Port is in the name of the socket. PostgreSQL listens on no network: what listens passes the peer's connections on to the socket.
	Port int
	// Peer is the other data node's PostgreSQL.
	Peer    HostPort
	Secrets Secrets
	// TLS is for connections to the peer; nil, in tests: without. SetTLS renews it.
	TLS *TLS
	// OSUser owns the files and runs PostgreSQL, which refuses to run as root; "" means "postgres" for root, else the current user.
	OSUser string
	// Settings are added to postgresql.conf; ForbiddenSettings says which are refused.
	Settings map[string]string
	// SlotKeep is max_slot_wal_keep_size, which bounds the WAL kept for an absent standby; "" means 2GB.
	SlotKeep string
	// Applications may connect through the unix socket; EnsureApplication makes them.
	Applications []Application
	// Log takes what happens; nil discards it.
	Log *slog.Logger
}

// NewSecrets makes passwords of at least 128 random bits each.
func NewSecrets() Secrets {
	return Secrets{Superuser: rand.Text(), Replication: rand.Text(), Kine: rand.Text()}
}

// New checks the configuration and starts nothing. The error joins all mistakes.
func New(c Config) (*Server, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.SocketDir == "" {
		c.SocketDir = filepath.Join(c.StateDir, "postgres", "run")
	}
	if c.SlotKeep == "" {
		c.SlotKeep = "2GB"
	}
	usr, userErr := lookupUser(c.OSUser)
	binDir, binErr := findBinDir(c.BinDir, c.DataDir)
	c.BinDir = binDir
	s := &Server{cfg: c, log: c.Log, usr: usr, verb: make(chan struct{}, 1), space: statfs.Space}
	if err := errors.Join(userErr, binErr, c.validate(s.SocketPath())); err != nil {
		return nil, err
	}
	return s, nil
}

func (c *Config) validate(socketPath string) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, p := range []struct{ name, path string }{{"data directory", c.DataDir}, {"state directory", c.StateDir}, {"socket directory", c.SocketDir}} {
		switch {
		case p.path == "":
			bad("%s: not set", p.name)
		case !filepath.IsAbs(p.path) || filepath.Clean(p.path) != p.path:
			bad("%s %q: not an absolute, clean path", p.name, p.path)
		case strings.ContainsAny(p.path, "'\"\\\n,"):
			bad("%s %q: quotes, backslashes, commas and line breaks do not fit into PostgreSQL's configuration", p.name, p.path)
		}
	}
	if under(c.StateDir, c.DataDir) || under(c.SocketDir, c.DataDir) {
		bad("state directory and socket directory must not be inside the data directory, which a clone replaces")
	}
	if n := len(socketPath); n > maxSocketPath {
		bad("socket path %q has %d bytes, at most %d fit: set socket_dir to a shorter directory", socketPath, n, maxSocketPath)
	}
	if c.Peer.Host == "" || strings.ContainsAny(c.Peer.Host, "'\"\\, \t\n#") {
		bad("peer host %q: not an address or a name", c.Peer.Host)
	}
	for _, p := range []struct {
		name string
		port int
	}{{"port", c.Port}, {"peer port", c.Peer.Port}} {
		if p.port < 1 || p.port > 65535 {
			bad("%s %d: not between 1 and 65535", p.name, p.port)
		}
	}
	if !sizePattern.MatchString(c.SlotKeep) {
		bad("slot_keep %q: not a size such as 2GB; without a bound an absent standby would fill the disk", c.SlotKeep)
	}
	errs = append(errs, c.Secrets.validate(), validateSettings(c.Settings), validateApplications(c.Applications))
	return errors.Join(errs...)
}

var sizePattern = regexp.MustCompile(`^[1-9][0-9]*(MB|GB|TB)$`)

// passwordPattern keeps passwords to what needs no escaping in a passfile, a URL or a connection string.
var passwordPattern = regexp.MustCompile(`^[A-Za-z0-9_.~-]{16,128}$`)

func (s Secrets) validate() error {
	var errs []error
	for _, p := range []struct{ name, value string }{{Superuser, s.Superuser}, {ReplicationRole, s.Replication}, {KineRole, s.Kine}} {
		if !passwordPattern.MatchString(p.value) {
			errs = append(errs, fmt.Errorf("password of %s: not 16 to 128 letters, digits or _.~-", p.name))
		}
	}
	return errors.Join(errs...)
}

// under reports whether path is dir or inside it.
func under(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
