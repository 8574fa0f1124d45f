package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/config"
	"kineshim/proto"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

// noon is when the checks are made.
var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// kineshim is the service's user, and stranger is nobody in particular.
var (
	kineshim = User{Name: "kineshim", UID: 995, GIDs: []int{995}}
	stranger = User{Name: "jo", UID: 1000, GIDs: []int{1000}}
	rootUser = User{Name: "root", GIDs: []int{0}}
)

// expect compares findings with what is wanted of each, in order: "FAIL part of what was found // part of what to do". The second part may be left
// out for what is ok.
func expect(t *testing.T, got []Finding, want ...string) {
	t.Helper()
	for i, w := range want {
		if i >= len(got) {
			t.Errorf("no finding for %q", w)
			continue
		}
		level, rest, _ := strings.Cut(w, " ")
		found, do, _ := strings.Cut(rest, " // ")
		g := got[i]
		if g.Level.String() != level || !strings.Contains(g.Found, found) || !strings.Contains(strings.Join(g.Do, "\n"), do) {
			t.Errorf("got  %s %s // %s\nwant %s", g.Level, g.Found, strings.Join(g.Do, "\n"), w)
		}
		if (g.Level == OK) != (g.Do == nil) {
			t.Errorf("%s %s: to do: %q", g.Level, g.Found, g.Do)
		}
	}
	for _, g := range got[min(len(want), len(got)):] {
		t.Errorf("unexpected: %s %s // %s", g.Level, g.Found, strings.Join(g.Do, "\n"))
	}
}

// fakeFiles are owners and modes by path; what is not in it is not there. Directories that are not named belong to root, and all may enter them.
type fakeFiles map[string]Stat

func (f fakeFiles) Stat(path string) (Stat, error) {
	if s, ok := f[path]; ok {
		return s, nil
	}
	for known := range f {
		if strings.HasPrefix(known, strings.TrimSuffix(path, "/")+"/") {
			return Stat{Mode: fs.ModeDir | 0o755}, nil
		}
	}
	return Stat{}, &fs.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
}

type fakeUsers []User

func (f fakeUsers) ByName(name string) (User, error) {
	for _, u := range f {
		if u.Name == name {
			return u, nil
		}
	}
	return User{}, errors.New("unknown user " + name)
}

func (f fakeUsers) ByID(uid int) (User, error) {
	for _, u := range f {
		if u.UID == uid {
			return u, nil
		}
	}
	return User{}, errors.New("unknown user")
}

// testConfig is a valid configuration of a, whose data directory is dir.
func testConfig(dir string) string {
	return `node: a
data_dir: ` + dir + `
members:
  a: {raft: 192.168.1.10:2384, peer: 192.168.1.10:2383, postgres: 192.168.1.10:5433}
  b: {raft: 192.168.1.11:2384, peer: 192.168.1.11:2383, postgres: 192.168.1.11:5433}
  w: {raft: 192.168.1.12:2384}
`
}

func writeFile(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newNode is a with the configuration, and with more of it in YAML; its service runs as kineshim.
func newNode(t *testing.T, more ...string) *node {
	t.Helper()
	dir := t.TempDir()
	path := writeFile(t, filepath.Join(dir, "kineshim.yaml"), testConfig(dir)+strings.Join(more, "\n"))
	cfg, mistakes := loadConfig(path)
	if mistakes != nil {
		t.Fatal(mistakes)
	}
	n := &node{path: path, cfg: cfg, now: noon, user: serviceUser{kineshim, true}, unit: installedUnit()}
	n.self, n.others = membersOf(cfg, nil)
	return n
}

// member is one of the others.
func (n *node) member(t *testing.T, name string) member {
	t.Helper()
	for _, m := range n.others {
		if m.name == name {
			return m
		}
	}
	t.Fatal("no member", name)
	return member{}
}

// installedUnit is the package's, as it runs.
func installedUnit() unit {
	return unit{
		"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": "active", "SubState": "running", "MainPID": "77", "User": "kineshim",
		"AmbientCapabilities": "cap_net_raw cap_net_admin", "CapabilityBoundingSet": "cap_net_raw cap_net_admin", "NeedDaemonReload": "no",
	}
}

// found are the identities of a new cluster of the configuration's members.
func founded(cfg config.Node) map[string]raftwitness.Identity {
	var voters []raftwitness.Peer
	for name, m := range cfg.Members {
		role := record.Data
		if m.Witness() {
			role = record.Witness
		}
		voters = append(voters, raftwitness.Peer{Member: record.Member{Name: name, Role: role}, Raft: m.Raft})
	}
	ids := map[string]raftwitness.Identity{}
	for _, id := range raftwitness.Found(cfg.Name, cfg.Timing.HeartbeatTimeout, voters) {
		ids[id.Name] = id
	}
	return ids
}

// running is what a healthy cluster's a, the primary, says.
func runningStatus() *proto.StatusResponse {
	return &proto.StatusResponse{
		ClusterId: "c-1", Node: "a", Primary: "a", Serving: true, Armed: true, Version: "v1",
		Nodes: []*proto.NodeStatus{
			{Name: "a", Role: "data", Self: true, Reachable: true, State: &proto.NodeState{Version: "v1", Role: "primary"}},
			{Name: "b", Role: "data", Reachable: true, State: &proto.NodeState{Version: "v1", Role: "standby", Streaming: true}},
			{Name: "w", Role: "witness", Reachable: true},
		},
	}
}
