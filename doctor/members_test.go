package doctor

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kineshim/config"
)

func TestTheOtherDataNodeComesBeforeTheWitness(t *testing.T) {
	cfg := config.Node{Name: "n", Timing: config.Timing{HeartbeatTimeout: config.DefaultHeartbeatTimeout}, Members: map[string]config.Member{
		"arbiter": {Raft: "10.0.0.3:1"}, "n": {Raft: "10.0.0.1:1", Peer: "10.0.0.1:2", Postgres: "10.0.0.1:3"}, "m": {Raft: "10.0.0.2:1", Peer: "10.0.0.2:2", Postgres: "10.0.0.2:3"},
	}}
	ids := founded(cfg)
	id := ids["n"]
	self, others := membersOf(cfg, &id)
	want := []member{
		{"n", id.ServerID, "10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"}, {"m", ids["m"].ServerID, "10.0.0.2:1", "10.0.0.2:2", "10.0.0.2:3"},
		{"arbiter", ids["arbiter"].ServerID, "10.0.0.3:1", "", ""},
	}
	if d := cmp.Diff(want, append([]member{self}, others...), cmp.AllowUnexported(member{})); d != "" {
		t.Error(d)
	}
	if got := otherData(others).name; got != "m" {
		t.Errorf("the other data node is %q", got)
	}
	if _, others := membersOf(cfg, nil); others[0].server != "" {
		t.Errorf("a server ID before the enrolment: %+v", others[0])
	}
}

// The configuration need not name the members: kineshim then takes where they were enrolled, and so must the checks.
func TestMembersAreWhereTheyWereEnrolledUnlessTheConfigurationSaysOtherwise(t *testing.T) {
	n := newNode(t)
	ids := founded(n.cfg)
	id := ids["a"]
	for i, p := range id.Peers {
		if c := n.cfg.Members[p.Name]; !c.Witness() {
			id.Peers[i].Peer, id.Peers[i].Postgres = c.Peer, c.Postgres
		}
	}
	dir := t.TempDir()
	path := writeFile(t, filepath.Join(dir, "kineshim.yaml"), "node: a\ndata_dir: "+dir+"\nmembers: {w: {raft: 10.0.0.9:1}}\n")
	cfg, mistakes := loadConfig(path)
	if mistakes != nil {
		t.Fatal(mistakes)
	}
	if _, others := membersOf(cfg, nil); len(others) != 1 {
		t.Errorf("before the enrolment: %+v", others)
	}
	if err := complete(&cfg, &id); err != nil {
		t.Fatal(err)
	}
	self, others := membersOf(cfg, &id)
	want := []member{n.self, n.others[0], n.others[1]}
	want[2].raft = "10.0.0.9:1"
	for i := range want {
		want[i].server = ids[want[i].name].ServerID
	}
	if d := cmp.Diff(want, append([]member{self}, others...), cmp.AllowUnexported(member{})); d != "" {
		t.Error(d)
	}

	// Enrolled by a file, without addresses, it has none of b's.
	for i := range id.Peers {
		id.Peers[i].Peer, id.Peers[i].Postgres = "", ""
	}
	cfg, _ = loadConfig(path)
	expect(t, judgeConfig(path, complete(&cfg, &id)), "FAIL members: // correct it")
}

// Before the enrolment, and without members in the configuration, there is nobody to call.
func TestANodeThatIsAloneYetIsLookedAtAllTheSame(t *testing.T) {
	n := newNode(t)
	writeFile(t, n.path, "node: a\ndata_dir: "+n.cfg.DataDir+"\nvips: [{address: 192.168.1.50}]\n")
	p := fakeProbes(n)
	p.Host = fakeHost{owner: strangerMAC}
	r := Run(t.Context(), n.path, p)
	if r.Other != "" {
		t.Errorf("the other data node is %q", r.Other)
	}
	for _, f := range r.Findings {
		if f.Check == portsCheck || f.Check == vipCheck && f.Level == Warn && !strings.Contains(f.Found, "this may be the other data node") {
			t.Errorf("%+v", f)
		}
	}
	if r.Count(OK) < 8 {
		t.Errorf("%d are ok: %+v", r.Count(OK), r.Findings)
	}
}

func TestTheEnrolmentSaysWhereToLookForTheOthers(t *testing.T) {
	n := newNode(t)
	id := founded(n.cfg)["a"]
	for i, p := range id.Peers {
		c := n.cfg.Members[p.Name]
		id.Peers[i].Peer, id.Peers[i].Postgres = c.Peer, c.Postgres
	}
	enrol(t, n.cfg.DataDir, newAuthority(t, id.ClusterID), id, time.Hour)
	const alone = "vips: [{address: 192.168.1.11}]\n" // which is b's own
	writeFile(t, n.path, "node: a\ndata_dir: "+n.cfg.DataDir+"\n")
	if r := Run(t.Context(), n.path, fakeProbes(n)); r.Other != "b" || r.Cluster != id.ClusterID {
		t.Errorf("the other data node is %q, of cluster %q", r.Other, r.Cluster)
	}
	writeFile(t, n.path, "node: a\ndata_dir: "+n.cfg.DataDir+"\n"+alone)
	r := Run(t.Context(), n.path, fakeProbes(n))
	expect(t, r.Findings, "FAIL 192.168.1.11 is b's own address // correct it", "warn nothing else was checked // correct that first")
}

func TestTheNameIsInTheServerID(t *testing.T) {
	for server, want := range map[string]string{"a-1a2b3c4d": "a", "rack-2-1a2b3c4d": "rack-2", "": ""} {
		if got := nameOf(server); got != want {
			t.Errorf("%q is %q's, want %q", server, got, want)
		}
	}
}
