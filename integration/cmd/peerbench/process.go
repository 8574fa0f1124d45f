package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	// stopWithin bounds a clean stop of a server; one that takes longer is killed.
	stopWithin = 5 * time.Second
	// pollEvery is the pace at which servers that start are asked.
	pollEvery = 50 * time.Millisecond
)

// child is a server that dies with this process. The kernel ties that to the thread that started it, so a goroutine of its own holds that
// thread until the server has ended.
type child struct {
	name string
	pid  int
	log  string
	done chan struct{} // closed when it has ended
}

// startChild starts a program that logs to a file, in a process group of its own: a Ctrl-C is this process's to pass on.
func startChild(name, log, program string, args ...string) (*child, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	c := &child{name: name, log: log, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, after the server
		err := cmd.Start()
		if err == nil {
			c.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // stop sees that it ended; why stands in its log
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// gone says that the server has ended, and what it logged last.
func (c *child) gone() error {
	select {
	case <-c.done:
		return fmt.Errorf("%s has ended: %s", c.name, tail(c.log))
	default:
		return nil
	}
}

// stop ends the server, and waits.
func (c *child) stop() error {
	_ = syscall.Kill(c.pid, syscall.SIGTERM) // it may be gone
	select {
	case <-c.done:
		return nil
	case <-time.After(stopWithin):
	}
	_ = syscall.Kill(c.pid, syscall.SIGKILL)
	select {
	case <-c.done:
		return nil
	case <-time.After(stopWithin):
		return errors.New("stop " + c.name + ": it does not go, not even killed")
	}
}

// tail is the end of a log.
func tail(path string) string {
	const most = 1000
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}
