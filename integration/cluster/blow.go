package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// goneWithin bounds the wait for killed processes to be gone.
const goneWithin = 10 * time.Second

// struck notes that the signals of a blow have been sent.
func (c *Cluster) struck() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.blowNoted {
		c.blowAt, c.blowNoted = time.Now(), true
	}
}

// Blow strikes, and returns the instants before the first signal and after the signals of the first round had been sent.
func (c *Cluster) Blow(strike func() error) (before, after time.Time, err error) {
	c.mu.Lock()
	c.blowNoted = false
	c.mu.Unlock()
	before = time.Now()
	err = strike()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.blowNoted {
		c.blowAt = time.Now()
	}
	return before, c.blowAt, err
}

// Kill kills the node's kineshim or raftwitness, and nothing else, without a word.
func (c *Cluster) Kill(node string) error {
	p := c.process(node)
	if p == nil || !p.running() {
		return fmt.Errorf("kill %s: it does not run", node)
	}
	c.opts.Log.Info("kill kineshim", "node", node, "pid", p.pid)
	if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", node, err)
	}
	c.struck()
	ctx, cancel := context.WithTimeout(context.Background(), goneWithin)
	defer cancel()
	return p.wait(ctx)
}

// KillGroup kills kineshim's process group, and that of its postmaster, on a machine that lives: what is in a session of its own goes on, to
// tell the others or to end by itself. It waits until kineshim is gone.
func (c *Cluster) KillGroup(node string) error {
	p := c.process(node)
	if p == nil || !p.running() {
		return fmt.Errorf("kill the group of %s: it does not run", node)
	}
	postmaster, err := c.Postmaster(node)
	if err != nil {
		return err
	}
	c.opts.Log.Info("kill process group", "node", node, "pid", p.pid, "postmaster", postmaster)
	for _, pid := range []int{p.pid, postmaster} {
		if group, err := syscall.Getpgid(pid); err != nil || group != pid {
			return fmt.Errorf("kill the group of %s: process %d does not lead its group (%d): %w", node, pid, group, err)
		}
		if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill the group of %s: %w", node, err)
		}
	}
	c.struck()
	ctx, cancel := context.WithTimeout(context.Background(), goneWithin)
	defer cancel()
	return p.wait(ctx)
}

// KillNode kills the node's kineshim and every process of its PostgreSQL at one blow, and waits until all are gone. Nothing running is no error.
func (c *Cluster) KillNode(node string) error {
	pids := c.PIDs(node)
	if len(pids) == 0 {
		return nil
	}
	c.opts.Log.Info("kill node", "node", node, "pids", pids)
	ctx, cancel := context.WithTimeout(context.Background(), goneWithin)
	defer cancel()
	err := poll(ctx, "kill node "+node, func() (bool, string) {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
		c.struck()
		for _, pid := range c.PIDs(node) {
			if !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
		// An orphan may wait for its reaper: it is gone all the same.
		pids = slices.DeleteFunc(pids, func(pid int) bool { s := state(pid); return s == "" || s == "Z" })
		return len(pids) == 0, fmt.Sprintf("still there: %v", pids)
	})
	if p := c.process(node); p != nil {
		err = errors.Join(err, p.wait(ctx))
	}
	return err
}

// KillPostgres kills the postmaster of the node.
func (c *Cluster) KillPostgres(node string) error {
	pid, err := c.Postmaster(node)
	if err != nil {
		return fmt.Errorf("kill postgres: %w", err)
	}
	c.opts.Log.Info("kill postmaster", "node", node, "pid", pid)
	return syscall.Kill(pid, syscall.SIGKILL)
}

// KillBackend kills one process of PostgreSQL on the node that serves a client, on which PostgreSQL reinitialises itself.
func (c *Cluster) KillBackend(node string) error {
	for _, pid := range c.PostgresPIDs(node) {
		if title := commandLine(pid); strings.HasPrefix(title, "postgres:") && strings.Contains(title, " kubernetes ") {
			c.opts.Log.Info("kill backend", "node", node, "pid", pid, "title", title)
			return syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("kill backend: node %s has none", node)
}

// FreezeNode stops everything of the node as a paused virtual machine is stopped.
func (c *Cluster) FreezeNode(node string) error { return c.freeze(node, c.PIDs) }

// FreezeKineshim stops the node's kineshim or raftwitness only.
func (c *Cluster) FreezeKineshim(node string) error {
	return c.freeze(node, func(string) []int { return []int{c.PID(node)} })
}

// FreezePostgres stops all processes of PostgreSQL on the node.
func (c *Cluster) FreezePostgres(node string) error { return c.freeze(node, c.PostgresPIDs) }

// FreezePostmaster stops PostgreSQL's first process only: sessions that are open go on, new ones find an open port and silence.
func (c *Cluster) FreezePostmaster(node string) error {
	pid, err := c.Postmaster(node)
	if err != nil {
		return fmt.Errorf("freeze postmaster: %w", err)
	}
	return c.freeze(node, func(string) []int { return []int{pid} })
}

// FreezeProcess stops the one process of the node's PostgreSQL that FindPostgres finds.
func (c *Cluster) FreezeProcess(node, what string) error {
	return c.freeze(node, func(node string) []int {
		pid, err := c.FindPostgres(node, what)
		if err != nil {
			return nil
		}
		return []int{pid}
	})
}

// FindPostgres is the process of the node's PostgreSQL whose title says that it is a walsender, a walreceiver, a checkpointer and so on, as in ps.
func (c *Cluster) FindPostgres(node, what string) (int, error) {
	for _, pid := range c.PostgresPIDs(node) {
		if title := commandLine(pid); strings.HasPrefix(title, "postgres: ") && strings.Contains(title, ": "+what) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("node %s has no %s", node, what)
}

func (c *Cluster) freeze(node string, pids func(string) []int) error {
	list := pids(node)
	if len(list) == 0 || list[0] == 0 {
		return fmt.Errorf("freeze %s: nothing runs", node)
	}
	c.opts.Log.Info("freeze", "node", node, "pids", list)
	ctx, cancel := context.WithTimeout(context.Background(), goneWithin)
	defer cancel()
	for _, pid := range list {
		_ = syscall.Kill(pid, syscall.SIGSTOP) // it may be gone
	}
	c.struck()
	// Processes that were being started while the others were stopped are found by looking again.
	return poll(ctx, "freeze "+node, func() (bool, string) {
		for _, pid := range pids(node) {
			_ = syscall.Kill(pid, syscall.SIGSTOP) // it may be gone
		}
		for _, pid := range pids(node) {
			// Z: it has ended, and whoever would reap it is stopped.
			if s := state(pid); s != "T" && s != "t" && s != "Z" && s != "" {
				return false, fmt.Sprintf("process %d is in state %s", pid, s)
			}
		}
		return true, ""
	})
}

// ThawNode lets everything of the node go on.
func (c *Cluster) ThawNode(node string) error {
	pids := c.PIDs(node)
	c.opts.Log.Info("thaw", "node", node, "pids", pids)
	var errs []error
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("thaw %s: %w", node, err))
		}
	}
	return errors.Join(errs...)
}

// Frozen says whether any process of the node is stopped.
func (c *Cluster) Frozen(node string) bool {
	return slices.ContainsFunc(c.PIDs(node), func(pid int) bool { return state(pid) == "T" })
}

// PIDs are those of the node's own process, first, its descendants, and PostgreSQL's.
func (c *Cluster) PIDs(node string) []int {
	var out []int
	if pid := c.PID(node); pid != 0 {
		out = append(out, pid)
		out = append(out, descendants(pid)...)
	}
	for _, pid := range c.PostgresPIDs(node) {
		if !slices.Contains(out, pid) {
			out = append(out, pid)
		}
	}
	return out
}

// PostgresPIDs are the processes that work in the node's pgdata, as all of PostgreSQL's server processes do.
func (c *Cluster) PostgresPIDs(node string) []int {
	if !isDataNode(node) {
		return nil
	}
	var out []int
	for _, pid := range processIDs() {
		if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && cwd == c.pgdata(node) {
			out = append(out, pid)
		}
	}
	return out
}

// Postmaster is the PID of PostgreSQL's first process on the node.
func (c *Cluster) Postmaster(node string) (int, error) {
	b, err := os.ReadFile(filepath.Join(c.pgdata(node), "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return 0, fmt.Errorf("read postmaster.pid of %s: %w", node, err)
	}
	if !slices.Contains(c.PostgresPIDs(node), pid) {
		return 0, fmt.Errorf("the postmaster of %s, %d, does not run", node, pid)
	}
	return pid, nil
}

func processIDs() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// descendants are the children of a process, theirs, and so on.
func descendants(pid int) []int {
	children := map[int][]int{}
	for _, p := range processIDs() {
		if f := stat(p); len(f) > 1 {
			if parent, err := strconv.Atoi(f[1]); err == nil {
				children[parent] = append(children[parent], p)
			}
		}
	}
	out := slices.Clone(children[pid])
	for i := 0; i < len(out); i++ {
		out = append(out, children[out[i]]...)
	}
	return out
}

// stat is /proc/PID/stat after the command's name: the state, the parent, and so on. Nil if there is no such process.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// state is the process state as in ps: R, S, T and so on. Empty if there is no such process.
func state(pid int) string {
	if f := stat(pid); len(f) > 0 {
		return f[0]
	}
	return ""
}

func commandLine(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(string(b), "\x00", " ")
}
