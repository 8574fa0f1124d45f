package lab

import (
	"context"
	"fmt"
	"strings"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/lab/site"
	"kineshim/integration/ledger"
	"kineshim/proto"
)

// Trial is one row under way. Its methods are for the row's own goroutine. Those that say what must be the case end the row if it is not.
type Trial struct {
	*rig
	ctx context.Context
	// A and B are the nodes that were primary and standby when the row began; W is the witness.
	A, B, W string

	load     *load
	timeline *timeline
	vips     *vipWatch
	failures []string
	// lossy: an operator has forced a promotion that may lose writes, so that the ledger cannot be asked.
	lossy bool
	// parted: the operator did so while the old primary served, so that both may have answered.
	parted bool
	off    map[string]bool // hosts without power
}

// ended is what stops a row that has failed.
type ended struct{}

// Failf notes that something is wrong; the row goes on.
func (t *Trial) Failf(format string, args ...any) {
	f := fmt.Sprintf(format, args...)
	t.failures = append(t.failures, f)
	t.timeline.note("WRONG: %s", f)
}

// Fatalf notes that something is wrong and ends the row.
func (t *Trial) Fatalf(format string, args ...any) {
	t.Failf(format, args...)
	panic(ended{})
}

// Must ends the row unless err is nil.
func (t *Trial) Must(err error) {
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// Blow does something to the cluster, and notes it.
func (t *Trial) Blow(what string, strike func() error) {
	t.timeline.note("BLOW %s", what)
	t.Must(strike())
}

// Heal undoes something, and notes it.
func (t *Trial) Heal(what string, undo func() error) {
	t.timeline.note("HEAL %s", what)
	t.Must(undo())
}

// Run lets the load go on for a while, as a part of the row's plan.
func (t *Trial) Run(d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.ctx.Done():
		t.Fatalf("%v", t.ctx.Err())
	}
}

// Until waits until the condition holds; it says what is amiss, or nothing.
func (t *Trial) Until(what string, within time.Duration, amiss func(context.Context) string) {
	ctx, cancel := context.WithTimeout(t.ctx, within)
	defer cancel()
	last := ""
	for {
		now := amiss(ctx)
		if now == "" {
			return
		}
		if ctx.Err() == nil {
			last = now
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s; last: %s", within, what, last)
		case <-time.After(sampleEvery):
		}
	}
}

// Serves waits until the node's gate is open, and a client on its host has been served since.
func (t *Trial) Serves(node string) {
	t.Until(node+" serves", serveWithin, func(ctx context.Context) string {
		s, err := t.Status(ctx, node)
		switch {
		case err != nil:
			return err.Error()
		case !cluster.Self(s).GetGateOpen():
			return "its gate is closed: " + cluster.Self(s).GetGateReason()
		}
		return ""
	})
	t.Writes(node)
}

// SomebodyServes waits until any node serves and says which.
func (t *Trial) SomebodyServes() string {
	ctx, cancel := context.WithTimeout(t.ctx, serveWithin)
	defer cancel()
	primary, err := t.WaitPrimary(ctx)
	t.Must(err)
	t.Writes(primary)
	return primary
}

// Writes waits for an acknowledged write, begun from now on, on the node's host.
func (t *Trial) Writes(node string) {
	now := t.load.rec.Now()
	t.Until("a write through "+node+" is acknowledged", serveWithin, func(context.Context) string {
		if _, ok := t.load.rec.FirstWriteAfter(now, node); ok {
			return ""
		}
		return "none is"
	})
}

// Mode waits until the node says that the record says so.
func (t *Trial) Mode(via, mode string) {
	t.Until("the record says "+mode, serveWithin, func(ctx context.Context) string {
		s, err := t.Status(ctx, via)
		switch {
		case err != nil:
			return err.Error()
		case s.GetMode() != mode:
			return "mode " + s.GetMode()
		}
		return ""
	})
}

// Epoch is the record's epoch as the node knows it.
func (t *Trial) Epoch(via string) uint64 {
	ctx, cancel := context.WithTimeout(t.ctx, serveWithin)
	defer cancel()
	s, err := t.StatusOf(ctx, via)
	t.Must(err)
	return s.GetEpoch()
}

// State is what the node says of itself.
func (t *Trial) State(node string) *proto.NodeState {
	var st *proto.NodeState
	t.Until(node+" says how it is", serveWithin, func(ctx context.Context) string {
		s, err := t.Status(ctx, node)
		if err != nil {
			return err.Error()
		}
		st = cluster.Self(s)
		return ""
	})
	return st
}

// Armed waits until a failover would succeed.
func (t *Trial) Armed() {
	ctx, cancel := context.WithTimeout(t.ctx, armWithin)
	defer cancel()
	t.Must(t.WaitArmed(ctx))
}

// NobodyAnswers sees to it that for a while no gate is open, and that nothing asked from now on is answered.
func (t *Trial) NobodyAnswers(d time.Duration) {
	t.timeline.note("from here on nobody may answer")
	from := t.load.rec.Now()
	for end := time.Now().Add(d); time.Now().Before(end); t.Run(sampleEvery) {
		if p := t.Primary(t.ctx); p != "" {
			t.Fatalf("%s serves, though nobody may", p)
		}
	}
	for _, e := range t.load.rec.Entries() {
		if e.Start >= from && e.Outcome == ledger.Acknowledged {
			t.Fatalf("request %d (%s %s through %s) was answered, though nobody may answer", e.ID, e.Op, e.Key, e.Endpoint)
		}
	}
}

// OnlyServes sees to it that for a while the node serves, and writes through it are acknowledged.
func (t *Trial) OnlyServes(node string, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); t.Run(sampleEvery) {
		if p := t.Primary(t.ctx); p != "" && p != node {
			t.Fatalf("%s serves, not %s", p, node)
		}
	}
	t.Serves(node)
}

// PauseAtMost bounds the longest time without an acknowledged write on any host since an instant.
func (t *Trial) PauseAtMost(since time.Time, most time.Duration) {
	_, pause := ledger.PauseAfter(t.load.rec.Entries(), t.load.rec.At(since), t.load.rec.Now(), "")
	t.timeline.note("longest time without an acknowledged write: %s", pause.Round(time.Millisecond))
	if pause > most {
		t.Failf("no write was acknowledged for %s, at most %s is bearable", pause.Round(time.Millisecond), most)
	}
}

// PowerOff takes a host's power away: its link goes, its processes are killed, and what was not flushed to its disk is lost.
func (t *Trial) PowerOff(hosts ...string) {
	t.Blow("power off: "+strings.Join(hosts, ", "), func() error {
		for _, h := range hosts {
			t.off[h] = true
		}
		return t.powerOff(hosts...)
	})
}

func (r *rig) powerOff(hosts ...string) error {
	for _, h := range hosts {
		if err := r.site.SetPort(h, false); err != nil {
			return err
		}
		if err := r.site.Disk(h).Break(); err != nil {
			return err
		}
	}
	for _, h := range hosts {
		if err := r.KillNode(h); err != nil {
			return err
		}
	}
	return nil
}

// PowerOn gives it back, and the node is started as at boot.
func (t *Trial) PowerOn(hosts ...string) {
	t.Heal("power on: "+strings.Join(hosts, ", "), func() error {
		for _, h := range hosts {
			if err := t.powerOn(h); err != nil {
				return err
			}
			delete(t.off, h)
			if err := t.Start(t.ctx, h); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *rig) powerOn(host string) error {
	if err := r.site.Disk(host).Remount(); err != nil {
		return err
	}
	return r.site.SetPort(host, true)
}

// Others are the two nodes that are not that one.
func Others(node string) []string {
	var out []string
	for _, n := range cluster.Nodes {
		if n != node {
			out = append(out, n)
		}
	}
	return out
}

// Isolate cuts a host off from the other nodes.
func (t *Trial) Isolate(host string) {
	t.Blow(fmt.Sprintf("cut off %s from %s", host, strings.Join(Others(host), ", ")), func() error {
		return t.site.Cut(site.Around(host, cluster.Nodes...)...)
	})
}

// CutLink cuts the link between two hosts.
func (t *Trial) CutLink(x, y string) {
	t.Blow(fmt.Sprintf("cut the link %s - %s", x, y), func() error { return t.site.Cut(site.Both(x, y)...) })
}

// HealLinks removes all cuts.
func (t *Trial) HealLinks() { t.Heal("all links", t.site.Heal) }

// repair undoes whatever still is broken, as an operator with spare parts would.
func (t *Trial) repair() {
	t.Must(t.site.Heal())
	for _, h := range cluster.Nodes {
		if t.off[h] {
			t.PowerOn(h)
		}
		t.Must(t.site.SetPort(h, true))
		t.Must(t.site.SetInterface(h, true))
		t.Must(t.site.Disk(h).Empty())
		if t.Frozen(h) {
			t.Heal("let "+h+" go on", func() error { return t.ThawNode(h) })
		}
	}
	for _, h := range cluster.Nodes {
		if !t.Running(h) {
			t.Heal("start "+h, func() error { return t.Start(t.ctx, h) })
		}
	}
}
