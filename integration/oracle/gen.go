package oracle

import (
	"math/rand/v2"
	"strings"
)

const (
	// maxKeys keeps sorts by something that is not unique unambiguous: up to 12 elements Go's sort, which etcd uses, keeps
	// the order of equal ones.
	maxKeys = 9
	// minOps and maxOps are of one sequence.
	minOps, maxOps = 12, 36

	// How many sequences have what takes long, or only etcd's own oversights allow.
	largeOneIn, negativeOneIn, twiceOneIn = 40, 20, 20
)

// usual are keys that collide, and hold one another's prefixes.
var usual = []Bin{"a", "b", "a/1", "a/2", "a/", "c"}

// odd are keys that an SQL table or an index of text could get wrong.
var odd = []Bin{
	"\x00", "a\x00", "a\x00\x00", "\xff", "\xff\xff", "a\xff", "\xc3\x28", "é", "a'b\\c", "A", "%", "_",
	"compact_rev_key", "compact_rev_key_apiserver", "gap-1", "gap-2", "/registry/health",
	"kineshim-bytes-", "kineshim-bytes-00",
	long("", "l", 630), long("", "l", 631), long("é", "m", 629), long("", "n", 2700), long("", "o", 10000),
	long("\xfe", "p", 3000),
}

func long(begin, then string, n int) Bin { return Bin(begin + strings.Repeat(then, n)) }

// choice draws one of several, with weights.
type choice[T any] struct {
	weight int
	make   func() T
}

func choose[T any](rng *rand.Rand, choices ...choice[T]) T {
	total := 0
	for _, c := range choices {
		total += c.weight
	}
	n := rng.IntN(total)
	for _, c := range choices {
		if n < c.weight {
			return c.make()
		}
		n -= c.weight
	}
	panic("unreachable")
}

// oneIn is true once in n; never if n is 0.
func oneIn(rng *rand.Rand, n int) bool { return n > 0 && rng.IntN(n) == 0 }

func below(rng *rand.Rand, n int) int { return rng.IntN(n) }

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// generator draws the operations of one sequence.
type generator struct {
	rng     *rand.Rand
	keys    []Bin
	granted Lease // how many leases with IDs of the endpoint's
	// restarts: the endpoint under test may be restarted in the middle.
	restarts bool
	// negative revisions are in some sequences, and keys that change twice in one revision.
	negative, twice bool
	// large values and keys are rare, and only in some sequences.
	large bool
}

// sequence draws one.
func sequence(rng *rand.Rand, restarts bool) []Op {
	g := &generator{
		rng: rng, restarts: restarts,
		large: oneIn(rng, largeOneIn), negative: oneIn(rng, negativeOneIn), twice: oneIn(rng, twiceOneIn),
	}
	pool := append([]Bin{}, usual...)
	if oneIn(rng, 2) {
		pool = append(pool, odd...)
	}
	for range 2 + below(rng, maxKeys-1) {
		i := below(rng, len(pool))
		g.keys = append(g.keys, pool[i])
		pool = append(pool[:i], pool[i+1:]...)
		if len(pool) == 0 {
			break
		}
	}
	ops := make([]Op, minOps+below(rng, maxOps-minOps+1))
	for i := range ops {
		ops[i] = g.op()
	}
	return ops
}

func (g *generator) op() Op {
	restart := 0
	if g.restarts {
		restart = 2
	}
	return choose(g.rng,
		choice[Op]{26, func() Op { return Op{Put: g.put()} }},
		choice[Op]{16, func() Op { return Op{Range: g.ranges()} }},
		choice[Op]{9, func() Op { return Op{Delete: g.delete()} }},
		choice[Op]{20, func() Op { return Op{Txn: g.txn(0)} }},
		choice[Op]{3, func() Op { return Op{Compact: g.compact()} }},
		choice[Op]{4, func() Op { return Op{Grant: g.grant()} }},
		choice[Op]{2, func() Op { return Op{Revoke: &LeaseOp{ID: g.lease()}} }},
		choice[Op]{2, func() Op { return Op{TimeToLive: &LeaseOp{ID: g.lease(), Keys: !oneIn(g.rng, 3)}} }},
		choice[Op]{2, func() Op { return Op{KeepAlive: &LeaseOp{ID: g.lease()}} }},
		choice[Op]{1, func() Op { return Op{Leases: &struct{}{}} }},
		choice[Op]{8, func() Op { return Op{Watch: g.watch()} }},
		choice[Op]{3, func() Op {
			return Op{Cancel: &CancelOp{Stream: below(g.rng, 2), ID: int64(below(g.rng, 5))}}
		}},
		choice[Op]{2, func() Op { return Op{Sync: &struct{}{}} }},
		choice[Op]{restart, func() Op { return Op{Restart: &RestartOp{Hard: oneIn(g.rng, 3)}} }},
	)
}

// key is one that is written.
func (g *generator) key() Bin {
	if oneIn(g.rng, 100) {
		return ""
	}
	return pick(g.rng, g.keys)
}

// span is a key and a range's end, in every form that there is.
func (g *generator) span() (key, end Bin) {
	key = g.key()
	end = choose(g.rng,
		choice[Bin]{10, func() Bin { return "" }},
		choice[Bin]{6, func() Bin { return prefixEnd(key) }},
		choice[Bin]{5, func() Bin { return g.key() }}, // may be before key, or equal
		choice[Bin]{4, func() Bin { return "\x00" }},  // from key on
		choice[Bin]{1, func() Bin { return key + "\x00" }},
		choice[Bin]{1, func() Bin { return "\xff" }},
		choice[Bin]{4, func() Bin { key = "\x00"; return "\x00" }}, // everything
		choice[Bin]{1, func() Bin { key = key + "\x00"; return prefixEnd("a") }},
	)
	return key, end
}

// prefixEnd is the end of the range of keys with a prefix.
func prefixEnd(prefix Bin) Bin {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return prefix[:i] + Bin([]byte{prefix[i] + 1})
		}
	}
	return "\x00"
}

func (g *generator) value() Bin {
	if g.large && oneIn(g.rng, 6) {
		return Bin(strings.Repeat("v", pick(g.rng, []int{100_000, 1 << 20, 1_500_000, 1_600_000, 2_200_000})))
	}
	return pick(g.rng, []Bin{"", "x", "y", "z", "\x00", "\xff\xfe", "10", "9"})
}

// lease is one that may have been granted. None is more likely for puts.
func (g *generator) lease() Lease {
	return choose(g.rng,
		choice[Lease]{6, func() Lease { return Lease(1 + below(g.rng, 3)) }},
		choice[Lease]{2, func() Lease { return 1<<63 - 1 }},
		choice[Lease]{1, func() Lease { return pick(g.rng, []Lease{0, -1, 77, 1 << 40}) }},
		choice[Lease]{4, func() Lease { return chosenByServer - Lease(below(g.rng, int(g.granted)+1)) }},
	)
}

// revision is one to read at, or to compare with.
func (g *generator) revision() Rev {
	odd := []int64{1, 2, 1 << 40, 1<<63 - 1}
	if g.negative {
		odd = append(odd, -2, -1, -1<<63)
	}
	return choose(g.rng,
		choice[Rev]{8, func() Rev { return Rev{From: "cur", Plus: -int64(below(g.rng, 12))} }},
		choice[Rev]{6, func() Rev { return Rev{From: "base", Plus: int64(below(g.rng, 12))} }},
		choice[Rev]{4, func() Rev {
			return Rev{From: "mod", Key: pick(g.rng, g.keys), Plus: int64(below(g.rng, 3)) - 1}
		}},
		choice[Rev]{3, func() Rev {
			return Rev{From: "create", Key: pick(g.rng, g.keys), Plus: int64(below(g.rng, 3)) - 1}
		}},
		choice[Rev]{3, func() Rev { return Rev{From: "compacted", Plus: int64(below(g.rng, 4)) - 2} }},
		choice[Rev]{1, func() Rev { return Rev{From: "cur", Plus: int64(below(g.rng, 5))} }},
		choice[Rev]{1, func() Rev {
			return Rev{Plus: pick(g.rng, odd)}
		}},
	)
}

func (g *generator) seldom(n int) Rev {
	if oneIn(g.rng, n) {
		return g.revision()
	}
	return Rev{}
}

func (g *generator) ranges() *RangeOp {
	o := &RangeOp{
		Revision: g.seldom(3), Serializable: oneIn(g.rng, 3),
		KeysOnly: oneIn(g.rng, 5), CountOnly: oneIn(g.rng, 7),
		MinMod: g.seldom(12), MaxMod: g.seldom(12),
		MinCreate: g.seldom(12), MaxCreate: g.seldom(12),
	}
	o.Key, o.End = g.span()
	if oneIn(g.rng, 3) {
		o.Limit = pick(g.rng, []int64{1, 2, 3, 5, 100, -1, 1<<63 - 1})
	}
	if oneIn(g.rng, 3) {
		o.Order, o.Target = int32(below(g.rng, 3)), int32(below(g.rng, 5))
		if oneIn(g.rng, 40) {
			o.Order, o.Target = int32(below(g.rng, 5)), int32(below(g.rng, 7))
		}
	}
	return o
}

func (g *generator) put() *PutOp {
	o := &PutOp{Key: g.key(), Value: g.value(), PrevKv: oneIn(g.rng, 3)}
	if oneIn(g.rng, 4) {
		o.Lease = g.lease()
	}
	if oneIn(g.rng, 8) {
		o.IgnoreValue = true
		if !oneIn(g.rng, 6) {
			o.Value = ""
		}
	}
	if oneIn(g.rng, 8) {
		o.IgnoreLease = true
		if !oneIn(g.rng, 6) {
			o.Lease = 0
		}
	}
	return o
}

func (g *generator) delete() *DeleteOp {
	o := &DeleteOp{PrevKv: oneIn(g.rng, 2)}
	o.Key, o.End = g.span()
	if len(o.End) > 0 && oneIn(g.rng, 2) {
		o.End = ""
	}
	return o
}

func (g *generator) compact() *CompactOp {
	o := &CompactOp{Physical: oneIn(g.rng, 2)}
	o.Revision = choose(g.rng,
		choice[Rev]{6, func() Rev { return Rev{From: "cur", Plus: -int64(below(g.rng, 8))} }},
		choice[Rev]{3, func() Rev { return g.revision() }},
		choice[Rev]{1, func() Rev { return pick(g.rng, []Rev{{Plus: 1}, {From: "compacted"}, {From: "cur", Plus: 1}}) }},
	)
	if g.negative && oneIn(g.rng, 4) {
		o.Revision = Rev{} // which etcd accepts once
	}
	return o
}

func (g *generator) grant() *GrantOp {
	o := &GrantOp{TTL: pick(g.rng, []int64{100, 200, 400, 800, 1600})}
	if oneIn(g.rng, 12) {
		o.TTL = pick(g.rng, []int64{9_000_000_000, 9_000_000_001, 1 << 31, 1<<63 - 1})
	}
	if oneIn(g.rng, 4) {
		g.granted++
		o.ID = chosenByServer - g.granted
		return o
	}
	for o.ID = g.lease(); o.ID <= chosenByServer; o.ID = g.lease() {
	}
	if o.ID == 0 {
		o.ID = 1
	}
	return o
}

func (g *generator) watch() *WatchOp {
	o := &WatchOp{
		Stream: below(g.rng, 2), PrevKv: oneIn(g.rng, 2), Progress: oneIn(g.rng, 6), Fragment: oneIn(g.rng, 6),
	}
	o.Key, o.End = g.span()
	if oneIn(g.rng, 3) {
		o.Start = g.revision()
	}
	if oneIn(g.rng, 4) {
		o.ID = int64(below(g.rng, 5))
	}
	for range pick(g.rng, []int{0, 0, 0, 0, 0, 0, 1, 1, 2}) {
		o.Filters = append(o.Filters, int32(below(g.rng, 2)))
	}
	return o
}
