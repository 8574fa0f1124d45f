package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// pollProcesses is how often a wait for processes looks again.
	pollProcesses = 10 * time.Millisecond
	// killWithin bounds the wait for killed processes. Only one that is stuck in the kernel, on a dead disk say, takes longer.
	killWithin = 10 * time.Second
)

// child is one postmaster. It is immutable but for what done guards.
type child struct {
	pid int
	// began tells the postmasters of one Server apart.
	began time.Time
	// logFrom is where in the log its output begins.
	logFrom int64
	// done is closed after the postmaster has been reaped and err is set.
	done chan struct{}
	err  error

	// life ends with the postmaster; background counts the goroutines that work for it, which end soon after it.
	life       context.Context
	end        context.CancelFunc
	background sync.WaitGroup

	idle  idleSessions
	ahead ahead

	// checkpointer identifies the checkpointer that is known to have published synchronous_standby_names.
	checkpointer atomic.Value
}

// goBackground runs f until it returns or, by its context, the postmaster has ended. StopImmediate and StopFast wait for it.
func (c *child) goBackground(f func(ctx context.Context)) {
	c.background.Go(func() { f(c.life) })
}

func (c *child) exited() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// startChild runs the postmaster, whose output goes to the log.
func (s *Server) startChild(cmd *exec.Cmd) (*child, error) {
	log, err := s.openLog()
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	c := &child{began: time.Now(), done: make(chan struct{})}
	c.life, c.end = context.WithCancel(context.Background())
	if fi, err := log.Stat(); err == nil {
		c.logFrom = fi.Size()
	}
	err = reap(cmd, func(err error) {
		c.err = err
		if err == nil {
			c.err = errors.New("exit status 0")
		}
		s.log.Info("postgresql has exited", "pid", cmd.Process.Pid, "how", c.err)
		c.end()
		close(c.done)
	})
	if err != nil {
		c.end()
		return nil, err
	}
	c.pid = cmd.Process.Pid
	s.child.Store(c)
	return c, nil
}

// current returns the running postmaster.
func (s *Server) current() (*child, error) {
	if c := s.child.Load(); c != nil && !c.exited() {
		return c, nil
	}
	return nil, ErrNotRunning
}

// process is one that works in the data directory.
type process struct {
	pid, ppid int
	program   string
}

// processes finds every process of this data directory, ours or a dead predecessor's: servers whose working directory it
// is, and clone or rewind programs that write into it. The postmaster comes first.
func (s *Server) processes() ([]process, error) {
	dataDir, err := os.Stat(s.cfg.DataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// A process that has gone meanwhile, or belongs to somebody else, fails in any of these and is none of ours.
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			continue
		}
		program := strings.TrimSuffix(filepath.Base(exe), " (deleted)")
		if s.worksHere(pid, program, dataDir) {
			found = append(found, process{pid, parentOf(pid), program})
		}
	}
	pids := make(map[int]bool, len(found))
	for _, p := range found {
		pids[p.pid] = true
	}
	slices.SortStableFunc(found, func(a, b process) int {
		switch {
		case pids[a.ppid] == pids[b.ppid]:
			return 0
		case pids[b.ppid]:
			return -1
		default:
			return 1
		}
	})
	return found, nil
}

func (s *Server) worksHere(pid int, program string, dataDir os.FileInfo) bool {
	switch program {
	case "postgres":
		cwd := fmt.Sprintf("/proc/%d/cwd", pid)
		if fi, err := os.Stat(cwd); err == nil && dataDir != nil && os.SameFile(fi, dataDir) {
			return true
		}
		link, err := os.Readlink(cwd)
		if err != nil {
			return false
		}
		link = strings.TrimSuffix(link, " (deleted)")
		return link == s.cfg.DataDir || link == s.cfg.DataDir+newSuffix || link == s.cfg.DataDir+oldSuffix
	case "initdb", "pg_basebackup", "pg_rewind":
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			return false
		}
		for _, arg := range bytes.Split(cmdline, []byte{0}) {
			if a := string(arg); a == s.cfg.DataDir || a == s.cfg.DataDir+newSuffix {
				return true
			}
		}
	}
	return false
}

// parentOf returns the parent's process ID, 0 if the process has gone.
func parentOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The command's name, in parentheses, may contain anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 || fields[0] == "Z" {
		return 0
	}
	ppid, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return ppid
}

// killAll kills every process of this data directory and waits until none is left. New ones that a postmaster forks
// meanwhile are found by looking again.
func (s *Server) killAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killWithin)
	defer cancel()
	var left []process
	what := func() string {
		var names []string
		for _, p := range left {
			names = append(names, fmt.Sprintf("%s[%d]", p.program, p.pid))
		}
		return "processes of the data directory survive a kill: " + strings.Join(names, " ")
	}
	return poll(ctx, pollProcesses, what, func() (bool, error) {
		var err error
		left, err = s.processes()
		for _, p := range left {
			if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return false, fmt.Errorf("kill %s[%d]: %w", p.program, p.pid, err)
			}
		}
		return len(left) == 0, err
	})
}
