package deathwatch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleEnv makes the test binary a watched process, or its deathwatch.
const roleEnv = "DEATHWATCH_TEST_ROLE"

// patience bounds waits for what must happen, on a machine that may be very slow.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleEnv) {
	case "sit":
		err = Sit(testMessage)
	case "watched":
		err = watched()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// testOrders say where the deathwatch writes what it tells, and whom it cannot tell.
type testOrders struct {
	File string
	Deaf string
}

func testMessage(b json.RawMessage) (Message, error) {
	var o testOrders
	if err := json.Unmarshal(b, &o); err != nil {
		return Message{}, err
	}
	tell := func(ctx context.Context, whom string, term uint64) error {
		f, err := os.OpenFile(o.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if whom == o.Deaf {
			fmt.Fprintln(f, "try", whom, term)
			<-ctx.Done()
			return ctx.Err()
		}
		_, err = fmt.Fprintln(f, "told", whom, term)
		return err
	}
	return Message{First: "first", Second: "second", Tell: tell, Log: slog.New(slog.DiscardHandler)}, nil
}

// watched is a process with a deathwatch. It does what it is told on its standard input and ends with it.
func watched() error {
	var o testOrders
	if err := json.Unmarshal([]byte(os.Args[1]), &o); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // which the deathwatch must not inherit
	if err != nil {
		return err
	}
	defer ln.Close()
	w := New(Config{Env: []string{roleEnv + "=sit"}, Orders: o, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		switch verb, arg, _ := strings.Cut(s.Text(), " "); verb {
		case "lead":
			term, _ := strconv.ParseUint(arg, 10, 64)
			w.Leads(term)
		case "spawn": // a child that outlives this process
			if err := exec.Command("sleep", "15").Start(); err != nil {
				return err
			}
		case "close": // what must never happen
			w.mu.Lock()
			unix.Close(w.pipe)
			w.mu.Unlock()
		case "stop":
			cancel()
			err := <-done
			fmt.Println("stopped", err)
			continue
		}
		fmt.Println("done")
	}
	return nil
}

// subject is a watched process and what its deathwatch has told.
type subject struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.Writer
	out    *bufio.Scanner
	orders testOrders
}

func startSubject(t *testing.T, deaf string) *subject {
	t.Helper()
	s := &subject{t: t, orders: testOrders{filepath.Join(t.TempDir(), "told"), deaf}}
	b, err := json.Marshal(s.orders)
	if err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command(os.Args[0], string(b))
	s.cmd.Env, s.cmd.Stderr = append(os.Environ(), roleEnv+"=watched"), os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.in, s.out = in, bufio.NewScanner(out)
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	return s
}

// do has the subject do something and returns its answer.
func (s *subject) do(what string) string {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.in, what); err != nil {
		s.t.Fatal(err)
	}
	if !s.out.Scan() {
		s.t.Fatalf("%s: no answer", what)
	}
	return s.out.Text()
}

// deathwatch waits until the subject has a deathwatch, other than the given one, that only waits.
func (s *subject) deathwatch(other int) (found int) {
	s.t.Helper()
	s.eventually("it has a deathwatch", func() bool {
		all, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range all {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			f := stat(pid)
			if len(f) > 1 && f[1] == strconv.Itoa(s.cmd.Process.Pid) && f[0] == "S" && pid != other && ignores(pid, syscall.SIGTERM) {
				found = pid
				return true
			}
		}
		return false
	})
	return found
}

// stat is /proc/PID/stat from the state on: state, parent, process group, session.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

func gone(pid int) bool {
	f := stat(pid)
	return f == nil || f[0] == "Z"
}

// ignores says whether the process ignores the signal, which the deathwatch does once it has been set up.
func ignores(pid int, sig syscall.Signal) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "SigIgn:\t")
	mask, _, _ := strings.Cut(rest, "\n")
	bits, _ := strconv.ParseUint(mask, 16, 64)
	return bits>>(sig-1)&1 == 1
}

func (s *subject) eventually(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// told is what the deathwatch has told, line by line.
func (s *subject) told() string {
	b, err := os.ReadFile(s.orders.File)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return string(b)
}

// kill kills the subject's process group and waits for the end of its deathwatch.
func (s *subject) kill(watch int) {
	s.t.Helper()
	begun := time.Now()
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	s.cmd.Process.Wait()
	s.eventually("the deathwatch has ended", func() bool { return gone(watch) })
	if d := time.Since(begun); d > overAfter+patience/4 {
		s.t.Errorf("the deathwatch ended %v after its process", d)
	}
}

func TestKilledProcessIsTold(t *testing.T) {
	t.Parallel()
	s := startSubject(t, "")
	s.do("lead 3") // perhaps before there is a deathwatch
	watch := s.deathwatch(0)
	s.do("lead 7")
	s.do("lead 5") // an older term is no news
	if f := stat(watch); f[2] != strconv.Itoa(watch) || f[3] != strconv.Itoa(watch) {
		t.Errorf("process group %s, session %s: not its own, %d", f[2], f[3], watch)
	}
	s.kill(watch)
	if got, want := s.told(), "told first 7\ntold second 7\n"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestProcessThatHasNeverLedDiesWithoutAWord(t *testing.T) {
	t.Parallel()
	s := startSubject(t, "")
	s.kill(s.deathwatch(0))
	if got := s.told(); got != "" {
		t.Errorf("told %q", got)
	}
}

func TestReleasedDeathwatchSaysNothing(t *testing.T) {
	t.Parallel()
	s := startSubject(t, "")
	watch := s.deathwatch(0)
	s.do("lead 7")
	if got := s.do("stop"); got != "stopped <nil>" {
		t.Error(got)
	}
	if !gone(watch) {
		t.Error("it is still there")
	}
	s.do("lead 8")
	s.cmd.Process.Kill()
	s.cmd.Process.Wait()
	if got := s.told(); got != "" {
		t.Errorf("told %q", got)
	}
}

func TestFrozenProcessHasNotEnded(t *testing.T) {
	t.Parallel()
	s := startSubject(t, "")
	watch := s.deathwatch(0)
	s.do("lead 7")
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.eventually("it is frozen", func() bool { return stat(s.cmd.Process.Pid)[0] == "T" })
	time.Sleep(200 * time.Millisecond)
	if got := s.told(); got != "" || gone(watch) {
		t.Errorf("told %q; the deathwatch is gone: %v", got, gone(watch))
	}
	s.kill(watch) // frozen, it can be killed
	if got := s.told(); !strings.Contains(got, "told second 7") {
		t.Errorf("told %q", got)
	}
}

// A bug elsewhere may close a descriptor that is not its own.
func TestClosedPipeAloneIsNoProof(t *testing.T) {
	t.Parallel()
	s := startSubject(t, "")
	watch := s.deathwatch(0)
	s.do("lead 7")
	s.do("close")
	s.eventually("the deathwatch has ended", func() bool { return gone(watch) })
	if got := s.told(); got != "" {
		t.Errorf("told %q, and the process lives", got)
	}
	s.kill(s.deathwatch(watch)) // the next one
	if got := s.told(); !strings.Contains(got, "told second 7") {
		t.Errorf("told %q", got)
	}
}

func TestDeathwatchThatDiesIsReplacedByOneThatKnowsTheTerm(t *testing.T) {
	t.Parallel()
	s := startSubject(t, "")
	first := s.deathwatch(0)
	s.do("lead 7")
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.eventually("it is gone", func() bool { return gone(first) })
	s.do("lead 8") // nobody hears it
	s.kill(s.deathwatch(first))
	if got, want := s.told(), "told first 8\ntold second 8\n"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestOtherChildrenDoNotHoldThePipe(t *testing.T) {
	t.Parallel()
	s := startSubject(t, "")
	watch := s.deathwatch(0)
	s.do("lead 7")
	s.do("spawn")
	if err := s.cmd.Process.Kill(); err != nil { // and not the child
		t.Fatal(err)
	}
	s.cmd.Process.Wait()
	s.eventually("the deathwatch has spoken", func() bool { return strings.Contains(s.told(), "told second 7") })
	syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	s.eventually("the deathwatch has ended", func() bool { return gone(watch) })
}

func TestDeathwatchInheritsNothingButThePipeAndTheLog(t *testing.T) {
	t.Parallel()
	s := startSubject(t, "")
	watch := s.deathwatch(0)
	dir := fmt.Sprintf("/proc/%d/fd", watch)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink(filepath.Join(dir, "0"))
	if err != nil || !strings.HasPrefix(own, "pipe:") {
		t.Fatal(own, err)
	}
	for _, e := range entries {
		to, _ := os.Readlink(filepath.Join(dir, e.Name()))
		if strings.HasPrefix(to, "socket:") || e.Name() != "0" && to == own {
			t.Errorf("descriptor %s is %s", e.Name(), to)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE} {
		if !ignores(watch, sig) {
			t.Errorf("it does not ignore %v", sig)
		}
	}
}

func TestOneThatIsDeafHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	for _, deaf := range []string{"first", "second"} {
		s := startSubject(t, deaf)
		watch := s.deathwatch(0)
		s.do("lead 7")
		s.kill(watch)
		got := s.told()
		if n := strings.Count(got, "try "+deaf+" 7\n"); n != tries || strings.Count(got, "told") != 1 {
			t.Errorf("%s is deaf: %q", deaf, got)
		}
		if deaf == "first" && !strings.HasPrefix(got, "try first 7\ntold second 7\n") {
			t.Errorf("the second waited for a first that is deaf: %q", got)
		}
	}
}
