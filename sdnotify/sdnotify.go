// Package sdnotify tells systemd how this process is, if systemd has started it and wants to know: sd_notify(3).
package sdnotify

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// signsPerWatchdog is how many signs of life fit into WatchdogSec. systemd asks for two at least; with four, two may be lost.
	signsPerWatchdog = 4
	// sendWithin bounds the wait for systemd to take what must not be lost: its queue may be full for a moment.
	sendWithin = 5 * time.Second
)

// Notifier speaks with systemd. Its methods may be called from any goroutine; without systemd they do nothing.
type Notifier struct {
	log *slog.Logger
	// fd is a datagram socket, -1 without systemd.
	fd int
	to unix.Sockaddr
	// watchdog is WatchdogSec; 0: nobody watches.
	watchdog time.Duration

	mu sync.Mutex // guards the fields below
	// sign is when the last sign of life was sent. patient: systemd was last told to wait longer than watchdog.
	sign    time.Time
	patient bool
	status  string
}

// New reads what systemd has put into the environment, and takes it out, so that no other program speaks for this process: a PostgreSQL
// that is built for systemd would.
func New(log *slog.Logger) *Notifier {
	n := &Notifier{log: log, fd: -1}
	socket, usec, pid := os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	for _, v := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		os.Unsetenv(v)
	}
	if socket == "" {
		return n
	}
	if !strings.HasPrefix(socket, "/") && !strings.HasPrefix(socket, "@") {
		log.Warn("systemd is not told how this process is", "error", fmt.Errorf("NOTIFY_SOCKET=%s is no unix socket", socket))
		return n
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		bound := unix.NsecToTimeval(int64(sendWithin))
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &bound)
	}
	if err != nil {
		log.Warn("systemd is not told how this process is", "error", err)
		return n
	}
	n.fd, n.to = fd, &unix.SockaddrUnix{Name: socket}
	if us, err := strconv.ParseInt(usec, 10, 64); err == nil && us > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(us) * time.Microsecond
	}
	return n
}

// Ready says that the process serves. It may be said again.
func (n *Notifier) Ready() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.send(0, "READY=1")
}

// Status shows one line in `systemctl status`. One that is shown already is not sent again.
func (n *Notifier) Status(line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if line == n.status {
		return
	}
	if n.send(0, "STATUS="+strings.ReplaceAll(line, "\n", " ")) {
		n.status = line
	}
}

// Stopping says that the process stops, for which it may need that long.
func (n *Notifier) Stopping(within time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.send(0, "STOPPING=1", usec("EXTEND_TIMEOUT_USEC", within))
}

// Patience says that the next sign of life may take that long, as when no loop turns because the work is being ended. It holds until that
// sign.
func (n *Notifier) Patience(within time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watchdog > 0 && within > n.watchdog && n.send(0, usec("WATCHDOG_USEC", within)) {
		n.patient = true
	}
}

// Turned is a sign of life. It is to be called by the very loop whose standstill systemd is to notice, as often as that turns: only as many
// are sent as are needed, and it does not wait.
func (n *Notifier) Turned() {
	if !n.mu.TryLock() {
		return // something else is being said, for which systemd may need a moment: the next turn comes soon
	}
	defer n.mu.Unlock()
	if n.watchdog == 0 || !n.patient && time.Since(n.sign) < n.watchdog/signsPerWatchdog {
		return
	}
	sign := []string{"WATCHDOG=1"}
	if n.patient {
		sign = []string{usec("WATCHDOG_USEC", n.watchdog), "WATCHDOG=1"}
	}
	if n.send(unix.MSG_DONTWAIT, sign...) {
		n.sign, n.patient = time.Now(), false
	}
}

// Every is how often Turned is to be called at least, by a loop that would turn more rarely by itself; 0: nobody watches.
func (n *Notifier) Every() time.Duration { return n.watchdog / signsPerWatchdog }

// Close ends the speaking with systemd.
func (n *Notifier) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd >= 0 {
		unix.Close(n.fd)
		n.fd = -1
	}
}

func usec(name string, d time.Duration) string {
	return name + "=" + strconv.FormatInt(d.Microseconds(), 10)
}

// send says whether systemd has got it. A sign of life that does not fit into its queue is not worth a word: the next one comes soon. The
// caller holds mu.
func (n *Notifier) send(flags int, lines ...string) bool {
	if n.fd < 0 {
		return false
	}
	err := unix.Sendto(n.fd, []byte(strings.Join(lines, "\n")), flags|unix.MSG_NOSIGNAL, n.to)
	if err != nil && (flags&unix.MSG_DONTWAIT == 0 || !errors.Is(err, unix.EAGAIN)) {
		n.log.Warn("tell systemd how this process is", "what", lines[0], "error", err)
	}
	return err == nil
}
