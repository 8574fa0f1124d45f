package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// stopWithin bounds a clean stop. A switchover and a shutdown of PostgreSQL fit in many times over.
const stopWithin = 40 * time.Second

// process is a node's kineshim or raftwitness.
type process struct {
	pid  int
	done chan struct{} // closed when it has ended
	err  error         // how it ended; valid after done
}

// start starts a command that dies with this process. The kernel ties that to the thread that started it, so a goroutine of its own
// holds that thread until the command has ended. The thread first enters the place where the command is to run; nil: it stays here.
func start(cmd *exec.Cmd, enter func() error) (*process, error) {
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, after the command
		if enter != nil {
			if err := enter(); err != nil {
				started <- err
				return
			}
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, <-started
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// wait waits until the process has ended.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d has not ended: %w", p.pid, ctx.Err())
	}
}

func (c *Cluster) process(node string) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.processes[node]
}

// Running says whether the node's kineshim or raftwitness runs (frozen counts as running).
func (c *Cluster) Running(node string) bool {
	p := c.process(node)
	return p != nil && p.running()
}

// PID is that of the node's kineshim or raftwitness, 0 if it does not run.
func (c *Cluster) PID(node string) int {
	if p := c.process(node); p != nil && p.running() {
		return p.pid
	}
	return 0
}

// Exited is closed when the node's process ends. It is nil if the node was never started.
func (c *Cluster) Exited(node string) <-chan struct{} {
	if p := c.process(node); p != nil {
		return p.done
	}
	return nil
}

// Start starts the node's process and does not wait until it serves.
func (c *Cluster) Start(ctx context.Context, node string) error {
	if c.Running(node) {
		return fmt.Errorf("start %s: it runs already", node)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start %s: %w", node, err)
	}
	log, err := os.OpenFile(c.LogPath(node), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", node, err)
	}
	defer log.Close()
	binary := c.opts.Binaries.Raftwitness
	if isDataNode(node) {
		binary = c.opts.Binaries.Kineshim
	}
	cmd := exec.Command(binary, "--config", c.configPath(node))
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, c.dir
	cmd.Env = append(os.Environ(), c.opts.Env[node]...)
	var enter func() error
	if place := c.opts.Place; place != nil {
		enter = func() error { return place.Enter(node) }
	}
	p, err := start(cmd, enter)
	if err != nil {
		return fmt.Errorf("start %s: %w", node, err)
	}
	c.mu.Lock()
	c.processes[node] = p
	c.mu.Unlock()
	c.opts.Log.Info("started", "node", node, "pid", p.pid)
	return nil
}

// Stop stops the node cleanly (SIGTERM) and waits. A node that does not stop within its bound is killed, and that is an error.
func (c *Cluster) Stop(ctx context.Context, node string) error {
	p := c.process(node)
	if p == nil || !p.running() {
		return fmt.Errorf("stop %s: it does not run", node)
	}
	if err := syscall.Kill(p.pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", node, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	begun := time.Now()
	if err := p.wait(ctx); err != nil {
		return errors.Join(fmt.Errorf("stop %s: %w", node, err), c.KillNode(node))
	}
	c.opts.Log.Info("stopped", "node", node, "took", time.Since(begun).Round(time.Millisecond))
	return nil
}
