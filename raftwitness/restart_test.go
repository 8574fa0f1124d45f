package raftwitness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/raftwitness/record"

	"github.com/google/go-cmp/cmp"
)

func TestRecordSurvivesARestartOfAllVoters(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	want := c.agree()
	for _, name := range voters {
		c.stop(name)
	}
	for _, name := range voters {
		c.start(name)
	}
	if d := cmp.Diff(want, c.agree()); d != "" {
		t.Error(d)
	}
}

// manyCommands commits n commands.
func (c *testCluster) manyCommands(n int) {
	c.t.Helper()
	for i := range n {
		kind := record.Pause
		if r, _ := c.node(c.leader()).Record(); r.Paused {
			kind = record.Resume
		}
		c.propose(record.Command{Kind: kind, By: "a", Why: fmt.Sprint(i)})
	}
}

func TestSnapshotKeepsTheRecord(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.agree()
	c.stop("w")
	c.manyCommands(snapshotThreshold + 10)
	for _, name := range []string{"a", "b"} {
		if err := c.node(name).raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		if first, err := c.node(name).store.FirstIndex(); err != nil || first < 100 {
			t.Fatalf("the log of %s begins at %d: nothing was dropped (%v)", name, first, err)
		}
	}
	c.start("w") // it lacks more than the others' logs hold, and is sent the snapshot
	want := c.agree()
	if n := len(want.History); n != 200 {
		t.Errorf("%d events", n)
	}
	if w, _ := c.node("w").Record(); cmp.Diff(want, *w) != "" {
		t.Error(cmp.Diff(want, *w))
	}
	for _, name := range voters {
		c.stop(name)
	}
	for _, name := range voters {
		c.start(name)
		r, _ := c.node(name).Record()
		if name != "w" && !r.Initialised() {
			t.Errorf("%s starts with an empty record though it has a snapshot", name)
		}
	}
	if d := cmp.Diff(want, c.agree()); d != "" {
		t.Error(d)
	}
	c.manyCommands(2)
}

// The other data node can be elected only with the witness's vote. The witness, restarted, has forgotten what it promised.
func TestRestartedWitnessKeepsSilentForOnePromise(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.agree()
	c.links.setCut("a", "b", true)
	eventually(t, "b campaigns in vain", func() bool { return c.node("b").raft.State().String() == "Candidate" })
	stop := c.watchLeases()
	c.stop("w")
	c.links.setCut("a", "w", true)
	started := bootTime()
	c.start("w")
	c.takeover("b", time.Now())
	if d := bootTime() - started; d < testPromise {
		t.Errorf("the witness voted %v after its start, and may have promised to refuse for %v before", d, testPromise)
	}
	if _, found := stop(); found != "" {
		t.Error(found)
	}
}

func TestVoterThatHasLostItsLogDoesNotBeginAnew(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.agree()
	c.stop("w")
	cfg := c.nodes["w"].cfg
	log := filepath.Join(cfg.Dir, "raft.db")
	kept, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(cfg Config, want string) {
		t.Helper()
		if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	refused(cfg, "must be enrolled anew")
	if err := os.WriteFile(log, nil, 0o600); err != nil { // cut short by a power loss
		t.Fatal(err)
	}
	refused(cfg, "must be enrolled anew")
	if err := os.WriteFile(log, []byte(strings.Repeat("rubbish!", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(cfg, "open the Raft log")

	if err := os.WriteFile(log, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	again := cfg
	again.Identity.ServerID = NewServerID("w")
	again.Identity.Peers = append([]Peer(nil), again.Identity.Peers...)
	again.Identity.Peers[2].ServerID = again.Identity.ServerID
	refused(again, "is that of voter "+cfg.Identity.ServerID)

	c.start("w") // the log is back
	c.agree()
}

func TestOpenSaysThatTheDirectoryIsInUse(t *testing.T) {
	t.Parallel()
	c, leader := startCluster(t, testPromise)
	cfg := c.nodes[leader].cfg
	cfg.Listener = newTestListener(t, "second")
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "another process holds it") {
		t.Error(err)
	}
}
