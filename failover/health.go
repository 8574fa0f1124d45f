package failover

import (
	"context"
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/disk"
)

const (
	// damageEvery is how often PostgreSQL is asked for checksum failures.
	damageEvery = 5 * time.Second
	// damageTimeout ends a question that a frozen PostgreSQL does not answer.
	damageTimeout = 2 * time.Second
	// switchAgain is the pause after a switchover that the agent began by itself: what has not helped or not come about is not tried again at once.
	switchAgain = time.Minute
)

// damagedText says in words, short enough for a column of shimctl status, what checksum failures mean.
const damagedText = "its data are damaged (wrong checksums, see postgres.log)"

// newDisk makes the watch over the data directory's disk; nil if none is configured.
func (a *Agent) newDisk() *disk.Watch {
	if a.cfg.DataDir == "" {
		return nil
	}
	return &disk.Watch{Dir: a.cfg.DataDir, Data: a.cfg.PostgresDir, Changed: func(s disk.State) {
		if t := s.Trouble(); t != "" {
			a.log.Warn("disk: "+t, "dir", a.cfg.DataDir)
		} else {
			a.log.Info("the disk is well again", "dir", a.cfg.DataDir, "freeBytes", s.Free)
		}
		a.beat()
		a.wake()
	}}
}

// diskInput is what decide needs to know. a.mu is held.
func (a *Agent) diskInput() decide.Disk {
	d := decide.Disk{Damaged: a.local.data.Damaged}
	if a.disk != nil {
		s := a.disk.State()
		d.Low, d.Roomy, d.Full, d.Failing = s.Low, s.Roomy, s.Full, s.Failing != ""
	}
	return d
}

// trouble says in words what is wrong with this node's disk or data; "": nothing is. a.mu is held.
func (a *Agent) trouble() string {
	if a.disk != nil {
		if t := a.disk.State().Trouble(); t != "" {
			return t
		}
	}
	if a.local.data.Damaged {
		return damagedText
	}
	return ""
}

// watchDamage asks PostgreSQL for checksum failures until ctx ends.
func (a *Agent) watchDamage(ctx context.Context) {
	every(ctx, damageEvery, func() {
		if a.isUp() {
			a.checkDamage(ctx)
		}
	})
}

func (a *Agent) checkDamage(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, damageTimeout)
	defer cancel()
	failures, err := a.pg.CheckDamage(ctx)
	if err != nil {
		a.log.Debug("check damage", "error", err)
	}
	a.mu.Lock()
	known := a.local.data.Damaged
	a.mu.Unlock()
	if failures == 0 || known {
		return
	}
	a.log.Error("PostgreSQL has found damaged pages: look at the disk", "checksumFailures", failures)
	a.mu.Lock()
	a.local.data.Damaged = true // also if it could not be written down
	a.local.damageFound++
	a.mu.Unlock()
	a.beat()
	a.wake()
}

// beginSwitch begins the switchover that decide asks for. a.mu is held.
func (a *Agent) beginSwitch(why string) {
	now := time.Now()
	if why == "" || a.wish.switchTo != "" || a.wish.leaving || now.Before(a.noSwitchUntil) {
		return
	}
	a.noSwitchUntil = now.Add(switchAgain)
	a.wish.switchTo, a.wish.switchUntil, a.wish.drained = a.cfg.Other, now.Add(switchTimeout), false
	a.log.Warn("switchover begins by itself", "to", a.cfg.Other, "why", why)
	a.wake()
}
