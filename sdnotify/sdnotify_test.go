package sdnotify

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// patience bounds waits for what must come, on a machine that may be very slow.
const patience = 20 * time.Second

// listen makes what systemd would, and the environment of a process that it starts.
func listen(t *testing.T, socket string, watchdog time.Duration) *net.UnixConn {
	t.Helper()
	ln, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	return ln
}

func heard(t *testing.T, ln *net.UnixConn) string {
	t.Helper()
	if err := ln.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := ln.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestWhatIsSaid(t *testing.T) {
	for _, socket := range []string{filepath.Join(t.TempDir(), "notify"), "@kineshim-sdnotify-" + strconv.Itoa(os.Getpid())} {
		ln := listen(t, socket, time.Hour)
		n := New(slog.New(slog.DiscardHandler))
		n.Ready()
		n.Status("a serves")
		n.Status("a serves") // is known
		n.Status("b\nserves")
		n.Turned()
		n.Turned() // too soon
		n.Stopping(time.Minute)
		n.Patience(2 * time.Hour)
		n.Turned() // the patience is over
		n.Patience(time.Minute)
		n.Turned()
		n.Ready()
		for _, want := range []string{"READY=1", "STATUS=a serves", "STATUS=b serves", "WATCHDOG=1", "STOPPING=1\nEXTEND_TIMEOUT_USEC=60000000",
			"WATCHDOG_USEC=7200000000", "WATCHDOG_USEC=3600000000\nWATCHDOG=1", "READY=1"} {
			if got := heard(t, ln); got != want {
				t.Errorf("%s: heard %q, want %q", socket, got, want)
			}
		}
		n.Close()
		n.Ready() // nobody hears it, and nothing breaks
		for _, v := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
			if s, there := os.LookupEnv(v); there {
				t.Errorf("children get %s=%s", v, s)
			}
		}
	}
}

func TestSignsOfLifeComeOftenEnough(t *testing.T) {
	ln := listen(t, filepath.Join(t.TempDir(), "notify"), 40*time.Millisecond)
	n := New(slog.New(slog.DiscardHandler))
	defer n.Close()
	if n.Every() != 10*time.Millisecond {
		t.Errorf("every %v", n.Every())
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			n.Turned()
			select {
			case <-time.After(time.Millisecond):
			case <-stop:
				return
			}
		}
	}()
	for range 5 {
		if got := heard(t, ln); got != "WATCHDOG=1" {
			t.Errorf("heard %q", got)
		}
	}
	close(stop)
	<-done
}

// systemd's queue may be full: the loop that turns must not wait for it.
func TestFullQueueDoesNotHoldTheLoopUp(t *testing.T) {
	listen(t, filepath.Join(t.TempDir(), "notify"), time.Nanosecond*2000) // a sign at each turn
	n := New(slog.New(slog.DiscardHandler))
	defer n.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2000 { // net.unix.max_dgram_qlen is 512 at most, as a rule
			n.mu.Lock()
			n.sign = time.Time{}
			n.mu.Unlock()
			n.Turned()
		}
	}()
	select {
	case <-done:
	case <-time.After(sendWithin - time.Second):
		t.Fatal("it waits")
	}
}

// Nor for what somebody else says meanwhile.
func TestWhatIsBeingSaidDoesNotHoldTheLoopUp(t *testing.T) {
	listen(t, filepath.Join(t.TempDir(), "notify"), time.Minute)
	n := New(slog.New(slog.DiscardHandler))
	defer n.Close()
	n.mu.Lock() // as Status has it while systemd's queue is full
	defer n.mu.Unlock()
	done := make(chan struct{})
	go func() { n.Turned(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("it waits")
	}
}

func TestSomebodyElsesWatchdogIsNotOurs(t *testing.T) {
	listen(t, filepath.Join(t.TempDir(), "notify"), time.Minute)
	t.Setenv("WATCHDOG_PID", "1")
	n := New(slog.New(slog.DiscardHandler))
	defer n.Close()
	if n.Every() != 0 {
		t.Errorf("every %v", n.Every())
	}
}

func TestWithoutSystemdNothingIsSaid(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := New(slog.New(slog.DiscardHandler))
	n.Ready()
	n.Turned()
	n.Stopping(time.Second)
	n.Close()
	if n.Every() != 0 || n.fd != -1 {
		t.Errorf("every %v, descriptor %d", n.Every(), n.fd)
	}
}
