package raftwitness

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// startWithChild is a cluster of which one voter is a child process.
func startWithChild(t *testing.T, promise time.Duration, name string) (*testCluster, *child) {
	t.Helper()
	c := newTestCluster(t, promise)
	ch := c.startChild(name, false)
	for _, v := range voters {
		if v != name {
			c.start(v)
		}
	}
	return c, ch
}

// leadChild makes the child a lead with a lease.
func (c *testCluster) leadChild(ch *child) {
	c.t.Helper()
	eventually(c.t, "the child leads with a lease", func() bool {
		if len(ch.leasesSince(bootTime()-20*time.Millisecond)) > 0 {
			return true
		}
		if b := c.node("b"); b.LeaseLeft() > 0 {
			if err := b.HandOver(c.t.Context(), "a"); err != nil {
				c.t.Logf("hand over: %v", err)
			}
		}
		return false
	})
}

func TestFrozenLeaderHasNoLeaseOnceAnotherLeads(t *testing.T) {
	c, a := startWithChild(t, testPromise, "a")
	b := c.node("b")
	for range 3 {
		c.leadChild(a)
		frozen := bootTime()
		a.signal(t, syscall.SIGSTOP)
		var before time.Duration
		eventually(t, "b leads", func() bool {
			at := bootTime()
			if b.LeaseLeft() > 0 {
				return true
			}
			before = at
			return false
		})
		if last := a.leasesSince(frozen + testPromise); len(last) > 0 {
			t.Fatalf("the frozen child runs: %v", last)
		}
		t.Logf("b led %v after the leader was frozen", before-frozen)
		a.signal(t, syscall.SIGCONT)
		// It must learn who leads before it may look again; whatever it printed until then counts.
		eventually(t, "the child answers b", func() bool {
			age, ok := b.Status().Heard["a"]
			return ok && age < testPromise || b.LeaseLeft() == 0
		})
		if looks := a.leasesSince(before); len(looks) > 0 && b.LeaseLeft() > 0 {
			t.Errorf("b had no lease yet at %v; the leader that was frozen at %v had one at %v", before, frozen, looks)
		}
	}
}

func TestKilledLeaderIsReplaced(t *testing.T) {
	c, a := startWithChild(t, testPromise, "a")
	c.leadChild(a)
	killed := time.Now()
	a.signal(t, syscall.SIGKILL)
	t.Logf("promise %v: from SIGKILL to the barrier of the other data node: %v", testPromise, c.takeover("b", killed))
}

// listing shows the size and the time of each file below dir.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err == nil {
			fmt.Fprintln(&b, path, st.Size(), st.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// written is what the kernel says the process has written to disks.
func written(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "write_bytes:") {
			return strings.TrimSpace(line)
		}
	}
	t.Fatalf("no write_bytes in %s", b)
	return ""
}

// settled waits until what was known has been written: the last commit index has reached the voter, and it has gathered what it learnt.
func settled(t *testing.T, dir string) (files string) {
	t.Helper()
	eventually(t, "files that stay as they are", func() bool {
		files = listing(t, dir)
		time.Sleep(3 * rememberAfter)
		return files == listing(t, dir)
	})
	return files
}

func TestIdleWitnessWritesNothing(t *testing.T) {
	t.Parallel()
	const idle = 10 * time.Second
	c, w := startWithChild(t, 2*time.Second, "w") // elections, which are written down, are not to be expected
	c.initialise()
	dir, pid := c.nodes["w"].cfg.Dir, w.cmd.Process.Pid
	for range 3 {
		c.leader()
		eventually(t, "w hears the leader and has everything", func() bool {
			n := c.node(c.leader())
			s := n.Status()
			return s.Heard["w"] > 0 && s.CommitIndex == n.raft.LastIndex()
		})
		files := settled(t, dir)
		term, bytes := c.node("a").Status().Term, written(t, pid)
		time.Sleep(idle)
		if now := c.node("a").Status().Term; now != term {
			t.Logf("term %d became %d: again", term, now)
			continue
		}
		if d := cmp.Diff(files, listing(t, dir)); d != "" {
			t.Errorf("files have changed: %s", d)
		}
		if now := written(t, pid); now != bytes {
			t.Errorf("%s before, %s after %v", bytes, now, idle)
		}
		if bytes == "write_bytes: 0" {
			t.Log("the kernel counts no writes to this file system: only the files were compared")
		}
		return
	}
	t.Skip("the cluster does not come to rest on this machine")
}
