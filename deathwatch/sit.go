package deathwatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
)

// Message is what a deathwatch has to say, and to whom.
type Message struct {
	// First is told first, Second a moment later: the second's success may need the first's consent.
	First, Second string
	// Tell tells one of them that the watched process, which led in no term beyond the given one, has ended. ctx bounds it.
	Tell func(ctx context.Context, whom string, term uint64) error
	Log  *slog.Logger
}

const (
	// tries and tryFor bound the telling of each; tryPause is between two tries, for one that is being restarted.
	tries    = 3
	tryFor   = 300 * time.Millisecond
	tryPause = 50 * time.Millisecond
	// headStart is how long the second waits at most for the first to have been told.
	headStart = 50 * time.Millisecond
	// orphanWithin bounds the wait to be orphaned, which comes right after the end of the pipe.
	orphanWithin = 500 * time.Millisecond
	// overAfter ends the process after the end of the pipe, whatever holds it up.
	overAfter = 2 * time.Second
	// memoryLimit is what Go's heap should stay under: there is nearly nothing on it.
	memoryLimit = 8 << 20
)

// Sit is the life of the deathwatch: a process that Watch has started, with the pipe as its standard input. It returns when all is
// said, or there is nothing to say, at the latest two seconds after the watched process has ended. take makes the message of the
// orders that Watch was given.
func Sit(take func(orders json.RawMessage) (Message, error)) error {
	// What is sent to all of the watched process's kin, to stop it or because its terminal is gone, is not for us. SIGPIPE: whoever
	// read the log may be gone.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	_ = os.WriteFile("/proc/self/comm", []byte("deathwatch"), 0) // for ps and top; started by way of /proc, it is called exe
	debug.SetMemoryLimit(memoryLimit)
	o, err := readOpening(os.Stdin)
	if err != nil {
		return err
	}
	m, err := take(o.Orders)
	if err != nil {
		return err
	}
	debug.FreeOSMemory() // from here on it only waits
	term, err := watch(os.Stdin)
	if errors.Is(err, errReleased) || err == nil && term == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	over := time.AfterFunc(overAfter, func() { os.Exit(1) })
	defer over.Stop()
	if !orphaned(o.Parent) {
		return fmt.Errorf("the pipe of process %d is closed, and yet it lives: nothing is said", o.Parent)
	}
	m.send(term)
	return nil
}

// orphaned waits until the parent is not this process's parent any more. The kernel finds a child a new parent when the last
// thread of the old one is in the middle of its exit.
func orphaned(parent int) bool {
	for deadline := time.Now().Add(orphanWithin); os.Getppid() == parent; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// send tells both, each several times if need be.
func (m Message) send(term uint64) {
	tried := make(chan struct{}) // the first once
	var wg sync.WaitGroup
	wg.Go(func() { m.tell(m.First, term, sync.OnceFunc(func() { close(tried) })) })
	head := time.NewTimer(headStart)
	defer head.Stop()
	select {
	case <-tried:
	case <-head.C:
	}
	m.tell(m.Second, term, func() {})
	wg.Wait()
}

func (m Message) tell(whom string, term uint64, tried func()) {
	var err error
	for range tries {
		ctx, cancel := context.WithTimeout(context.Background(), tryFor)
		err = m.Tell(ctx, whom, term)
		cancel()
		tried()
		if err == nil {
			m.Log.Info("told that the process has ended", "whom", whom, "term", term)
			return
		}
		time.Sleep(tryPause)
	}
	m.Log.Warn("tell that the process has ended", "whom", whom, "term", term, "error", err)
}
