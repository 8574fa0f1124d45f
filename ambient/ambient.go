// Package ambient keeps what this process may do beyond other users from the programs that it starts.
//
// A service that systemd starts with AmbientCapabilities= passes them on through every exec (capabilities(7)). PostgreSQL, and whatever
// gets hold of it, has no business with this machine's addresses.
package ambient

import (
	"fmt"
	"log/slog"
	"syscall"

	"golang.org/x/sys/unix"
)

// Clear empties the ambient set of all threads. The process itself keeps its capabilities. It is called before anything is started.
func Clear(log *slog.Logger) {
	if err := clear(); err != nil {
		log.Warn("programs that this one starts, PostgreSQL among them, may have its capabilities", "error", err)
	}
}

// clear can't reach all threads in a program that links C (ENOTSUP).
func clear() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("clear the ambient capabilities: %w", errno)
	}
	return nil
}
