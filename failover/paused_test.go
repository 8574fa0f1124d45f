package failover

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "kineshim/proto"
	"kineshim/raftwitness/record"
)

// What the record says already is an answer only where it is known to be the newest record.
func TestPauseIsDoneOnlyWhereAMajorityKnowsOfIt(t *testing.T) {
	lead := RaftStatus{Leader: true, Barrier: true, LeaderName: "a"}
	for name, c := range map[string]struct {
		raft     RaftStatus
		lease    time.Duration
		paused   bool // what is asked for; the record says that it is not
		proposed bool
		want     codes.Code
	}{
		"not paused already, and it leads":        {lead, time.Second, false, false, codes.OK},
		"not paused by an old record, cut off":    {RaftStatus{}, 0, false, true, codes.Unavailable},
		"not paused, its lease is over":           {lead, 0, false, true, codes.FailedPrecondition},
		"not paused, leads and has not caught up": {RaftStatus{Leader: true, LeaderName: "a"}, time.Second, false, true, codes.FailedPrecondition},
		"to be paused, and it leads":              {lead, time.Second, true, true, codes.FailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			f := newAgent(t, "a", pairedRecord())
			store := f.store
			store.status = c.raft
			store.setLease(c.lease)
			proposed := false
			store.propose = func(context.Context, record.Command) (Outcome, error) {
				proposed = true
				return NotDone, errors.New("refused by the test")
			}
			_, err := f.Agent.setPaused(t.Context(), &pb.SetPausedRequest{Paused: c.paused, Operator: "test"})
			if status.Code(err) != c.want || proposed != c.proposed {
				t.Errorf("%v, proposed %t; want %v, %t", err, proposed, c.want, c.proposed)
			}
		})
	}
}
