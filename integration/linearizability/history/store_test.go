package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// store is a correct store that does requests one after the other, at instants of its own.
type store struct {
	revision int64
	keys     map[string]KV
	events   []Event
}

func newStore() *store { return &store{revision: 1, keys: map[string]KV{}} }

// do does a request that is not answered yet. It fills in the answer of one that is.
func (s *store) do(o *Op) {
	for _, key := range o.Keys {
		o.Seen = append(o.Seen, s.keys[key])
	}
	o.Succeeded = true
	if o.Kind.Writes() {
		o.Succeeded = o.Compare.Holds(s.keys[o.Keys[0]])
		o.Looked = !o.Succeeded || o.Kind == Put || o.Kind == Delete
	} else {
		o.Looked = true
	}
	switch {
	case !o.Kind.Writes() || !o.Succeeded:
	case o.Kind.Puts():
		s.revision++
		for _, key := range o.Keys {
			s.keys[key] = after(s.keys[key], o.Value, s.revision)
			s.events = append(s.events, Event{s.revision, key, s.keys[key]})
		}
	case s.keys[o.Keys[0]].Exists():
		s.revision++
		o.Deleted = 1
		delete(s.keys, o.Keys[0])
		s.events = append(s.events, Event{Revision: s.revision, Key: o.Keys[0]})
	}
	o.Revision = s.revision
	if !o.Looked {
		o.Seen = nil
	}
}

// script makes a history by hand: requests one after the other, each taking a millisecond, with a millisecond between.
type script struct {
	*store
	now    int64
	values int
	ops    []Op
	sights []Sight
}

func newScript() *script { return &script{store: newStore()} }

func (s *script) begin(o Op) Op {
	s.now += 1e6
	o.Client, o.Node, o.Call, o.Outcome = len(s.ops), "a", s.now, Done
	if o.Kind.Puts() && o.Value == "" {
		s.values++
		o.Value = fmt.Sprintf("v%d", s.values)
	}
	return o
}

// did does a request and answers it.
func (s *script) did(o Op) *Op {
	o = s.begin(o)
	s.do(&o)
	s.now += 1e6
	o.Return = s.now
	s.ops = append(s.ops, o)
	return &s.ops[len(s.ops)-1]
}

// lost does a request, or does not, and does not answer it.
func (s *script) lost(o Op, done bool) *Op {
	o = s.begin(o)
	if done {
		undone := o
		s.do(&undone)
	}
	s.now += 1e6
	o.Outcome, o.Return, o.Error = Unknown, Forever, "connection lost"
	s.ops = append(s.ops, o)
	return &s.ops[len(s.ops)-1]
}

func (s *script) input() Input { return Input{Ops: s.ops, Events: s.events, Sights: s.sights} }

func get(key string) Op      { return Op{Kind: Get, Keys: []string{key}} }
func getPair(a, b string) Op { return Op{Kind: GetPair, Keys: []string{a, b}} }
func put(key string) Op      { return Op{Kind: Put, Keys: []string{key}} }
func putPair(a, b string) Op { return Op{Kind: PutPair, Keys: []string{a, b}} }
func set(key string, mod int64) Op {
	return Op{Kind: Set, Keys: []string{key}, Compare: Compare{Target: Mod, Number: mod}}
}
func remove(k string, mod int64) Op {
	return Op{Kind: Remove, Keys: []string{k}, Compare: Compare{Target: Mod, Number: mod}}
}
func deleteKey(key string) Op { return Op{Kind: Delete, Keys: []string{key}} }
func setValue(key, value string) Op {
	return Op{Kind: Set, Keys: []string{key}, Compare: Compare{Target: Value, Value: value}}
}
func getStale(key string) Op         { return Op{Kind: GetStale, Keys: []string{key}} }
func getAt(key string, rev int64) Op { return Op{Kind: GetAt, Keys: []string{key}, At: rev} }

// rules are those that a history breaks.
func rules(t *testing.T, in Input) []Rule {
	t.Helper()
	found, err := Check(in)
	if err != nil {
		t.Fatal(err)
	}
	var out []Rule
	for _, v := range found {
		t.Log(v)
		out = append(out, v.Rule)
	}
	return out
}

func wantRules(t *testing.T, in Input, want ...Rule) {
	t.Helper()
	have := rules(t, in)
	for _, rule := range want {
		if !slices.Contains(have, rule) {
			t.Errorf("not found: %s", rule)
		}
	}
	if len(want) == 0 && len(have) > 0 {
		t.Error("found something in a correct history")
	}
}

// random makes a correct history of concurrent clients, in which some answers are lost.
func random(rnd *rand.Rand, clients, requests int) *script {
	s := newScript()
	type running struct {
		op   Op
		done bool
	}
	busy := map[int]*running{}
	numbers := make([]int, clients) // of the client's present sequence
	for i := range numbers {
		numbers[i] = i
	}
	next := clients
	keys := []string{"a", "b", "c"}
	for begun := 0; begun < requests || len(busy) > 0; {
		s.now += 1 + rnd.Int64N(1000)
		i := rnd.IntN(clients)
		r := busy[i]
		switch {
		case r == nil && begun < requests:
			begun++
			o := s.choose(rnd, keys)
			o.Client, o.Node, o.Call, o.Outcome = numbers[i], "a", s.now, Done
			busy[i] = &running{op: o}
		case r != nil && !r.done && rnd.IntN(20) > 0:
			s.do(&r.op)
			r.done = true
		case r != nil && r.done && rnd.IntN(10) > 0:
			r.op.Return = s.now
			s.ops = append(s.ops, r.op)
			delete(busy, i)
		case r != nil && (r.done || r.op.Kind.Writes()):
			o := Op{Client: r.op.Client, Node: r.op.Node, Kind: r.op.Kind, Keys: r.op.Keys, Compare: r.op.Compare, Value: r.op.Value, Call: r.op.Call,
				Outcome: Unknown, Error: "connection lost", Return: Forever}
			if !r.done && rnd.IntN(2) == 0 {
				o.Outcome, o.Return = NotDone, s.now
			}
			s.ops = append(s.ops, o)
			delete(busy, i)
			numbers[i], next = next, next+1
		}
	}
	return s
}

func (s *script) choose(rnd *rand.Rand, keys []string) Op {
	key := keys[rnd.IntN(len(keys))]
	now := s.keys[key]
	makers := []func() Op{
		func() Op { return get(key) },
		func() Op { return getPair(keys[0], keys[2]) },
		func() Op { return put(key) },
		func() Op { return putPair(keys[1], keys[2]) },
		func() Op { return set(key, now.Mod) },
		func() Op { return setValue(key, now.Value) },
		func() Op { return set(key, 0) },
		func() Op { return remove(key, now.Mod) },
		func() Op { return deleteKey(key) },
	}
	o := makers[rnd.IntN(len(makers))]()
	if o.Kind.Puts() {
		s.values++
		o.Value = fmt.Sprintf("v%d", s.values)
	}
	return o
}
