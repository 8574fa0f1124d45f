package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
)

// FuzzApply: whatever commands are in the log, one to a line, each replica comes to the same record, which keeps its invariants, and nothing of it grows without
// bound. What is read as a command is written as the same.
func FuzzApply(f *testing.F) {
	members := []Member{{Name: "a", ServerID: "a-1", Role: Data}, {Name: "b", ServerID: "b-1", Role: Data}, {Name: "w", ServerID: "w-1", Role: Witness}}
	history := []Command{
		{Kind: Init, By: "a", Node: "a", ClusterID: "c", SystemID: 7, Members: members},
		{Kind: Timeline, Epoch: 1, By: "a", Timeline: 1},
		{Kind: Pair, Epoch: 1, By: "a", Node: "b", Timeline: 1},
		{Kind: Promote, Epoch: 1, By: "b", Node: "b", Timeline: 1, Why: "a is silent"},
		{Kind: Timeline, Epoch: 2, By: "b", Timeline: 2, SwitchLSN: 1 << 33},
		{Kind: Replace, Epoch: 2, By: "b", Node: "a", OldServerID: "a-1", ServerID: "a-2", Address: "h:1"},
		{Kind: Pause, Epoch: 2, By: "a"},
		{Kind: Resume, Epoch: 2, By: "a"},
		{Kind: Revoke, Epoch: 2, By: "a", Node: "alice"},
		{Kind: Force, Epoch: 2, By: "a", Node: "a"},
		{Kind: Alone, Epoch: 3, By: "b", Node: "b", ServerID: "b-2"},
		{Kind: Solo, Epoch: 4, By: "b"},
	}
	var all [][]byte
	for _, c := range history {
		b, err := c.Encode()
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, b)
		f.Add(bytes.Join(all, []byte("\n")))
	}
	long, old := [][]byte{all[0]}, "b-1"
	for i := range maxReplaced + 3 {
		c := Command{Kind: Replace, Epoch: 1, By: "a", Node: "b", OldServerID: old, ServerID: fmt.Sprint("b-x", i)}
		b, err := c.Encode()
		if err != nil {
			f.Fatal(err)
		}
		long, old = append(long, b), c.ServerID
	}
	f.Add(bytes.Join(long, []byte("\n")))
	f.Add([]byte(`{"kind":"init","by":"","node":"","clusterID":"c","systemID":"1","members":[{},{},{}]}`))
	f.Fuzz(func(t *testing.T, log []byte) {
		var one, other Record
		for line := range bytes.Lines(log) {
			c, err := Decode(line)
			if err != nil {
				continue
			}
			written, err := c.Encode()
			if err != nil {
				t.Fatal(err)
			}
			again, err := Decode(written)
			if err != nil || text(t, again) != text(t, c) {
				t.Fatalf("%+v became %+v, %v", c, again, err)
			}
			before := text(t, one)
			next, err := one.Apply(c)
			if text(t, one) != before {
				t.Fatal("the record was changed in place")
			}
			theirs, theirErr := other.Apply(again)
			if (err == nil) != (theirErr == nil) || text(t, theirs) != text(t, next) {
				t.Fatalf("two replicas differ: %v, %v", err, theirErr)
			}
			if err != nil {
				continue
			}
			if err := next.CheckInvariants(&one); err != nil {
				t.Fatal(err)
			}
			if len(next.History) > maxHistory || len(next.Forks) > maxForks || len(next.Replaced) > maxReplaced || len(next.Members) > 3 || len(next.Revoked) > maxRevoked {
				t.Fatal("it grows")
			}
			one, other = next, theirs
		}
	})
}

func text(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// FuzzLSN: what is read is written as PostgreSQL does, and read as the same.
func FuzzLSN(f *testing.F) {
	f.Add("16/B374D848")
	f.Add("0/0")
	f.Add("+1/1")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLSN(s)
		if err != nil {
			return
		}
		if again, err := ParseLSN(l.String()); err != nil || again != l {
			t.Fatalf("%q is %v and became %v, %v", s, l, again, err)
		}
	})
}
