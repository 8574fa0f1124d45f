package main

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal: tty is what shimctl gets, the test sits at the other end.
type terminal struct {
	tty   *os.File
	ptmx  *os.File
	shows *syncBuffer
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{tty: tty, ptmx: ptmx, shows: &syncBuffer{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := ptmx.Read(buf)
			_, _ = term.shows.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = tty.Close() // the last close of the tty ends the read with EIO
		<-done
		_ = ptmx.Close()
	})
	return term
}

func (t *terminal) shown() string { return t.shows.String() }

func (t *terminal) enter(test *testing.T, line string) {
	test.Helper()
	if _, err := t.ptmx.WriteString(line + "\n"); err != nil {
		test.Fatal(err)
	}
}

func TestOnlyATerminalIsATerminal(t *testing.T) {
	if isTerminal(&syncBuffer{}) {
		t.Error("a buffer is no terminal")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	if isTerminal(null) {
		t.Error("/dev/null is no terminal")
	}
	if !isTerminal(openTerminal(t).tty) {
		t.Error("a pseudo-terminal is one")
	}
}
