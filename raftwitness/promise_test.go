package raftwitness

import (
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// hear gives the voter the news of a departure and returns the campaigns to which it leads.
func (v *voterTest) hear(server string, term uint64) (campaigns int) {
	v.t.Helper()
	before := len(v.raft.reached)
	d := departure{v.ids[server].ServerID, term, make(chan struct{})}
	v.depart(v.t.Context(), nil, d)
	select {
	case <-d.known:
	default:
		v.t.Fatal("the news is not acknowledged")
	}
	for _, c := range v.raft.reached[before:] {
		if _, ok := c.(*raft.TimeoutNowRequest); !ok {
			v.t.Fatalf("%T reached Raft", c)
		}
	}
	if v.transfer.Load() != 0 {
		v.t.Fatal("the campaign would be called a transfer's, and override promises")
	}
	return len(v.raft.reached) - before
}

func newDataVoterTest(t *testing.T) *voterTest {
	v := newVoterTest(t)
	v.campaigns = true
	return v
}

func TestDepartureEndsThePromiseToTheOneThatHasDeparted(t *testing.T) {
	for _, term := range []uint64{5, 6, 1 << 40} {
		v := newVoterTest(t)
		v.silenceOver()
		v.heartbeat("b", 5)
		if v.vote("w", 6, nil) {
			t.Fatal("no promise")
		}
		v.hear("b", term)
		if !v.preVote("w", 6, 10, 5) || !v.vote("w", 6, nil) {
			t.Errorf("b has departed from terms up to %d: the promise of term 5 is still kept", term)
		}
	}
}

func TestDepartureLeavesOtherPromises(t *testing.T) {
	for _, tc := range []struct {
		name, server string
		term         uint64
	}{
		{"of another server", "w", 5}, {"of another server, later", "w", 99}, {"from older terms", "b", 4},
	} {
		v := newDataVoterTest(t)
		v.silenceOver()
		v.heartbeat("b", 5)
		if n := v.hear(tc.server, tc.term); n != 0 {
			t.Errorf("%s: campaigns", tc.name)
		}
		if v.vote("w", 6, nil) || v.preVote("w", 6, 99, 99) {
			t.Errorf("%s: breaks its promise to b", tc.name)
		}
	}
}

// b leads term 5, dies, is started again and leads term 7. Only then the news of its death arrives, more than once.
func TestDepartureThatComesLateDoesNotTouchAPromiseToTheNextLife(t *testing.T) {
	v := newDataVoterTest(t)
	v.silenceOver()
	v.heartbeat("b", 5)
	v.raft.set(raft.Follower, 7)
	v.heartbeat("b", 7)
	for range 3 {
		for _, term := range []uint64{5, 6} { // 6: b had campaigned in it before it died
			if n := v.hear("b", term); n != 0 {
				t.Error("campaigns against the next life")
			}
			if v.vote("w", 8, nil) || v.preVote("w", 8, 99, 99) {
				t.Error("breaks its promise to the next life")
			}
		}
		v.heartbeat("b", 7)
	}
	if v.hear("b", 7) != 1 || !v.vote("w", 8, nil) {
		t.Error("the next life's own end is not believed")
	}
}

func TestDepartureDoesNotEndTheSilence(t *testing.T) {
	v := newDataVoterTest(t)
	v.heartbeat("b", 5)
	v.clock.at += 999 * time.Millisecond
	if v.hear("b", 5) != 0 {
		t.Error("campaigns in its silence: its earlier life may have made a promise to w")
	}
	if v.vote("w", 6, nil) || v.preVote("w", 6, 99, 99) || v.vote("b", 6, nil) {
		t.Error("votes in its silence")
	}
	v.clock.at += time.Millisecond
	if !v.vote("w", 6, nil) {
		t.Error("does not vote after it")
	}
}

// A request of the dead leader may lie in a buffer.
func TestWhatTheDepartedSentBeforeIsPromisedNothing(t *testing.T) {
	v := newVoterTest(t)
	v.silenceOver()
	v.heartbeat("b", 5)
	v.hear("b", 5)
	v.heartbeat("b", 5) // reaches Raft: an entry in it may be committed
	if !v.vote("w", 6, nil) {
		t.Error("a promise to a process that is gone")
	}
	v.raft.set(raft.Follower, 6)
	v.heartbeat("b", 6)
	if v.vote("w", 7, nil) {
		t.Error("no promise to its next life")
	}
	v.hear("b", 3) // old news, again
	v.heartbeat("b", 5)
	if v.vote("w", 7, nil) {
		t.Error("old news have ended a promise")
	}
}

func TestOnlyAFollowerOfTheDepartedCampaigns(t *testing.T) {
	for _, tc := range []struct {
		name      string
		campaigns bool
		state     raft.RaftState
		leader    string
		term      uint64 // that Raft is in when the news of b's departure from term 5 comes
		want      int
	}{
		{"follower", true, raft.Follower, "b", 5, 1},
		{"witness", false, raft.Follower, "b", 5, 0},
		{"candidate", true, raft.Candidate, "b", 5, 0},
		{"leader", true, raft.Leader, "b", 5, 0},
		{"down", true, raft.Shutdown, "b", 5, 0},
		{"follower of another", true, raft.Follower, "w", 5, 0},
		{"has voted in the next term", true, raft.Follower, "b", 6, 0},
	} {
		v := newDataVoterTest(t)
		v.campaigns = tc.campaigns
		v.silenceOver()
		v.heartbeat(tc.leader, 5)
		v.raft.set(tc.state, tc.term)
		if n := v.hear("b", 5); n != tc.want {
			t.Errorf("%s: %d campaigns, want %d", tc.name, n, tc.want)
		}
		if n := v.hear("b", 5); n != 0 {
			t.Errorf("%s: campaigns again when it is told again", tc.name)
		}
	}
}

func TestNeverHeardLeaderDepartsWithoutConsequence(t *testing.T) {
	v := newDataVoterTest(t)
	v.silenceOver()
	if n := v.hear("b", 5); n != 0 {
		t.Error("campaigns, though it has followed nobody")
	}
}

// To hashicorp/raft, the campaign is one on an offer of leadership. To the voters it must not be.
func TestCampaignAfterADepartureOverridesNobodysPromise(t *testing.T) {
	v, w := scriptedVoter(t)
	f := &fakeRaft{state: raft.Follower, term: 5}
	v.raft = f
	v.silentUntil = 0 // so that a campaign is allowed
	id := w.id.ServerID
	var asked *raft.RequestVoteRequest
	ask := func() error {
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			select {
			case rpc := <-w.asked:
				asked = rpc.Command.(*raft.RequestVoteRequest)
				rpc.Respond(&raft.RequestVoteResponse{Term: 6, Granted: true}, nil)
			case <-time.After(time.Second):
			}
		})
		req := &raft.RequestVoteRequest{RPCHeader: v.header(), Term: 6, LeadershipTransfer: true}
		return v.RequestVote(raft.ServerID(id), raft.ServerAddress(id), req, &raft.RequestVoteResponse{})
	}
	b := "b-1"
	v.promised.to(b, 5)
	if err := ask(); err == nil || asked != nil {
		t.Errorf("asks for votes against its promise: %v", err)
	}
	known := make(chan struct{})
	v.depart(t.Context(), nil, departure{b, 5, known})
	if err := ask(); err != nil || asked == nil {
		t.Fatalf("does not ask for votes: %v", err)
	}
	//lint:ignore SA1019 the mark of a transfer travels there
	if _, ok := readTransfer(asked.Candidate); ok {
		//lint:ignore SA1019 see RequestVote
		t.Errorf("asks in the name of a transfer that nobody has offered: %q", asked.Candidate)
	}
	asked = nil
	v.promised.to(id, 6) // the witness has won meanwhile
	v.promised.to("b-2", 6)
	if err := ask(); err == nil || asked != nil {
		t.Errorf("asks for votes against a newer promise: %v", err)
	}
}
