package config

// Limits bound what others can take of this node.
type Limits struct {
	// MaxConnections bounds the etcd clients' connections at once, over all addresses; 0 is DefaultMaxConnections.
	MaxConnections int `yaml:"max_connections,omitempty"`
}

// DefaultMaxConnections is what a few thousand machines open, at some 20 KB each, twice that with TLS, and well below the descriptors of kineshim's unit.
const DefaultMaxConnections = 20_000

// Bounds of MaxConnections: k3s alone takes some dozens; a process has no more descriptors than that, as a rule.
const minConnections, maxConnections = 100, 1_000_000

func (m *mistakes) limits(l Limits) {
	if n := l.MaxConnections; n < minConnections || n > maxConnections {
		m.add("limits.max_connections", "%d is outside %d to %d", n, minConnections, maxConnections)
	}
}
