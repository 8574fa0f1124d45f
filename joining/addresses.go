package joining

import (
	"kineshim/config"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

// Addresses are where members were enrolled, as a configuration has them. Data nodes that were enrolled by a file of an older version are left out: their configuration has them.
func Addresses(peers []raftwitness.Peer) map[string]config.Member {
	out := map[string]config.Member{}
	for _, p := range peers {
		if p.Role == record.Witness || p.Peer != "" {
			out[p.Name] = config.Member{Raft: p.Raft, Peer: p.Peer, Postgres: p.Postgres}
		}
	}
	return out
}
