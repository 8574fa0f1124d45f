// Package disk watches the file system of a node's data directory: how much room there is, and whether it takes writes.
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"kineshim/statfs"

	"golang.org/x/sys/unix"
)

// The marks, in bytes free. The native engine refuses writes (NOSPACE) at a third less than Low: by then the role should be elsewhere, if anybody
// has room for it.
const (
	// minLow, lowShare and maxLow: Low is one in so many bytes of the file system, within bounds.
	minLow, maxLow = 96 << 20, 3 << 29
	lowShare       = 40.0 / 3
	// full is when PostgreSQL may end at any moment: two of its WAL files.
	full = 32 << 20
)

// lowMark is how many bytes must be free of total for the disk not to be nearly full.
func lowMark(total int64) int64 {
	return int64(max(minLow, min(float64(total)/lowShare, maxLow)))
}

const (
	// lookEvery is how often the disk is looked at and written to.
	lookEvery = 2 * time.Second
	// hungAfter is how long a write may take. A slow disk that is being flushed takes seconds.
	hungAfter = 15 * time.Second
	// probeName is the file that is written, in the data directory.
	probeName = "disk-probe"
)

// refused is how many bytes must be free of total for the native engine to take writes (its NOSPACE).
func refused(total int64) int64 { return lowMark(total) / 3 * 2 }

// Look is the state of the file system that dir is on, at this moment. Whether it takes writes is not tried.
func Look(dir string) (State, error) {
	free, total, err := statfs.Space(dir)
	if err != nil {
		return State{}, err
	}
	var s State
	s.room(free, total)
	return s, nil
}

// State is what is known of a disk. The zero State is a disk of which nothing is known.
type State struct {
	Free, Total int64 // bytes
	// Low: nearly full. Once it is so, it stays so until half as much again is free. Roomy: twice as much is free.
	Low, Roomy bool
	// Full: PostgreSQL may end at any moment for want of room. It stays so as long as Low does.
	Full bool
	// Failing says why the disk takes no writes, being read-only, broken, or hung; "": it does. A full disk is not a failing one.
	Failing string
}

// Trouble says in words what is wrong with the disk; "": nothing.
func (s State) Trouble() string {
	switch {
	case s.Failing != "":
		return "its disk takes no writes: " + s.Failing
	case s.Full:
		return fmt.Sprintf("its disk is full: %d MB free of %d", s.Free>>20, s.Total>>20)
	case s.Low:
		return fmt.Sprintf("its disk is nearly full: %d MB free of %d", s.Free>>20, s.Total>>20)
	}
	return ""
}

// Refused says whether the native engine refuses writes on this disk.
func (s State) Refused() bool { return s.Free < refused(s.Total) }

// LowMark and RefusedMark are how many bytes must be free for the disk not to be Low, and not to be Refused.
func (s State) LowMark() int64     { return lowMark(s.Total) }
func (s State) RefusedMark() int64 { return refused(s.Total) }

// room takes in how much is free.
func (s *State) room(free, total int64) {
	low := lowMark(total)
	s.Free, s.Total = free, total
	switch {
	case free < low:
		s.Low = true
	case free >= low/2*3:
		s.Low = false
	}
	s.Full = s.Low && (s.Full || free < full)
	s.Roomy = free >= 2*low
}

// Watch looks at one disk. Its State may be asked for by any goroutine.
type Watch struct {
	// Dir is the data directory; it is written to. Data is what needs the room; it may lie on a file system of its own, or not exist yet.
	Dir, Data string
	// Changed, if not nil, is called when the disk's trouble has changed. It must not block.
	Changed func(State)

	mu    sync.Mutex // guards what follows
	state State
	// began is when the write under way began; zero: none is.
	began time.Time
}

// State is the last that is known.
func (w *Watch) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// Run watches until ctx ends. A write that hangs in the kernel is not waited for: it ends with the process at the latest.
func (w *Watch) Run(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	wrote := make(chan error, 1)
	for {
		if w.begin() {
			go func() { wrote <- write(filepath.Join(w.Dir, probeName)) }()
		}
		free, total, err := w.space()
		select {
		case e := <-wrote:
			w.take(e, true, free, total, err)
		case <-time.After(lookEvery / 2):
			w.take(nil, false, free, total, err)
		case <-ctx.Done():
			return
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// begin says whether a write is to begin: none is under way.
func (w *Watch) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.began.IsZero() {
		return false
	}
	w.began = time.Now()
	return true
}

// take takes in what a look has shown. done: the write has ended, with the error.
func (w *Watch) take(wrote error, done bool, free, total int64, spaceErr error) {
	w.mu.Lock()
	s := w.state
	switch {
	case done && (wrote == nil || errors.Is(wrote, unix.ENOSPC) || errors.Is(wrote, unix.EDQUOT)):
		s.Failing, w.began = "", time.Time{}
	case done:
		s.Failing, w.began = wrote.Error(), time.Time{}
	case time.Since(w.began) > hungAfter:
		s.Failing = fmt.Sprintf("a write has been hanging for more than %v", hungAfter)
	}
	if spaceErr == nil {
		s.room(free, total)
	}
	changed := troubleKind(s) != troubleKind(w.state)
	w.state = s
	w.mu.Unlock()
	if changed && w.Changed != nil {
		w.Changed(s)
	}
}

// troubleKind is what distinguishes states that are worth telling.
func troubleKind(s State) [3]bool { return [3]bool{s.Low, s.Full, s.Failing != ""} }

// space is what is free for PostgreSQL's user where the data are.
func (w *Watch) space() (free, total int64, err error) {
	free, total, err = statfs.Space(w.Data)
	if errors.Is(err, unix.ENOENT) {
		free, total, err = statfs.Space(w.Dir)
	}
	return free, total, err
}

// write writes to a file of few bytes and waits until it is on the disk.
func write(path string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := fmt.Fprintln(f, time.Now().UTC().Format(time.RFC3339)); err != nil {
		return err
	}
	return f.Sync()
}
