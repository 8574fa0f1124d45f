package failover

import (
	"testing"

	"kineshim/raftwitness/record"
)

// Leadership alone says nothing: until the barrier, the record here may be an old one.
func TestTheRecordIsConfirmedOnlyBehindTheBarrier(t *testing.T) {
	f := newAgent(t, "b", &record.Record{})
	for _, c := range []struct {
		status RaftStatus
		want   bool
	}{
		{RaftStatus{}, false},
		{RaftStatus{Barrier: true, Term: 1}, false},
		{RaftStatus{Leader: true, Term: 2}, false},
		{RaftStatus{Leader: true, Barrier: true, Term: 2}, true},
		{RaftStatus{Term: 3}, true}, // for as long as the process runs
	} {
		f.store.status = c.status
		f.step(t.Context())
		if f.confirmed.Load() != c.want {
			t.Errorf("after %+v: confirmed %v", c.status, !c.want)
		}
		if f.gate.answers() {
			t.Error("the gate of a node without a cluster is open")
		}
	}
}
