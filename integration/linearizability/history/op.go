// Package history checks what clients were answered: that all answers can be explained by the requests having happened one after
// the other, each at some instant between its call and its return.
//
// Two independent ways lead there. Porcupine searches an order for each key by itself, with etcd's semantics of versions and
// revisions, from the answers alone. And since every answer names a revision, it is compared with the store's own history of
// events: that finds what a search by key misses, among it reads of two keys that are no snapshot.
//
// The package starts nothing and asks nobody. It reads a clock only to bound its search, and writes pictures of what it finds.
package history

import (
	"fmt"
	"math"
	"strings"
)

// Kind is what a request asks for.
type Kind string

const (
	// Get reads one key.
	Get Kind = "get"
	// GetPair reads two keys in one transaction.
	GetPair Kind = "get-pair"
	// GetStale reads one key serializably: it may be old, but was true once.
	GetStale Kind = "get-stale"
	// GetAt reads one key at an older revision.
	GetAt Kind = "get-at"
	// Put writes one key whatever it holds.
	Put Kind = "put"
	// PutPair writes the same value to two keys in one transaction.
	PutPair Kind = "put-pair"
	// Set is If(compare) Then Put, and perhaps Else Range. Compared with mod revision 0 it creates if absent.
	Set Kind = "set"
	// Remove is If(compare) Then DeleteRange, and perhaps Else Range.
	Remove Kind = "remove"
	// Delete deletes one key whatever it holds.
	Delete Kind = "delete"
)

// Writes says whether a request of the kind may change something.
func (k Kind) Writes() bool {
	switch k {
	case Get, GetPair, GetStale, GetAt:
		return false
	}
	return true
}

// Puts says whether a request of the kind writes a value.
func (k Kind) Puts() bool { return k == Put || k == PutPair || k == Set }

// Target is what a comparison looks at.
type Target string

const (
	// None: there is no comparison.
	None    Target = ""
	Mod     Target = "mod"
	Value   Target = "value"
	Version Target = "version"
	Create  Target = "create"
)

// Compare is a comparison for equality of the first key.
type Compare struct {
	Target Target
	Number int64  // for all targets but Value
	Value  string // for Value
}

// KV is the state of a key. The zero KV is that of an absent key.
type KV struct {
	Value                string
	Create, Mod, Version int64
}

// Exists says whether the key is there.
func (kv KV) Exists() bool { return kv.Mod != 0 }

func (kv KV) String() string {
	if !kv.Exists() {
		return "absent"
	}
	return fmt.Sprintf("%s@%d (created %d, version %d)", kv.Value, kv.Mod, kv.Create, kv.Version)
}

// Holds says whether the comparison is true of a key. An absent key equals no value, and is 0 in all else, as in etcd.
func (c Compare) Holds(kv KV) bool {
	switch c.Target {
	case None:
		return true
	case Mod:
		return kv.Mod == c.Number
	case Value:
		return kv.Exists() && kv.Value == c.Value
	case Version:
		return kv.Version == c.Number
	case Create:
		return kv.Create == c.Number
	}
	return false
}

// Outcome is what a client knows of its request.
type Outcome string

const (
	// Done: it was answered.
	Done Outcome = "done"
	// NotDone: it was refused with the word that nothing was done.
	NotDone Outcome = "not done"
	// Unknown: it may have been done, or be done later.
	Unknown Outcome = "unknown"
)

// Forever is the return of a request that never returned.
const Forever = math.MaxInt64

// Op is a request with its answer. Values that are written are unique among all requests.
type Op struct {
	// Client is the number of a sequence of requests that do not overlap.
	Client int    `json:"client"`
	Node   string `json:"node"`
	Kind   Kind   `json:"kind"`
	// Keys are one, or two for pairs.
	Keys    []string `json:"keys"`
	Compare Compare  `json:"compare,omitzero"`
	// Value is what is written.
	Value string `json:"value,omitempty"`
	// At is the revision of a GetAt.
	At int64 `json:"at,omitempty"`

	// Call and Return are nanoseconds on one monotonic clock. Return is Forever if the outcome is unknown.
	Call    int64   `json:"call"`
	Return  int64   `json:"return"`
	Outcome Outcome `json:"outcome"`
	Error   string  `json:"error,omitempty"`

	// What follows is the answer of a request that was done.

	// Revision is that of the header. A write that changed something has made it.
	Revision int64 `json:"revision,omitempty"`
	// Succeeded is false only of a comparison that did not hold.
	Succeeded bool `json:"succeeded,omitempty"`
	// Deleted is how many keys were deleted.
	Deleted int64 `json:"deleted,omitempty"`
	// Looked: Seen is the state of each of Keys that the answer shows. A write shows the state before it.
	Looked bool `json:"looked,omitempty"`
	Seen   []KV `json:"seen,omitempty"`
}

// Changed says whether the request was answered as having changed something.
func (o *Op) Changed() bool {
	switch {
	case o.Outcome != Done || !o.Kind.Writes() || !o.Succeeded:
		return false
	case o.Kind == Delete || o.Kind == Remove:
		return o.Deleted > 0
	}
	return true
}

// Linearizable says whether the request must take effect between its call and its return.
func (o *Op) Linearizable() bool { return o.Kind != GetStale }

func (o *Op) touches(key string) bool {
	for _, k := range o.Keys {
		if k == key {
			return true
		}
	}
	return false
}

// String is the request and its answer in one line.
func (o *Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client %d via %s: %s %s", o.Client, o.Node, o.Kind, strings.Join(o.Keys, ","))
	if o.Kind == GetAt {
		fmt.Fprintf(&b, " at %d", o.At)
	}
	switch o.Compare.Target {
	case None:
	case Value:
		fmt.Fprintf(&b, " if value=%s", o.Compare.Value)
	default:
		fmt.Fprintf(&b, " if %s=%d", o.Compare.Target, o.Compare.Number)
	}
	if o.Kind.Puts() {
		fmt.Fprintf(&b, " to %s", o.Value)
	}
	b.WriteString(" -> ")
	b.WriteString(o.answer())
	if o.Return == Forever {
		fmt.Fprintf(&b, " [%.3f ms, open]", float64(o.Call)/1e6)
	} else {
		fmt.Fprintf(&b, " [%.3f, %.3f ms]", float64(o.Call)/1e6, float64(o.Return)/1e6)
	}
	return b.String()
}

func (o *Op) answer() string {
	if o.Outcome != Done {
		return string(o.Outcome) + ": " + o.Error
	}
	out := fmt.Sprintf("revision %d", o.Revision)
	if !o.Succeeded {
		out += ", comparison failed"
	}
	if o.Kind == Delete || o.Kind == Remove {
		out += fmt.Sprintf(", deleted %d", o.Deleted)
	}
	if o.Looked {
		for _, kv := range o.Seen {
			out += ", saw " + kv.String()
		}
	}
	return out
}
