package cluster

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/config"
)

// fake makes a cluster whose binaries do nothing but exist: processes are shell scripts.
func fake(t *testing.T) *Cluster {
	t.Helper()
	bin, dir := t.TempDir(), t.TempDir()
	script := "#!/bin/sh\ncase $1 in init|join) exit 0;; esac\nsleep 1000 &\necho started\nwait\n"
	for _, name := range []string{"kineshim", "raftwitness"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := BinariesIn(bin)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(t.Context(), dir, Options{Binaries: b})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestConfigurationIsValid(t *testing.T) {
	c := fake(t)
	for _, node := range DataNodes {
		n, err := config.LoadNode(c.configPath(node))
		if err != nil {
			t.Fatal(err)
		}
		if n.ControlSocket != c.SocketPath(node) || n.DataDir != c.DataDir(node) {
			t.Errorf("node %s: socket %s, data %s", node, n.ControlSocket, n.DataDir)
		}
	}
	if _, err := config.LoadWitness(c.configPath(Witness)); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryIsResumedWithItsPorts(t *testing.T) {
	c := fake(t)
	again, err := New(t.Context(), c.Dir(), Options{Binaries: c.opts.Binaries, Prefer: map[string]Ports{A: {Client: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	if again.ClientURL(A) != c.ClientURL(A) || again.ClientURL(B) != c.ClientURL(B) {
		t.Errorf("ports changed: %v, before %v", again.plan, c.plan)
	}
}

// elsewhere is a place of which only the addresses matter.
type elsewhere struct{ entered chan string }

func (elsewhere) Address(node string) string {
	return map[string]string{A: "10.1.2.1", B: "10.1.2.2", Witness: "10.1.2.3"}[node]
}

func (p elsewhere) Enter(node string) error {
	p.entered <- node
	return nil
}

func TestNodesWithHostsOfTheirOwn(t *testing.T) {
	shared := fake(t)
	place := elsewhere{make(chan string, 1)}
	c, err := New(t.Context(), t.TempDir(), Options{Binaries: shared.opts.Binaries, Place: place, LogDir: t.TempDir(), Extra: map[string]string{A: "max_wait: 3s\n"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Destroy(); err != nil {
			t.Error(err)
		}
	})
	n, err := config.LoadNode(c.configPath(A))
	if err != nil {
		t.Fatal(err)
	}
	if want := (config.Member{Raft: "10.1.2.2:2384", Peer: "10.1.2.2:2383", Postgres: "10.1.2.2:5433"}); n.Members[B] != want || len(n.ClientListen) != 1 || n.ClientListen[0] != "127.0.0.1:2379" || n.MaxWait != 3*time.Second {
		t.Errorf("configured: %+v", n)
	}
	if w, err := config.LoadWitness(c.configPath(Witness)); err != nil || w.Listen != "10.1.2.3:2384" {
		t.Errorf("the witness listens on %q, %v", w.Listen, err)
	}
	if err := c.Start(t.Context(), B); err != nil {
		t.Fatal(err)
	}
	if where := <-place.entered; where != B {
		t.Errorf("the command was started on %s", where)
	}
	if filepath.Dir(c.LogPath(B)) != c.opts.LogDir {
		t.Errorf("logs to %s", c.LogPath(B))
	}
}

func TestUnfinishedDirectoryIsRefused(t *testing.T) {
	c := fake(t)
	if err := os.WriteFile(filepath.Join(c.DataDir(A), "identity.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(c.Dir(), layoutFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), c.Dir(), c.opts); err == nil || !strings.Contains(err.Error(), "remove a, b and w in "+c.Dir()) {
		t.Errorf("got %v", err)
	}
}

func TestTakenPortIsNotChosen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	ports, err := choosePorts(map[string]Ports{A: {Client: taken}})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{taken: true, 0: true}
	for _, node := range Nodes {
		for _, p := range []int{ports[node].Raft, ports[node].Client, ports[node].Peer, ports[node].Postgres} {
			if p == 0 && node == Witness {
				continue
			}
			if seen[p] {
				t.Errorf("port %d is taken, or chosen twice", p)
			}
			seen[p] = true
		}
	}
}

func TestFreezeThawAndKillReachDescendants(t *testing.T) {
	c := fake(t)
	if err := c.Start(t.Context(), A); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for len(c.PIDs(A)) < 2 {
		if time.Now().After(deadline) {
			t.Fatal("the script has no child")
		}
		time.Sleep(10 * time.Millisecond)
	}
	pids := c.PIDs(A)
	if err := c.FreezeNode(A); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if s := state(pid); s != "T" {
			t.Errorf("process %d is in state %q, not stopped", pid, s)
		}
	}
	if err := c.ThawNode(A); err != nil {
		t.Fatal(err)
	}
	if !c.Running(A) {
		t.Error("it does not run any more")
	}
	if err := c.KillNode(A); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if s := state(pid); s != "" && s != "Z" {
			t.Errorf("process %d is still there, in state %q", pid, s)
		}
	}
}

// childDir is set in the process that TestProcessesDieWithTheirOwner starts and kills.
const childDir = "KINESHIM_CLUSTER_TEST_DIR"

func TestProcessesDieWithTheirOwner(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		p, err := start(exec.Command("sleep", "1000"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "pid"), fmt.Append(nil, p.pid, "\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		<-p.done
		return
	}
	dir := t.TempDir()
	owner := exec.Command(os.Args[0], "-test.run=^TestProcessesDieWithTheirOwner$")
	owner.Env = append(os.Environ(), childDir+"="+dir)
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	deadline := time.Now().Add(20 * time.Second)
	for pid == 0 {
		if b, err := os.ReadFile(filepath.Join(dir, "pid")); err == nil && strings.HasSuffix(string(b), "\n") {
			fmt.Sscan(string(b), &pid)
		}
		if time.Now().After(deadline) {
			t.Fatal("the owner started nothing")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // it was killed
	for state(pid) != "" && state(pid) != "Z" {
		if time.Now().After(deadline) {
			t.Fatalf("process %d outlives its owner", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
