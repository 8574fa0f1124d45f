package doctor

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const clocksCheck = "clocks"

// maxApart is how far clocks may be apart without a word. Certificates are made an hour into the past, so that much more does no harm; but logs of two
// machines cannot be read beside each other.
const maxApart = 5 * time.Second

// whyClocks is said wherever a clock is wrong.
const whyClocks = "it matters for certificates, and for reading two logs side by side; which node serves, and what it answers, depends on no clock"

// Clock is the kernel's.
type Clock interface {
	// Synchronised says whether something keeps it right, and how wrong it may be at most, as far as the kernel knows.
	Synchronised() (yes bool, maxError time.Duration, err error)
}

// checkClocks judges this machine's clock and those of the members that have answered.
func (n *node) checkClocks(clock Clock, all []reached) []Finding {
	f := notes{check: clocksCheck}
	switch yes, maxError, err := clock.Synchronised(); {
	case err != nil:
		f.warn("timedatectl", "the kernel does not say whether its clock is synchronised: %v", err)
	case !yes:
		f.warn("timedatectl set-ntp true, or install chrony", "nothing keeps this machine's clock right: the kernel calls it unsynchronised; %s", whyClocks)
	default:
		f.ok("this machine's clock is synchronised, to within %s", short(maxError))
	}
	for _, r := range all {
		if r.asked && r.askErr == nil {
			n.judgeClock(&f, r)
		}
	}
	return f.all
}

func (n *node) judgeClock(f *notes, r reached) {
	a := r.answer
	if a.Clock.IsZero() {
		f.ok("%s does not say what time it has: its version is older than this one", r.member.name)
		return
	}
	within := a.Answered.Sub(a.Asked) / 2
	ahead := a.Clock.Sub(a.Asked.Add(within))
	said := fmt.Sprintf("the clock of %s is %s (within %s)", r.member.name, apart(ahead), short(within))
	if ahead.Abs() <= maxApart+within {
		f.ok("%s", said)
		return
	}
	f.warn(fmt.Sprintf("find out which of the two is wrong: timedatectl, here and on %s", r.member.name), "%s; %s", said, whyClocks)
}

// apart says which clock goes before the other.
func apart(ahead time.Duration) string {
	if ahead < 0 {
		return short(-ahead) + " behind this one"
	}
	return short(ahead) + " ahead of this one"
}

// kernelClock asks adjtimex(2), and changes nothing.
type kernelClock struct{}

// Synchronised reads STA_UNSYNC, which the kernel sets again when nobody has corrected the clock for some hours.
func (kernelClock) Synchronised() (bool, time.Duration, error) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, 0, fmt.Errorf("adjtimex: %w", err)
	}
	return t.Status&unix.STA_UNSYNC == 0, time.Duration(t.Maxerror) * time.Microsecond, nil
}
