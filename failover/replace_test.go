package failover

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	pb "kineshim/proto"
	"kineshim/raftwitness/record"
)

// replacer is a, a solo primary that leads, with a store that applies what is proposed.
func replacer(t *testing.T, rec *record.Record) (agentFixture, ControlServer) {
	t.Helper()
	f := newAgent(t, "a", rec).serving(rec.Epoch)
	f.store.status = RaftStatus{Leader: true, Barrier: true, Heard: map[string]time.Duration{"w": time.Minute, "b": 0}}
	f.store.propose = func(_ context.Context, c record.Command) (Outcome, error) {
		now, _ := f.store.Record()
		next, err := now.Apply(c)
		if err != nil {
			return NotDone, err
		}
		f.store.set(&next)
		return Done, nil
	}
	return f, ControlServer{Agent: f.Agent, NewServerID: func(name string) string { return name + "-new" },
		Enrol: func(r *record.Record, name string) ([]byte, error) {
			m, _ := r.Member(name)
			return []byte("for " + m.ServerID), nil
		}}
}

func TestReplaceEnrolsALostMember(t *testing.T) {
	f, s := replacer(t, soloRecord())
	check, err := s.Replace(t.Context(), &pb.ReplaceRequest{Node: "w", Check: true})
	if rec, _ := f.store.Record(); err != nil || !check.Done || check.Alive || rec.Incarnation != 1 {
		t.Fatalf("%v, %v", check, err)
	}
	r, err := s.Replace(t.Context(), &pb.ReplaceRequest{Node: "w", Operator: "anna", Address: "h:1"})
	rec, _ := f.store.Record()
	if err != nil || !r.Done || string(r.Enrolment) != "for w-new" || r.OldServerId != "w-1" || r.ServerId != "w-new" || r.Role != "witness" {
		t.Fatalf("%v, %v", r, err)
	}
	if m, _ := rec.Member("w"); m.ServerID != "w-new" || m.Address != "h:1" || rec.History[len(rec.History)-1].Why != "by anna" {
		t.Errorf("%+v", rec)
	}
	if f.Agent.wish.replace != "" {
		t.Error("the wish is left behind, and nobody is ever paired again")
	}
}

func TestReplaceIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		q     *pb.ReplaceRequest
		spoil func(agentFixture)
		why   string
	}{
		"itself":                    {&pb.ReplaceRequest{Node: "a"}, nil, "is the primary"},
		"a stranger":                {&pb.ReplaceRequest{Node: "x"}, nil, "no member"},
		"no address":                {&pb.ReplaceRequest{Node: "w", Address: "h"}, nil, "not host:port"},
		"no majority":               {&pb.ReplaceRequest{Node: "w"}, func(f agentFixture) { f.store.status.Leader = false }, "b must be reachable"},
		"no majority either":        {&pb.ReplaceRequest{Node: "b"}, func(f agentFixture) { f.store.status.Leader = false }, "w must be reachable"},
		"on a void node":            {&pb.ReplaceRequest{Node: "w"}, func(f agentFixture) { f.store.status.Void = "copied" }, "out of the cluster itself"},
		"on the standby":            {&pb.ReplaceRequest{Node: "w"}, func(f agentFixture) { f.store.set(failedOver()) }, "run this on b"},
		"before there is a cluster": {&pb.ReplaceRequest{Node: "w"}, func(f agentFixture) { f.store.set(&record.Record{}) }, "not initialised"},
		"twice at once":             {&pb.ReplaceRequest{Node: "w"}, func(f agentFixture) { f.Agent.wish.replace = "b" }, "at the moment"},
		"while the third is away":   {&pb.ReplaceRequest{Node: "w", Alive: true}, func(f agentFixture) { f.store.status.Heard = map[string]time.Duration{"w": 0, "b": time.Minute} }, "Bring b back first"},
		"while the third is out":    {&pb.ReplaceRequest{Node: "w"}, func(f agentFixture) { f.store.status.Apart = map[string]string{"b": "it was wiped"} }, "b does not answer"},
		"a live witness":            {&pb.ReplaceRequest{Node: "w"}, func(f agentFixture) { f.store.status.Heard["w"] = 0 }, "--yes"},
		"a live standby": {&pb.ReplaceRequest{Node: "b"}, func(f agentFixture) {
			f.Agent.peer = peer{state: &pb.NodeState{Node: "b"}, at: time.Now()}
		}, "--yes"},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := replacer(t, soloRecord())
			if tc.spoil != nil {
				tc.spoil(f)
			}
			r, err := s.Replace(t.Context(), tc.q)
			if rec, _ := f.store.Record(); err != nil || r.Done || !strings.Contains(r.Reason, tc.why) || rec.Incarnation > 1 {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
}

// After shimctl serve --alone nobody but this node votes: each of the others is enrolled anew, one after the other.
func TestWhoWasGivenUpIsNotWaitedFor(t *testing.T) {
	rec := *soloRecord()
	rec.Members = slices.Clone(rec.Members)
	for i := range rec.Members {
		rec.Members[i].Lost = rec.Members[i].Name != "a"
	}
	f, s := replacer(t, &rec)
	f.store.status.Heard = map[string]time.Duration{}
	for _, node := range []string{"w", "b"} {
		if r, err := s.Replace(t.Context(), &pb.ReplaceRequest{Node: node, Check: true}); err != nil || !r.Done {
			t.Errorf("%s: %v, %v", node, r, err)
		}
	}
}

// A witness that is refused answers heartbeats of nobody: it does not count as alive.
func TestRefusedMembersCountAsLost(t *testing.T) {
	f, s := replacer(t, soloRecord())
	f.store.status.Heard["w"] = 0
	f.store.status.Apart = map[string]string{"w": "it was wiped"}
	if r, err := s.Replace(t.Context(), &pb.ReplaceRequest{Node: "w", Check: true}); err != nil || !r.Done || r.Alive {
		t.Errorf("%v, %v", r, err)
	}
}
