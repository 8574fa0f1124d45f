// Package record is the cluster record: the few facts on which two data nodes and a witness must agree, and the commands
// that change them. It is pure: no clock, no I/O, no goroutine, so that replicas that apply the same commands hold the same
// record, and so that tests and simulations can run it millions of times.
package record

import (
	"errors"
	"fmt"
	"slices"
)

// Role says what a member of the cluster is for.
type Role string

const (
	// Data is a node with a PostgreSQL.
	Data Role = "data"
	// Witness is a voter without data.
	Witness Role = "witness"
)

// Member is one of the three members. Names and roles are fixed when the cluster is founded.
type Member struct {
	// Name is what operators call the node: "a", "shop-1".
	Name string `json:"name"`
	// ServerID is the Raft server ID: the name and what was made at random at enrolment.
	ServerID string `json:"serverID"`
	Role     Role   `json:"role"`
	// Address is the host:port of Raft that an operator gave when the member was replaced; "": none.
	Address string `json:"address,omitempty"`
	// Lost: the member was given up by Alone and has not been replaced since: it is no voter.
	Lost bool `json:"lost,omitempty"`
}

// Fork says where a timeline began: epoch Epoch, under primary Primary, is the one writer of timeline Timeline, which left
// its parent at SwitchLSN.
type Fork struct {
	Epoch     uint64 `json:"epoch"`
	Primary   string `json:"primary"`
	Timeline  uint32 `json:"timeline"`
	SwitchLSN LSN    `json:"switchLSN"`
}

// Event is one line of the history that operators read.
type Event struct {
	// AtUnixMilli is the proposer's wall clock; it is shown to people and decides nothing.
	AtUnixMilli int64  `json:"at"`
	Epoch       uint64 `json:"epoch"`
	Kind        Kind   `json:"kind"`
	Node        string `json:"node"`
	Why         string `json:"why,omitempty"`
}

const (
	// maxHistory bounds Record.History: about a year of a cluster that fails over every week, and small enough for a snapshot.
	maxHistory = 200
	// maxForks bounds Record.Forks. A node whose timeline is older than all of them is cloned, not rewound.
	maxForks = 200
	// maxRevoked bounds Record.Revoked, and maxOperator each name in it, in bytes.
	maxRevoked  = 100
	maxOperator = 63
)

// Record is what the three voters agree on. The zero Record is a cluster that nobody has initialised.
type Record struct {
	// Incarnation goes up when the voters change, by Replace or Alone.
	Incarnation uint64 `json:"incarnation"`
	// Generation goes up with Alone, and GenerationID is then the new server ID of the node that went on alone: two histories of one
	// cluster that parted can be told apart by it. 0 and "" in a cluster that never was given up in part.
	Generation   uint64 `json:"generation,omitempty"`
	GenerationID string `json:"generationID,omitempty"`
	ClusterID    string `json:"clusterID"`
	// SystemID is PostgreSQL's system identifier (pg_controldata), which all copies of one database share.
	SystemID uint64 `json:"systemID,string"`
	// Epoch goes up with every promotion: each epoch has one primary.
	Epoch   uint64 `json:"epoch"`
	Primary string `json:"primary"`
	// InSync names the data nodes that hold every acknowledged write, sorted. Only they may be promoted.
	InSync []string `json:"inSync"`
	// Timeline is PostgreSQL's timeline of this epoch, the last one if a solo primary had to restart it; 0 from the promotion's commit until the primary has recorded it.
	Timeline uint32 `json:"timeline"`
	// SwitchLSN is where Timeline left its parent.
	SwitchLSN LSN `json:"switchLSN"`
	// Paused says that an operator has suspended automatic failover.
	Paused  bool     `json:"paused"`
	Members []Member `json:"members"`
	// Replaced lists server IDs that are void, oldest first.
	Replaced []Replacement `json:"replaced,omitempty"`
	// Revoked names the operators whose certificates are void, sorted. A name stays void: whoever had it gets another.
	Revoked []string `json:"revoked,omitempty"`
	// Forks lists the timelines recorded so far, oldest first.
	Forks []Fork `json:"forks"`
	// History lists what happened, oldest first.
	History []Event `json:"history"`
}

// Initialised reports whether the cluster has been given its first primary.
func (r *Record) Initialised() bool { return r.Epoch != 0 }

// Paired reports whether both data nodes hold every acknowledged write and the automatic failover is armed.
func (r *Record) Paired() bool { return len(r.InSync) == 2 }

// Solo reports whether the primary alone holds every acknowledged write for certain, so that nobody else can take over.
func (r *Record) Solo() bool { return len(r.InSync) == 1 }

// InSyncHas reports whether the named node holds every acknowledged write.
func (r *Record) InSyncHas(node string) bool { return slices.Contains(r.InSync, node) }

// IsRevoked reports whether the certificates of the named operator are void.
func (r *Record) IsRevoked(operator string) bool { return slices.Contains(r.Revoked, operator) }

// Mode is "paired", "solo" or "uninitialised".
func (r *Record) Mode() string {
	switch {
	case !r.Initialised():
		return "uninitialised"
	case r.Paired():
		return "paired"
	default:
		return "solo"
	}
}

// Member returns the named member.
func (r *Record) Member(name string) (Member, bool) {
	i := slices.IndexFunc(r.Members, func(m Member) bool { return m.Name == name })
	if i < 0 {
		return Member{}, false
	}
	return r.Members[i], true
}

// Clone returns a copy that shares nothing with r.
func (r *Record) Clone() Record {
	c := *r
	c.InSync = slices.Clone(r.InSync)
	c.Members = slices.Clone(r.Members)
	c.Replaced = slices.Clone(r.Replaced)
	c.Revoked = slices.Clone(r.Revoked)
	c.Forks = slices.Clone(r.Forks)
	c.History = slices.Clone(r.History)
	return c
}

// ForkOf returns the fork that began the given timeline.
func (r *Record) ForkOf(timeline uint32) (Fork, bool) {
	i := slices.IndexFunc(r.Forks, func(f Fork) bool { return f.Timeline == timeline })
	if i < 0 {
		return Fork{}, false
	}
	return r.Forks[i], true
}

// FirstForkAfter returns the first fork that left the given timeline behind: a node that wrote that timeline beyond this
// fork's SwitchLSN has a tail that nobody else has.
func (r *Record) FirstForkAfter(timeline uint32) (Fork, bool) {
	i := slices.IndexFunc(r.Forks, func(f Fork) bool { return f.Timeline > timeline })
	if i < 0 {
		return Fork{}, false
	}
	return r.Forks[i], true
}

func (r *Record) isData(node string) bool {
	m, ok := r.Member(node)
	return ok && m.Role == Data
}

// ErrInvariant reports that a command, though its conditions held, would have led to a record that must not exist. The
// command is refused and the record stays as it was.
var ErrInvariant = errors.New("the cluster record would break an invariant")

// CheckInvariants reports what must hold of every record that follows old, and does not hold of r. It is run after each
// command, in production too.
func (r *Record) CheckInvariants(old *Record) error {
	broken := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrInvariant}, args...)...)
	}
	if !r.Initialised() {
		if old.Initialised() {
			return broken("an initialised record became uninitialised")
		}
		return nil
	}
	if len(r.Members) != 3 {
		return broken("%d members, not 3", len(r.Members))
	}
	data := 0
	for i, m := range r.Members {
		if m.Role == Data {
			data++
		}
		if slices.ContainsFunc(r.Members[:i], func(o Member) bool { return o.Name == m.Name || o.ServerID == m.ServerID }) {
			return broken("two members are called %q or %q", m.Name, m.ServerID)
		}
	}
	if data != 2 {
		return broken("%d members hold data, not 2", data)
	}
	if len(r.InSync) < 1 || len(r.InSync) > 2 || !slices.IsSorted(r.InSync) {
		return broken("in-sync set %v is not one or two sorted names", r.InSync)
	}
	if len(r.InSync) == 2 && r.InSync[0] == r.InSync[1] {
		return broken("in-sync set %v names one node twice", r.InSync)
	}
	for _, n := range r.InSync {
		if !r.isData(n) {
			return broken("in-sync node %q is not a data node", n)
		}
	}
	if !r.InSyncHas(r.Primary) {
		return broken("primary %q is not in sync", r.Primary)
	}
	if r.SystemID == 0 || r.ClusterID == "" {
		return broken("no system identifier or no cluster ID")
	}
	if r.Paired() && r.Timeline == 0 {
		return broken("paired on an unknown timeline")
	}
	if n := len(r.Forks); n > 0 && r.Timeline != 0 && r.Forks[n-1].Timeline != r.Timeline {
		return broken("timeline %d is not the last fork's %d", r.Timeline, r.Forks[n-1].Timeline)
	}
	for i := 1; i < len(r.Forks); i++ {
		if r.Forks[i].Timeline <= r.Forks[i-1].Timeline || r.Forks[i].Epoch < r.Forks[i-1].Epoch {
			return broken("forks out of order")
		}
	}
	if !old.Initialised() {
		return nil
	}
	switch {
	case r.Epoch < old.Epoch || r.Epoch > old.Epoch+1:
		return broken("epoch went from %d to %d", old.Epoch, r.Epoch)
	case r.Epoch == old.Epoch && r.Primary != old.Primary:
		return broken("primary changed within epoch %d", r.Epoch)
	case r.Epoch > old.Epoch && !r.Solo():
		return broken("epoch %d began paired", r.Epoch)
	case r.ClusterID != old.ClusterID || r.SystemID != old.SystemID:
		return broken("the cluster's identity changed")
	}
	if !containsAll(r.Revoked, old.Revoked) {
		return broken("an operator who was revoked is so no more")
	}
	if what := r.brokenVoters(old); what != "" {
		return broken("%s", what)
	}
	return nil
}

func containsAll(s, all []string) bool {
	return !slices.ContainsFunc(all, func(v string) bool { return !slices.Contains(s, v) })
}
