package raftwitness

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"kineshim/raftwitness/record"
)

// Enrolment is the file that the founding node makes for another member: its identity and, for a data node, the secrets that
// the two data nodes share.
type Enrolment struct {
	Identity Identity        `json:"identity"`
	Secrets  json.RawMessage `json:"secrets,omitempty"`
}

// LoadEnrolment reads the identity in an enrolment file.
func LoadEnrolment(path string) (Identity, error) {
	e, err := ReadEnrolment(path)
	return e.Identity, err
}

// ReadEnrolment reads an enrolment file.
func ReadEnrolment(path string) (Enrolment, error) {
	var e Enrolment
	b, err := os.ReadFile(path)
	if err != nil {
		return e, fmt.Errorf("read enrolment: %w", err)
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("read enrolment %s: %w", path, err)
	}
	if err := e.Identity.Validate(); err != nil {
		return e, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}

// Found makes the identities of a new cluster: one for each voter.
func Found(founder string, promise time.Duration, voters []Peer) []Identity {
	cluster := NewClusterID()
	voters = slices.Clone(voters)
	for i := range voters {
		voters[i].ServerID = NewServerID(voters[i].Name)
	}
	var ids []Identity
	for _, v := range voters {
		ids = append(ids, Identity{
			ClusterID: cluster, Name: v.Name, ServerID: v.ServerID, Role: v.Role, Founder: founder, Promise: promise, Peers: voters,
		})
	}
	return ids
}

// IsFounder reports whether this is the data node that makes the first database.
func (id Identity) IsFounder() bool { return id.Role == record.Data && id.Name == id.Founder }
