package priority

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary a process that raises its priority and says what it has come to.
const childEnv = "PRIORITY_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "grandchild":
		n, err := current()
		fmt.Println("grandchild", n, err)
		os.Exit(0)
	}
	child()
	os.Exit(0)
}

func child() {
	// Threads that are there before, and one that comes after.
	block := make(chan struct{})
	for range 4 {
		go func() { runtime.LockOSThread(); <-block }()
	}
	runtime.Gosched()
	Raise(slog.New(slog.NewTextHandler(os.Stdout, nil)))
	for range 4 {
		go func() { runtime.LockOSThread(); <-block }()
	}
	runtime.Gosched()
	entries, _ := os.ReadDir("/proc/self/task")
	for _, e := range entries {
		var tid int
		fmt.Sscan(e.Name(), &tid)
		p, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
		fmt.Println("thread", 20-p, err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=grandchild")
	out, err := cmd.CombinedOutput()
	fmt.Println(strings.TrimSpace(string(out)), err)
}

// run is what the child says, started with a niceness of its own by wrap.
func run(t *testing.T, wrap ...string) string {
	t.Helper()
	args := append(wrap, os.Args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"=child")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func mayRaise(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may raise priorities")
	}
}

func TestEveryThreadAndEveryChildIsRaised(t *testing.T) {
	mayRaise(t)
	out := run(t)
	if !strings.Contains(out, "is raised") || strings.Count(out, "thread -10") < 5 || strings.Count(out, "thread") != strings.Count(out, "thread -10") {
		t.Errorf("not all are raised:\n%s", out)
	}
	if !strings.Contains(out, "grandchild -10") {
		t.Errorf("what it starts is not raised:\n%s", out)
	}
}

func TestABetterPriorityIsKept(t *testing.T) {
	mayRaise(t)
	if out := run(t, "nice", "-n", "-40"); !strings.Contains(out, "high already") || strings.Contains(out, "thread -10") {
		t.Errorf("a niceness of -20 is changed:\n%s", out)
	}
}

func TestWithoutThePermissionNothingChangesAndTheLogSaysSo(t *testing.T) {
	mayRaise(t)
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("no setpriv")
	}
	out := run(t, "setpriv", "--reuid=65534", "--bounding-set=-all", "--inh-caps=-all", "--")
	if !strings.Contains(out, "could not be raised") || strings.Contains(out, "-10 <nil>") {
		t.Errorf("%s", out)
	}
}

func TestThreadsThatBeginMeanwhileAreFound(t *testing.T) {
	dir := t.TempDir()
	begin := func(tid int) {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(tid)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	begin(1)
	begin(2)
	var got []int
	err := raise(dir, func(tid int) error {
		got = append(got, tid)
		if tid < 6 {
			begin(tid + 2) // started before its parent was raised
		}
		if tid == 3 {
			return unix.ESRCH
		}
		return nil
	})
	if err != nil || len(got) != 7 {
		t.Errorf("raised %v: %v", got, err)
	}
	if err := raise(dir, func(int) error { return unix.EACCES }); !errors.Is(err, unix.EACCES) {
		t.Errorf("a refusal: %v", err)
	}
	next := 10
	if err := raise(dir, func(int) error { begin(next); next++; return nil }); err == nil {
		t.Error("threads without end are raised")
	}
}

func TestThreadsThatCameToLightLateAreRaised(t *testing.T) {
	dir := t.TempDir()
	nices := map[int]int{11: 0, 12: niceness, 13: niceness - 5, 14: 5, 15: 0}
	for tid := range nices {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint(tid)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	of := func(tid int) (int, error) {
		if tid == 15 { // it has ended
			return 0, unix.ESRCH
		}
		return nices[tid], nil
	}
	n, err := raiseLate(dir, of, func(tid int) error { nices[tid] = niceness; return nil })
	if err != nil || n != 2 || nices[11] != niceness || nices[13] != niceness-5 || nices[14] != niceness {
		t.Errorf("%d, %v: %v", n, err, nices)
	}
	if n, err := raiseLate(dir, of, func(int) error { t.Error("raised again"); return nil }); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
	if _, err := raiseLate(dir, func(int) (int, error) { return 0, nil }, func(int) error { return unix.EPERM }); !errors.Is(err, unix.EPERM) {
		t.Errorf("refused: %v", err)
	}
}
