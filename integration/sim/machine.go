package sim

import "time"

const (
	nodeA, nodeB, nodeW = 0, 1, 2
	nodes               = 3
)

var names = [nodes]string{"a", "b", "w"}

func number(name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return -1
}

// machine is one of the three hosts.
type machine struct {
	id        int
	on        bool
	suspended bool
	// rate is how much local time passes in one unit of true time. began and epoch make clocks of different machines differ.
	rate  float64
	epoch time.Duration
	// slept is the local time spent suspended, which CLOCK_MONOTONIC does not count; sleptSince is since when it is now, in true time.
	slept, sleptSince time.Duration
	// diskDelay is what one fsync takes on average; diskStuck: none returns.
	diskDelay time.Duration
	procs     []*proc
}

// proc is a process. Its events wait while it is stopped, and die with it.
type proc struct {
	w       *World
	m       *machine
	what    string
	up      bool
	stopped bool
	// held counts the reasons for being stopped, so that two pauses that overlap end with the later one.
	held    int
	life    int
	backlog []event
}

func (p *proc) runs() bool { return p.up && !p.stopped && p.m.on && !p.m.suspended }

// boot is CLOCK_BOOTTIME of the machine, mono is CLOCK_MONOTONIC.
func (w *World) boot(m *machine) time.Duration {
	return m.epoch + time.Duration(float64(w.now)*m.rate)
}

func (w *World) mono(m *machine) time.Duration { return w.boot(m) - m.slept }

// begin starts a new life of the process.
func (p *proc) begin() {
	p.life++
	p.up, p.stopped, p.held, p.backlog = true, false, 0, nil
}

func (p *proc) end() {
	p.life++
	p.up, p.stopped, p.held, p.backlog = false, false, 0, nil
}

// hold stops the process (SIGSTOP); release lets it go on when nothing holds it any more.
func (p *proc) hold() {
	p.held++
	p.stopped = true
}

func (p *proc) release() {
	if !p.up || p.held == 0 {
		return
	}
	if p.held--; p.held == 0 {
		p.stopped = false
		p.w.thaw(p)
	}
}

// thaw lets what has waited happen, in its order, a moment apart.
func (w *World) thaw(p *proc) {
	if !p.runs() {
		return
	}
	waiting := p.backlog
	p.backlog = nil
	for i, e := range waiting {
		e.at, e.from = w.now+time.Duration(i)*10*time.Microsecond, 0 // it has arrived long ago
		w.queue.push(e)
	}
}

// after schedules fn in the process, after local time d.
func (p *proc) after(d time.Duration, fn func()) {
	p.w.queue.push(event{at: p.w.now + time.Duration(float64(d)/p.m.rate), p: p, life: p.life, fn: fn})
}

// soon is after, at some moment within d.
func (p *proc) soon(d time.Duration, fn func()) { p.after(p.w.within(d), fn) }

// disk schedules fn in the process when an fsync has returned.
func (p *proc) disk(fn func()) {
	d := p.m.diskDelay
	p.after(d/2+p.w.within(d), fn)
}

// suspend and wake are a virtual machine's pause. CLOCK_BOOTTIME goes on.
func (w *World) suspend(m *machine) {
	if m.on && !m.suspended {
		m.suspended, m.sleptSince = true, w.now
	}
}

func (w *World) wake(m *machine) {
	if !m.suspended {
		return
	}
	m.suspended = false
	m.slept += time.Duration(float64(w.now-m.sleptSince) * m.rate)
	for _, p := range m.procs {
		w.thaw(p)
	}
}
