package raftwitness

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kineshim/raftwitness/record"

	"github.com/hashicorp/raft"
)

// replaceInRecord has the record give the member, which is neither the primary nor counted on, a new server ID, and returns its identity.
func (c *testCluster) replaceInRecord(name string) Identity {
	c.t.Helper()
	leader := c.node(c.leader())
	r, _ := leader.Record()
	m, _ := r.Member(name)
	if r.Paired() {
		c.propose(record.Command{Kind: record.Solo, By: r.Primary})
	}
	next := NewServerID(name)
	c.propose(record.Command{Kind: record.Replace, By: r.Primary, Node: name, OldServerID: m.ServerID, ServerID: next, AtUnixMilli: 1_800_000_000_000})
	leader = c.node(c.leader())
	r, _ = leader.Record()
	id, err := leader.cfg.Identity.Enrol(r, name, func(string) string { return "" })
	if err != nil {
		c.t.Fatal(err)
	}
	if id.ServerID != next || id.founds() {
		c.t.Fatalf("%+v", id)
	}
	return id
}

// join makes the voter, which is stopped, the one of the identity.
func (c *testCluster) join(id Identity) {
	c.t.Helper()
	n := c.nodes[id.Name]
	base := filepath.Join(c.dir, id.Name)
	n.cfg.Identity, n.cfg.Dir, c.ids[id.Name] = id, id.LogDir(base, base), id
}

// counts waits until Raft on the leader counts just the server IDs.
func (c *testCluster) counts(ids ...string) {
	c.t.Helper()
	slices.Sort(ids)
	eventually(c.t, "Raft counts "+strings.Join(ids, ", "), func() bool {
		f := c.node(c.leader()).raft.GetConfiguration()
		var got []string
		for _, s := range f.Configuration().Servers {
			if s.Suffrage == raft.Voter {
				got = append(got, string(s.ID))
			}
		}
		slices.Sort(got)
		return slices.Equal(got, ids)
	})
}

func TestLostWitnessIsReplaced(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.acquainted()
	c.agree()
	a, b, old := c.ids["a"].ServerID, c.ids["b"].ServerID, c.ids["w"]
	c.stop("w")
	void := c.nodes["w"].cfg
	id := c.replaceInRecord("w")
	c.counts(a, b) // and nobody is waited for who is not there yet
	c.manyCommands(1)
	if why := c.node(c.leader()).Status().Apart["w"]; !strings.Contains(why, id.ServerID) {
		t.Errorf("status says of the new witness: %q", why)
	}
	c.join(id)
	c.start("w")
	c.counts(a, b, id.ServerID)
	if r := c.agree(); r.Incarnation != 2 {
		t.Errorf("%+v", r)
	}
	c.acquainted()
	// It votes: without it, b would not be elected.
	c.lead("a")
	c.stop("a")
	c.leader()
	c.manyCommands(1)
	c.start("a")
	c.agree()

	// What is left of the old one comes back on another port, and is told by name.
	void.Listener = newTestListener(t, "old")
	c.nodes["old"] = &testNode{name: "old", cfg: void}
	defer c.stop("old")
	c.start("old")
	c.becomesVoid("old", superseded)
	if why := c.node("old").Void().Why; !strings.Contains(why, "w was enrolled anew on 2027-01-15") || !strings.Contains(why, old.ServerID+" is void") {
		t.Error(why)
	}
	c.manyCommands(1)
	for _, name := range voters {
		if v := c.node(name).Void(); v != nil {
			t.Errorf("%s is void: %+v", name, v)
		}
	}
}

func TestLostDataNodeIsReplaced(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.agree()
	c.stop("b")
	id := c.replaceInRecord("b")
	c.join(id)
	c.start("b")
	c.counts(c.ids["a"].ServerID, id.ServerID, c.ids["w"].ServerID)
	c.agree()
	c.lead("b")
	c.manyCommands(1)
}

// A live witness that is replaced is cut off, and told.
func TestLiveWitnessIsReplaced(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.agree()
	c.acquainted()
	id := c.replaceInRecord("w")
	c.counts(c.ids["a"].ServerID, c.ids["b"].ServerID)
	c.becomesVoid("w", superseded)
	c.stop("w")
	c.join(id)
	c.start("w")
	c.counts(c.ids["a"].ServerID, c.ids["b"].ServerID, id.ServerID)
	c.agree()
}

// Whoever has the key of a member that was replaced, as of a witness that was stolen, is listened to no more, whatever it says.
func TestNoWordOfAReplacedVoterCounts(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.agree()
	c.stop("w")
	old := c.ids["w"].ServerID
	c.replaceInRecord("w")
	c.agree()
	b := c.node("b")
	far := claim{Log: "l", Life: 1, Nonce: "n", standing: standing{Generation: 99, GenerationID: "x", Incarnation: 1_000_000_000}}
	for name, h := range map[string]hello{
		"that this voter is void":      {Void: "x", Claim: far},
		"that it knows more":           {Claim: far},
		"that it wants to know":        {Ask: true},
		"that it wants a certificate":  {Ask: true, Renew: []byte("x")},
		"that it is one of the voters": {},
	} {
		h.Cluster, h.From, h.To, h.Promise = c.ids["b"].ClusterID, old, c.ids["b"].ServerID, testPromise
		var r *refusal
		if err := b.admit(h); !errors.As(err, &r) || r.breach != superseded {
			t.Errorf("%s: %v", name, err)
		}
	}
	stranger := hello{Cluster: c.ids["b"].ClusterID, From: "w-99999999", To: c.ids["b"].ServerID, Promise: testPromise, Ask: true, Renew: []byte("x")}
	if err := b.admit(stranger); err == nil || !strings.Contains(err.Error(), "is not renewed") {
		t.Errorf("a stranger's certificate: %v", err)
	}
	for _, server := range []string{old, ""} {
		if err := b.met(c.ids["a"].ServerID, helloReply{Server: server, Breach: wiped, Error: "x"}); err != nil {
			t.Error(err)
		}
	}
	if v := b.Void(); v != nil {
		t.Errorf("%+v", v)
	}
}

// The leader ends after the record has changed, and before Raft's voters have, or in between: the next one goes on.
func TestReplacementGoesOnUnderTheNextLeader(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.agree()
	c.stop("w")
	id := c.replaceInRecord("w")
	c.stop("a")
	c.stop("b")
	c.start("b")
	c.start("a")
	c.counts(c.ids["a"].ServerID, c.ids["b"].ServerID)
	c.stop("a")
	c.stop("b")
	c.join(id)
	c.start("w")
	steadily(t, "a new voter without a log does not lead", 3*testPromise, func() bool { return !c.node("w").Status().Leader && c.node("w").Term() == 0 })
	c.start("a")
	c.start("b")
	c.counts(c.ids["a"].ServerID, c.ids["b"].ServerID, id.ServerID)
	c.agree()
}

// A voter that was away does not know whom the others have enrolled meanwhile, and if those that knew are lost, only the newcomer can tell it.
func TestVoterThatLagsBehindBelievesANewerOne(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.agree()
	b := c.node("b")
	h := hello{Cluster: c.ids["b"].ClusterID, From: "w-99999999", To: c.ids["b"].ServerID, Promise: testPromise,
		Claim: claim{Log: "l", Life: 1, Nonce: "n", standing: standing{Incarnation: 2}}}
	if err := b.admit(h); err != nil {
		t.Errorf("a voter of a later incarnation: %v", err)
	}
	for name, s := range map[string]standing{"of the same incarnation": {Incarnation: 1}, "that knows nothing": {}} {
		h.Claim.standing = s
		if err := b.admit(h); err == nil || !strings.Contains(err.Error(), "not a voter") {
			t.Errorf("a stranger %s: %v", name, err)
		}
	}
	if b.Void() != nil {
		t.Errorf("%+v", b.Void())
	}
}

func TestEnrolmentOfAVoterThatIsNoneIsRefused(t *testing.T) {
	ids := identities(testPromise, map[string]string{"a": "x:1", "b": "y:1", "w": "z:1"})
	r := record.Record{}
	next, err := r.Apply(record.Command{Kind: record.Init, By: "a", Node: "a", ClusterID: ids["a"].ClusterID, SystemID: 7, Members: ids["a"].Members()})
	if err != nil {
		t.Fatal(err)
	}
	next, err = next.Apply(record.Command{Kind: record.Alone, Epoch: 1, By: "a", Node: "a", ServerID: "a-2"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ids["a"].Enrol(&next, "w", func(string) string { return "" }); err == nil {
		t.Error("a member that was given up is enrolled")
	}
	id, err := ids["a"].Enrol(&next, "a", func(name string) string { return name + ":9" })
	if err != nil || id.Generation != 1 || id.GenerationID != "a-2" || len(id.voters()) != 1 || id.Peers[2].Raft != "w:9" {
		t.Errorf("%+v, %v", id, err)
	}
}

func TestIdentityGivesWayToTheNextOneOfItsMemberOnly(t *testing.T) {
	dir := t.TempDir()
	old := testIdentity()
	if err := old.Save(dir); err != nil {
		t.Fatal(err)
	}
	renewed := func(incarnation uint64, server string) Identity {
		id := old
		id.Peers = slices.Clone(old.Peers)
		id.ServerID, id.Incarnation, id.Peers[1].ServerID = server, incarnation, server
		return id
	}
	second, third := renewed(2, "b-22222222"), renewed(3, "b-33333333")
	other := renewed(4, "b-44444444")
	other.ClusterID = "another"
	if err := third.Save(dir); err != nil {
		t.Fatal(err)
	}
	for _, id := range []Identity{old, second, other} {
		if err := id.Save(dir); err == nil {
			t.Errorf("%s, incarnation %d of cluster %s, was put in the place of incarnation 3", id.ServerID, id.Incarnation, id.ClusterID)
		}
	}
	if got, err := LoadIdentity(dir); err != nil || got.ServerID != third.ServerID {
		t.Errorf("%+v, %v", got, err)
	}
	if a, b := old.LogDir("/d", "/d/raft"), third.LogDir("/d", "/d/raft"); a != "/d/raft" || b != "/d/raft-b-33333333" {
		t.Error(a, b)
	}
}

func TestDataNodeThatMovesTakesItsOtherAddressesAlong(t *testing.T) {
	b := Peer{Member: record.Member{Name: "b", Role: record.Data}, Raft: "192.168.1.11:2384", Peer: "192.168.1.11:2383", Postgres: "db.lan:5433"}
	ids := Found("a", time.Second, []Peer{
		{Member: record.Member{Name: "a", Role: record.Data}, Raft: "192.168.1.10:2384", Peer: "192.168.1.10:2383", Postgres: "192.168.1.10:5433"},
		b, {Member: record.Member{Name: "w", Role: record.Witness}, Raft: "192.168.1.12:2384"},
	})
	r := record.Record{ClusterID: ids[0].ClusterID, Primary: "a", Members: ids[0].Members()}
	for _, c := range []struct{ address, raft, peer, postgres string }{
		{"", b.Raft, b.Peer, b.Postgres},
		{"192.168.1.11:9999", "192.168.1.11:9999", b.Peer, b.Postgres},
		{"192.168.1.99:2384", "192.168.1.99:2384", "192.168.1.99:2383", b.Postgres},
	} {
		r.Members[1].Address = c.address
		id, err := ids[0].Enrol(&r, "b", func(string) string { return "" })
		got, _ := id.PeerByName("b")
		if err != nil || got.Raft != c.raft || got.Peer != c.peer || got.Postgres != c.postgres {
			t.Errorf("moved to %q: %+v, %v", c.address, got, err)
		}
	}
}
