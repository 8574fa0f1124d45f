package doctor

import (
	"slices"
	"strings"

	"kineshim/config"
	"kineshim/joining"
	"kineshim/raftwitness"
)

// member is one of the three, as this node is to reach it: host:port each, "" where it has none or none is known.
type member struct {
	name string
	// server is its server ID as of this node's enrolment; "" before that. It may have been enrolled anew since.
	server               string
	raft, peer, postgres string
}

// witness: it holds no data.
func (m member) witness() bool { return m.peer == "" && m.postgres == "" }

// ports are its addresses, each with its name in the configuration and for people.
func (m member) ports() []port {
	var all []port
	for _, p := range []port{{"raft", "Raft", m.raft}, {"peer", "peer", m.peer}, {"postgres", "PostgreSQL", m.postgres}} {
		if p.address != "" {
			all = append(all, p)
		}
	}
	return all
}

// port is one address of a member.
type port struct{ key, name, address string }

// complete fills in where the members were enrolled, as kineshim does; a nil id leaves the configuration as it is. The error is about the whole.
func complete(cfg *config.Node, id *raftwitness.Identity) error {
	if id == nil {
		return nil
	}
	return cfg.Enrolled(joining.Addresses(id.Peers))
}

// membersOf are this node and the others, data nodes first, as far as they are known: before the enrolment, the configuration need not name them. All
// that the checks know of where members are is from here.
func membersOf(cfg config.Node, id *raftwitness.Identity) (self member, others []member) {
	self.name = cfg.Name
	for name, c := range cfg.Members {
		m := member{name: name, raft: c.Raft, peer: c.Peer, postgres: c.Postgres}
		if id != nil {
			p, _ := id.PeerByName(name)
			m.server = p.ServerID
		}
		if name == cfg.Name {
			self = m
			continue
		}
		others = append(others, m)
	}
	slices.SortFunc(others, func(a, b member) int {
		if a.witness() != b.witness() {
			if a.witness() {
				return 1
			}
			return -1
		}
		return strings.Compare(a.name, b.name)
	})
	return self, others
}

// otherData is the other data node.
func otherData(others []member) member {
	for _, m := range others {
		if !m.witness() {
			return m
		}
	}
	return member{}
}

// other is what the other data node is called, in a sentence.
func (n *node) other() string {
	if name := otherData(n.others).name; name != "" {
		return name
	}
	return "the other data node"
}

// nameOf is the member's name in a server ID; see raftwitness.NewServerID.
func nameOf(server string) string {
	if i := strings.LastIndexByte(server, '-'); i > 0 {
		return server[:i]
	}
	return server
}
