package raftwitness

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// fakeRaft is what the voter sees of Raft, and Raft's end of the voter: it notes the requests that reach it and grants them all.
type fakeRaft struct {
	mu      sync.Mutex // guards the fields below
	state   raft.RaftState
	term    uint64
	last    uint64
	logTerm uint64
	reached []any
	success bool
}

func (f *fakeRaft) State() raft.RaftState { f.mu.Lock(); defer f.mu.Unlock(); return f.state }
func (f *fakeRaft) CurrentTerm() uint64   { f.mu.Lock(); defer f.mu.Unlock(); return f.term }
func (f *fakeRaft) LastIndex() uint64     { f.mu.Lock(); defer f.mu.Unlock(); return f.last }
func (f *fakeRaft) CommitIndex() uint64   { return 0 }
func (f *fakeRaft) lastLogTerm() (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.logTerm, nil
}

func (f *fakeRaft) set(state raft.RaftState, term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.term = state, term
}

func (f *fakeRaft) answer(rpc raft.RPC) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reached = append(f.reached, rpc.Command)
	switch rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		rpc.Respond(&raft.AppendEntriesResponse{Term: f.term, Success: f.success}, nil)
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{Term: f.term, Granted: true}, nil)
	default:
		rpc.Respond(&raft.TimeoutNowResponse{}, nil)
	}
}

// voterTest is the voter a, in term 5, with a clock that the test turns.
type voterTest struct {
	*voter
	t     *testing.T
	raft  *fakeRaft
	clock *clock
	ids   map[string]Identity
}

func newVoterTest(t *testing.T) *voterTest {
	t.Helper()
	l := newTestListener(t, "a")
	ids := identities(time.Second, map[string]string{"a": l.Addr().String(), "b": "127.0.0.1:1", "w": "127.0.0.1:1"})
	wire := newScripted(t, ids["a"], l).wire
	c := &clock{at: time.Hour}
	v := &voterTest{
		voter: newVoter(wire, newLease(time.Second, c.now), time.Second, c.now),
		t:     t, raft: &fakeRaft{state: raft.Follower, term: 5, last: 10, logTerm: 5, success: true}, clock: c, ids: ids,
	}
	v.voter.raft = v.raft
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case rpc := <-v.out:
				v.raft.answer(rpc)
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return v
}

// ask gives the voter a request and returns the answer, and whether Raft has seen the request.
func (v *voterTest) ask(command any) (answer raft.RPCResponse, reached bool) {
	v.t.Helper()
	ch := make(chan raft.RPCResponse, 1)
	before := len(v.raft.reached)
	v.handle(v.t.Context(), nil, raft.RPC{Command: command, RespChan: ch})
	select {
	case answer = <-ch:
	default:
		v.t.Fatalf("%T was not answered", command)
	}
	return answer, len(v.raft.reached) > before
}

func (v *voterTest) header(name string) raft.RPCHeader {
	id := []byte(v.ids[name].ServerID)
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: id, Addr: id}
}

func (v *voterTest) heartbeat(from string, term uint64) {
	v.t.Helper()
	if _, reached := v.ask(&raft.AppendEntriesRequest{RPCHeader: v.header(from), Term: term}); !reached {
		v.t.Fatal("a heartbeat did not reach Raft")
	}
}

// vote asks for the vote and reports whether it is given; a vote that is refused must not have moved Raft.
func (v *voterTest) vote(from string, term uint64, mark []byte) bool {
	v.t.Helper()
	//lint:ignore SA1019 the mark of a transfer travels there
	a, reached := v.ask(&raft.RequestVoteRequest{RPCHeader: v.header(from), Term: term, Candidate: mark, LastLogIndex: 10, LastLogTerm: 5, LeadershipTransfer: mark != nil})
	resp := a.Response.(*raft.RequestVoteResponse)
	if resp.Granted != reached {
		v.t.Fatalf("granted %v, reached Raft %v", resp.Granted, reached)
	}
	if !resp.Granted && resp.Term != v.raft.CurrentTerm() {
		v.t.Fatalf("refused in term %d, not in %d", resp.Term, v.raft.CurrentTerm())
	}
	return resp.Granted
}

func (v *voterTest) preVote(from string, term, lastIndex, lastTerm uint64) bool {
	v.t.Helper()
	a, reached := v.ask(&raft.RequestPreVoteRequest{RPCHeader: v.header(from), Term: term, LastLogIndex: lastIndex, LastLogTerm: lastTerm})
	if reached {
		v.t.Fatal("a pre-vote reached Raft")
	}
	resp := a.Response.(*raft.RequestPreVoteResponse)
	if want := term; resp.Granted && resp.Term != want {
		v.t.Fatalf("granted in term %d, asked in %d", resp.Term, term)
	}
	return resp.Granted
}

func (v *voterTest) silenceOver() { v.clock.at += v.promise }

func TestVoterThatHasJustStartedKeepsSilent(t *testing.T) {
	v := newVoterTest(t)
	for _, at := range []time.Duration{0, 500 * time.Millisecond, 999999999} {
		v.clock.at = time.Hour + at
		if v.vote("b", 6, nil) || v.preVote("b", 6, 10, 5) || v.vote("b", 6, markTransfer(5)) {
			t.Errorf("votes %v after its start", at)
		}
	}
	v.clock.at = time.Hour + time.Second
	if !v.preVote("b", 6, 10, 5) || !v.vote("b", 6, nil) {
		t.Error("is silent for more than a promise")
	}
}

func TestVoterKeepsItsPromiseAndNoLonger(t *testing.T) {
	v := newVoterTest(t)
	v.silenceOver()
	v.heartbeat("b", 5)
	for _, at := range []time.Duration{0, 999 * time.Millisecond} {
		v.clock.at = time.Hour + time.Second + at
		if v.vote("w", 6, nil) || v.vote("w", 7, nil) || v.preVote("w", 6, 99, 99) {
			t.Errorf("breaks its promise after %v", at)
		}
	}
	if !v.vote("b", 6, nil) || !v.preVote("b", 6, 10, 5) {
		t.Error("refuses the one it has promised to")
	}
	v.heartbeat("b", 5)
	v.clock.at += time.Second
	if !v.preVote("w", 6, 10, 5) || !v.vote("w", 6, nil) {
		t.Error("keeps its promise for too long")
	}
}

func TestPromiseHoldsEvenIfRaftRefusedTheEntries(t *testing.T) {
	v := newVoterTest(t)
	v.silenceOver()
	v.raft.success = false
	v.heartbeat("b", 5)
	if v.vote("w", 6, nil) {
		t.Error("no promise")
	}
}

func TestLeaderOfAnOlderTermIsPromisedNothing(t *testing.T) {
	v := newVoterTest(t)
	v.silenceOver()
	v.heartbeat("b", 5)
	v.raft.set(raft.Follower, 6)
	v.heartbeat("w", 5) // late
	if v.vote("w", 7, nil) {
		t.Error("the late heartbeat has replaced the promise to b")
	}
	v.heartbeat("w", 6)
	if v.vote("b", 7, nil) {
		t.Error("the promise to the new leader is not kept")
	}
}

func TestLeaderGivesNoVoteButToTheOneItTold(t *testing.T) {
	v := newVoterTest(t)
	v.silenceOver()
	v.raft.set(raft.Leader, 5)
	if v.vote("b", 6, nil) || v.vote("b", 99, nil) || v.preVote("b", 6, 99, 99) {
		t.Error("a leader votes")
	}
	if !v.vote("b", 6, markTransfer(5)) {
		t.Error("a leader refuses the one to whom it has offered its leadership")
	}
}

func TestTransferOverridesPromisesInTheNextTermOnly(t *testing.T) {
	v := newVoterTest(t)
	v.silenceOver()
	v.heartbeat("b", 5)
	for _, tc := range []struct {
		term uint64
		mark []byte
		want bool
	}{
		{6, markTransfer(5), true},
		{7, markTransfer(5), false},
		{6, markTransfer(4), false},
		{6, markTransfer(6), false},
		{6, []byte("w"), false}, // a transfer as hashicorp/raft knows it
		{6, []byte{}, false},
		{6, transferMark, false},
		{6, []byte("kineshim-transfer:x"), false},
		{0, markTransfer(1<<64 - 1), true}, // overflows, and is for Raft to refuse: the term is past
	} {
		if got := v.vote("w", tc.term, tc.mark); got != tc.want {
			t.Errorf("term %d, mark %q: %v", tc.term, tc.mark, got)
		}
	}
}

func TestRaftSeesEachVoteAsATransferSoThatItsOwnTimerDoesNotRefuse(t *testing.T) {
	v := newVoterTest(t)
	v.silenceOver()
	v.vote("b", 6, nil)
	req := v.raft.reached[len(v.raft.reached)-1].(*raft.RequestVoteRequest)
	if !req.LeadershipTransfer {
		t.Error("hashicorp/raft would refuse while it knows a leader")
	}
}

func TestPreVoteWantsALogAsGoodAsOurs(t *testing.T) {
	v := newVoterTest(t)
	v.silenceOver()
	for _, tc := range []struct {
		term, index, logTerm uint64
		want                 bool
	}{
		{6, 10, 5, true}, {6, 11, 5, true}, {6, 1, 6, true}, {5, 10, 5, true},
		{6, 9, 5, false}, {6, 99, 4, false}, {4, 10, 5, false},
	} {
		if got := v.preVote("b", tc.term, tc.index, tc.logTerm); got != tc.want {
			t.Errorf("term %d, log %d of term %d: %v", tc.term, tc.index, tc.logTerm, got)
		}
	}
}

func TestOfferThatComesLateIsRefused(t *testing.T) {
	v := newVoterTest(t)
	for _, mark := range [][]byte{markTransfer(4), markTransfer(6), []byte("b"), nil} {
		h := v.header("b")
		h.Addr = mark
		if a, reached := v.ask(&raft.TimeoutNowRequest{RPCHeader: h}); reached || a.Error == nil {
			t.Errorf("%q: %v, reached Raft %v", mark, a.Error, reached)
		}
	}
	if v.transfer.Load() != 0 {
		t.Error("a refused offer is remembered")
	}
	h := v.header("b")
	h.Addr = markTransfer(5)
	if a, reached := v.ask(&raft.TimeoutNowRequest{RPCHeader: h}); !reached || a.Error != nil {
		t.Errorf("the offer in this term: %v, reached Raft %v", a.Error, reached)
	}
}

func TestOnlyTheLeaderOfTheTermOffersItsLeadership(t *testing.T) {
	v := newVoterTest(t)
	v.lease.contacted("b", 5, v.clock.at)
	v.raft.set(raft.Follower, 5)
	b := v.ids["b"].ServerID
	err := v.TimeoutNow(raft.ServerID(b), raft.ServerAddress(b), &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{})
	if err == nil || !strings.Contains(err.Error(), "leads no more") || v.lease.isForfeited(5) {
		t.Errorf("a follower offers the leadership of another: %v, forfeited %v", err, v.lease.isForfeited(5))
	}
	v.raft.set(raft.Leader, 5)
	err = v.TimeoutNow(raft.ServerID(b), raft.ServerAddress(b), &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{})
	if err == nil || !v.lease.isForfeited(5) || v.lease.left(5) != 0 {
		t.Errorf("an offer that may have arrived leaves the lease: %v", err)
	}
}

func TestOwnCandidacyKeepsPromises(t *testing.T) {
	v := newVoterTest(t)
	v.silenceOver()
	v.heartbeat("b", 5)
	v.raft.set(raft.Candidate, 6)
	w := v.ids["w"].ServerID
	campaign := func(transfer bool) (vote, pre error) {
		vote = v.RequestVote(raft.ServerID(w), raft.ServerAddress(w), &raft.RequestVoteRequest{Term: 6, LeadershipTransfer: transfer}, &raft.RequestVoteResponse{})
		return vote, v.RequestPreVote(raft.ServerID(w), raft.ServerAddress(w), &raft.RequestPreVoteRequest{Term: 6}, &raft.RequestPreVoteResponse{})
	}
	bound := func(err error) bool { return strings.Contains(err.Error(), "promised to") }
	if vote, pre := campaign(false); !bound(vote) || !bound(pre) {
		t.Errorf("campaigns against its promise: %v, %v", vote, pre)
	}
	if vote, _ := campaign(true); !bound(vote) {
		t.Errorf("campaigns on an offer that it never had: %v", vote)
	}
	v.transfer.Store(6)
	if vote, _ := campaign(true); bound(vote) { // it fails, as nobody listens, but not for the promise
		t.Errorf("does not campaign on an offer: %v", vote)
	}
	v.clock.at += time.Second
	if vote, pre := campaign(false); bound(vote) || bound(pre) {
		t.Errorf("keeps its promise for too long: %v, %v", vote, pre)
	}
}

func TestRequestsEndWithTheNode(t *testing.T) {
	v := newVoterTest(t)
	stuck := newVoter(v.NetworkTransport, v.lease, time.Second, v.clock.now) // nobody takes its requests
	stuck.raft = v.raft
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan struct{})
	close(done)
	for name, run := range map[string]func(raft.RPC){
		"context": func(r raft.RPC) { stuck.handle(ctx, nil, r) },
		"done":    func(r raft.RPC) { stuck.handle(t.Context(), done, r) },
	} {
		ch := make(chan raft.RPCResponse, 1)
		run(raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: v.header("b"), Term: 5}, RespChan: ch})
		if a := <-ch; !errors.Is(a.Error, raft.ErrTransportShutdown) {
			t.Errorf("%s: %v", name, a.Error)
		}
	}
}
