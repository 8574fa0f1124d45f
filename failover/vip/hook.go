package vip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// DefaultHookTimeout is ample for a call of a cloud's API.
	DefaultHookTimeout = 10 * time.Second
	// hookRetryFirst and hookRetryMax bound the pause after a run that failed. An acquire is tried for as long as the role lasts.
	hookRetryFirst, hookRetryMax = time.Second, 30 * time.Second
	// releaseAttempts bounds a release: the other node's acquire makes it needless.
	releaseAttempts = 3
	// lastRelease bounds the release of a process that ends.
	lastRelease = 5 * time.Second
	// maxHookOutput is how much of a run's output is logged, from its end.
	maxHookOutput = 4 << 10
)

// hookEvent is what a hook is run for.
type hookEvent struct {
	acquire bool
	epoch   uint64
	// place is the interface that the address is for; "" if there is none.
	place string
}

func (e hookEvent) String() string {
	if e.acquire {
		return "acquire"
	}
	return "release"
}

// hook runs a VIP's command in a goroutine of its own, for the newest event. A nil hook does nothing.
type hook struct {
	argv          []string
	timeout       time.Duration
	vip           netip.Prefix
	node, cluster string
	log           *slog.Logger
	wake          chan struct{} // of size 1

	mu      sync.Mutex // guards the fields below
	newest  hookEvent
	pending bool // newest has not been begun
	began   bool // an acquire has been begun, and no release is over since: there is something to release
	hookState
}

// hookState is what Status says of a hook.
type hookState struct {
	// outcome is what became of the newest event: "acquire: running", "release: failed 2 times: ..."; "" before the first.
	outcome string
	// failing: its last attempt failed. moved: it is an acquire, and done.
	failing, moved bool
	// failures counts attempts since the process started.
	failures uint64
}

func newHook(c *Config, v VIP, log *slog.Logger) *hook {
	if len(v.Hook) == 0 {
		return nil
	}
	timeout := v.HookTimeout
	if timeout == 0 {
		timeout = DefaultHookTimeout
	}
	return &hook{argv: v.Hook, timeout: timeout, vip: v.Address, node: c.Node, cluster: c.Cluster, log: log, wake: make(chan struct{}, 1)}
}

// want makes an event the newest, which ends the run for another. It does not block.
func (h *hook) want(acquire bool, epoch uint64, place string) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !acquire && !h.began && !h.pending {
		return
	}
	if !acquire && epoch == 0 {
		epoch = h.newest.epoch // the one that has ended
	}
	h.newest, h.pending = hookEvent{acquire, epoch, place}, true
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// state is for Status.
func (h *hook) state() hookState {
	if h == nil {
		return hookState{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hookState
}

// set notes what has become of the newest event; failures are those to add.
func (h *hook) set(s hookState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.failures += h.failures
	h.hookState = s
}

// begin returns the newest event, if it has not been begun. From then on wake means that there is a newer one.
func (h *hook) begin() (hookEvent, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.wake:
	default:
	}
	e, yes := h.newest, h.pending
	h.pending = false
	h.began = h.began || yes && e.acquire
	return e, yes
}

// ended notes that a release is over, whatever it came to, unless it was cut short.
func (h *hook) ended(ctx context.Context, e hookEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !e.acquire && !h.pending && ctx.Err() == nil {
		h.began = false
	}
}

// run serves events until ctx ends, then runs a last release if there is anything to release.
func (h *hook) run(ctx context.Context) {
	if h == nil {
		return
	}
	runtime.LockOSThread() // the death signal of the hook's process is tied to the thread that started it
	defer runtime.UnlockOSThread()
	for ctx.Err() == nil {
		if e, yes := h.begin(); yes {
			h.serve(ctx, e)
			h.ended(ctx, e)
		}
		select {
		case <-h.wake:
		case <-ctx.Done():
		}
	}
	h.mu.Lock()
	e, due := h.newest, h.began
	h.mu.Unlock()
	if due {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastRelease)
		defer cancel()
		e.acquire = false
		h.attempt(last, e, 1)
	}
}

// serve runs the hook for an event until it succeeds, another event is newer, or ctx ends.
func (h *hook) serve(ctx context.Context, e hookEvent) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		select {
		case <-h.wake: // put back, for run
			select {
			case h.wake <- struct{}{}:
			default:
			}
			cancel()
		case <-ctx.Done():
		}
	})
	pause := hookRetryFirst
	for n := 1; ; n++ {
		if h.attempt(ctx, e, n) || ctx.Err() != nil || !e.acquire && n == releaseAttempts {
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, hookRetryMax)
	}
}

// attempt runs the command once. It and all its children are killed when it takes too long.
func (h *hook) attempt(ctx context.Context, e hookEvent, n int) bool {
	if n == 1 { // until another attempt is over, what is known of the hook is that it fails
		h.set(hookState{outcome: e.String() + ": running"})
	}
	log := h.log.With("hook", h.argv[0], "event", e.String(), "epoch", e.epoch, "attempt", n)
	began := time.Now()
	bound, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	cmd := exec.CommandContext(bound, h.argv[0], h.argv[1:]...)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), h.environment(e, n)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for children that have left the group and keep the output open
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // it has succeeded, and left somebody behind who holds its output
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		err = nil
	}
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case err == nil:
		h.set(hookState{outcome: e.String() + ": done", moved: e.acquire})
		log.Info("the virtual address's hook has run", "took", took, "output", out.String())
		return true
	case ctx.Err() != nil:
		h.set(hookState{outcome: e.String() + ": given up"})
		log.Info("the virtual address's hook is ended: the role has changed, or kineshim stops", "took", took, "output", out.String())
		return false
	case errors.Is(bound.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("it took longer than %v and was killed", h.timeout)
	}
	h.set(hookState{outcome: fmt.Sprintf("%s: failed %d times: %v", e, n, err), failing: true, failures: 1})
	log.Warn("the virtual address's hook failed", "error", err, "took", took, "output", out.String())
	return false
}

// environment is documented in docs/configuration.md.
func (h *hook) environment(e hookEvent, n int) []string {
	family := "ipv6"
	if h.vip.Addr().Is4() {
		family = "ipv4"
	}
	return []string{
		"KINESHIM_EVENT=" + e.String(), "KINESHIM_VIP=" + h.vip.Addr().String(), fmt.Sprintf("KINESHIM_PREFIX_LENGTH=%d", h.vip.Bits()),
		"KINESHIM_FAMILY=" + family, "KINESHIM_INTERFACE=" + e.place, "KINESHIM_NODE=" + h.node, "KINESHIM_CLUSTER=" + h.cluster,
		fmt.Sprintf("KINESHIM_EPOCH=%d", e.epoch), fmt.Sprintf("KINESHIM_ATTEMPT=%d", n),
	}
}

// tail keeps the end of what is written to it. exec writes from one goroutine only, as stdout and stderr are the same.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if extra := len(t.b) - maxHookOutput; extra > 0 {
		t.b = append(t.b[:0], t.b[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(bytes.ToValidUTF8(t.b, []byte("?")))) }
