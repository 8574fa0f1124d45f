package raftwitness

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"kineshim/durable"
	"kineshim/raftwitness/record"
)

// Peer is a voter as the others know it.
type Peer struct {
	record.Member
	// Raft is the host:port at which the voter's Raft transport listens.
	Raft string `json:"raft"`
	// Peer and Postgres are where a data node answers the other one, host:port; "": as its configuration says. They matter to no voter.
	Peer     string `json:"peer,omitempty"`
	Postgres string `json:"postgres,omitempty"`
}

// Identity is who a voter is: made once, at enrolment, and never guessed. A voter whose identity file is gone does not vote.
type Identity struct {
	ClusterID string `json:"clusterID"`
	// Name is this voter's name, ServerID its Raft server ID: the name and the incarnation.
	Name     string      `json:"name"`
	ServerID string      `json:"serverID"`
	Role     record.Role `json:"role"`
	// Founder names the data node that makes the first database.
	Founder string `json:"founder"`
	// Promise is how long each voter refuses to vote after it has heard from a leader. All voters must agree on it.
	Promise time.Duration `json:"promiseNanoseconds"`
	// Peers lists all three voters, this one among them, as they were at enrolment. Who votes now stands in the cluster record.
	Peers []Peer `json:"peers"`
	// Incarnation, Generation and GenerationID are the record's with this voter in it; all zero for the voters that the cluster was
	// founded with. Only those make a Raft log with voters in it: others learn from the leader who votes.
	Incarnation  uint64 `json:"incarnation,omitempty"`
	Generation   uint64 `json:"generation,omitempty"`
	GenerationID string `json:"generationID,omitempty"`
}

const identityFile = "identity.json"

// ErrNotEnrolled reports a directory without an identity.
var ErrNotEnrolled = errors.New("not enrolled")

// NewServerID makes a server ID that no earlier voter of this name has had.
func NewServerID(name string) string {
	b := make([]byte, 4)
	rand.Read(b)
	return name + "-" + hex.EncodeToString(b)
}

// clusterIDBytes is how long cluster IDs are; they are written in hexadecimal.
const clusterIDBytes = 8

// NewClusterID makes the ID of a new cluster.
func NewClusterID() string {
	b := make([]byte, clusterIDBytes)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// IsClusterID says whether the name is one that NewClusterID makes.
func IsClusterID(name string) bool {
	b, err := hex.DecodeString(name)
	return err == nil && len(b) == clusterIDBytes
}

// LoadIdentity reads dir/identity.json. It returns ErrNotEnrolled if there is none.
func LoadIdentity(dir string) (Identity, error) {
	var id Identity
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return id, fmt.Errorf("%s: %w", path, ErrNotEnrolled)
	}
	if err != nil {
		return id, fmt.Errorf("read identity: %w", err)
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("read identity %s: %w", path, err)
	}
	return id, id.Validate()
}

// Save writes dir/identity.json durably. It refuses to replace another identity, unless it is the next one of the same member.
func (id Identity) Save(dir string) error {
	if err := id.Validate(); err != nil {
		return err
	}
	if old, err := LoadIdentity(dir); err == nil {
		if old.ServerID == id.ServerID {
			return nil
		}
		if !id.Renews(old) {
			return fmt.Errorf("%s is enrolled already, as %s in cluster %s", dir, old.ServerID, old.ClusterID)
		}
	} else if !errors.Is(err, ErrNotEnrolled) {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	if err := durable.Write(filepath.Join(dir, identityFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	return nil
}

// minPromise is the shortest promise that a busy machine can keep leases under.
const minPromise = 50 * time.Millisecond

// Validate reports what is wrong with the identity.
func (id Identity) Validate() error {
	if id.ClusterID == "" || id.Name == "" || id.ServerID == "" {
		return errors.New("identity: cluster ID, name or server ID is missing")
	}
	if id.Promise < minPromise {
		return fmt.Errorf("identity: promise %v is below %v", id.Promise, minPromise)
	}
	data, self, founder := 0, false, false
	for _, p := range id.Peers {
		if p.Role == record.Data {
			data++
		}
		self = self || p.Name == id.Name && p.ServerID == id.ServerID && p.Role == id.Role
		founder = founder || p.Name == id.Founder && p.Role == record.Data
		if p.Raft == "" {
			return fmt.Errorf("identity: no Raft address for %q", p.Name)
		}
	}
	if len(id.Peers) != 3 || data != 2 {
		return fmt.Errorf("identity: %d voters of which %d hold data; a cluster is two data nodes and a witness", len(id.Peers), data)
	}
	if !founder {
		return fmt.Errorf("identity: the founder %q is not a data node of the cluster", id.Founder)
	}
	if !self {
		return fmt.Errorf("identity: %q is not among the voters", id.ServerID)
	}
	return nil
}

// voters are the peers that voted at enrolment.
func (id Identity) voters() []Peer {
	return slices.DeleteFunc(slices.Clone(id.Peers), func(p Peer) bool { return p.Lost })
}

// founds: the cluster was founded with this voter.
func (id Identity) founds() bool { return id.Incarnation == 0 }

// standing is the one that the voter was enrolled under.
func (id Identity) standing() standing {
	return standing{Generation: id.Generation, GenerationID: id.GenerationID, Incarnation: id.Incarnation}
}

// self is this voter's own entry.
func (id Identity) self() Peer {
	p, _ := id.PeerByName(id.Name)
	return p
}

// PeerByName returns the named voter.
func (id Identity) PeerByName(name string) (Peer, bool) {
	for _, p := range id.Peers {
		if p.Name == name {
			return p, true
		}
	}
	return Peer{}, false
}

// Members lists the voters as the cluster record does.
func (id Identity) Members() []record.Member {
	var ms []record.Member
	for _, p := range id.Peers {
		ms = append(ms, p.Member)
	}
	return ms
}
