package raftwitness

import (
	"path/filepath"
	"strings"
	"testing"

	"kineshim/raftwitness/record"
)

// goAlone has the voter, which has no majority, go on alone, up to where its next start does the rest, and returns the record.
func (c *testCluster) goAlone(name string) record.Record {
	c.t.Helper()
	n := c.node(name)
	r, err := n.LastRecord()
	if err != nil {
		c.t.Fatal(err)
	}
	next, err := r.Apply(record.Command{Kind: record.Alone, Epoch: r.Epoch, By: name, Node: name, ServerID: NewServerID(name), Why: "test"})
	if err != nil {
		c.t.Fatal(err)
	}
	base := filepath.Join(c.t.TempDir(), "data")
	if err := n.cfg.Identity.Save(base); err != nil {
		c.t.Fatal(err)
	}
	if err := n.BeginAlone(base, next, func(string) string { return "" }); err != nil {
		c.t.Fatal(err)
	}
	c.stop(name)
	id, err := LoadIdentity(base)
	if err != nil || id.ServerID != next.GenerationID {
		c.t.Fatalf("%+v, %v", id, err)
	}
	cfg := &c.nodes[name].cfg
	cfg.Identity, cfg.Dir, c.ids[name] = id, id.LogDir(base, ""), id
	return next
}

// leadsAlone waits until the voter leads, with its barrier.
func (c *testCluster) leadsAlone(name string) {
	c.t.Helper()
	eventually(c.t, name+" leads alone", func() bool { s := c.node(name).Status(); return s.Leader && s.Barrier })
}

// enrolAnew has the leader enrol a voter that is stopped anew, and starts it.
func (c *testCluster) enrolAnew(leader, name string) {
	c.t.Helper()
	r, _ := c.node(leader).Record()
	m, _ := r.Member(name)
	if err := c.node(leader).Propose(c.t.Context(), record.Command{Kind: record.Replace, Epoch: r.Epoch, By: leader, Node: name, OldServerID: m.ServerID, ServerID: NewServerID(name)}); err != nil {
		c.t.Fatal(err)
	}
	r, _ = c.node(leader).Record()
	id, err := c.node(leader).cfg.Identity.Enrol(r, name, func(string) string { return "" })
	if err != nil {
		c.t.Fatal(err)
	}
	c.join(id)
	c.start(name)
	eventually(c.t, name+" has a vote", func() bool { return c.node(name).isMember() && c.node(name).raft.AppliedIndex() > 0 })
}

// After a restart Raft applies nothing until somebody leads. Who votes stands in what it has not applied: two voters, of which one was enrolled after the
// other's last snapshot, must elect a leader all the same.
func TestVotersEnrolledAnewElectALeaderAfterAllHaveStopped(t *testing.T) {
	t.Parallel()
	for _, pair := range [][]string{{"a", "b"}, {"b", "w"}, {"a", "w"}} { // one after another: the machine has other tests to run
		t.Run(strings.Join(pair, ""), func(t *testing.T) {
			c, _ := startCluster(t, testPromise)
			c.initialise()
			c.lead("a")
			c.acquainted()
			c.agree()
			for _, name := range []string{"a", "w", "b"} {
				c.stop(name)
			}
			c.start("b")
			c.goAlone("b")
			c.start("b")
			c.leadsAlone("b")
			for _, name := range []string{"w", "a"} {
				c.enrolAnew("b", name)
			}
			c.counts(c.ids["a"].ServerID, c.ids["b"].ServerID, c.ids["w"].ServerID)
			want := c.agree()
			for _, name := range []string{"a", "w", "b"} {
				c.stop(name)
			}
			for _, name := range pair {
				c.start(name)
			}
			leader := c.leader()
			eventually(t, "the leader has the record", func() bool { r, _ := c.node(leader).Record(); return r.Incarnation == want.Incarnation })
			steadily(t, "nobody is told that it was given up", 3*testPromise, func() bool { return c.node(pair[0]).Void() == nil && c.node(pair[1]).Void() == nil })
		})
	}
}

func TestVoterGoesOnAloneAndTheOthersAreToldAndReplaced(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.acquainted()
	want := c.agree()
	c.stop("a")
	c.stop("w")
	c.stop("b")
	c.start("b") // after a restart Raft has applied nothing: what b knows is in its log
	if r, err := c.node("b").LastRecord(); err != nil || r.Epoch != want.Epoch || !r.Paired() {
		t.Fatalf("%+v, %v", r, err)
	}
	next := c.goAlone("b")
	c.start("b")
	c.leadsAlone("b")
	if r, _ := c.node("b").Record(); r.Primary != "b" || r.Epoch != want.Epoch+1 || r.Generation != 1 || len(r.History) != len(want.History)+1 {
		t.Errorf("%+v", r)
	}
	if err := c.node("b").Propose(t.Context(), record.Command{Kind: record.Timeline, Epoch: next.Epoch, By: "b", Timeline: 2}); err != nil {
		t.Fatal(err)
	}
	c.stop("b") // and again: it stays alone
	c.start("b")
	c.leadsAlone("b")

	c.start("w") // the other two are a majority of what they know
	c.start("a")
	for _, name := range []string{"a", "w"} {
		c.becomesVoid(name, superseded)
		if why := c.node(name).Void().Why; !strings.Contains(why, "b went on alone, as "+next.GenerationID) {
			t.Error(why)
		}
	}
	for _, name := range []string{"a", "w"} {
		if s := c.node(name).Status(); s.Leader || s.LeaseLeft > 0 {
			t.Errorf("%s leads: %+v", name, s)
		}
		c.stop(name)
	}
	for _, name := range []string{"w", "a"} {
		c.enrolAnew("b", name)
	}
	c.counts(c.ids["a"].ServerID, c.ids["b"].ServerID, c.ids["w"].ServerID)
	if r := c.agree(); r.Generation != 1 || r.Incarnation != 4 || len(r.Voters()) != 3 {
		t.Errorf("%+v", r)
	}
	c.lead("a")
	c.manyCommands(1)
}

// An old primary that runs on somewhere, with the witness, does not call the node that went on alone: that node calls them.
func TestVoterThatWentOnAloneTellsTheOthers(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.acquainted()
	c.agree()
	c.links.isolate("b", true)
	eventually(t, "b has no leader", func() bool { return c.node("b").Status().LeaderName == "" })
	c.goAlone("b")
	c.start("b")
	c.leadsAlone("b")
	if c.node("a").Void() != nil || c.node("w").Void() != nil {
		t.Error("they were told across a link that is cut")
	}
	c.manyCommandsOf("a")
	c.links.isolate("b", false)
	for _, name := range []string{"a", "w"} {
		c.becomesVoid(name, superseded)
	}
	if s := c.node("a").Status(); s.Leader || c.node("a").LeaseLeft() > 0 {
		t.Errorf("%+v", s)
	}
	if c.node("b").Void() != nil {
		t.Errorf("%+v", c.node("b").Void())
	}
}

// manyCommandsOf commits a command through the named leader: while two histories live side by side.
func (c *testCluster) manyCommandsOf(name string) {
	c.t.Helper()
	r, _ := c.node(name).Record()
	if err := c.node(name).Propose(c.t.Context(), record.Command{Kind: record.Pause, Epoch: r.Epoch, By: name}); err != nil {
		c.t.Fatal(err)
	}
}

// An operator has had both nodes go on alone: when they meet, one of them gives in, and only one.
func TestOfTwoThatWentOnAloneOneGivesIn(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.agree()
	c.stop("w")
	c.links.setCut("a", "b", true)
	eventually(t, "neither has a leader", func() bool { return c.node("a").Status().LeaderName == "" && c.node("b").Status().LeaderName == "" })
	ra, rb := c.goAlone("a"), c.goAlone("b")
	c.start("a")
	c.start("b")
	c.leadsAlone("a")
	c.leadsAlone("b")
	c.links.setCut("a", "b", false)
	winner, loser := "a", "b"
	if ra.Epoch == rb.Epoch && rb.GenerationID > ra.GenerationID || rb.Epoch > ra.Epoch {
		winner, loser = "b", "a"
	}
	c.becomesVoid(loser, superseded)
	steadily(t, winner+" goes on", 2*testPromise, func() bool { return c.node(winner).Void() == nil })
}

// A crash before the identity is written leaves the voter what it was.
func TestUnfinishedBeginningAloneChangesNothing(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	want := c.agree()
	r, err := want.Apply(record.Command{Kind: record.Alone, Epoch: want.Epoch, By: "b", Node: "b", ServerID: "b-00000001"})
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	if err := c.ids["b"].Save(base); err != nil {
		t.Fatal(err)
	}
	id, err := c.ids["b"].Enrol(&r, "b", func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // what a crash has left is not in the way of the next attempt
		if err := makeLog(id.LogDir(base, ""), id, r, 9, 99, testLog("b")); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := LoadIdentity(base); err != nil || got.ServerID != c.ids["b"].ServerID {
		t.Errorf("%+v, %v", got, err)
	}
	c.agree()
}

// A node that starts anew knows for a moment only that it gave the others up, and not yet that they were enrolled anew. What it says to the old voter at
// an address is not meant for the new one there.
func TestNewVoterIsNotVoidBecauseTheOldOneWasGivenUp(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("b")
	n := c.node("a")
	claim := n.claim()
	claim.Epoch, claim.Incarnation = claim.Epoch+1, claim.Incarnation+1
	if err := n.admit(hello{From: c.ids["b"].ServerID, To: "a-00000000", Void: "given up", Claim: claim}); err != nil || n.Void() != nil {
		t.Errorf("%v, %v", err, n.Void())
	}
	if err := n.admit(hello{From: c.ids["b"].ServerID, To: c.ids["a"].ServerID, Void: "given up", Claim: claim}); err != nil || n.Void() == nil {
		t.Errorf("%v: what was meant for it was not heard", err)
	}
}
