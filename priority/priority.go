// Package priority raises the scheduling priority of this process, so that heartbeats and elections go on while other processes want
// all the CPU time there is.
package priority

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// niceness is what Raise asks for: a process with it gets about ten times the CPU time of one with 0 (sched(7)). It leaves room above, for
// what operators mean to come first.
const niceness = -10

// maxRounds bounds the looks for threads that have not been raised. Threads that begin later inherit, so the second look finds none or
// few.
const maxRounds = 20

// Raise gives all threads of this process, and thereby all that it starts from now on, PostgreSQL too, the niceness -10, unless they
// have a better one. It needs to be root, or CAP_SYS_NICE, or a limit (LimitNICE= in a systemd unit) that allows it; without, it
// changes nothing. Either way it says so in the log.
//
// It is called at the beginning: what was started before keeps its priority. It reports whether the threads are this process's to keep raised; see Keep.
func Raise(log *slog.Logger) (raised bool) {
	switch was, err := current(); {
	case err != nil:
		log.Warn("the scheduling priority is not known", "error", err)
		return false
	case was <= niceness:
		log.Info("the scheduling priority is high already", "nice", was)
		return false
	}
	if err := raise(threads, set); err != nil {
		log.Warn("the scheduling priority could not be raised: if other processes keep all CPUs busy, heartbeats may be late", "wanted", niceness, "error", err)
		return false
	}
	log.Info("the scheduling priority is raised", "nice", niceness, "group", raiseGroup())
	return true
}

const (
	// threads lists those of this process.
	threads = "/proc/self/task"
	// keepEvery is how often Keep looks. It costs some ten system calls.
	keepEvery = 30 * time.Second
)

func set(tid int) error { return unix.Setpriority(unix.PRIO_PROCESS, tid, niceness) }

// Keep looks now and then, until ctx ends, for a thread that has come to light only after Raise had looked: on a machine that is very busy a thread that was
// being started then may take long. All that it starts would have its low priority.
func Keep(ctx context.Context, log *slog.Logger) {
	t := time.NewTicker(keepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		n, err := raiseLate(threads, of, set)
		switch {
		case err != nil:
			log.Warn("threads of a low scheduling priority could not be raised, and it is not tried again", "error", err)
			<-ctx.Done()
			return
		case n > 0:
			log.Info("threads had kept their low scheduling priority, and were raised now", "count", n)
		}
	}
}

// of is a thread's niceness; 0: the calling one's. The system call returns 20 minus it, so as not to return anything negative.
func of(tid int) (int, error) {
	p, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
	return 20 - p, err
}

// raiseLate calls set for every thread in dir whose niceness is a lower priority than it should be, and counts them.
func raiseLate(dir string, of func(tid int) (int, error), set func(tid int) error) (n int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("list the threads: %w", err)
	}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		is, err := of(tid)
		if err == nil && is > niceness {
			n++
			err = set(tid)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // it may have ended
			return n, fmt.Errorf("set the priority of thread %d: %w", tid, err)
		}
	}
	return n, nil
}

// current is the calling thread's niceness.
func current() (int, error) {
	is, err := of(0)
	if err != nil {
		return 0, fmt.Errorf("get the priority: %w", err)
	}
	return is, nil
}

// quietLooks is how many looks in a row must find no new thread, quietFor apart. A thread has its priority from the one that starts it before it can be
// seen: one that was being started when its parent was raised comes to light a little later, and would leave its own to all that it starts.
const (
	quietLooks = 4
	quietFor   = 3 * time.Millisecond
)

// raise calls set for every thread in dir. On Linux a priority is a thread's, and a thread inherits that of the one which starts it: when looks
// find nothing new for a while, every thread was raised, or is the child of one that was.
func raise(dir string, set func(tid int) error) error {
	raised, quiet := map[int]bool{}, 0
	for range maxRounds {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("list the threads: %w", err)
		}
		found := false
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err != nil || raised[tid] {
				continue
			}
			found, raised[tid] = true, true
			if err := set(tid); err != nil && !errors.Is(err, unix.ESRCH) { // it may have ended
				return fmt.Errorf("set the priority of thread %d: %w", tid, err)
			}
		}
		if quiet++; found {
			quiet = 0
		}
		if quiet == quietLooks {
			return nil
		}
		time.Sleep(quietFor)
	}
	return fmt.Errorf("threads begin faster than they can be raised: %d so far", len(raised))
}

// raiseGroup raises the kernel's automatic scheduling group, within which alone niceness counts if there is one (sched(7), "The autogroup
// feature"). The group is the session's: it is left alone unless the session is this process's own, as it is under systemd. It says what
// became of it.
func raiseGroup() string {
	const file = "/proc/self/autogroup"
	if sid, err := unix.Getsid(0); err != nil || sid != os.Getpid() {
		return "left alone: the session is another's"
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "none"
	}
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if _, err := f.WriteString(strconv.Itoa(niceness)); err != nil {
		return err.Error()
	}
	return "raised"
}
