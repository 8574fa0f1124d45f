package failover

import (
	"strings"
	"testing"

	"kineshim/failover/postgres"
	"kineshim/raftwitness/record"
)

// A standby that nobody leads must not tell an operator to wait for what cannot come, nor take a cluster whose record it cannot confirm for a new one.
func TestStandbyWithoutAMajoritySaysWhatHelps(t *testing.T) {
	data := postgres.DataState{Exists: true, Complete: true, SystemID: 7, Timeline: 2}
	for name, c := range map[string]struct {
		rec  *record.Record
		data postgres.DataState
		raft RaftStatus
		want []string
	}{
		"before there is a cluster":      {&record.Record{}, postgres.DataState{}, RaftStatus{}, []string{"not initialised"}},
		"nobody heard since the start":   {&record.Record{}, data, RaftStatus{}, []string{"no majority", "shimctl serve --alone"}},
		"the primary is lost":            {pairedRecord(), data, RaftStatus{LeaderName: "b"}, []string{"wait for the failover"}},
		"and the witness is refused too": {pairedRecord(), data, RaftStatus{Apart: map[string]string{"w": "it was wiped"}}, []string{"w: it was wiped", "no failover without the witness", "shimctl serve --alone"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newAgent(t, "b", c.rec)
			f.Agent.mu.Lock()
			f.local.data = c.data
			f.Agent.mu.Unlock()
			f.store.mu.Lock()
			f.store.status = c.raft
			f.store.mu.Unlock()
			got := strings.Join(f.status().GetNotArmed(), "; ")
			for _, w := range c.want {
				if !strings.Contains(got, w) {
					t.Errorf("it says %q, want %q", got, w)
				}
			}
		})
	}
}
