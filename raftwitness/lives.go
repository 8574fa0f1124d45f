package raftwitness

import (
	"fmt"

	"kineshim/raftwitness/record"
)

// A voter whose memory is not what the others rely on must not vote: a log that was wiped has forgotten its votes and what was
// committed; a copy restored from an image has forgotten a part; of two machines that run copies of one directory, each votes without the
// other. None of them can tell by itself. So each voter says in every hello who it is and how far it has come (claim), and each remembers of
// the others what they have said and shown (known). A claim that does not continue what is known is refused, for good.
//
// A life is one opening of the log. The counter goes up and is durable, with a new random nonce, before anybody is spoken to, so of one log
// each life is known to the others as a number that only grows, and no two lives have both number and nonce in common.

// claim is what a voter says of itself. The zero claim is that of a version that knows nothing of lives.
type claim struct {
	// Log was made at random with the Raft log.
	Log string `json:"log,omitempty"`
	// Life counts the openings of the log, from 1; Nonce was made at random for this one.
	Life  uint64 `json:"life,omitempty"`
	Nonce string `json:"nonce,omitempty"`
	// Term and Index are Raft's current term, and the last entry of the log: both are durable.
	Term  uint64 `json:"term,omitempty"`
	Index uint64 `json:"index,omitempty"`
	standing
}

// standing is which of a cluster's histories a voter is in, and how far: as of the record that it has applied, or of its enrolment before it
// has one.
type standing struct {
	Generation   uint64 `json:"generation,omitempty"`
	GenerationID string `json:"generationID,omitempty"`
	Incarnation  uint64 `json:"incarnation,omitempty"`
	Epoch        uint64 `json:"epoch,omitempty"`
}

// supersedes: what s says of the voters holds, and not what o says. Two nodes that an operator made go on alone, each of which has given the
// other up, have parted: then the later epoch holds, or the greater ID, so that both come to one result.
func (s standing) supersedes(o standing) bool {
	switch {
	case s.Generation != o.Generation:
		return s.Generation > o.Generation
	case s.GenerationID == o.GenerationID:
		return s.Incarnation > o.Incarnation
	case s.Epoch != o.Epoch:
		return s.Epoch > o.Epoch
	}
	return s.GenerationID > o.GenerationID
}

// known is what a voter remembers of another one.
type known struct {
	Log   string `json:"log"`
	Life  uint64 `json:"life"`
	Nonce string `json:"nonce"`
	// Term is the highest one that the server is known to have stored; Index an entry that it is known to have stored, and that was
	// committed, so that the server still has it.
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
}

// breach is how a voter's memory is not what the others rely on.
type breach string

const (
	wiped      breach = "wiped"      // another Raft log under the same server ID
	restored   breach = "restored"   // an older copy of the log
	duplicated breach = "duplicated" // another process votes as the same server
	superseded breach = "superseded" // another voter has been enrolled in its place, or it was given up
)

// judge says how the claim breaks with what is known; "" if it does not. The position in the log is compared at the first word of a new life
// only: within a life a hello may be older than what was heard since.
func (k known) judge(c claim) (b breach, why string) {
	switch {
	case c.Log == "" || k.Log == "":
		return "", ""
	case c.Log != k.Log:
		return wiped, fmt.Sprintf("its Raft log %s is not the one that is known, %s: the directory was wiped, and what it has voted for and stored is lost", c.Log, k.Log)
	case c.Life < k.Life:
		return restored, fmt.Sprintf("it is in life %d of its log, which is known in life %d: an older copy of the directory, or a second process with one", c.Life, k.Life)
	case c.Life == k.Life && c.Nonce != k.Nonce:
		return duplicated, fmt.Sprintf("life %d of its log is known as %s, not %s: two machines run copies of one directory, or an older copy was restored", c.Life, k.Nonce, c.Nonce)
	case c.Life == k.Life:
		return "", ""
	case c.Term < k.Term:
		return restored, fmt.Sprintf("it is in term %d and has been in term %d: the directory is an older copy", c.Term, k.Term)
	case c.Index < k.Index:
		return restored, fmt.Sprintf("its log ends at entry %d and has held entry %d: the directory is an older copy", c.Index, k.Index)
	}
	return "", ""
}

// with is what is known after a claim that was accepted.
func (k known) with(c claim) known {
	if c.Log == "" {
		return k
	}
	if c.Log != k.Log || c.Life > k.Life {
		k.Log, k.Life, k.Nonce = c.Log, c.Life, c.Nonce
	}
	k.Term = max(k.Term, c.Term) // but not Index: the end of a log may be taken back until it is committed
	return k
}

// remedy is what helps a voter that was refused.
func (b breach) remedy(m record.Member) string {
	command := "on the primary's machine, shimctl node replace " + m.Name
	if m.Role == record.Witness {
		command = "on the primary's machine, shimctl witness replace"
	}
	if b == duplicated {
		return "stop one of the two; if the one that is refused is the right one, enrol it anew: " + command
	}
	return "it must be enrolled anew: " + command
}
