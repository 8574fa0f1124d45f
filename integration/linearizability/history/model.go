package history

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// state is a key in the model. Its revision outlives a deletion: what comes later is greater.
type state struct {
	KV
	revision int64
}

// step is one request's part in one key. It is porcupine's input and output in one.
type step struct {
	op    *Op
	index int // of the key in the request's keys
	// revision is what the request has made of the key; 0: it has changed nothing.
	revision int64
}

// model is a register with compare-and-set, as etcd has it: with create and mod revisions, and versions.
var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, input, _ any) (bool, any) { return input.(step).take(s.(state)) },
	DescribeOperation: func(input, _ any) string {
		s := input.(step)
		return fmt.Sprintf("%v; of it %s", s.op, s.op.Keys[s.index])
	},
	DescribeState: func(s any) string { return s.(state).KV.String() },
}

// take says whether the request can have been done in the state, and what the state is then.
func (p step) take(s state) (bool, state) {
	o := p.op
	switch {
	case o.Looked && o.Seen[p.index] != s.KV:
		return false, s
	case p.index == 0 && o.Compare.Holds(s.KV) != o.Succeeded && o.Kind.Writes():
		return false, s
	case p.revision == 0 && (o.Kind == Delete || o.Kind == Remove) && o.Succeeded:
		return !s.Exists(), s // there was nothing to delete
	case p.revision == 0:
		return true, s
	case p.revision <= s.revision:
		return false, s
	case o.Kind.Puts():
		return true, state{after(s.KV, o.Value, p.revision), p.revision}
	}
	return s.Exists(), state{KV{}, p.revision}
}
