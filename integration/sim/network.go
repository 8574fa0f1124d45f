package sim

import "time"

// link is one direction between two machines.
type link struct {
	cut int // how many failures cut it
	// loss is the chance that a message does not arrive in time.
	loss float64
}

const (
	// latency is the most that a message takes that meets no trouble.
	latency = time.Millisecond
	// heldUpTo is the latest that a message arrives which TCP had to send again.
	heldUpTo = 4 * time.Second
)

func (w *World) linked(from, to int) bool { return w.links[from][to].cut == 0 }

// both: messages arrive in both directions.
func (w *World) both(x, y int) bool { return w.linked(x, y) && w.linked(y, x) }

// deliver sends fn to the process, in the life that it has now: a connection does not outlive the process. extra is time that the receiver takes.
func (w *World) deliver(from int, to *proc, extra time.Duration, fn func()) {
	m := to.m
	if !m.on || !to.up {
		return
	}
	l := &w.links[from][m.id]
	d := 100*time.Microsecond + w.within(latency) + extra
	if l.cut > 0 || l.loss > 0 && w.rng.Float64() < l.loss {
		if w.rng.IntN(2) == 0 {
			return
		}
		d += w.within(heldUpTo) // sent again until then; if the link is still cut, it never arrives
	}
	w.queue.push(event{at: w.now + d, p: to, life: to.life, from: int8(from) + 1, fn: fn})
}
