package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Server owns one data directory and at most one postmaster. Its methods may be called from several goroutines: verbs that
// change the process or the data directory wait for one another, the others run side by side.
type Server struct {
	cfg Config
	log *slog.Logger
	usr osUser

	// verb is held (one token in the channel) by whichever of InitDB, Start, StopImmediate, StopFast, Clone and Rewind is
	// running; a channel, so that waiting for it can be given up.
	verb chan struct{}

	// child is the current or the last postmaster; nil before the first Start.
	child atomic.Pointer[child]

	// lock guards lockFile, which is open while this Server owns the data directory.
	lock     sync.Mutex
	lockFile *os.File

	// renewed is the TLS that has taken the place of the configured one; nil before.
	renewed atomic.Pointer[TLS]

	// space is statfs.Space; tests have another.
	space func(dir string) (free, total int64, err error)

	monitor monitor
	solo    solo
	epoch   epochCommits
}

// Progress says what a long verb is doing. It is shown to operators and decides nothing.
type Progress struct {
	// What is the verb: "start", "clone", "rewind".
	What string
	// Step is the present step, in words.
	Step string
	// DoneBytes of TotalBytes; TotalBytes is 0 where it is not known.
	DoneBytes, TotalBytes uint64
	// Elapsed counts from the verb's beginning.
	Elapsed time.Duration
}

// SocketPath is the path of PostgreSQL's unix socket.
func (s *Server) SocketPath() string {
	return filepath.Join(s.cfg.SocketDir, fmt.Sprintf(".s.PGSQL.%d", s.cfg.Port))
}

// Running reports whether the postmaster that Start started has not exited. It may be starting, hung or shutting down.
func (s *Server) Running() bool {
	c := s.child.Load()
	return c != nil && !c.exited()
}

// Exited returns a channel that is closed when the present postmaster has exited, for whatever reason. Before the first
// Start it returns nil, which blocks for ever in a select; after an exit it returns a closed channel until the next Start.
func (s *Server) Exited() <-chan struct{} {
	if c := s.child.Load(); c != nil {
		return c.done
	}
	return nil
}

// Close is StopImmediate, and then lets another Server have the data directory. A Server that has been closed may be used
// again.
func (s *Server) Close(ctx context.Context) error {
	if err := s.StopImmediate(ctx); err != nil {
		return err
	}
	return s.disown()
}

// acquire takes the verb token or gives up with ctx.
func (s *Server) acquire(ctx context.Context) (release func(), err error) {
	select {
	case s.verb <- struct{}{}:
		return sync.OnceFunc(func() { <-s.verb }), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another operation on the data directory: %w", ctx.Err())
	}
}

// reporter turns a progress callback, which may be nil, into one that fills in What and Elapsed.
func reporter(what string, progress func(Progress)) func(step string, done, total uint64) {
	began := time.Now()
	return func(step string, done, total uint64) {
		if progress != nil {
			progress(Progress{What: what, Step: step, DoneBytes: done, TotalBytes: total, Elapsed: time.Since(began)})
		}
	}
}

// poll calls try at once and then every interval until it reports true, fails, or ctx ends; then it returns what with
// ctx's error.
func poll(ctx context.Context, every time.Duration, what func() string, try func() (bool, error)) error {
	t := time.NewTimer(every)
	defer t.Stop()
	for {
		ok, err := try()
		if err != nil || ok {
			return err
		}
		t.Reset(every)
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what(), ctx.Err())
		}
	}
}
