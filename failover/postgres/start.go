package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// pollStart is how often Start tries to open a session.
	pollStart = 20 * time.Millisecond
	// cleanUpWithin bounds what a verb does after its context has ended.
	cleanUpWithin = 2 * killWithin
)

// exposeChildren has PostgreSQL give its children the kernel's usual OOM score. The postmaster keeps kineshim's, which a service's unit has made low: the
// kernel then ends one session that takes too much memory, and not everybody's (PostgreSQL, "Linux Memory Overcommit").
var exposeChildren = []string{"PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj", "PG_OOM_ADJUST_VALUE=0"}

// Start runs PostgreSQL as a standby without an upstream: it replays the WAL it has and receives none until Follow. (The
// first start after a rewind does have the peer as its upstream, because it needs WAL from there to become consistent.)
//
// It returns when a superuser session works, which is when recovery is consistent; replay may still be going on. It drops
// replication slots of an earlier life as primary, which would keep WAL for ever, and makes sure that the shared memory
// says that commits wait. It refuses a data directory that is not whole (ErrDataIncomplete). On any error, and when ctx
// ends, nothing runs afterwards.
func (s *Server) Start(ctx context.Context, progress func(Progress)) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	defer release()
	if s.Running() {
		return fmt.Errorf("start: %w", ErrRunning)
	}
	if err := s.start(ctx, reporter("start", progress)); err != nil {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpWithin)
		defer cancel()
		if stopErr := s.stopHeld(bounded); stopErr != nil {
			err = errors.Join(err, stopErr)
		}
		return fmt.Errorf("start: %w", err)
	}
	return nil
}

func (s *Server) start(ctx context.Context, report func(string, uint64, uint64)) error {
	if _, err := s.MajorVersion(ctx); err != nil {
		return err
	}
	if err := s.prepareDirs(); err != nil {
		return err
	}
	report("removing what a dead predecessor left", 0, 0)
	if err := s.removeLeftovers(ctx); err != nil {
		return err
	}
	d, m, err := s.inspect(ctx)
	if err != nil {
		return err
	}
	if !d.Complete {
		return fmt.Errorf("%s: %w", d.Why, ErrDataIncomplete)
	}
	if err := s.prepareStandby(ctx, m.NeedsUpstream); err != nil {
		return err
	}
	args := []string{"-D", s.cfg.DataDir}
	for _, kv := range s.lockedSettings() {
		args = append(args, "-c", kv[0]+"="+kv[1])
	}
	postmaster := s.command(syscall.SIGQUIT, "postgres", args...)
	postmaster.Env = append(postmaster.Env, exposeChildren...)
	c, err := s.startChild(postmaster)
	if err != nil {
		return err
	}
	c.goBackground(s.limitLog)
	s.log.Info("postgresql started", "pid", c.pid, "timeline", d.Timeline, "state", d.ControlState)
	if err := s.awaitSession(ctx, c, report); err != nil {
		return err
	}
	s.monitor.began(d.Timeline)
	if err := s.settle(ctx, c, report); err != nil {
		return err
	}
	if m.NeedsUpstream {
		return s.markData(true, m.What, m.SystemID, false)
	}
	return nil
}

// removeLeftovers kills what works in the data directory and removes the lock files that the dead ones left: a process ID
// in them may belong to somebody else by now.
func (s *Server) removeLeftovers(ctx context.Context) error {
	if err := s.killAll(ctx); err != nil {
		return err
	}
	if err := removeDurably(filepath.Join(s.cfg.DataDir, "postmaster.pid")); err != nil {
		return err
	}
	if err := s.socketIsDead(); err != nil {
		return err
	}
	for _, f := range []string{s.SocketPath(), s.SocketPath() + ".lock"} {
		if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// prepareStandby writes the configuration and makes sure that PostgreSQL comes up in recovery.
func (s *Server) prepareStandby(ctx context.Context, withUpstream bool) error {
	if err := s.writeConf(); err != nil {
		return err
	}
	if withUpstream {
		if err := s.setUpstream(ctx); err != nil {
			return err
		}
	} else if err := s.clearUpstream(); err != nil {
		return err
	}
	if err := removeDurably(filepath.Join(s.cfg.DataDir, "recovery.signal")); err != nil {
		return err
	}
	return s.writeDurably(filepath.Join(s.cfg.DataDir, "standby.signal"), nil)
}

// awaitSession waits until a superuser session can be opened.
func (s *Server) awaitSession(ctx context.Context, c *child, report func(string, uint64, uint64)) error {
	var last error
	what := func() string { return fmt.Sprintf("no session yet (%v)", last) }
	return poll(ctx, pollStart, what, func() (bool, error) {
		if c.exited() {
			return false, fmt.Errorf("postgresql ended: %w: %s", c.err, s.logTail(c.logFrom))
		}
		last = s.withLocal(ctx, func(*pgconn.PgConn) error { return nil })
		if last == nil {
			return true, nil
		}
		if state := sqlState(last); state == "28P01" || state == "28000" {
			return false, fmt.Errorf("the database has other passwords or roles: %w", last)
		}
		report(s.recoveryStep(c), 0, 0)
		return false, nil
	})
}

// recoveryStep says in words what the startup process does, which it shows in its title: "recovering 0000…".
func (s *Server) recoveryStep(c *child) string {
	processes, err := s.processes()
	if err != nil {
		return "starting"
	}
	for _, p := range processes {
		if p.ppid != c.pid {
			continue
		}
		title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		if err != nil {
			continue
		}
		if _, does, ok := strings.Cut(string(bytes.TrimRight(title, " \x00")), "startup "); ok {
			return "replaying WAL: " + does
		}
	}
	return "starting"
}

// settle is what a standby needs once, after each start.
func (s *Server) settle(ctx context.Context, c *child, report func(string, uint64, uint64)) error {
	return s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		var began string
		if _, err := queryJSON(ctx, conn, checkpointerQuery, &began); err != nil {
			return err
		}
		report("dropping old replication slots", 0, 0)
		if err := dropAllSlots(ctx, conn); err != nil {
			return err
		}
		// A restartpoint makes pg_control say which timeline has been replayed, makes the next start quick, and cannot end before
		// the checkpointer has published synchronous_standby_names.
		report("restartpoint", 0, 0)
		if err := execute(ctx, conn, `CHECKPOINT`); err != nil {
			return err
		}
		c.checkpointer.Store(began)
		return nil
	})
}
