// Package oracle compares an etcd endpoint of ours with etcd itself: random sequences of operations run against both, one
// operation at a time, and every answer must be equal, field by field. Sequences are data (see Op): a failure is cut down to
// the operations that it needs and kept as a file of one JSON object per line, which runs again.
package oracle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Op is one operation; exactly one field is set, or none, which does nothing.
type Op struct {
	Range      *RangeOp   `json:"range,omitempty"`
	Put        *PutOp     `json:"put,omitempty"`
	Delete     *DeleteOp  `json:"delete,omitempty"`
	Txn        *TxnOp     `json:"txn,omitempty"`
	Compact    *CompactOp `json:"compact,omitempty"`
	Grant      *GrantOp   `json:"grant,omitempty"`
	Revoke     *LeaseOp   `json:"revoke,omitempty"`
	TimeToLive *LeaseOp   `json:"timeToLive,omitempty"`
	KeepAlive  *LeaseOp   `json:"keepAlive,omitempty"`
	Leases     *struct{}  `json:"leases,omitempty"`
	Watch      *WatchOp   `json:"watch,omitempty"`
	Cancel     *CancelOp  `json:"cancel,omitempty"`
	Sync       *struct{}  `json:"sync,omitempty"`    // compares the events that the watches have seen
	Restart    *RestartOp `json:"restart,omitempty"` // of the endpoint under test
	Dump       *struct{}  `json:"dump,omitempty"`    // compares everything that can be read, at every revision
	Gone       *GoneOp    `json:"gone,omitempty"`    // waits until a lease has taken a key away
}

// RangeOp is a RangeRequest. Order and Target are etcd's numbers.
type RangeOp struct {
	Key          Bin   `json:"key"`
	End          Bin   `json:"end,omitempty"`
	Limit        int64 `json:"limit,omitempty"`
	Revision     Rev   `json:"revision,omitzero"`
	Order        int32 `json:"order,omitempty"`
	Target       int32 `json:"target,omitempty"`
	Serializable bool  `json:"serializable,omitempty"`
	KeysOnly     bool  `json:"keysOnly,omitempty"`
	CountOnly    bool  `json:"countOnly,omitempty"`
	MinMod       Rev   `json:"minMod,omitzero"`
	MaxMod       Rev   `json:"maxMod,omitzero"`
	MinCreate    Rev   `json:"minCreate,omitzero"`
	MaxCreate    Rev   `json:"maxCreate,omitzero"`
}

// PutOp is a PutRequest.
type PutOp struct {
	Key         Bin   `json:"key"`
	Value       Bin   `json:"value,omitempty"`
	Lease       Lease `json:"lease,omitempty"`
	PrevKv      bool  `json:"prevKv,omitempty"`
	IgnoreValue bool  `json:"ignoreValue,omitempty"`
	IgnoreLease bool  `json:"ignoreLease,omitempty"`
}

// DeleteOp is a DeleteRangeRequest.
type DeleteOp struct {
	Key    Bin  `json:"key"`
	End    Bin  `json:"end,omitempty"`
	PrevKv bool `json:"prevKv,omitempty"`
}

// TxnOp is a TxnRequest. Its operations are ranges, puts, deletes and transactions, or empty.
type TxnOp struct {
	If   []Compare `json:"if,omitempty"`
	Then []Op      `json:"then,omitempty"`
	Else []Op      `json:"else,omitempty"`
	// Times repeats Then, if it is above 1, for transactions that are too long.
	Times int `json:"times,omitempty"`
}

// Compare is etcd's. Target says what is compared, Union which field of the request is set, if it is another: its number
// plus 1.
type Compare struct {
	Key    Bin   `json:"key"`
	End    Bin   `json:"end,omitempty"`
	Target int32 `json:"target,omitempty"`
	Result int32 `json:"result,omitempty"`
	Union  int32 `json:"union,omitempty"`
	Number Rev   `json:"number,omitzero"` // a version or revision
	Lease  Lease `json:"lease,omitempty"`
	Value  Bin   `json:"value,omitempty"`
}

// CompactOp is a CompactionRequest.
type CompactOp struct {
	Revision Rev  `json:"revision,omitzero"`
	Physical bool `json:"physical,omitempty"`
}

// GrantOp is a LeaseGrantRequest. TTL is in seconds; an ID of -1000 or below, or 0, lets the endpoint choose.
type GrantOp struct {
	ID  Lease `json:"id"`
	TTL int64 `json:"ttl"`
}

// LeaseOp names a lease.
type LeaseOp struct {
	ID   Lease `json:"id"`
	Keys bool  `json:"keys,omitempty"` // TimeToLive
}

// WatchOp creates a watch on one of the sequence's streams.
type WatchOp struct {
	Stream   int     `json:"stream,omitempty"`
	Key      Bin     `json:"key"`
	End      Bin     `json:"end,omitempty"`
	Start    Rev     `json:"start,omitzero"`
	ID       int64   `json:"id,omitempty"`
	Filters  []int32 `json:"filters,omitempty"`
	PrevKv   bool    `json:"prevKv,omitempty"`
	Progress bool    `json:"progress,omitempty"`
	Fragment bool    `json:"fragment,omitempty"`
}

// CancelOp cancels a watch.
type CancelOp struct {
	Stream int   `json:"stream,omitempty"`
	ID     int64 `json:"id"`
}

// GoneOp names a key.
type GoneOp struct {
	Key Bin `json:"key"`
}

// RestartOp starts the engine under test anew; hard: after it has lost its database sessions.
type RestartOp struct {
	Hard bool `json:"hard,omitempty"`
}

// Lease is a lease's ID as sequences write it: -1000 and below are names of leases whose ID the endpoint chose.
type Lease int64

const chosenByServer Lease = -1000

// Rev is a number of which the sequence knows only where it comes from. The zero Rev is 0.
type Rev struct {
	// From is empty (0), cur (the current revision), base (that before the sequence), compacted, or mod, create or version
	// (of Key as it is now; 0 if it is not there), or modOrCur (mod, or cur if it is not there).
	From string `json:"from,omitempty"`
	Key  Bin    `json:"key,omitempty"`
	Plus int64  `json:"plus,omitempty"`
}

// Bin is bytes that are written as a Go string is, without its quotes; a long run of one byte as byte*count*.
type Bin string

// longRun is from how many bytes on a run is written as one.
const longRun = 32

// MarshalText writes it.
func (b Bin) MarshalText() ([]byte, error) {
	var out strings.Builder
	plain := func(s string) {
		quoted := strconv.QuoteToASCII(s)
		out.WriteString(strings.ReplaceAll(quoted[1:len(quoted)-1], "*", `\x2a`))
	}
	s, done := string(b), 0
	for at := 0; at < len(s); {
		end := at + 1
		for end < len(s) && s[end] == s[at] {
			end++
		}
		if end-at >= longRun {
			plain(s[done : at+1])
			fmt.Fprintf(&out, "*%d*", end-at)
			done = end
		}
		at = end
	}
	plain(s[done:])
	return []byte(out.String()), nil
}

// UnmarshalText reads it.
func (b *Bin) UnmarshalText(text []byte) error {
	var out []byte
	for i, part := range strings.Split(string(text), "*") {
		if i%2 == 0 {
			s, err := strconv.Unquote(`"` + part + `"`)
			if err != nil {
				return fmt.Errorf("bytes %q: %w", text, err)
			}
			out = append(out, s...)
			continue
		}
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 || len(out) == 0 {
			return fmt.Errorf("bytes %q: no run", text)
		}
		out = append(out, bytes.Repeat(out[len(out)-1:], n-1)...)
	}
	*b = Bin(out)
	return nil
}

func (o Op) String() string {
	text, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// lines writes operations one per line.
func lines(ops []Op) string {
	var b strings.Builder
	for _, o := range ops {
		b.WriteString(o.String() + "\n")
	}
	return b.String()
}

// readOps reads a file of operations, one per line; empty lines and those that begin with # say nothing.
func readOps(path string) ([]Op, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var ops []Op
	for i, line := range bytes.Split(text, []byte("\n")) {
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		var o Op
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&o); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
		ops = append(ops, o)
	}
	return ops, nil
}
