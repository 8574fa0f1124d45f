package failover

import (
	"slices"

	"kineshim/raftwitness/record"
)

// forcedSince says whether a forced promotion has begun an epoch after the given one, or may have: the record's history is bounded, and
// what it does not reach back to is taken for the worse.
//
// A copy of the data that this process keeps in memory was begun in some epoch: loaded from PostgreSQL, or by the engine of that epoch.
// Ordinary promotions leave it a part of the history, because they lose nothing that is durable. A forced one may, on either node.
//
// lastServed counts too: who has it is a part of what was served then.
func forcedSince(r *record.Record, epoch uint64) bool {
	for _, e := range slices.Backward(r.History) {
		switch {
		case e.Epoch <= epoch:
			return false
		case e.Kind == record.Force, e.Kind == record.Alone:
			return true
		case e.Kind == record.Init:
			return false
		}
	}
	return true
}

// lastServed is the newest epoch of which the record proves that an engine has served in it, on data of which this node's are a part or a continuation; 0: it
// proves that of none. A forced promotion of that epoch or an earlier one has been taken account of by that engine: it has given the history of the data a new name.
//
// Only a primary whose engine has started proposes to pair. Without this, a process that has just started would have to take for forced whatever the bounded
// history does not reach back to, which in time is everything: each start of a primary would end all watches on the other node.
func lastServed(r *record.Record) uint64 {
	for _, e := range slices.Backward(r.History) {
		if e.Kind == record.Pair {
			return e.Epoch
		}
	}
	return 0
}
