package vip

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startHook runs a hook that is a shell script, with real processes. The script's $D is a directory of the test's.
func startHook(t *testing.T, script string, timeout time.Duration) (h *hook, dir string, stop func()) {
	t.Helper()
	dir = t.TempDir()
	v := VIP{Address: netip.MustParsePrefix("192.0.2.50/32"), Hook: []string{"/bin/sh", "-c", "D=" + dir + "\n" + script}, HookTimeout: timeout}
	h = newHook(&Config{Node: "a", Cluster: "c-1"}, v, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.run(ctx)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return h, dir, stop
}

// eventually waits for a condition; the bound is for machines that are very busy.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func content(path string) string {
	b, _ := os.ReadFile(path) // "" if it is not there
	return strings.TrimSpace(string(b))
}

func (h *hook) outcomeIs(want string) func() bool {
	return func() bool {
		return strings.HasPrefix(h.state().outcome, want)
	}
}

func TestHookGetsItsEnvironment(t *testing.T) {
	// KINESHIM_BIN_DIR is make test's: a hook also gets what this process has.
	h, dir, _ := startHook(t, `env | grep ^KINESHIM_ | grep -v ^KINESHIM_BIN_DIR= | sort > $D/$KINESHIM_EVENT`, 0)
	h.want(true, 7, "eth0")
	eventually(t, "acquire", h.outcomeIs("acquire: done"))
	want := "KINESHIM_ATTEMPT=1\nKINESHIM_CLUSTER=c-1\nKINESHIM_EPOCH=7\nKINESHIM_EVENT=acquire\nKINESHIM_FAMILY=ipv4\nKINESHIM_INTERFACE=eth0\n" +
		"KINESHIM_NODE=a\nKINESHIM_PREFIX_LENGTH=32\nKINESHIM_VIP=192.0.2.50"
	if got := content(filepath.Join(dir, "acquire")); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	h.want(false, 0, "eth0")
	eventually(t, "release", h.outcomeIs("release: done"))
	if got := content(filepath.Join(dir, "release")); !strings.Contains(got, "KINESHIM_EPOCH=7\nKINESHIM_EVENT=release") {
		t.Error(got)
	}
}

func TestHookIsRetried(t *testing.T) {
	h, dir, _ := startHook(t, `echo $KINESHIM_ATTEMPT >> $D/attempts; [ $KINESHIM_ATTEMPT = 2 ]`, 0)
	h.want(true, 1, "")
	eventually(t, "acquire", h.outcomeIs("acquire: done"))
	if got := content(filepath.Join(dir, "attempts")); got != "1\n2" {
		t.Error(got)
	}
	if s := h.state(); s.failures != 1 || s.failing || !s.moved {
		t.Errorf("%+v", s)
	}
}

// An alert that waits for minutes would never fire if each attempt cleared it.
func TestHookFailsUntilAnAttemptSucceeds(t *testing.T) {
	h, dir, _ := startHook(t, `[ $KINESHIM_EVENT = release ] && exit; [ $KINESHIM_ATTEMPT = 1 ] && exit 1; echo > $D/again; sleep 1000`, time.Hour)
	h.want(true, 1, "")
	eventually(t, "the second attempt", func() bool { _, err := os.Stat(filepath.Join(dir, "again")); return err == nil })
	if s := h.state(); !s.failing || s.moved || s.failures != 1 || !strings.HasPrefix(s.outcome, "acquire: failed 1 times") {
		t.Errorf("%+v", s)
	}
	h.want(false, 0, "")
	eventually(t, "release", h.outcomeIs("release: done"))
	if s := h.state(); s.failing || s.moved {
		t.Errorf("%+v", s)
	}
}

func TestSlowHookIsKilledWithItsChildren(t *testing.T) {
	h, dir, _ := startHook(t, `sleep 1000 & echo $! > $D/child; wait`, 300*time.Millisecond)
	h.want(true, 1, "")
	eventually(t, "the failure", h.outcomeIs("acquire: failed"))
	if got := h.state().outcome; !strings.Contains(got, "longer than 300ms") {
		t.Error(got)
	}
	pid, err := strconv.Atoi(content(filepath.Join(dir, "child")))
	if err != nil {
		t.Skip("the machine is so busy that the script was killed before it began")
	}
	eventually(t, "the child's end", func() bool { return gone(pid) })
}

// gone: the process does not run any more. Who reaps an orphan, and when, is not ours.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil && syscall.Kill(pid, 0) != nil || strings.Contains(string(b), ") Z ")
}

// What it leaves in the background does not go on for ever, and does not make it fail.
func TestHookThatLeavesAChildHasSucceeded(t *testing.T) {
	h, dir, _ := startHook(t, `echo x >> $D/runs; sleep 1000 & echo $! > $D/child; exit 0`, time.Hour)
	h.want(true, 1, "")
	eventually(t, "acquire", h.outcomeIs("acquire: done"))
	pid, err := strconv.Atoi(content(filepath.Join(dir, "child")))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child's end", func() bool { return gone(pid) })
	if s := h.state(); s.failures != 0 || content(filepath.Join(dir, "runs")) != "x" {
		t.Errorf("%+v, runs %q", s, content(filepath.Join(dir, "runs")))
	}
}

func TestReleaseEndsAnAcquireThatRuns(t *testing.T) {
	h, dir, _ := startHook(t, `[ $KINESHIM_EVENT = release ] && exit; echo > $D/began; sleep 1000`, time.Hour)
	h.want(true, 1, "")
	eventually(t, "its begin", func() bool { _, err := os.Stat(filepath.Join(dir, "began")); return err == nil })
	h.want(false, 0, "")
	eventually(t, "release", h.outcomeIs("release: done"))
}

func TestNothingIsReleasedThatWasNotAcquired(t *testing.T) {
	h, dir, stop := startHook(t, `echo > $D/ran`, 0)
	h.want(false, 0, "")
	stop()
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("the hook ran")
	}
}

func TestProcessThatEndsReleases(t *testing.T) {
	h, dir, stop := startHook(t, `echo $KINESHIM_EVENT >> $D/events`, 0)
	h.want(true, 1, "")
	eventually(t, "acquire", h.outcomeIs("acquire: done"))
	stop()
	if got := content(filepath.Join(dir, "events")); got != "acquire\nrelease" {
		t.Error(got)
	}
}

func TestReleaseThatTheEndCutsShortIsRunAgain(t *testing.T) {
	h, dir, stop := startHook(t, `echo $KINESHIM_EVENT >> $D/events; [ $KINESHIM_EVENT = acquire ] || [ -e $D/again ] || { touch $D/again; sleep 1000; }`, time.Hour)
	h.want(true, 1, "")
	eventually(t, "acquire", h.outcomeIs("acquire: done"))
	h.want(false, 0, "")
	eventually(t, "release", func() bool { _, err := os.Stat(filepath.Join(dir, "again")); return err == nil })
	stop()
	if got := content(filepath.Join(dir, "events")); got != "acquire\nrelease\nrelease" {
		t.Error(got)
	}
}

func TestHookThatIsMissingIsReported(t *testing.T) {
	h := newHook(&Config{}, VIP{Hook: []string{"/nonexistent/hook"}}, slog.New(slog.DiscardHandler))
	if h.attempt(t.Context(), hookEvent{acquire: true}, 1) {
		t.Error("it ran")
	}
	if got := h.state().outcome; !strings.Contains(got, "no such file") {
		t.Error(got)
	}
}

func TestHookOnlyLeavesTheAddressAlone(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	host, role := newFakeHost(), &fakeRole{changed: make(chan struct{}, 1)}
	r, err := New(Config{
		VIPs: []VIP{{Address: netip.MustParsePrefix("203.0.113.5/32"), HookOnly: true, Hook: []string{"/bin/sh", "-c", "echo $KINESHIM_EVENT >> " + ran}}},
		Role: role, Host: host, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx) // always nil
	}()
	role.set(1)
	eventually(t, "acquire", func() bool { return content(ran) == "acquire" })
	role.set(0)
	eventually(t, "release", func() bool { return content(ran) == "acquire\nrelease" })
	cancel()
	<-done
	if log := host.log(); len(log) != 0 {
		t.Error(log)
	}
	if s := r.Status()[0]; s.Held || s.Problem != "" || !s.HookOnly {
		t.Errorf("%+v", s)
	}
}
