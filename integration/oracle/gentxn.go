package oracle

// maxDepth is how deep transactions are nested.
const maxDepth = 2

// txn draws a transaction. Most put no key twice, which etcd refuses. It does not notice a delete from a key on, nor one in a
// later nested transaction, and changes the key twice. A put that ignores what was there then ends it in a panic: it is not
// drawn.
func (g *generator) txn(depth int) *TxnOp {
	o := g.anyTxn(depth)
	switch {
	case depth > 0:
	case !g.twice:
		endDeletes(o)
	case deletesFrom(o):
		expectNothing(o)
	}
	return o
}

// branches are all of a transaction's operations.
func branches(o *TxnOp) []Op { return append(append([]Op{}, o.Then...), o.Else...) }

// endDeletes lets nothing be deleted from a key on.
func endDeletes(o *TxnOp) {
	for _, op := range branches(o) {
		if op.Delete != nil && op.Delete.End == "\x00" {
			op.Delete.End = "\xff\xff\xff"
		}
		if op.Txn != nil {
			endDeletes(op.Txn)
		}
	}
}

func deletesFrom(o *TxnOp) bool {
	for _, op := range branches(o) {
		if op.Delete != nil && op.Delete.End == "\x00" || op.Txn != nil && deletesFrom(op.Txn) {
			return true
		}
	}
	return false
}

func expectNothing(o *TxnOp) {
	for _, op := range branches(o) {
		if op.Put != nil {
			op.Put.IgnoreValue, op.Put.IgnoreLease = false, false
		}
		if op.Txn != nil {
			expectNothing(op.Txn)
		}
	}
}

func (g *generator) anyTxn(depth int) *TxnOp {
	o := &TxnOp{}
	for range choose(g.rng,
		choice[int]{3, func() int { return 1 }}, choice[int]{1, func() int { return 0 }},
		choice[int]{1, func() int { return 2 }}, choice[int]{1, func() int { return 3 }}) {
		o.If = append(o.If, g.compare())
	}
	o.Then, o.Else = g.branch(depth), g.branch(depth)
	if depth == 0 && oneIn(g.rng, 60) {
		o.Then = []Op{{Range: g.ranges()}}
		o.Times = pick(g.rng, []int{127, 128, 129, 200})
	}
	return o
}

func (g *generator) branch(depth int) []Op {
	left := append([]Bin{}, g.keys...)
	fresh := func() (Bin, bool) { // a key that this branch has not put or deleted
		if len(left) == 0 {
			return "", false
		}
		i := below(g.rng, len(left))
		key := left[i]
		left = append(left[:i], left[i+1:]...)
		return key, true
	}
	careless := oneIn(g.rng, 8)
	deeper := 2
	if depth >= maxDepth {
		deeper = 0
	}
	var ops []Op
	for range below(g.rng, 5) {
		ops = append(ops, choose(g.rng,
			choice[Op]{8, func() Op {
				put := g.put()
				if !careless {
					key, ok := fresh()
					if !ok {
						return Op{Range: g.ranges()}
					}
					put.Key = key
				}
				return Op{Put: put}
			}},
			choice[Op]{6, func() Op { return Op{Range: g.txnRange()} }},
			choice[Op]{4, func() Op {
				d := g.delete()
				if !careless {
					key, ok := fresh()
					if !ok {
						return Op{Range: g.ranges()}
					}
					d.Key, d.End = key, ""
				}
				return Op{Delete: d}
			}},
			choice[Op]{deeper, func() Op { return Op{Txn: g.nested(depth, fresh, careless && g.twice)} }},
			choice[Op]{boolWeight(careless), func() Op { return Op{} }},
		))
	}
	return ops
}

func boolWeight(b bool) int {
	if b {
		return 1
	}
	return 0
}

// nested draws a transaction in a transaction that writes, unless careless, only what the outer one does not.
func (g *generator) nested(depth int, fresh func() (Bin, bool), careless bool) *TxnOp {
	if careless {
		return g.txn(depth + 1)
	}
	all := g.keys
	defer func() { g.keys = all }()
	var mine []Bin
	for range 1 + below(g.rng, 2) {
		if key, ok := fresh(); ok {
			mine = append(mine, key)
		}
	}
	if len(mine) == 0 {
		return &TxnOp{Then: []Op{{Range: g.ranges()}}}
	}
	g.keys = mine
	return g.txn(depth + 1)
}

// txnRange reads what the transaction has written so far, mostly.
func (g *generator) txnRange() *RangeOp {
	o := g.ranges()
	if !oneIn(g.rng, 4) {
		o.Revision = Rev{}
	}
	return o
}

func (g *generator) compare() Compare {
	c := Compare{Key: g.key(), Target: int32(below(g.rng, 5)), Result: int32(below(g.rng, 4))}
	if oneIn(g.rng, 4) {
		c.Key, c.End = g.span()
	}
	switch c.Target {
	case 0: // version
		c.Number = choose(g.rng,
			choice[Rev]{2, func() Rev { return Rev{From: "version", Key: c.Key, Plus: int64(below(g.rng, 3)) - 1} }},
			choice[Rev]{1, func() Rev { return Rev{Plus: int64(below(g.rng, 4)) - 1} }})
	case 1, 2: // create, mod
		from := "create"
		if c.Target == 2 {
			from = "mod"
		}
		c.Number = choose(g.rng,
			choice[Rev]{5, func() Rev { return Rev{From: from, Key: c.Key} }},
			choice[Rev]{2, func() Rev { return Rev{} }},
			choice[Rev]{2, func() Rev { return g.revision() }})
	case 3:
		c.Value = g.value()
	case 4:
		c.Lease = g.lease()
		if oneIn(g.rng, 2) {
			c.Lease = 0
		}
	}
	if oneIn(g.rng, 60) {
		switch below(g.rng, 3) {
		case 0:
			c.Union = 1 + int32(below(g.rng, 6)) // another field than the target says, or none
		case 1:
			c.Target = 9
		case 2:
			c.Result = 9
		}
	}
	return c
}
