// Package config reads the YAML file of a data node and of a witness. Unknown keys are refused; Validate reports all
// mistakes at once.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// Node is the file of a data node.
type Node struct {
	// Name is this node's name, as it stands in Members.
	Name string `yaml:"node"`
	// DataDir holds everything that the node keeps.
	DataDir string `yaml:"data_dir"`
	// ClientListen is where the etcd API is served: to the k3s beside the node, and with ClientTLS to other machines.
	ClientListen ClientListen `yaml:"client_listen"`
	ClientTLS    ClientTLS    `yaml:"client_tls,omitempty"`
	// Engine answers the etcd API on the primary: EngineNative or EngineKine.
	Engine string `yaml:"engine"`
	// Native sets the native engine up.
	Native Native `yaml:"native"`
	// MaxWait bounds how long a request waits for a primary, as in a failover; 0 is DefaultMaxWait.
	MaxWait time.Duration `yaml:"max_wait,omitempty"`
	// ControlSocket is where shimctl reaches the node; "" is control.sock in DataDir.
	ControlSocket string `yaml:"control_socket"`
	// ControlListen is where operators with a certificate reach the node from other machines, host:port; "": nowhere.
	ControlListen string `yaml:"control_listen,omitempty"`
	// HTTPListen is where load balancers and Prometheus ask how the node is; "": nowhere.
	HTTPListen string `yaml:"http_listen,omitempty"`
	// Members says how the three voters reach one another, by name. Those that are left out are where their enrolment says; see Enrolled.
	Members  map[string]Member `yaml:"members,omitempty"`
	Postgres Postgres          `yaml:"postgres"`
	Timing   Timing            `yaml:"timing"`
	// VIPs are held by the primary; VIPEtcd is served on them.
	VIPs    []VIP   `yaml:"vips,omitempty"`
	VIPEtcd VIPEtcd `yaml:"vip_etcd,omitempty"`
	// APIServer is a balancer for the Kubernetes API, on both data nodes.
	APIServer APIServer `yaml:"apiserver,omitempty"`
	// CertificateLifetime is that of the certificates that this node makes, of which a third is left when they are renewed; 0 is DefaultCertificateLifetime.
	CertificateLifetime time.Duration `yaml:"certificate_lifetime,omitempty"`
	// Applications may use the primary's PostgreSQL.
	Applications Applications `yaml:"applications,omitempty"`
	Limits       Limits       `yaml:"limits,omitempty"`
	Log          Log          `yaml:"log"`

	// enrolled: Members are complete.
	enrolled bool
}

// Member is how one voter is reached; host:port each. A witness has only Raft.
type Member struct {
	Raft     string `yaml:"raft"`
	Peer     string `yaml:"peer,omitempty"`
	Postgres string `yaml:"postgres,omitempty"`
}

// Witness reports whether the member holds no data.
func (m Member) Witness() bool { return m.Peer == "" && m.Postgres == "" }

// Postgres is how the node runs its PostgreSQL.
type Postgres struct {
	// BinDir holds postgres, initdb, pg_basebackup and pg_rewind; "" asks pg_config --bindir, then looks below /usr/lib/postgresql.
	BinDir string `yaml:"bin_dir,omitempty"`
	// OSUser runs PostgreSQL when kineshim runs as root; "" is postgres.
	OSUser string `yaml:"os_user,omitempty"`
	// SocketDir holds PostgreSQL's socket; "" is sock in DataDir.
	SocketDir string `yaml:"socket_dir,omitempty"`
	// Settings are further settings of postgresql.conf.
	Settings map[string]string `yaml:"settings,omitempty"`
	// SlotKeep caps the WAL kept for an absent standby, in PostgreSQL's units; "" is 2GB.
	SlotKeep string `yaml:"slot_keep,omitempty"`
}

// Native sets the native engine up. Zero is the default.
type Native struct {
	// CacheBytes bounds the values that are kept in memory.
	CacheBytes int64 `yaml:"cache_bytes,omitempty"`
	// MaxRequestBytes and MaxTxnOps are etcd's limits of the same names.
	MaxRequestBytes int `yaml:"max_request_bytes,omitempty"`
	MaxTxnOps       int `yaml:"max_txn_ops,omitempty"`
	// AutoCompactionRetention is how long superseded revisions are kept before the engine compacts by itself; 0: it does not,
	// as Kubernetes does it.
	AutoCompactionRetention time.Duration `yaml:"auto_compaction_retention,omitempty"`
}

// Timing holds the durations that decide how fast a failure is noticed. Zero is the default.
type Timing struct {
	// HeartbeatTimeout is the silence after which a leader is given up. Fixed for all three voters by kineshim init.
	HeartbeatTimeout time.Duration `yaml:"heartbeat_timeout,omitempty"`
	// ReplicationStall is how long commits wait for a silent standby before the primary goes on alone.
	ReplicationStall time.Duration `yaml:"replication_stall,omitempty"`
	// WitnessLostAfter is the witness's silence after which the record no longer counts on it.
	WitnessLostAfter time.Duration `yaml:"witness_lost_after,omitempty"`
}

// Log says what is logged to standard error.
type Log struct {
	// Level is debug, info, warn or error; "" is info.
	Level string `yaml:"level,omitempty"`
	// Format is text or json; "" is text.
	Format string `yaml:"format,omitempty"`
}

// Witness is the file of a witness.
type Witness struct {
	// Name is the witness's name in all its clusters.
	Name    string `yaml:"node"`
	DataDir string `yaml:"data_dir"`
	// Listen is the port shared by all clusters, host:port.
	Listen string `yaml:"listen"`
	// HTTPListen is where Prometheus asks how the witness is; "": nowhere.
	HTTPListen string `yaml:"http_listen,omitempty"`
	Log        Log    `yaml:"log"`
}

// Defaults.
const (
	// DefaultMaxWait is what k3s bears: it ends when its datastore has failed for that long.
	DefaultMaxWait          = 10 * time.Second
	DefaultHeartbeatTimeout = 500 * time.Millisecond
	DefaultReplicationStall = time.Second
	DefaultWitnessLostAfter = 10 * time.Second
	DefaultClientListen     = "http://127.0.0.1:2379"
	DefaultSlotKeep         = "2GB"
	DefaultCacheBytes       = 128 << 20
	DefaultMaxRequestBytes  = 3 * 1024 * 1024 / 2
	DefaultMaxTxnOps        = 128
	// DefaultCertificateLifetime lets a machine be switched off for months.
	DefaultCertificateLifetime = 365 * 24 * time.Hour
)

// The engines.
const (
	EngineNative = "native"
	EngineKine   = "kine"
)

// LoadNode reads and validates a data node's file.
func LoadNode(path string) (Node, error) {
	b, err := read(path)
	if err != nil {
		return Node{}, err
	}
	return ParseNode(path, b)
}

// ParseNode validates the text of a data node's file; path is what it is called in errors.
func ParseNode(path string, text []byte) (Node, error) {
	n := Node{ClientListen: ClientListen{DefaultClientListen}, Engine: EngineNative}
	if err := decode(path, text, &n); err != nil {
		return n, err
	}
	n.setDefaults()
	if err := n.Validate(); err != nil {
		return n, fmt.Errorf("%s:\n%w", path, err)
	}
	return n, nil
}

// LoadWitness reads and validates a witness's file.
func LoadWitness(path string) (Witness, error) {
	b, err := read(path)
	if err != nil {
		return Witness{}, err
	}
	return ParseWitness(path, b)
}

// ParseWitness validates the text of a witness's file; path is what it is called in errors.
func ParseWitness(path string, text []byte) (Witness, error) {
	var w Witness
	if err := decode(path, text, &w); err != nil {
		return w, err
	}
	if err := w.Validate(); err != nil {
		return w, fmt.Errorf("%s:\n%w", path, err)
	}
	return w, nil
}

func read(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return b, nil
}

func decode(path string, b []byte, v any) error {
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (n *Node) setDefaults() {
	if n.ControlSocket == "" {
		n.ControlSocket = filepath.Join(n.DataDir, "control.sock")
	}
	if n.Postgres.SocketDir == "" {
		n.Postgres.SocketDir = filepath.Join(n.DataDir, "sock")
	}
	if n.Postgres.SlotKeep == "" {
		n.Postgres.SlotKeep = DefaultSlotKeep
	}
	setInt(&n.Native.CacheBytes, DefaultCacheBytes)
	setInt(&n.Native.MaxRequestBytes, DefaultMaxRequestBytes)
	setInt(&n.Native.MaxTxnOps, DefaultMaxTxnOps)
	setInt(&n.Limits.MaxConnections, DefaultMaxConnections)
	setDuration(&n.MaxWait, DefaultMaxWait)
	setDuration(&n.CertificateLifetime, DefaultCertificateLifetime)
	setDuration(&n.Timing.HeartbeatTimeout, DefaultHeartbeatTimeout)
	setDuration(&n.Timing.ReplicationStall, DefaultReplicationStall)
	setDuration(&n.Timing.WitnessLostAfter, DefaultWitnessLostAfter)
	n.setAPIServerDefaults()
	n.Applications.setDefaults()
	for i := range n.VIPs {
		setDuration(&n.VIPs[i].HookTimeout, DefaultHookTimeout)
	}
}

func setDuration(d *time.Duration, def time.Duration) {
	if *d == 0 {
		*d = def
	}
}

func setInt[N int | int64](n *N, def N) {
	if *n == 0 {
		*n = def
	}
}

// Enrolled completes Members by where the members were enrolled, and reports all that is wrong with the whole. What the file says counts.
func (n *Node) Enrolled(at map[string]Member) error {
	members := maps.Clone(at)
	if members == nil {
		members = map[string]Member{}
	}
	maps.Copy(members, n.Members)
	n.Members, n.enrolled = members, true
	n.setAPIServerDefaults()
	if err := n.Validate(); err != nil {
		return fmt.Errorf("the configuration, with the addresses of the enrolment:\n%w", err)
	}
	return nil
}

// Self is the node's own member entry.
func (n *Node) Self() Member { return n.Members[n.Name] }

// Other is the name of the other data node.
func (n *Node) Other() string {
	for name, m := range n.Members {
		if name != n.Name && !m.Witness() {
			return name
		}
	}
	return ""
}

// WitnessName is the name of the witness.
func (n *Node) WitnessName() string {
	for name, m := range n.Members {
		if m.Witness() {
			return name
		}
	}
	return ""
}

// nameForm keeps names usable in file names, server IDs and messages.
var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// mistakes collects what is wrong, each with the key it is about.
type mistakes []error

func (m *mistakes) add(key, format string, args ...any) {
	*m = append(*m, fmt.Errorf("  %s: "+format, append([]any{key}, args...)...))
}

// Validate reports all mistakes at once.
func (n *Node) Validate() error {
	var m mistakes
	m.name("node", n.Name)
	m.dir("data_dir", n.DataDir)
	m.client(n)
	if n.Engine != EngineNative && n.Engine != EngineKine {
		m.add("engine", "%q is not known; use native or kine", n.Engine)
	}
	m.native(n.Native)
	m.limits(n.Limits)
	m.maxWait(n.MaxWait)
	if d := n.CertificateLifetime; d < minCertificate || d > maxCertificate {
		m.add("certificate_lifetime", "%v is outside %v to %v", d, minCertificate, maxCertificate)
	}
	m.members(n)
	m.httpListen(n.HTTPListen)
	if n.ControlListen != "" {
		m.hostPort("control_listen", n.ControlListen)
	}
	m.vips(n)
	m.apiServer(n.APIServer)
	m.applications(n)
	m.listeners(n)
	m.timing(n.Timing)
	m.log(n.Log)
	if p := n.ControlSocket; len(p) > maxSocketPath {
		m.add("control_socket", "%q is %d bytes long; a socket's path has at most %d: set it to a shorter path", p, len(p), maxSocketPath)
	}
	return errors.Join(m...)
}

// maxSocketPath is the size of sockaddr_un.sun_path on Linux, less the closing NUL.
const maxSocketPath = 107

// voters is how many a cluster has.
const voters = 3

func (m *mistakes) members(n *Node) {
	if len(n.Members) == 0 && !n.enrolled {
		return // all are as enrolled
	}
	data, witnesses := 0, 0
	for _, name := range sortedKeys(n.Members) {
		e := n.Members[name]
		key := "members." + name
		m.name(key, name)
		m.hostPort(key+".raft", e.Raft)
		if e.Witness() {
			witnesses++
			continue
		}
		data++
		m.hostPort(key+".peer", e.Peer)
		m.hostPort(key+".postgres", e.Postgres)
	}
	if len(n.Members) < voters && !n.enrolled {
		return // the others are as enrolled
	}
	if data != 2 || witnesses != 1 {
		m.add("members", "%d with peer and postgres, %d with raft only; a cluster is two data nodes and one witness", data, witnesses)
	}
	if _, ok := n.Members[n.Name]; !ok {
		m.add("members", "this node, %q, is not among them", n.Name)
	} else if n.Self().Witness() {
		m.add("members", "this node, %q, has no peer and postgres address; a witness runs raftwitness instead", n.Name)
	}
}

// Bounds of MaxWait: a failover takes some hundred milliseconds at least, and requests that wait take memory.
const (
	minMaxWait = 100 * time.Millisecond
	maxMaxWait = 10 * time.Minute
)

func (m *mistakes) maxWait(d time.Duration) {
	if d < minMaxWait || d > maxMaxWait {
		m.add("max_wait", "%v is outside %v to %v", d, minMaxWait, maxMaxWait)
	}
}

// Bounds of CertificateLifetime: below, a renewal could come too late on a busy machine; above, a stolen key would be good for too long.
const minCertificate, maxCertificate = time.Minute, 10 * 365 * 24 * time.Hour

// Bounds of Timing: below them a busy machine fails over by itself, above them nobody wants to wait.
const (
	minHeartbeat, maxHeartbeat     = 100 * time.Millisecond, 10 * time.Second
	minStall, maxStall             = 200 * time.Millisecond, time.Minute
	minWitnessLost, maxWitnessLost = time.Second, time.Hour
)

func (m *mistakes) timing(t Timing) {
	for _, d := range []struct {
		key      string
		v        time.Duration
		from, to time.Duration
	}{
		{"timing.heartbeat_timeout", t.HeartbeatTimeout, minHeartbeat, maxHeartbeat},
		{"timing.replication_stall", t.ReplicationStall, minStall, maxStall},
		{"timing.witness_lost_after", t.WitnessLostAfter, minWitnessLost, maxWitnessLost},
	} {
		if d.v < d.from || d.v > d.to {
			m.add(d.key, "%v is outside %v to %v", d.v, d.from, d.to)
		}
	}
}

// Bounds of Native. A cache below a few MiB holds too little to be worth its memory; PostgreSQL takes no value above 1 GB.
const (
	minCache, maxCache     = 8 << 20, 1 << 40
	minRequest, maxRequest = 1 << 10, 256 << 20
	minOps, maxOps         = 1, 100_000
	minRetention           = time.Minute
)

func (m *mistakes) native(n Native) {
	for _, v := range []struct {
		key         string
		v, from, to int64
	}{
		{"native.cache_bytes", n.CacheBytes, minCache, maxCache},
		{"native.max_request_bytes", int64(n.MaxRequestBytes), minRequest, maxRequest},
		{"native.max_txn_ops", int64(n.MaxTxnOps), minOps, maxOps},
	} {
		if v.v < v.from || v.v > v.to {
			m.add(v.key, "%d is outside %d to %d", v.v, v.from, v.to)
		}
	}
	if d := n.AutoCompactionRetention; d != 0 && d < minRetention {
		m.add("native.auto_compaction_retention", "%v is less than %v; 0 leaves compaction to the clients", d, minRetention)
	}
}

func (m *mistakes) log(l Log) {
	if !slices.Contains([]string{"", "debug", "info", "warn", "error"}, l.Level) {
		m.add("log.level", "%q is not debug, info, warn or error", l.Level)
	}
	if !slices.Contains([]string{"", "text", "json"}, l.Format) {
		m.add("log.format", "%q is not text or json", l.Format)
	}
}

// Validate reports all mistakes at once.
func (w *Witness) Validate() error {
	var m mistakes
	m.name("node", w.Name)
	m.dir("data_dir", w.DataDir)
	m.hostPort("listen", w.Listen)
	m.httpListen(w.HTTPListen)
	m.log(w.Log)
	return errors.Join(m...)
}

func (m *mistakes) name(key, v string) {
	if err := CheckName(v); err != nil {
		m.add(key, "%w", err)
	}
}

// CheckName says why something cannot be the name of a node.
func CheckName(v string) error {
	if !nameForm.MatchString(v) {
		return fmt.Errorf("%q is not a name: lower-case letters, digits, '.' and '-', at most 63", v)
	}
	return nil
}

func (m *mistakes) dir(key, v string) {
	if !filepath.IsAbs(v) {
		m.add(key, "%q is not an absolute path", v)
	}
}

func (m *mistakes) hostPort(key, v string) {
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		m.add(key, "%q is not host:port", v)
		return
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 {
		m.add(key, "%q has no port between 1 and 65535", v)
	}
}

func (m *mistakes) httpListen(v string) {
	if v != "" {
		m.hostPort("http_listen", v)
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func sortedKeys[V any](m map[string]V) []string {
	var ks []string
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}
