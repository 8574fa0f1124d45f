package native

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxUnconfirmed is how far the lease clock runs on after it was last seen that this engine commits. What a stall takes
// beyond it is not counted. It is longer than two rounds of keepTime and a slow commit, so that the clock is exact while the
// engine serves, and shorter than the shortest lease.
const maxUnconfirmed = 1500 * time.Millisecond

// leaseClock is the clock on which leases expire: the time that the cluster has served. An engine continues it from the
// value that was stored last, so that it stands still between two engines; and it stands still while commits hang, as they
// do from the loss of a standby until the cluster has decided what to do: no client can renew its lease then. So a lease
// loses none of its time to a failover. It is safe for concurrent use and never goes back.
type leaseClock struct {
	boot func() time.Duration // bootTime, but in tests

	mu    sync.Mutex    // guards the fields below
	runs  bool          // it has been confirmed once
	value time.Duration // the lease clock when it was confirmed last
	at    time.Duration // boot() at that moment
}

// newLeaseClock returns a clock that stands at a stored value until it is confirmed for the first time.
func newLeaseClock(stored time.Duration) *leaseClock {
	return &leaseClock{boot: bootTime, value: stored}
}

// bootTime is the time since the machine's start, suspension included: a machine that sleeps does not stop the time of
// leases by itself, it is the missing confirmation that does.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock_gettime(CLOCK_BOOTTIME): " + err.Error()) // every Linux since 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}

// now is the time on the lease clock.
func (c *leaseClock) now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, _ := c.read()
	return value
}

// confirm says that the engine begins to serve, or has just been seen to commit.
func (c *leaseClock) confirm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value, c.at = c.read()
	c.runs = true
}

// read returns the lease clock and the boot time that it belongs to. Called with mu held.
func (c *leaseClock) read() (value, boot time.Duration) {
	boot = c.boot()
	if !c.runs {
		return c.value, boot
	}
	return c.value + min(boot-c.at, maxUnconfirmed), boot
}
