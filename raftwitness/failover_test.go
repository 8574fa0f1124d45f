package raftwitness

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"kineshim/raftwitness/record"

	"github.com/hashicorp/raft"
)

// other is the data node that is not name.
func other(name string) string {
	if name == "a" {
		return "b"
	}
	return "a"
}

// takeover waits for the named node's lease and says how long that took.
func (c *testCluster) takeover(name string, since time.Time) time.Duration {
	c.t.Helper()
	eventually(c.t, name+" has taken over", func() bool { return c.node(name).LeaseLeft() > 0 })
	return time.Since(since)
}

func TestLeaderLostWithoutAWordIsReplacedByTheOtherDataNode(t *testing.T) {
	c, _ := startCluster(t, testPromise)
	c.initialise()
	var took []time.Duration
	for range 3 {
		leader := c.leader()
		standby := other(leader)
		since := time.Now()
		c.links.isolate(leader, true)
		took = append(took, c.takeover(standby, since))
		if left := c.node(leader).LeaseLeft(); left > 0 {
			t.Fatalf("%s has the barrier, and %s still a lease of %v", standby, leader, left)
		}
		c.links.isolate(leader, false)
		c.agree()
	}
	t.Logf("promise %v: from the loss of the leader to the barrier of the other data node: %v", testPromise, took)
}

func TestTakeoverIsNotDelayedByConnectionsThatAVoterRestartHasBroken(t *testing.T) {
	c, _ := startCluster(t, testPromise)
	c.initialise()
	var took []time.Duration
	for range 3 {
		c.lead("b") // b gets connections to w, and keeps them
		eventually(t, "b has heard from w", func() bool { _, ok := c.node("b").Status().Heard["w"]; return ok })
		c.lead("a")
		c.stop("w")
		c.start("w")
		eventually(t, "w follows a", func() bool { return c.node("w").Status().LeaderName == "a" })
		steadily(t, "a leads until w's silence is over", testPromise*3/2, func() bool { return c.node("a").raft.State().String() == "Leader" })
		since := time.Now()
		c.links.isolate("a", true)
		took = append(took, c.takeover("b", since))
		c.links.isolate("a", false)
		c.agree()
	}
	t.Logf("from the loss of the leader to the barrier: %v", took)
	if d := slices.Min(took); d > 4*testPromise { // what delays a take-over delays each; a busy machine one
		t.Errorf("%v, with a promise of %v", d, testPromise)
	}
}

func TestWitnessHandsLeadershipToTheRecordsPrimary(t *testing.T) {
	c, _ := startCluster(t, testPromise)
	c.initialise()
	for _, want := range []string{"a", "b"} {
		if r := c.agree(); r.Primary != want {
			if r.Solo() {
				c.propose(record.Command{Kind: record.Pair, By: r.Primary, Node: want, Timeline: r.Timeline})
			}
			c.propose(record.Command{Kind: record.Promote, By: want, Node: want, Timeline: r.Timeline})
		}
		c.agree()
		eventually(t, want+" leads by the grace of the witness", func() bool { // on a busy machine it may answer too late
			leader := c.leader()
			term := c.node(leader).Status().Term
			if err := c.node(leader).HandOver(t.Context(), "w"); err != nil {
				return false
			}
			now := c.leader()
			return now == want && c.node(now).Status().Term >= term+2
		})
	}
}

// The record is empty, so that the founder, a, is who should lead.
func TestWitnessWaitsALittleForThePrimary(t *testing.T) {
	const promise = 600 * time.Millisecond
	for _, tc := range []struct {
		name    string
		answers bool
		want    string
	}{{"the primary answers last", true, "a"}, {"the primary does not answer", false, "b"}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c, peers := oneAmongScripted(t, "w", promise)
			offers := make(chan string, 8)
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			defer func() { c.stop("w"); cancel(); wg.Wait() }()
			for _, name := range []string{"a", "b"} {
				grant := func(rpc raft.RPC) bool {
					if _, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && name == "a" {
						time.Sleep(promise / 20)
						return tc.answers
					}
					return true
				}
				seen := func(_ time.Duration, rpc raft.RPC) {
					if _, ok := rpc.Command.(*raft.TimeoutNowRequest); ok {
						select {
						case offers <- name:
						default:
						}
					}
				}
				wg.Go(func() { peers[name].answerVotes(ctx, grant, seen) })
			}
			select {
			case got := <-offers:
				if got != tc.want {
					t.Errorf("the witness offers the leadership to %s", got)
				}
			case <-time.After(patience):
				t.Error("the witness keeps the leadership")
			}
		})
	}
}

func TestNodeThatHasBeenStoppedHasNoLease(t *testing.T) {
	c, leader := startCluster(t, testPromise)
	n := c.node(leader)
	eventually(t, "a fresh lease", func() bool { return n.LeaseLeft() > n.lease.length/2 })
	c.stop(leader)
	n.lease.contacted("late", n.barrierTerm.Load(), bootTime()) // an answer that came while it was stopped
	if left := n.LeaseLeft(); left > 0 {
		t.Errorf("%v left", left)
	}
}
