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
