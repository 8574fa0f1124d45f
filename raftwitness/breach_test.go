package raftwitness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/raftwitness/record"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// copyOf copies the voter's directory, as an image of its disk would: at one moment, while it runs or not.
func (c *testCluster) copyOf(name string) string {
	c.t.Helper()
	to := filepath.Join(c.t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(c.nodes[name].cfg.Dir)); err != nil {
		c.t.Fatal(err)
	}
	return to
}

// putBack replaces the directory of the voter, which is stopped; "" leaves it empty.
func (c *testCluster) putBack(name, from string) {
	c.t.Helper()
	dir := c.nodes[name].cfg.Dir
	err := os.RemoveAll(dir)
	if err == nil && from != "" {
		err = os.CopyFS(dir, os.DirFS(from))
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// acquainted waits until each of the running voters knows the present lives of the others, and has written what it knows.
func (c *testCluster) acquainted() {
	c.t.Helper()
	eventually(c.t, "all voters know one another", func() bool {
		for _, x := range voters {
			for _, y := range voters {
				n, m := c.node(x), c.node(y)
				if n == nil || m == nil || x == y {
					continue
				}
				if n.memory.of(c.ids[y].ServerID).Nonce != m.claim().Nonce {
					return false
				}
			}
		}
		return true
	})
}

// becomesVoid waits until the voter is void in the given way, and says whether the others go on undisturbed.
func (c *testCluster) becomesVoid(name string, want breach) {
	c.t.Helper()
	eventually(c.t, name+" is void", func() bool { return c.node(name).Void() != nil })
	if v := c.node(name).Void(); v.Breach != string(want) || v.By == "" || v.Why == "" {
		c.t.Fatalf("%s is void in another way than %s: %+v", name, want, v)
	}
}

// undisturbed checks that the void voter reaches nobody, and does not raise its own term, with which it would come back to disturb the others.
func (c *testCluster) undisturbed(void string) {
	c.t.Helper()
	term, server := c.node(void).Term(), c.nodes[void].cfg.Identity.ServerID
	if void != "copy" {
		eventually(c.t, "the connections of "+void+" are closed", func() bool {
			for name, n := range c.nodes {
				if name != void && n.Node != nil && n.group.isOpen(server) {
					return false
				}
			}
			return true
		})
	}
	steadily(c.t, void+" disturbs nobody", 4*testPromise, func() bool {
		for name, n := range c.nodes {
			if name != void && n.Node != nil && void != "copy" && n.group.isOpen(server) { // the original of a copy has its own
				return false
			}
		}
		return c.node(void).Term() == term
	})
	c.manyCommands(1)
}

// isOpen: a connection that the server has made is open.
func (g *group) isOpen(server string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.open {
		if c.from == server {
			return true
		}
	}
	return false
}

// heldBy waits until what is known of the named voter reaches up to the last entry, at the leader.
func (c *testCluster) heldBy(name string) {
	c.t.Helper()
	eventually(c.t, "the leader knows what "+name+" has stored", func() bool {
		leader := c.node(c.leader())
		return leader.memory.of(c.ids[name].ServerID).Index == leader.raft.LastIndex()
	})
}

func TestRestartedVotersAreNotRefused(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	for _, name := range []string{"w", "b", "a", "w", "w"} {
		c.agree()
		c.stop(name)
		c.manyCommands(2)
		c.start(name)
		c.acquainted()
	}
	c.agree()
	for _, name := range voters {
		if v := c.node(name).Void(); v != nil {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if life := c.node("w").claim().Life; life != 4 {
		t.Errorf("the witness is in life %d", life)
	}
}

// A witness that was wiped after another member was enrolled anew knows that one no more, and refuses it: the operator is told what it lacks, not that.
func TestWipedWitnessThatKnowsNobodyIsCalledWiped(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.acquainted()
	n, server := c.node("a"), c.ids["w"].ServerID
	blank := c.node("w").claim()
	n.refusedBy(server, helloReply{Server: server, Error: `"a-2" is not a voter of this cluster`, Claim: blank})
	if got := n.apart()["w"]; !strings.Contains(got, "is not a voter") {
		t.Errorf("by the witness that is known: %q", got)
	}
	blank.Log = "another"
	n.refusedBy(server, helloReply{Server: server, Error: `"a-2" is not a voter of this cluster`, Claim: blank})
	if got := n.apart()["w"]; !strings.Contains(got, "was wiped") || !strings.Contains(got, "shimctl witness replace") {
		t.Errorf("by one with another log: %q", got)
	}
}

func TestWipedWitnessIsRefused(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.acquainted()
	c.stop("w")
	c.putBack("w", "")
	c.start("w")
	c.becomesVoid("w", wiped)
	c.undisturbed("w")
	if why := c.node("w").Void().Why; !strings.Contains(why, "shimctl witness replace") {
		t.Errorf("the refused one is not told what helps: %s", why)
	}
	c.stop("w")
	c.start("w") // it stays void, even if nobody is there to tell it
	if c.node("w").Void() == nil {
		t.Error("it has forgotten that it is void")
	}
	c.manyCommands(1)
}

// Failure matrix, row 66: the primary a went on without b, and only w knew of it.
func TestBlankWitnessDoesNotElectAStaleNode(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.acquainted()
	c.agree()
	c.stop("b")
	c.propose(record.Command{Kind: record.Solo, By: "a"})
	c.heldBy("w")
	c.stop("w")
	c.putBack("w", "")
	c.stop("a")
	c.start("b")
	c.start("w")
	steadily(t, "nobody leads", 12*testPromise, func() bool {
		return c.node("b").LeaseLeft() == 0 && !c.node("b").Status().Leader && !c.node("w").Status().Leader
	})
	if c.node("w").Void() == nil {
		t.Error("the witness does not know that it is void")
	}
	c.start("a")
	c.lead("a")
	if r := c.propositionOf("a"); !r.Solo() || r.Primary != "a" {
		t.Errorf("%+v", r)
	}
}

func (c *testCluster) propositionOf(name string) record.Record {
	r, _ := c.node(name).Record()
	return *r
}

func TestVoterFromAnOlderCopyIsRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"w", "b"} {
		t.Run("an earlier life of "+name, func(t *testing.T) {
			t.Parallel()
			c, _ := startCluster(t, testPromise)
			c.initialise()
			c.lead("a")
			c.acquainted()
			old := c.copyOf(name)
			for range 2 {
				c.stop(name)
				c.start(name)
				c.acquainted()
			}
			c.stop(name)
			c.putBack(name, old)
			c.start(name)
			c.becomesVoid(name, restored)
			c.undisturbed(name)
		})
		t.Run("the same life of "+name+", a shorter log", func(t *testing.T) {
			t.Parallel()
			c, _ := startCluster(t, testPromise)
			c.initialise()
			c.lead("a")
			c.acquainted()
			c.agree()
			c.stop(name)
			old := c.copyOf(name) // the life that it will begin is the one after the last that is known
			c.start(name)
			c.acquainted()
			c.stop(name)
			c.putBack(name, old)
			c.start(name)
			c.becomesVoid(name, duplicated)
			c.undisturbed(name)
		})
		t.Run("an image of the running life of "+name, func(t *testing.T) {
			t.Parallel()
			c, _ := startCluster(t, testPromise)
			c.initialise()
			c.lead("a")
			c.acquainted()
			c.agree()
			old := c.copyOf(name)
			c.manyCommands(2)
			c.heldBy(name)
			c.stop(name)
			c.putBack(name, old)
			c.start(name)
			c.becomesVoid(name, restored)
			c.undisturbed(name)
		})
	}
}

// A copy of the directory runs on another port. It is told, and the voter that it is a copy of is left in peace.
func TestDuplicateOfARunningVoterIsRefused(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.acquainted()
	cfg := c.nodes["w"].cfg
	c.agree()
	cfg.Dir, cfg.Listener = c.copyOf("w"), newTestListener(t, "copy")
	c.nodes["copy"] = &testNode{name: "copy", cfg: cfg}
	defer c.stop("copy")
	c.start("copy")
	c.becomesVoid("copy", duplicated)
	c.undisturbed("copy")
	if v := c.node("w").Void(); v != nil {
		t.Errorf("the original is void: %+v", v)
	}
	c.manyCommands(1)
	c.agree()
}

// While the witness cannot be reached at its address, a copy of it that calls is believed. When the witness can be reached again, over
// connections that never broke, it must not vote beside its copy: they are closed, and it has to say who it is.
func TestVoterWhoseCopyIsBelievedDoesNotVoteBesideIt(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.acquainted()
	c.agree()
	a, w := c.node("a"), c.node("w").claim()
	server := c.ids["w"].ServerID
	eventually(t, "a has a connection to the witness", func() bool { return a.group.calls(server) })
	copied := hello{Cluster: c.ids["a"].ClusterID, From: server, To: c.ids["a"].ServerID, Promise: testPromise, Claim: w}
	copied.Claim.Life, copied.Claim.Nonce = w.Life+1, "of the copy"
	c.links.setCut("a", "w", true) // the address does not answer; the connections stay
	if err := a.admit(copied); err != nil {
		t.Fatal(err)
	}
	if a.group.isOpen(server) || a.group.calls(server) {
		t.Error("connections with the life before are still open")
	}
	c.links.setCut("a", "w", false)
	eventually(t, "a refuses the witness that was copied", func() bool { return strings.Contains(a.Status().Apart["w"], "restored") })
	eventually(t, "a hears the witness no more", func() bool {
		age, ok := a.Status().Heard["w"]
		return !ok || age > testPromise
	})
}

// calls: a connection that was made to the server is open.
func (g *group) calls(server string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.dialled {
		if c.to == server {
			return true
		}
	}
	return false
}

func TestVoterThatHasLostItsMemoryDoesNotStart(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.agree()
	c.stop("w")
	cfg := c.nodes["w"].cfg
	path := filepath.Join(cfg.Dir, livesFile)
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func() error{
		"lost":    func() error { return os.Remove(path) },
		"damaged": func() error { return os.WriteFile(path, kept[:len(kept)/2], 0o600) },
		"another's": func() error {
			return os.WriteFile(path, []byte(strings.Replace(string(kept), `"log":"`, `"log":"0`, 1)), 0o600)
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(cfg); err == nil {
			t.Fatalf("%s: it starts", what)
		} else {
			t.Logf("%s: %v", what, err)
		}
		if err := os.WriteFile(path, kept, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.start("w")
	c.agree()
}

// A voter that was made by a version without lives has a log without an ID.
func TestLogOfAnOlderVersionGetsItsID(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	want := c.agree()
	for _, name := range voters {
		c.stop(name)
		forgetLives(t, c.nodes[name].cfg.Dir)
	}
	for _, name := range voters {
		c.start(name)
	}
	c.acquainted()
	if got := c.agree(); got.Epoch != want.Epoch {
		t.Errorf("%+v", got)
	}
}

func forgetLives(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, livesFile)); err != nil {
		t.Fatal(err)
	}
	store := openStore(t, dir)
	defer store.Close()
	if err := store.Set(logKey, nil); err != nil {
		t.Fatal(err)
	}
}

// What each event costs the witness's SD card.
func TestWitnessWritesLittleToRemember(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.acquainted()
	c.agree()
	path := filepath.Join(c.nodes["w"].cfg.Dir, livesFile)
	for try := 1; ; try++ { // a busy machine may have an election, which is an event
		time.Sleep(2 * rememberAfter)
		term := c.node("w").Term()
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if before.Size() > 1024 {
			t.Errorf("%d bytes are written for each event", before.Size())
		}
		t.Logf("%d bytes for each event", before.Size())
		time.Sleep(2 * rememberAfter)
		after, err := os.Stat(path)
		switch {
		case err == nil && after.ModTime().Equal(before.ModTime()):
			return
		case err != nil || c.node("w").Term() == term || try == 5:
			t.Fatalf("an idle witness has written (%v)", err)
		}
	}
}

func openStore(t *testing.T, dir string) *raftboltdb.BoltStore {
	t.Helper()
	store, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db")})
	if err != nil {
		t.Fatal(err)
	}
	return store
}
