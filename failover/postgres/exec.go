package postgres

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// command prepares one of PostgreSQL's programs: as the right OS user, in a process group of its own, with an environment
// that nothing of ours leaks into, and with the signal it gets when the thread that forks it ends.
func (s *Server) command(onParentDeath syscall.Signal, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.cfg.BinDir, program), args...)
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LC_ALL=C",
		"TZ=UTC",
		"HOME=" + s.statePath(""),
		"PGPASSFILE=" + s.toolPassfile(),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Pdeathsig:  onParentDeath,
		Credential: s.usr.credential,
	}
	return cmd
}

// reap starts cmd and calls exited with Wait's result when it has ended. The kernel sends the parent-death signal when the
// forking *thread* ends, so the goroutine keeps its thread from the fork until the child has been reaped.
func reap(cmd *exec.Cmd, exited func(error)) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited(cmd.Wait())
		}
	}()
	return <-started
}

// tool runs a program to its end. When ctx ends, its whole process group is killed. Each line of its standard error goes to
// onLine, if that is not nil. The error holds the last lines.
func (s *Server) tool(ctx context.Context, cmd *exec.Cmd, onLine func(string)) error {
	name := filepath.Base(cmd.Path)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	stderr := &lines{onLine: onLine}
	cmd.Stderr = stderr
	// A grandchild may hold the pipe open after the program was killed.
	cmd.WaitDelay = 5 * time.Second
	done := make(chan error, 1)
	if err := reap(cmd, func(err error) { done <- err }); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		// pg_basebackup has a child that would write on into the directory: kill the group.
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
		err = ctx.Err()
	}
	stderr.flush()
	if err == nil {
		return nil
	}
	if tail := stderr.tail(); tail != "" {
		return fmt.Errorf("%s: %w: %s", name, err, tail)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// lines splits a program's output at line feeds and carriage returns, passes on each line and keeps the last few.
type lines struct {
	onLine  func(string)
	partial []byte
	last    []string
}

// maxLastLines is how much of a program's output an error repeats.
const maxLastLines = 6

func (l *lines) Write(p []byte) (int, error) {
	l.partial = append(l.partial, p...)
	for {
		i := bytes.IndexAny(l.partial, "\r\n")
		if i < 0 {
			return len(p), nil
		}
		l.take(string(l.partial[:i]))
		l.partial = l.partial[i+1:]
	}
}

func (l *lines) flush() {
	l.take(string(l.partial))
	l.partial = nil
}

func (l *lines) take(line string) {
	line = strings.TrimSpace(line)
	if line == "" {
		return
	}
	if l.onLine != nil {
		l.onLine(line)
	}
	l.last = append(l.last, line)
	if n := len(l.last) - maxLastLines; n > 0 {
		l.last = l.last[n:]
	}
}

func (l *lines) tail() string { return strings.Join(l.last, "; ") }

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// MajorVersion asks the server program for its version and refuses one that this package does not know.
func (s *Server) MajorVersion(ctx context.Context) (int, error) {
	var out bytes.Buffer
	cmd := s.command(syscall.SIGKILL, "postgres", "--version")
	cmd.Stdout = &out
	if err := s.tool(ctx, cmd, nil); err != nil {
		return 0, err
	}
	m := versionPattern.FindStringSubmatch(out.String())
	if m == nil {
		return 0, fmt.Errorf("postgres --version: %q is not a version", out.String())
	}
	major, err := strconv.Atoi(m[1])
	if err != nil {
		return 0, err
	}
	if major < oldestMajor || major > newestMajor {
		return 0, fmt.Errorf("PostgreSQL %d in %s: versions %d to %d are supported", major, s.cfg.BinDir, oldestMajor, newestMajor)
	}
	return major, nil
}
