package joining

import (
	"net"
	"sync"
	"time"

	"kineshim/quiet"
	"kineshim/turnstile"
)

// clipped bounds what is logged of a guest's own words.
const clipped = 200

// refusals remembers what was said of guests: anybody who reaches the port can be refused as often as he likes.
type refusals struct {
	mu   sync.Mutex     // guards said
	said *quiet.Repeats // nil: nothing yet
}

// refused says who did not join, and why: its first time, and then now and then.
func (h *Host) refused(what string, c net.Conn, host string, why error) {
	r, reason := &h.refusals, why.Error()
	reason, host = reason[:min(len(reason), errorMax)], host[:min(len(host), clipped)]
	r.mu.Lock()
	if r.said == nil {
		r.said = quiet.New(quiet.Often)
	}
	line := r.said.Happened(time.Now(), turnstile.Source(c.RemoteAddr()), what+reason)
	r.mu.Unlock()
	if line.Say {
		h.Log.Warn(what, "from", c.RemoteAddr().String(), "host", host, "why", reason, "unsaid", line.Unsaid)
	}
}
