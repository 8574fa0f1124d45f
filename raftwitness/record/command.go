package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Kind names a command.
type Kind string

const (
	// Init gives a new cluster its first primary. By: the founding node.
	Init Kind = "init"
	// Pair records that the standby holds every acknowledged write and cannot miss one. By: the primary, which has proved it.
	Pair Kind = "pair"
	// Solo records that only the primary is sure to hold every acknowledged write. By: the primary.
	Solo Kind = "solo"
	// Promote begins a new epoch under Node. By: Node, a member of the in-sync set.
	Promote Kind = "promote"
	// Timeline records the timeline on which PostgreSQL serves the epoch. By: the primary, in solo.
	Timeline Kind = "timeline"
	// Force begins a new epoch under a node that may lack acknowledged writes. By: Node, on an operator's word.
	Force Kind = "force"
	// Pause suspends automatic failover. By: any data node, on an operator's word.
	Pause Kind = "pause"
	// Resume ends Pause.
	Resume Kind = "resume"
	// Revoke voids the certificates of the operator Node, for good. By: any data node, on an operator's word.
	Revoke Kind = "revoke"
	// Replace gives the member Node a new server ID: another voter takes its place. By: the primary, in solo, on an operator's word.
	Replace Kind = "replace"
	// Alone begins a new generation of the cluster, of Node alone: it gives the others up. By: Node, on an operator's word. No majority
	// agrees to it: the node applies it to the record that it knows and begins a new Raft log with the result.
	Alone Kind = "alone"
)

// Command is one change of the record, as it stands in the Raft log.
type Command struct {
	Kind Kind `json:"kind"`
	// Epoch is the epoch under which the change was decided: the command is refused in any other.
	Epoch uint64 `json:"epoch"`
	// By is the data node that proposes.
	By string `json:"by"`
	// Node is whom the change is about: the standby of Pair, the new primary of Promote and Force, the operator of Revoke.
	Node string `json:"node,omitempty"`
	// Why is the reason that operators read in the history.
	Why string `json:"why,omitempty"`
	// AtUnixMilli is the proposer's wall clock, for the history only.
	AtUnixMilli int64 `json:"at"`

	// Timeline: of Timeline, the new one; of Pair and Promote, the one that the proposer saw recorded.
	Timeline  uint32 `json:"timeline,omitempty"`
	SwitchLSN LSN    `json:"switchLSN,omitempty"`

	// ServerID is, of Replace and Alone, the new server ID of Node; of Pair, the one of the standby that was proved, "" if no voter was
	// ever enrolled anew.
	ServerID string `json:"serverID,omitempty"`
	// OldServerID is, of Replace, the one that the operator saw; Address, if not "", the new voter's host:port of Raft.
	OldServerID string `json:"oldServerID,omitempty"`
	Address     string `json:"address,omitempty"`

	// The rest is Init's.
	ClusterID string   `json:"clusterID,omitempty"`
	SystemID  uint64   `json:"systemID,string,omitempty"`
	Members   []Member `json:"members,omitempty"`
}

// Why a command was refused. The record is unchanged.
var (
	ErrStaleEpoch  = errors.New("the epoch has moved on")
	ErrUnknownKind = errors.New("unknown command")
	ErrNotAllowed  = errors.New("not allowed in this state")
)

// Encode is the command's form in the Raft log.
func (c Command) Encode() ([]byte, error) { return json.Marshal(c) }

// Decode reads a command; a field it does not know is an error, not a guess.
func Decode(b []byte) (Command, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var c Command
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("%w: %w", ErrUnknownKind, err)
	}
	return c, nil
}

// Apply returns the record after the command, or the reason why the command is refused. It never changes r.
func (r *Record) Apply(c Command) (Record, error) {
	if c.Epoch != r.Epoch {
		return Record{}, fmt.Errorf("%s decided in epoch %d, the record is in epoch %d: %w", c.Kind, c.Epoch, r.Epoch, ErrStaleEpoch)
	}
	rule, ok := rules[c.Kind]
	if !ok {
		return Record{}, fmt.Errorf("%q: %w", c.Kind, ErrUnknownKind)
	}
	if c.Kind != Init && !r.Initialised() {
		return Record{}, fmt.Errorf("%s: the cluster is not initialised: %w", c.Kind, ErrNotAllowed)
	}
	next := r.Clone()
	if why := rule(&next, c); why != "" {
		return Record{}, fmt.Errorf("%s: %s: %w", c.Kind, why, ErrNotAllowed)
	}
	next.History = append(next.History, Event{c.AtUnixMilli, next.Epoch, c.Kind, c.subject(), c.Why})
	if n := len(next.History) - maxHistory; n > 0 {
		next.History = slices.Delete(next.History, 0, n)
	}
	if err := next.CheckInvariants(r); err != nil {
		return Record{}, fmt.Errorf("%s: %w", c.Kind, err)
	}
	return next, nil
}

func (c Command) subject() string {
	if c.Node != "" {
		return c.Node
	}
	return c.By
}

// rules changes a record that is already a copy, or says why it must not. Each rule is the whole condition of its command:
// what the proposer believed does not count.
var rules = map[Kind]func(*Record, Command) string{
	Init: func(r *Record, c Command) string {
		if r.Initialised() {
			return "the cluster is initialised already"
		}
		if c.By != c.Node {
			return "the founding node proposes itself"
		}
		r.Incarnation, r.Epoch = 1, 1
		r.ClusterID, r.SystemID, r.Members = c.ClusterID, c.SystemID, slices.Clone(c.Members)
		r.Primary, r.InSync = c.Node, []string{c.Node}
		return ""
	},
	Pair: func(r *Record, c Command) string {
		switch {
		case c.By != r.Primary:
			return "only the primary knows who is in sync"
		case !r.isData(c.Node) || c.Node == r.Primary:
			return "only the other data node can be paired"
		case r.Timeline == 0 || c.Timeline != r.Timeline:
			return "the standby was proved on another timeline"
		case !r.isVoter(c.Node, c.ServerID):
			return "the standby that was proved has been replaced"
		case r.Paired():
			return "paired already"
		}
		r.InSync = []string{r.Primary, c.Node}
		slices.Sort(r.InSync)
		return ""
	},
	Solo: func(r *Record, c Command) string {
		switch {
		case c.By != r.Primary:
			return "only the primary knows who is in sync"
		case r.Solo():
			return "solo already"
		}
		r.InSync = []string{r.Primary}
		return ""
	},
	Promote: func(r *Record, c Command) string {
		switch {
		case c.By != c.Node:
			return "a node promotes only itself"
		case !r.InSyncHas(c.Node):
			return "the node may lack acknowledged writes"
		case c.Node != r.Primary && c.Timeline != r.Timeline:
			return "the node is on another timeline"
		}
		r.begin(c.Node)
		return ""
	},
	Force: func(r *Record, c Command) string {
		switch {
		case c.By != c.Node:
			return "a node promotes only itself"
		case !r.isData(c.Node):
			return "only a data node can be primary"
		case c.Node == r.Primary:
			return "the node is the primary already"
		case !r.isVoter(c.Node, ""):
			return "the node was given up"
		}
		r.begin(c.Node)
		// The node may never have seen the last timelines, and then begins one whose number is taken: nobody else's data fits
		// the history before this point any more.
		r.Forks = nil
		return ""
	},
	Timeline: func(r *Record, c Command) string {
		switch {
		case c.By != r.Primary:
			return "only the primary knows its timeline"
		case r.Paired():
			return "the timeline of a paired cluster does not change"
		case c.Timeline == 0 || len(r.Forks) > 0 && c.Timeline <= r.Forks[len(r.Forks)-1].Timeline:
			return "a timeline only goes up"
		}
		r.Timeline, r.SwitchLSN = c.Timeline, c.SwitchLSN
		r.Forks = append(r.Forks, Fork{r.Epoch, r.Primary, c.Timeline, c.SwitchLSN})
		if n := len(r.Forks) - maxForks; n > 0 {
			r.Forks = slices.Delete(r.Forks, 0, n)
		}
		return ""
	},
	Pause:  func(r *Record, c Command) string { return r.setPaused(c, true) },
	Resume: func(r *Record, c Command) string { return r.setPaused(c, false) },

	Revoke: func(r *Record, c Command) string {
		switch {
		case !r.isData(c.By):
			return "only a data node passes on an operator's word"
		case c.Node == "" || len(c.Node) > maxOperator:
			return "that is no operator's name"
		case r.IsRevoked(c.Node):
			return "it is so already"
		case len(r.Revoked) >= maxRevoked:
			return fmt.Sprintf("%d operators are revoked, and the record keeps no more: the certificates of the others end by themselves", maxRevoked)
		}
		r.Revoked = append(r.Revoked, c.Node)
		slices.Sort(r.Revoked)
		return ""
	},

	Replace: (*Record).replace,
	Alone:   (*Record).alone,
}

// begin opens a new epoch, in which nobody but the new primary is sure to hold everything.
func (r *Record) begin(primary string) {
	r.Epoch++
	r.Primary = primary
	r.InSync = []string{primary}
	r.Timeline, r.SwitchLSN = 0, 0
}

func (r *Record) setPaused(c Command, paused bool) string {
	switch {
	case !r.isData(c.By):
		return "only a data node passes on an operator's word"
	case r.Paused == paused:
		return "it is so already"
	}
	r.Paused = paused
	return ""
}
