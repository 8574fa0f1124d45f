package raftwitness

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deathwatchOf finds the deathwatch of a process, 0 if it has none.
func deathwatchOf(t *testing.T, parent int) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(f) > 1 && f[1] == strconv.Itoa(parent) && f[0] != "Z" && bytes.Contains(env, []byte(deathwatchEnv+"=1")) {
			return pid
		}
	}
	return 0
}

// gone says whether a process has ended, reaped or not.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.HasPrefix(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " Z")
}

// watchedCluster is a running cluster whose voter a is a child, and leads. No voter is silent.
func watchedCluster(t *testing.T, promise time.Duration, watched bool) (*testCluster, *child) {
	t.Helper()
	c := newTestCluster(t, promise)
	a := c.startChild("a", watched)
	c.start("b")
	c.start("w")
	c.leadChild(a)
	if watched {
		eventually(t, "the child has a deathwatch", func() bool { return deathwatchOf(t, a.cmd.Process.Pid) != 0 })
	}
	steadily(t, "until no voter is silent", promise, func() bool { return true })
	c.leadChild(a)
	return c, a
}

// restartChild starts a again, on the same port, and makes it lead.
func (c *testCluster) restartChild(a *child, watched bool) *child {
	t := c.t
	t.Helper()
	<-a.done
	n := c.nodes["a"]
	address := n.cfg.Listener.Addr().String()
	var ln net.Listener
	eventually(t, "the port is free", func() (free bool) {
		var err error
		ln, err = net.Listen("tcp", address)
		return err == nil
	})
	n.cfg.Listener = NewListener(ln, testLog("a"))
	a = c.startChild("a", watched)
	c.leadChild(a)
	if watched {
		eventually(t, "the child has a deathwatch", func() bool { return deathwatchOf(t, a.cmd.Process.Pid) != 0 })
	}
	steadily(t, "until no voter is silent", n.cfg.Identity.Promise, func() bool { return true })
	c.leadChild(a)
	return a
}

// killRounds is how often a leader is killed; more rounds are for measuring.
func killRounds() int {
	if n, err := strconv.Atoi(os.Getenv("RAFTWITNESS_TEST_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return 3
}

func TestKilledLeaderWithADeathwatchIsReplacedAtOnce(t *testing.T) {
	const promise = 600 * time.Millisecond
	for _, watched := range []bool{true, false} {
		c, a := watchedCluster(t, promise, watched)
		var took []time.Duration
		for i := range killRounds() {
			if i > 0 {
				a = c.restartChild(a, watched)
			}
			watch := deathwatchOf(t, a.cmd.Process.Pid)
			killed := time.Now()
			a.signal(t, syscall.SIGKILL)
			took = append(took, c.takeover("b", killed))
			if !watched {
				continue
			}
			eventually(t, "the deathwatch has ended", func() bool { return gone(watch) })
			if d := time.Since(killed); d > 5*time.Second {
				t.Errorf("the deathwatch ended %v after the process", d)
			}
		}
		slices.Sort(took)
		p50 := took[len(took)/2]
		t.Logf("promise %v, deathwatch %v: from SIGKILL to the barrier of the other data node: p50 %v, max %v, %d rounds",
			promise, watched, p50, took[len(took)-1], len(took))
		if watched && took[0] > promise*leasePerMille/1000 {
			t.Errorf("at best %v: it has waited for silence", took[0])
		}
		if n := len(c.node("b").voter.promised.departed); !watched && n > 0 {
			t.Error("somebody has told b")
		}
	}
}

// A process that is frozen has not ended: its lease must have run out before another leads.
func TestDeathwatchSaysNothingOfAFrozenLeader(t *testing.T) {
	c, a := watchedCluster(t, testPromise, true)
	watch := deathwatchOf(t, a.cmd.Process.Pid)
	frozen := time.Now()
	a.signal(t, syscall.SIGSTOP)
	var before time.Duration // b had no lease yet
	eventually(t, "b leads", func() bool {
		at := bootTime()
		if c.node("b").LeaseLeft() > 0 {
			return true
		}
		before = at
		return false
	})
	t.Logf("promise %v: replaced after %v", testPromise, time.Since(frozen))
	if gone(watch) || len(c.node("b").voter.promised.departed) > 0 || len(c.node("w").voter.promised.departed) > 0 {
		t.Error("the deathwatch has spoken")
	}
	a.signal(t, syscall.SIGCONT)
	eventually(t, "the child follows b", func() bool { _, ok := c.node("b").Status().Heard["a"]; return ok })
	if looks := a.leasesSince(before); len(looks) > 0 && c.node("b").LeaseLeft() > 0 {
		t.Errorf("b had no lease yet at %v; the frozen leader had one at %v", before, looks)
	}
	if gone(watch) {
		t.Error("the deathwatch has ended before its time")
	}
}

func TestLeaderWhoseDeathwatchIsKilledTooIsReplacedAfterItsSilence(t *testing.T) {
	c, a := watchedCluster(t, testPromise, true)
	if err := syscall.Kill(deathwatchOf(t, a.cmd.Process.Pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a.signal(t, syscall.SIGKILL)
	killed := time.Now()
	took := c.takeover("b", killed)
	t.Logf("promise %v: replaced after %v", testPromise, took)
	if len(c.node("b").voter.promised.departed) > 0 {
		t.Error("somebody has told b")
	}
}

func TestNewDeathwatchKnowsTheTerm(t *testing.T) {
	c, a := watchedCluster(t, testPromise, true)
	first := deathwatchOf(t, a.cmd.Process.Pid)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} { // it ignores these
		if err := syscall.Kill(first, s); err != nil {
			t.Fatal(err)
		}
	}
	steadily(t, "the deathwatch is there", 100*time.Millisecond, func() bool { return !gone(first) })
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another deathwatch", func() bool {
		pid := deathwatchOf(t, a.cmd.Process.Pid)
		return pid != 0 && pid != first
	})
	c.leadChild(a)
	term := c.node("b").Term()
	a.signal(t, syscall.SIGKILL)
	eventually(t, "b is told", func() bool {
		p := c.node("b").voter.promised
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.departed[c.ids["a"].ServerID] >= term
	})
	c.takeover("b", time.Now())
}
