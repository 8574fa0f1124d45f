package record

import (
	"fmt"
	"slices"
)

// Replacement is a server ID that is void: By, the server that is called Name now, has taken its place.
type Replacement struct {
	Name     string `json:"name"`
	ServerID string `json:"serverID"`
	By       string `json:"by"`
	// AtUnixMilli is the proposer's wall clock, for people.
	AtUnixMilli int64 `json:"at"`
}

// maxReplaced bounds Record.Replaced. A server ID that is forgotten is still no voter; only the reason is told less well.
const maxReplaced = 50

// Voters are the members that vote: all but those that were given up.
func (r *Record) Voters() []Member {
	return slices.DeleteFunc(slices.Clone(r.Members), func(m Member) bool { return m.Lost })
}

// Voter returns the member that votes under the server ID.
func (r *Record) Voter(serverID string) (Member, bool) {
	i := slices.IndexFunc(r.Members, func(m Member) bool { return m.ServerID == serverID && !m.Lost })
	if i < 0 {
		return Member{}, false
	}
	return r.Members[i], true
}

// ReplacementOf returns what took the place of a void server ID.
func (r *Record) ReplacementOf(serverID string) (Replacement, bool) {
	i := slices.IndexFunc(r.Replaced, func(x Replacement) bool { return x.ServerID == serverID })
	if i < 0 {
		return Replacement{}, false
	}
	return r.Replaced[i], true
}

// isVoter: the node is a member that votes, under the given server ID if it is not "".
func (r *Record) isVoter(node, serverID string) bool {
	m, ok := r.Member(node)
	return ok && !m.Lost && (serverID == "" || serverID == m.ServerID)
}

// isNew: no member has, or ever had, the server ID.
func (r *Record) isNew(serverID string) bool {
	_, void := r.ReplacementOf(serverID)
	return serverID != "" && !void && !slices.ContainsFunc(r.Members, func(m Member) bool { return m.ServerID == serverID })
}

// replace is the rule of Replace. In solo nobody but the primary counts, so that whoever is replaced takes nothing along.
func (r *Record) replace(c Command) string {
	m, ok := r.Member(c.Node)
	switch {
	case c.By != r.Primary:
		return "only the primary enrols a member anew"
	case !ok:
		return "there is no such member"
	case c.Node == r.Primary:
		return "the primary cannot be replaced: switch over first"
	case !r.Solo():
		return "the record counts on all three members"
	case m.ServerID != c.OldServerID:
		return "it was enrolled anew meanwhile, as " + m.ServerID
	case !r.isNew(c.ServerID):
		return "the server ID is not new"
	}
	r.rename(c)
	return ""
}

// alone is the rule of Alone.
func (r *Record) alone(c Command) string {
	switch {
	case c.By != c.Node:
		return "a node goes on alone only by itself"
	case !r.isData(c.Node):
		return "only a data node can go on alone"
	case !r.isVoter(c.Node, ""):
		return "the node was given up"
	case !r.isNew(c.ServerID):
		return "the server ID is not new"
	}
	r.rename(c)
	for i := range r.Members {
		r.Members[i].Lost = r.Members[i].Name != c.Node
	}
	r.Generation++
	r.GenerationID = c.ServerID
	r.begin(c.Node)
	r.Forks = nil // as with Force: the others may have begun timelines that this node does not know
	return ""
}

// rename gives the member c.Node its new server ID.
func (r *Record) rename(c Command) {
	i := slices.IndexFunc(r.Members, func(m Member) bool { return m.Name == c.Node })
	m := &r.Members[i]
	r.Replaced = append(r.Replaced, Replacement{m.Name, m.ServerID, c.ServerID, c.AtUnixMilli})
	if n := len(r.Replaced) - maxReplaced; n > 0 {
		r.Replaced = slices.Delete(r.Replaced, 0, n)
	}
	m.ServerID, m.Lost = c.ServerID, false
	if c.Address != "" {
		m.Address = c.Address
	}
	r.Incarnation++
}

// brokenVoters is the part of CheckInvariants that is about who votes; "" if all is well. Both records are initialised and have three
// members each.
func (r *Record) brokenVoters(old *Record) string {
	changed, alone := 0, r.Generation > old.Generation
	for i, m := range r.Members {
		if _, void := r.ReplacementOf(m.ServerID); void {
			return fmt.Sprintf("the void server ID %q is a member's", m.ServerID)
		}
		if m.Lost && r.InSyncHas(m.Name) {
			return fmt.Sprintf("in-sync node %q was given up", m.Name)
		}
		if i >= len(old.Members) {
			continue
		}
		o := old.Members[i]
		if o.Name != m.Name || o.Role != m.Role {
			return fmt.Sprintf("member %q became %q", o.Name, m.Name)
		}
		if o.ServerID != m.ServerID {
			changed++
		} else if o.Lost != m.Lost && !alone {
			return fmt.Sprintf("member %q was given up or taken back", m.Name)
		}
		if o.ServerID != m.ServerID && m.Name == r.Primary && !alone {
			return "the primary was replaced"
		}
	}
	switch {
	case r.Incarnation != old.Incarnation+uint64(changed) || changed > 1:
		return fmt.Sprintf("%d voters changed and the incarnation went from %d to %d", changed, old.Incarnation, r.Incarnation)
	case r.Generation < old.Generation || r.Generation > old.Generation+1:
		return fmt.Sprintf("generation went from %d to %d", old.Generation, r.Generation)
	case alone && (r.Epoch != old.Epoch+1 || changed != 1):
		return "a generation began without an epoch and a server ID of its own"
	case !alone && r.GenerationID != old.GenerationID:
		return "the generation changed its ID"
	case changed > 0 && !alone && !r.Solo():
		return "a voter was replaced while all three counted"
	}
	return ""
}
