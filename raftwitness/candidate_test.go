package raftwitness

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// hashicorp/raft stays a candidate, and yet answers heartbeats with success, if it campaigns on an offer of leadership and
// another wins that term. Its own next campaign must keep the promise that this answer made.
func TestCandidateOnAnOfferKeepsItsPromiseToTheWinner(t *testing.T) {
	t.Parallel()
	c, peers := oneAmongScripted(t, "a", testPromise)
	b, w := peers["b"], peers["w"]
	a := c.ids["a"].ServerID

	var mu sync.Mutex
	var after []time.Duration // when a asked for anything after it had made its promise
	var asked []any           // what
	var promised time.Duration
	seen := func(at time.Duration, rpc raft.RPC) {
		if _, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if promised != 0 {
			after, asked = append(after, at), append(asked, rpc.Command)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	refuse := func(raft.RPC) bool { return false }
	for _, s := range peers {
		wg.Go(func() { s.answerVotes(ctx, refuse, seen) })
	}

	lease := testPromise * leasePerMille / 1000
	for term := uint64(50); term < 100; term += 10 { // the election timeout is random
		mu.Lock()
		after, asked, promised = nil, nil, 0
		mu.Unlock()
		if resp, err := b.heartbeat(a, term); err != nil || !resp.Success {
			t.Fatalf("%+v, %v", resp, err)
		}
		if err := b.offer(a, term); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a campaigns", func() bool { return c.node("a").raft.CurrentTerm() == term+1 })
		// Just before its election times out for the first time, it hears from the winner of that term.
		time.Sleep(testPromise * 9 / 10)
		sent := bootTime()
		mu.Lock()
		promised = sent
		mu.Unlock()
		resp, err := w.heartbeat(a, term+1)
		if err != nil || !resp.Success || resp.Term != term+1 {
			continue // no lease rests on that
		}
		eventually(t, "a campaigns again", func() bool { mu.Lock(); defer mu.Unlock(); return len(after) > 0 })
		mu.Lock()
		if d := after[0] - sent; d < lease {
			t.Errorf("%v after it had answered a heartbeat, the voter asked for votes: the leader's lease is %v; the winner's term is %d, it asked %+v", d, lease, term+1, asked[0])
		}
		mu.Unlock()
	}
}

// A leader has heard nobody for as long as it has led. When it ceases to lead, as after a hand-over, its successor needs some milliseconds to be heard.
func TestFormerLeaderGivesItsSuccessorTimeToBeHeard(t *testing.T) {
	t.Parallel()
	c, peers := oneAmongScripted(t, "a", testPromise)
	a := c.ids["a"].ServerID

	var mu sync.Mutex
	var stepped, asked time.Duration // when a was seen to have stepped down, and when it asked for anything after that
	seen := func(at time.Duration, rpc raft.RPC) {
		if _, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if stepped != 0 && asked == 0 {
			asked = at
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	grant := func(raft.RPC) bool { return true }
	for _, s := range peers {
		wg.Go(func() { s.answerVotes(ctx, grant, seen) })
	}
	if resp, err := peers["b"].heartbeat(a, 50); err != nil || !resp.Success {
		t.Fatalf("%+v, %v", resp, err)
	}
	if err := peers["b"].offer(a, 50); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a leads", func() bool { return c.node("a").raft.State() == raft.Leader })
	time.Sleep(testPromise) // what it had promised b is over
	term := c.node("a").raft.CurrentTerm()
	//lint:ignore SA1019 see markTransfer
	successor := raft.RequestVoteRequest{RPCHeader: peers["w"].header(), Term: term + 1, LastLogIndex: 1000, LastLogTerm: 1000, LeadershipTransfer: true, Candidate: markTransfer(term)}
	var vote raft.RequestVoteResponse
	if err := peers["w"].wire.RequestVote(raft.ServerID(a), raft.ServerAddress(a), &successor, &vote); err != nil || !vote.Granted {
		t.Fatalf("a does not step down for its successor: %+v, %v", vote, err)
	}
	mu.Lock()
	stepped = bootTime()
	mu.Unlock()
	eventually(t, "a campaigns again", func() bool { mu.Lock(); defer mu.Unlock(); return asked != 0 })
	mu.Lock()
	defer mu.Unlock()
	if waited := asked - stepped; waited < testPromise*8/10 {
		t.Errorf("%v after it had stepped down it asked for votes; its successor has %v to be heard", waited, testPromise)
	}
}
