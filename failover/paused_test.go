package failover

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "kineshim/proto"
	"kineshim/raftwitness/record"
)

// When links are back, a leader is there a moment later; what an operator says meanwhile, as in shimctl pause; ...; shimctl resume, is not refused.
func TestAnOperatorsWordWaitsForALeader(t *testing.T) {
	f := newAgent(t, "a", pairedRecord())
	f.store.status = RaftStatus{}
	f.store.propose = func(context.Context, record.Command) (Outcome, error) {
		if f.store.Status().LeaderName != "a" {
			return NotDone, errors.New("nobody leads")
		}
		return Done, nil
	}
	elected := time.AfterFunc(50*time.Millisecond, func() { f.store.lead("a") })
	defer elected.Stop()
	if _, err := (ControlServer{Agent: f.Agent}).SetPaused(t.Context(), &pb.SetPausedRequest{Paused: true, Operator: "test"}); err != nil {
		t.Error(err)
	}
}

// What the record says already is an answer only where it is known to be the newest record.
func TestPauseIsDoneOnlyWhereAMajorityKnowsOfIt(t *testing.T) {
	lead := RaftStatus{Leader: true, Barrier: true, LeaderName: "a"}
	for name, c := range map[string]struct {
		raft     RaftStatus
		lease    time.Duration
		paused   bool // what is asked for; the record says that it is not
		proposed bool
		want     string // the error says; "": there is none
	}{
		"not paused already, and it leads":        {lead, time.Second, false, false, ""},
		"not paused by an old record, cut off":    {RaftStatus{}, 0, false, true, "nobody leads"},
		"not paused, its lease is over":           {lead, 0, false, true, "refused by the test"},
		"not paused, leads and has not caught up": {RaftStatus{Leader: true, LeaderName: "a"}, time.Second, false, true, "refused by the test"},
		"to be paused, and it leads":              {lead, time.Second, true, true, "refused by the test"},
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
			if (err == nil) != (c.want == "") || !strings.Contains(status.Convert(err).Message(), c.want) || proposed != c.proposed {
				t.Errorf("%v, proposed %t; want %q, %t", err, proposed, c.want, c.proposed)
			}
			if err != nil && status.Code(err) != codes.FailedPrecondition { // Unavailable would be a connection that was lost
				t.Errorf("%v", err)
			}
		})
	}
}
