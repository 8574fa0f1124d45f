package deathwatch

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config is what a Watch needs.
type Config struct {
	// Args and Env start this same program again such that it calls Sit. Env is added to the environment.
	Args, Env []string
	// Orders is what Sit is to make its message of. It is marshalled as JSON and travels on the pipe.
	Orders any
	Log    *slog.Logger
}

// Watch keeps this process under a deathwatch, and starts another if that one ends. Run must run; Leads may be called before.
type Watch struct {
	cfg Config

	mu sync.Mutex // guards the fields below
	// term is the highest in which this process leads or led.
	term uint64
	// pipe is the write end, -1 if there is no deathwatch. It is a bare descriptor: an *os.File would close it when nothing refers to
	// it any more, which would look like this process's end. It is closed only after the deathwatch has ended or been released.
	pipe int
	// child is the deathwatch that has the pipe's read end.
	child *os.Process
}

const (
	// restartPause is between the end of one deathwatch and the start of the next. It doubles each time, up to longestPause, unless
	// one has lived for longer than that: what ends them at once may go on doing so.
	restartPause = time.Second
	longestPause = time.Minute
	// releaseWithin is how long a deathwatch that has been released may take to end.
	releaseWithin = 2 * time.Second
)

// New makes a watch, which begins with Run.
func New(cfg Config) *Watch { return &Watch{cfg: cfg, pipe: -1} }

// Leads tells the deathwatch that this process leads in the term, or is about to. It does not block. If the deathwatch cannot be
// told, another is started, which is; until then, an end of this process has to be guessed from its silence.
func (w *Watch) Leads(term uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if term <= w.term {
		return
	}
	w.term = term
	if w.pipe >= 0 {
		w.write(term)
	}
}

// write puts a number on the pipe, whose reader is killed if that fails. The caller holds mu.
func (w *Watch) write(n uint64) {
	if _, err := unix.Write(w.pipe, encodeTerm(n)); err != nil { // all or nothing: it is shorter than PIPE_BUF
		w.cfg.Log.Warn("tell the deathwatch", "term", n, "error", err)
		w.child.Kill() // Run sees its end
	}
}

// Run keeps a deathwatch until ctx ends, and then releases it. It returns nil: a deathwatch that is missing costs time, no more.
func (w *Watch) Run(ctx context.Context) error {
	pause := restartPause
	for {
		begun := time.Now()
		ended, err := w.start()
		if err == nil {
			select {
			case err = <-ended:
				w.close()
			case <-ctx.Done():
				w.release(ended)
				return nil
			}
		}
		if time.Since(begun) > longestPause {
			pause = restartPause
		}
		w.cfg.Log.Warn("the deathwatch has ended: until there is another, an end of this process shows by its silence only", "error", err)
		select {
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		case <-ctx.Done():
			return nil
		}
	}
}

// start starts a deathwatch. The channel gets the result of waiting for its end.
func (w *Watch) start() (ended <-chan error, err error) {
	w.mu.Lock()
	told := w.term
	w.mu.Unlock()
	read, write, err := w.openPipe(told) // with the term, so that it has that from its first moment on
	if err != nil {
		return nil, fmt.Errorf("start the deathwatch: %w", err)
	}
	defer read.Close()
	cmd := exec.Command("/proc/self/exe") // the very program that runs, even if its file has been replaced
	cmd.Args = append([]string{os.Args[0]}, w.cfg.Args...)
	cmd.Env = append(append(os.Environ(), "GOMAXPROCS=1", "GOGC=50"), w.cfg.Env...)
	cmd.Dir, cmd.Stdin, cmd.Stderr = "/", read, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		unix.Close(write)
		return nil, fmt.Errorf("start the deathwatch: %w", err)
	}
	w.mu.Lock()
	w.pipe, w.child = write, cmd.Process
	if w.term != told {
		w.write(w.term)
	}
	w.mu.Unlock()
	result := make(chan error, 1)
	go func() { result <- cmd.Wait() }() // Run waits for it
	return result, nil
}

// openPipe makes a pipe with the orders and the term in it; 0: there is none yet.
func (w *Watch) openPipe(term uint64) (read *os.File, write int, err error) {
	orders, err := json.Marshal(w.cfg.Orders)
	if err != nil {
		return nil, -1, err
	}
	b, err := encodeOpening(opening{Parent: os.Getpid(), Orders: orders})
	if err != nil {
		return nil, -1, err
	}
	if term > 0 {
		b = append(b, encodeTerm(term)...)
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, err
	}
	read = os.NewFile(uintptr(fds[0]), "deathwatch")
	if err = unix.SetNonblock(fds[1], true); err == nil {
		_, err = unix.Write(fds[1], b)
	}
	if err != nil {
		read.Close()
		unix.Close(fds[1])
		return nil, -1, err
	}
	return read, fds[1], nil
}

// close closes the pipe. The deathwatch must have ended, or been released.
func (w *Watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	unix.Close(w.pipe)
	w.pipe, w.child = -1, nil
}

// release lets the deathwatch go without a word and waits for its end.
func (w *Watch) release(ended <-chan error) {
	defer w.close()
	w.mu.Lock()
	w.write(released)
	w.mu.Unlock()
	select {
	case <-ended:
	case <-time.After(releaseWithin):
		w.cfg.Log.Warn("the deathwatch did not end when it was released")
		w.child.Kill()
		<-ended
	}
}
