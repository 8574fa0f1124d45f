package oracle

import (
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// kineKeys are keys that kine can hold and lists apart.
var kineKeys = []Bin{
	"/keys/a/1", "/keys/a/2", "/keys/a/3", "/keys/b/1", "/keys/b/2", "/keys/ab", "/keys/é", "/keys/A/1", "/keys/a/1/x",
}

var kinePrefixes = []Bin{"/keys/a/", "/keys/b/", "/keys/", "/keys/none/"}

// kineSequence draws operations that kine supports: those that Kubernetes uses.
func kineSequence(rng *rand.Rand) []Op {
	g := &generator{rng: rng, keys: kineKeys}
	ops := make([]Op, minOps+below(rng, maxOps-minOps+1))
	for i := range ops {
		ops[i] = g.kineOp()
	}
	return ops
}

func (g *generator) kineOp() Op {
	key := pick(g.rng, g.keys)
	return choose(g.rng,
		choice[Op]{10, func() Op { return Op{Txn: g.kineTxn(key, Rev{}, Op{Put: g.kinePut(key)}, oneIn(g.rng, 2))} }},
		choice[Op]{10, func() Op { return Op{Txn: g.kineTxn(key, g.kineMod(key), Op{Put: g.kinePut(key)}, true)} }},
		choice[Op]{8, func() Op { return Op{Txn: g.kineTxn(key, g.kineMod(key), Op{Delete: &DeleteOp{Key: key}}, true)} }},
		choice[Op]{3, func() Op {
			return Op{Txn: &TxnOp{Then: []Op{{Range: &RangeOp{Key: key}}, {Delete: &DeleteOp{Key: key}}}}}
		}},
		choice[Op]{4, func() Op {
			put := g.kinePut(key)
			put.PrevKv = oneIn(g.rng, 2)
			return Op{Put: put}
		}},
		choice[Op]{5, func() Op { return Op{Range: &RangeOp{Key: key, Limit: int64(below(g.rng, 2))}} }},
		choice[Op]{8, func() Op { return Op{Range: g.kineList()} }},
		choice[Op]{4, func() Op { return Op{Watch: g.kineWatch()} }},
		choice[Op]{1, func() Op { return Op{Sync: &struct{}{}} }},
	)
}

// kineMod is mostly the revision that the key has, and never 0, which kine does not take for a compare but in a create.
func (g *generator) kineMod(key Bin) Rev {
	if oneIn(g.rng, 3) {
		return Rev{From: "cur"}
	}
	return Rev{From: "modOrCur", Key: key}
}

func (g *generator) kinePut(key Bin) *PutOp {
	return &PutOp{Key: key, Value: pick(g.rng, []Bin{"", "x", "y", "\x00\xff"})}
}

func (g *generator) kineTxn(key Bin, mod Rev, then Op, orElse bool) *TxnOp {
	o := &TxnOp{If: []Compare{{Key: key, Target: int32(pb.Compare_MOD), Number: mod}}, Then: []Op{then}}
	if orElse {
		o.Else = []Op{{Range: &RangeOp{Key: key}}}
	}
	return o
}

func (g *generator) kineList() *RangeOp {
	prefix := pick(g.rng, kinePrefixes)
	o := &RangeOp{Key: prefix, End: prefixEnd(prefix), Limit: int64(below(g.rng, 4))}
	if oneIn(g.rng, 3) {
		o.Revision = Rev{From: "cur", Plus: -int64(below(g.rng, 8))}
		if oneIn(g.rng, 2) { // how a list goes on
			o.Key = "/keys/a/1\x00"
			o.End = prefixEnd("/keys/")
		}
	}
	if oneIn(g.rng, 4) {
		o.CountOnly, o.Limit = true, 0
	}
	return o
}

func (g *generator) kineWatch() *WatchOp {
	prefix := pick(g.rng, kinePrefixes)
	o := &WatchOp{Stream: below(g.rng, 2), Key: prefix, End: prefixEnd(prefix), PrevKv: true}
	if oneIn(g.rng, 2) {
		o.Start = Rev{From: "cur", Plus: 1 - int64(below(g.rng, 10))}
	}
	return o
}

// kineMask takes out of answers what kine has no place for.
func kineMask(m message) {
	versions := func(kvs ...*mvccpb.KeyValue) {
		for _, kv := range kvs {
			if kv != nil {
				kv.Version = 0
			}
		}
	}
	switch a := m.(type) {
	case *pb.RangeResponse:
		versions(a.Kvs...)
	case *pb.PutResponse:
		versions(a.PrevKv)
	case *pb.TxnResponse:
		for _, op := range a.Responses {
			versions(op.GetResponseRange().GetKvs()...)
			if g := op.GetResponseRange(); g != nil {
				g.Header = nil // kine's says what the whole transaction's says
			}
			// kine shows what a delete has deleted whether that was asked for or not.
			if d := op.GetResponseDeleteRange(); d != nil {
				d.PrevKvs = nil
				if d.Header != nil { // of a delete of nothing it is the whole transaction's
					d.Header.ClusterId, d.Header.MemberId, d.Header.RaftTerm = 0, 0, 0
				}
			}
		}
	}
}

// kineMaskEvent does so for events.
func kineMaskEvent(e *mvccpb.Event) {
	if e.Type == mvccpb.DELETE && e.PrevKv != nil {
		e.PrevKv.CreateRevision = 0
	}
	for _, kv := range []*mvccpb.KeyValue{e.Kv, e.PrevKv} {
		if kv != nil {
			kv.Version = 0
		}
	}
}
