package sim

import (
	"fmt"
	"time"
)

// Kind is a kind of failure, or of what an operator does.
type Kind string

// The failures. Each heals by itself after its duration.
const (
	// Kill ends kineshim or the witness; it is started again after the duration. KillMute: and nobody is left to tell the others.
	Kill, KillMute Kind = "kill", "kill-mute"
	// KillPostgres ends PostgreSQL, CrashBackend one of its backends.
	KillPostgres, CrashBackend Kind = "kill-postgres", "crash-backend"
	// Power cuts the machine's power.
	Power Kind = "power"
	// Freeze stops kineshim or the witness, FreezePostgres PostgreSQL, FreezeBoth both (SIGSTOP).
	Freeze, FreezePostgres, FreezeBoth Kind = "freeze", "freeze-postgres", "freeze-both"
	// Suspend is a pause of the virtual machine.
	Suspend Kind = "suspend"
	// Cut cuts the link between Node and Other in both directions, OneWay from Node to Other only, Isolate all links of Node.
	Cut, OneWay, Isolate Kind = "cut", "one-way", "isolate"
	// Loss loses a part of the messages between Node and Other.
	Loss Kind = "loss"
	// SlowDisk makes each fsync of the machine take long.
	SlowDisk Kind = "slow-disk"
	// Wipe replaces PostgreSQL's data directory by nothing, Restore by an older copy, while kineshim is down. Only if the cluster can do without.
	Wipe, Restore Kind = "wipe", "restore"
	// WipeVoter replaces the witness's disk.
	WipeVoter Kind = "wipe-voter"
	// Switchover and Pause are an operator's; Force too, who promotes a node that may lack writes.
	Switchover, Pause, Force Kind = "switchover", "pause", "force"
	// Stop is a service manager's: kineshim hands over and ends in good order, and is started again after the duration.
	Stop Kind = "stop"
)

// Fault is one failure.
type Fault struct {
	Kind        Kind
	Node, Other int
	At, For     time.Duration
	// On, if not "", is what the node By must do first, after At: the failure comes within Late of it.
	On   string
	By   int
	Late time.Duration
	// Rate is Loss's.
	Rate float64
}

func (f Fault) String() string {
	s := fmt.Sprintf("%8.3fs %s %s", f.At.Seconds(), f.Kind, names[f.Node])
	switch f.Kind {
	case Cut, OneWay, Loss:
		s += "-" + names[f.Other]
	}
	if f.On != "" {
		s += fmt.Sprintf(" at %s's %q, within %v", names[f.By], f.On, f.Late)
	}
	if f.Rate > 0 {
		s += fmt.Sprintf(" of %.0f %%", 100*f.Rate)
	}
	return s + fmt.Sprintf(" for %v", f.For.Round(ms))
}

// Add schedules the failures, counted from now.
func (w *World) Add(faults ...Fault) {
	for i := range faults {
		f := faults[i]
		f.At += w.now
		w.at(f.At, func() {
			if f.On != "" {
				w.traps = append(w.traps, &f)
				return
			}
			w.inject(&f)
		})
	}
}

// cue lets the failures come that wait for it.
func (w *World) cue(node int, what string) {
	kept := w.traps[:0]
	for _, f := range w.traps {
		if f.On != what || f.By != node {
			kept = append(kept, f)
			continue
		}
		w.at(w.now+w.within(f.Late), func() { w.inject(f) })
	}
	w.traps = kept
}

// inject lets the failure come.
func (w *World) inject(f *Fault) {
	if w.opt.Trace {
		w.say(-1, "*** "+f.String(), "")
	}
	until := func(fn func()) { w.at(w.now+f.For, fn) }
	m, v := w.mach[f.Node], w.voters[f.Node]
	switch f.Kind {
	case Kill, KillMute:
		w.kill(f.Node, f.Kind == Kill)
		until(func() { w.startNode(f.Node) })
	case Power:
		w.powerOff(f.Node)
		until(func() { w.powerOn(f.Node) })
	case Freeze:
		w.freeze(v.p, f.For)
	case Suspend:
		w.suspend(m)
		until(func() { w.wake(m) })
	case Cut, OneWay:
		w.cut(f.Node, f.Other, f.Kind == Cut, f.For)
	case Isolate:
		w.cut(f.Node, (f.Node+1)%nodes, true, f.For)
		w.cut(f.Node, (f.Node+2)%nodes, true, f.For)
	case Loss:
		x, y := &w.links[f.Node][f.Other], &w.links[f.Other][f.Node]
		x.loss, y.loss = f.Rate, f.Rate
		until(func() { x.loss, y.loss = 0, 0 })
	case SlowDisk:
		m.diskDelay = f.For / 8
		until(func() { m.diskDelay = 500 * time.Microsecond })
	case WipeVoter:
		w.wipeVoter(v)
		until(func() { w.startNode(f.Node) })
	default:
		if f.Node != nodeW {
			w.injectData(f, w.kines[f.Node])
		}
	}
}

func (w *World) injectData(f *Fault, k *kine) {
	pg := k.pg
	switch f.Kind {
	case KillPostgres:
		pg.die()
	case CrashBackend:
		pg.crashBackend()
	case FreezePostgres:
		w.freeze(pg.p, f.For)
	case FreezeBoth:
		w.freeze(pg.p, f.For)
		w.freeze(k.p, f.For)
	case Wipe, Restore:
		// After a forced promotion, an older copy may be of another history that has the same timeline: nothing tells it from the present one.
		if w.expendable(k) && (f.Kind == Wipe || w.check.forced == 0) {
			w.kill(f.Node, true)
			w.lose(k, f.Kind == Restore)
			w.at(w.now+f.For, func() { w.startNode(f.Node) })
		}
	case Switchover:
		if k.p.runs() {
			k.switchover()
		}
	case Stop:
		if k.p.runs() {
			k.leave(f.For)
		}
	case Pause:
		k.setPaused(true)
		w.at(w.now+f.For, func() { k.setPaused(false) })
	case Force:
		w.insist(k, w.now+f.For)
	}
}

// insist is an operator who tries to force the promotion until it is begun, or until he has given up.
func (w *World) insist(k *kine, until time.Duration) {
	if !w.force(k) && w.now < until {
		w.at(w.now+100*ms, func() { w.insist(k, until) })
	}
}

func (w *World) freeze(p *proc, d time.Duration) {
	if !p.up {
		return
	}
	p.hold()
	life := p.life
	w.at(w.now+d, func() {
		if p.life == life {
			p.release()
		}
	})
}

func (w *World) cut(x, y int, both bool, d time.Duration) {
	w.links[x][y].cut++
	w.at(w.now+d, func() { w.links[x][y].cut-- })
	if both {
		w.links[y][x].cut++
		w.at(w.now+d, func() { w.links[y][x].cut-- })
	}
}
