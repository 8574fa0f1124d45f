package postgres

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// CleanUp ends what a kineshim that was killed has left working in the data directory, and returns it: "postgres[123]". Other data directories of this
// machine are none of its business. ErrInUse if a kineshim lives that has this one: nothing is ended then. The directory is owned until Close.
func (s *Server) CleanUp(ctx context.Context) (ended []string, err error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("clean up: %w", err)
	}
	defer release()
	if there, err := exists(s.statePath("")); err != nil || !there {
		return nil, err
	}
	if err := s.own(); err != nil {
		return nil, fmt.Errorf("clean up: %w", err)
	}
	left, err := s.processes()
	if err != nil {
		return nil, fmt.Errorf("clean up: %w", err)
	}
	for _, p := range left {
		ended = append(ended, fmt.Sprintf("%s[%d]", p.program, p.pid))
	}
	if len(left) > 0 && left[0].program == "postgres" {
		s.quitLeft(ctx, left[0].pid)
	}
	if err := s.killAll(ctx); err != nil {
		return ended, fmt.Errorf("clean up: %w", err)
	}
	return ended, nil
}

// quitLeft asks another process's postmaster for an immediate shutdown, after which no shared memory is left, and waits a little.
func (s *Server) quitLeft(ctx context.Context, postmaster int) {
	if err := syscall.Kill(postmaster, syscall.SIGQUIT); err != nil {
		return // it has gone, or killAll will say why it can't be signalled
	}
	ctx, cancel := context.WithTimeout(ctx, quitWithin)
	defer cancel()
	err := poll(ctx, pollProcesses, func() string { return "it does not end" }, func() (bool, error) {
		left, err := s.processes()
		return len(left) == 0, err
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		s.log.Warn("a postgresql that was left does not end, killing it", "pid", postmaster, "after", quitWithin)
	}
}
