package raftwitness

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// appendTo sends one AppendEntries of term 5 from a's transport to w, which answers as told, after a while.
func appendTo(t *testing.T, v *voter, w *scripted, after time.Duration, resp *raft.AppendEntriesResponse, err error) error {
	t.Helper()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		rpc := <-w.asked
		time.Sleep(after)
		rpc.Respond(resp, err)
	})
	id := w.id.ServerID
	return v.AppendEntries(raft.ServerID(id), raft.ServerAddress(id), &raft.AppendEntriesRequest{Term: 5}, &raft.AppendEntriesResponse{})
}

// scriptedVoter is a's transport, without a Raft behind it, and the witness it speaks to.
func scriptedVoter(t *testing.T) (*voter, *scripted) {
	t.Helper()
	c := newTestCluster(t, testPromise)
	w := newScripted(t, c.ids["w"], c.nodes["w"].cfg.Listener)
	wire := newScripted(t, c.ids["a"], c.nodes["a"].cfg.Listener).wire
	// The lease is long: whether there is one is asked, not whether this machine is quick.
	return newVoter(wire, newLease(time.Minute, bootTime), testPromise, bootTime), w
}

func TestOnlyASuccessInTheSameTermIsAContact(t *testing.T) {
	v, w := scriptedVoter(t)
	for name, resp := range map[string]*raft.AppendEntriesResponse{
		"refused":     {Term: 5},
		"newer term":  {Term: 6, Success: true},
		"older term":  {Term: 4, Success: true},
		"refused, in": {Term: 6},
	} {
		if err := appendTo(t, v, w, 0, resp, nil); err != nil {
			t.Fatal(err)
		}
		if v.lease.left(5) != 0 || v.lease.left(6) != 0 || v.lease.left(4) != 0 {
			t.Errorf("%s: a lease", name)
		}
	}
	if err := appendTo(t, v, w, 0, &raft.AppendEntriesResponse{Term: 5, Success: true}, raft.ErrTransportShutdown); err == nil || v.lease.left(5) != 0 {
		t.Errorf("an answer with an error gives a lease: %v", err)
	}
	if err := appendTo(t, v, w, 0, &raft.AppendEntriesResponse{Term: 5, Success: true}, nil); err != nil || v.lease.left(5) == 0 {
		t.Errorf("a success gives no lease: %v", err)
	}
}

func TestContactCountsFromBeforeTheRequest(t *testing.T) {
	v, w := scriptedVoter(t)
	const late = 100 * time.Millisecond
	if err := appendTo(t, v, w, late, &raft.AppendEntriesResponse{Term: 5, Success: true}, nil); err != nil {
		t.Fatal(err)
	}
	if left := v.lease.left(5); left > v.lease.length-late {
		t.Errorf("%v of %v left, %v after the request", left, v.lease.length, late)
	}
}

func TestBrokenConnectionsInThePoolDoNotFailAVote(t *testing.T) {
	v, w := scriptedVoter(t)
	id := raft.ServerID(w.id.ServerID)
	ask := func() error {
		return v.RequestPreVote(id, raft.ServerAddress(id), &raft.RequestPreVoteRequest{Term: 6}, &raft.RequestPreVoteResponse{})
	}
	var wg sync.WaitGroup
	for range connectionPool { // at a time, so that each has a connection of its own
		wg.Go(func() {
			if err := ask(); err != nil {
				t.Error(err)
			}
		})
	}
	var rpcs []raft.RPC
	for range connectionPool {
		rpcs = append(rpcs, <-w.asked)
	}
	for _, rpc := range rpcs {
		rpc.Respond(&raft.RequestPreVoteResponse{Term: 6}, nil)
	}
	wg.Wait()

	w.wire.Close() // the witness is restarted
	again := newScripted(t, w.id, w.listener)
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() { again.answerVotes(ctx, func(raft.RPC) bool { return true }, func(time.Duration, raft.RPC) {}) })
	defer func() { cancel(); wg.Wait() }()
	if err := ask(); err != nil {
		t.Errorf("the first request after the restart: %v", err)
	}
}

// A leader whose followers answer its heartbeats, but hold none of its entries, knows nothing about earlier terms.
func TestLeaderHasNoLeaseBeforeItsBarrier(t *testing.T) {
	t.Parallel()
	c, peers := oneAmongScripted(t, "a", testPromise)
	var mu sync.Mutex
	store := false
	grant := func(rpc raft.RPC) bool {
		req, ok := rpc.Command.(*raft.AppendEntriesRequest)
		mu.Lock()
		defer mu.Unlock()
		return !ok || len(req.Entries) == 0 || store
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() { c.stop("a"); cancel(); wg.Wait() }()
	for _, s := range peers {
		wg.Go(func() { s.answerVotes(ctx, grant, func(time.Duration, raft.RPC) {}) })
	}
	a := c.node("a")
	eventually(t, "a leads and is heard", func() bool { s := a.Status(); return s.Leader && len(s.Heard) == 2 })
	term := a.Status().Term
	steadily(t, "no lease", 2*testPromise, func() bool {
		s := a.Status()
		return a.LeaseLeft() == 0 && s.LeaseLeft == 0 && !s.Barrier
	})
	mu.Lock()
	store = true
	mu.Unlock()
	eventually(t, "the lease comes with the barrier", func() bool { return a.LeaseLeft() > 0 })
	if s := a.Status(); s.Term == term && !s.Barrier {
		t.Errorf("%+v", s)
	}
}
