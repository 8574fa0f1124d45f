package raftwitness

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is the time since boot, suspension included. Go's monotonic clock stands still while a machine is suspended, so a
// lease measured with it would outlive the promise it rests on.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock_gettime(CLOCK_BOOTTIME): " + err.Error()) // every Linux since 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}
