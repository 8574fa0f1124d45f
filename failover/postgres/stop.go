package postgres

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// quitWithin is how long an immediate shutdown may take before everything is killed.
const quitWithin = 2 * time.Second

// StopImmediate ends PostgreSQL without a word to its clients: commits that wait for the standby stay unacknowledged, and a
// shutdown of any other kind would acknowledge them. It also ends a frozen postmaster and what a dead kineshim has left
// behind. On return without error no process of the data directory exists. Nothing to stop is not an error.
//
// It does not wait for a Start in progress, which fails instead. When ctx ends first, the processes have been told to end
// all the same.
func (s *Server) StopImmediate(ctx context.Context) error {
	if c := s.child.Load(); c != nil && !c.exited() {
		s.log.Info("stopping postgresql", "mode", "immediate", "pid", c.pid)
		s.quit(ctx, c)
	}
	release, err := s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	defer release()
	return s.stopHeld(ctx)
}

// stopHeld is StopImmediate for a caller that holds the verb token.
func (s *Server) stopHeld(ctx context.Context) error {
	c := s.child.Load()
	if c != nil {
		s.quit(ctx, c)
		c.idle.close()
	}
	if there, err := exists(s.statePath("")); err != nil || !there {
		return err
	}
	if err := s.own(); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	err := s.killAll(ctx)
	if c != nil {
		select {
		case <-c.done:
			c.background.Wait()
		case <-ctx.Done():
			err = errors.Join(err, fmt.Errorf("postmaster %d: %w", c.pid, ctx.Err()))
		}
	}
	s.monitor.close()
	s.solo.close()
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// quit asks a postmaster for an immediate shutdown and waits a little. A postmaster that is stopped (SIGSTOP) does not react.
func (s *Server) quit(ctx context.Context, c *child) {
	if c.exited() {
		return
	}
	if err := syscall.Kill(c.pid, syscall.SIGQUIT); err != nil {
		s.log.Warn("postmaster cannot be signalled", "pid", c.pid, "err", err)
	}
	t := time.NewTimer(quitWithin)
	defer t.Stop()
	select {
	case <-c.done:
		return
	case <-t.C:
		s.log.Warn("postgresql does not end, killing it", "pid", c.pid, "after", quitWithin)
	case <-ctx.Done():
	}
	if err := s.killAll(ctx); err != nil {
		s.log.Warn("killing postgresql", "err", err)
	}
}

// StopFast ends a standby cleanly, so that it restarts quickly and pg_rewind accepts its data directory. It refuses on a
// primary (ErrNotStandby), where a fast shutdown would make waiting commits visible and acknowledge them. When ctx ends
// first, it stops immediately.
func (s *Server) StopFast(ctx context.Context) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	defer release()
	c, err := s.current()
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	inRecovery, err := s.inRecovery(ctx)
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	if !inRecovery {
		return fmt.Errorf("stop: fast shutdown: %w", ErrNotStandby)
	}
	s.log.Info("stopping postgresql", "mode", "fast", "pid", c.pid)
	if err := syscall.Kill(c.pid, syscall.SIGINT); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	select {
	case <-c.done:
		return s.stopHeld(ctx)
	case <-ctx.Done():
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), killWithin)
		defer cancel()
		return errors.Join(fmt.Errorf("stop: fast shutdown: %w", ctx.Err()), s.stopHeld(bounded))
	}
}
