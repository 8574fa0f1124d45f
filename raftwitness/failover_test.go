package raftwitness

import (
	"testing"
	"time"

	"kineshim/raftwitness/record"
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
	c, leader := startCluster(t, testPromise)
	c.initialise()
	var took []time.Duration
	for range 3 {
		leader = c.leader()
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
	for _, d := range took {
		if d > 4*testPromise {
			t.Errorf("%v, with a promise of %v", d, testPromise)
		}
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
		leader := c.leader()
		term := c.node(leader).Status().Term
		if err := c.node(leader).HandOver(t.Context(), "w"); err != nil {
			t.Fatal(err)
		}
		eventually(t, want+" leads", func() bool { return c.node(want).LeaseLeft() > 0 })
		if now := c.node(want).Status().Term; now < term+2 {
			t.Errorf("from term %d to %d: the witness has not led in between", term, now)
		}
	}
}
