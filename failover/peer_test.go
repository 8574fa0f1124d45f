package failover

import (
	"testing"
	"testing/synctest"
	"time"

	"kineshim/failover/decide"
	pb "kineshim/proto"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sees is what agent f sees of its peer now.
func (f agentFixture) sees() decide.Peer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Agent.peer.input(time.Now(), f.started, f.raft.leaderSince)
}

func TestPeerSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newAgent(t, "b", soloRecord())
		time.Sleep(3 * time.Second)
		if p := f.sees(); p.Age != decide.Never || p.Silent != 3*time.Second {
			t.Errorf("never heard: %+v", p)
		}
		f.hear(&pb.NodeState{Node: "a", Role: "primary"}, time.Time{})
		time.Sleep(time.Second)
		if p := f.sees(); p.Age != time.Second || p.Silent != time.Second || p.Role != decide.Primary {
			t.Errorf("heard a second ago: %+v", p)
		}
	})
}

func TestPeerRolesAsDecideKnowsThem(t *testing.T) {
	for said, want := range map[string]decide.Role{
		"primary": decide.Primary, "standby": decide.Standby, "promoting": decide.Standby, "starting": decide.Stopped, "stopping": decide.Stopped,
		"stopped": decide.Stopped, "absent": decide.Absent, "broken": decide.Broken, "cloning": decide.Broken, "rewinding": decide.Broken,
	} {
		f := newAgent(t, "a", soloRecord())
		f.hear(&pb.NodeState{Node: "b", Role: said}, time.Time{})
		if got := f.sees().Role; got != want {
			t.Errorf("%s is seen as %s, want %s", said, got, want)
		}
	}
}

func TestPeerNotReadyIsMeasuredFromItsFirstWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newAgent(t, "b", pairedRecord())
		say := func(role, instance string) {
			f.hear(&pb.NodeState{Node: "a", Role: role, Instance: instance}, time.Time{})
		}
		say("stopped", "i1")
		time.Sleep(time.Second)
		say("starting", "i1")
		if d := f.sees().NotReadyFor; d != time.Second {
			t.Errorf("not ready for %v", d)
		}
		say("absent", "i2") // a new process has its own time
		time.Sleep(time.Millisecond)
		if d := f.sees().NotReadyFor; d != time.Millisecond {
			t.Errorf("not ready for %v", d)
		}
		for _, ready := range []string{"standby", "primary", "promoting"} {
			say("stopped", "i2")
			time.Sleep(time.Millisecond)
			say(ready, "i2")
			if d := f.sees().NotReadyFor; d != 0 {
				t.Errorf("%s: not ready for %v", ready, d)
			}
		}
	})
}

// What the other node said before this one was elected, or by itself, is no answer to this leader.
func TestPeerSinceLeaderNeedsAnAnswerToAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newAgent(t, "b", pairedRecord())
		state := &pb.NodeState{Node: "a", Role: "primary", WantsRelief: true}
		f.hear(state, time.Now())
		time.Sleep(time.Millisecond)
		f.store.status = RaftStatus{Leader: true, Term: 5}
		f.mu.Lock()
		f.input()
		f.mu.Unlock()
		time.Sleep(time.Millisecond)
		if f.sees().SinceLeader {
			t.Error("an answer from before the election counts")
		}
		f.hear(state, time.Time{})
		if f.sees().SinceLeader {
			t.Error("a word that nobody asked for counts")
		}
		f.peer.mu.Lock()
		f.peer.state, f.peer.err = state, nil
		f.peer.mu.Unlock()
		f.exchangeOnce(t.Context())
		if p := f.sees(); !p.SinceLeader || !p.Relief {
			t.Errorf("an answer to this leader does not count: %+v", p)
		}
		f.store.status.Term = 6
		time.Sleep(time.Millisecond)
		f.mu.Lock()
		f.input()
		f.mu.Unlock()
		if f.sees().SinceLeader {
			t.Error("an answer to the leader of another term counts")
		}
	})
}

func TestPeerRefused(t *testing.T) {
	f := newAgent(t, "b", pairedRecord())
	answer := func(state *pb.NodeState, err error) {
		f.peer.mu.Lock()
		f.peer.state, f.peer.err = state, err
		f.peer.mu.Unlock()
		f.exchangeOnce(t.Context())
	}
	refused := status.Error(codes.Unavailable, "connection error: dial tcp 127.0.0.1:1: connect: connection refused")
	answer(nil, refused)
	if !f.sees().Refused {
		t.Error("a refused connection does not tell that the process is dead")
	}
	answer(nil, status.Error(codes.DeadlineExceeded, "context deadline exceeded"))
	if f.sees().Refused {
		t.Error("silence tells that the process is dead")
	}
	answer(nil, refused)
	answer(&pb.NodeState{Node: "a", Role: "primary"}, nil)
	if f.sees().Refused {
		t.Error("refused though it answers")
	}
	answer(nil, refused)
	f.hear(&pb.NodeState{Node: "a", Role: "primary"}, time.Time{})
	if f.sees().Refused {
		t.Error("refused though it speaks")
	}
}

func TestExchangeHearsOnlyTheOtherDataNode(t *testing.T) {
	f := newAgent(t, "a", pairedRecord())
	s := PeerServer{Agent: f.Agent}
	if _, err := s.Exchange(t.Context(), &pb.NodeState{Node: "c", Role: "primary"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stranger: %v", err)
	}
	if p := f.sees(); p.Age != decide.Never {
		t.Errorf("the stranger was heard: %+v", p)
	}
	got, err := s.Exchange(t.Context(), &pb.NodeState{Node: "b", Role: "standby"})
	if err != nil || got.Node != "a" || got.Epoch != 1 || got.GateOpen || got.Role != string(decide.Absent) {
		t.Errorf("%+v, %v", got, err)
	}
	if p := f.sees(); p.Role != decide.Standby {
		t.Errorf("the other node was not heard: %+v", p)
	}
}

// wokenBy reports whether a change of what the other node says makes the agent decide at once.
func TestOnlyChangesOfTheOtherNodeMakeADecisionAtOnce(t *testing.T) {
	base := func() *pb.NodeState {
		return &pb.NodeState{Node: "b", Role: "standby", Epoch: 1, Instance: "i", Streaming: true}
	}
	for name, c := range map[string]struct {
		change func(*pb.NodeState)
		want   bool
	}{
		"nothing":  {func(*pb.NodeState) {}, false},
		"position": {func(s *pb.NodeState) { s.FlushLsn = 9 }, false},
		"role":     {func(s *pb.NodeState) { s.Role = "stopped" }, true},
		"epoch":    {func(s *pb.NodeState) { s.Epoch = 2 }, true},
		"gate":     {func(s *pb.NodeState) { s.GateOpen = true }, true},
		"relief":   {func(s *pb.NodeState) { s.WantsRelief = true }, true},
		"leaving":  {func(s *pb.NodeState) { s.Leaving = true }, true},
		"stream":   {func(s *pb.NodeState) { s.Streaming = false }, true},
		"process":  {func(s *pb.NodeState) { s.Instance = "j" }, true},
	} {
		f := newAgent(t, "a", soloRecord())
		f.hear(base(), time.Time{})
		<-f.wakeCh
		next := base()
		c.change(next)
		f.hear(next, time.Time{})
		select {
		case <-f.wakeCh:
			if !c.want {
				t.Errorf("%s: it decides for nothing", name)
			}
		default:
			if c.want {
				t.Errorf("%s: it does not decide", name)
			}
		}
	}
}

// After an outage of all links, a node that is elected before it has a connection to the primary again must not take that for dead.
func TestALeaderGivesThePrimaryAMomentWhenTheNetworkIsBack(t *testing.T) {
	for name, c := range map[string]struct {
		leaderless time.Duration
		other      bool // another voter leads first
		want       bool
	}{"an election": {time.Second, false, false}, "an outage": {30 * time.Second, false, true}, "an outage, and the witness leads first": {30 * time.Second, true, true}} {
		synctest.Test(t, func(t *testing.T) {
			f := newAgent(t, "b", pairedRecord())
			f.store.status = RaftStatus{LeaderName: "a"}
			regained := func() bool {
				f.Agent.mu.Lock()
				defer f.Agent.mu.Unlock()
				return f.raftInput(time.Now()).Regained
			}
			regained()
			f.store.status = RaftStatus{}
			time.Sleep(c.leaderless)
			regained()
			if c.other {
				f.store.status = RaftStatus{LeaderName: "w"}
				regained()
				time.Sleep(200 * time.Millisecond)
			}
			f.store.status = RaftStatus{Leader: true, Barrier: true, LeaderName: "b", Term: 7}
			if got := regained(); got != c.want {
				t.Errorf("%s: %v", name, got)
			}
			time.Sleep(regainGrace)
			if regained() {
				t.Errorf("%s: for ever", name)
			}
		})
	}
}
