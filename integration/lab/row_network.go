package lab

import (
	"context"
	"fmt"
	"strings"
	"time"

	"kineshim/integration/lab/site"
)

// noPostgres says that PostgreSQL still runs on a node.
func (t *Trial) noPostgres(node string) func(context.Context) string {
	return func(context.Context) string {
		if pids := t.PostgresPIDs(node); len(pids) > 0 {
			return fmt.Sprintf("processes %v", pids)
		}
		return ""
	}
}

func primaryLosesPower(t *Trial) {
	began := time.Now()
	t.PowerOff(t.A)
	t.Serves(t.B)
	t.vipFollows(began, t.B)
	t.Run(aWhile)
	t.PauseAtMost(began, failoverAtMost)
}

func primaryReboots(t *Trial) {
	began := time.Now()
	t.Blow("stop A cleanly", func() error { return t.Stop(t.ctx, t.A) })
	t.Serves(t.B)
	t.PauseAtMost(began, stallAtMost)
	t.Run(time.Second)
}

func standbyLosesPower(t *Trial) {
	began := time.Now()
	t.PowerOff(t.B)
	t.Mode(t.A, "solo")
	t.OnlyServes(t.A, aWhile)
	t.PauseAtMost(began, stallAtMost)
	t.PowerOn(t.B)
	t.Armed()
	t.OnlyServes(t.A, time.Second)
}

func linkBetweenDataNodesCut(t *Trial) {
	began := time.Now()
	t.CutLink(t.A, t.B)
	t.Mode(t.A, "solo")
	t.OnlyServes(t.A, severalLeases)
	t.PauseAtMost(began, stallAtMost)
	t.HealLinks()
	t.Armed()
	t.OnlyServes(t.A, time.Second)
}

func linkToWitnessCut(t *Trial, from string) {
	epoch, began := t.Epoch(t.A), time.Now()
	t.CutLink(from, t.W)
	t.OnlyServes(t.A, severalLeases)
	t.HealLinks()
	t.OnlyServes(t.A, aWhile)
	t.PauseAtMost(began, unnoticedAtMost)
	if now := t.Epoch(t.A); now != epoch {
		t.Failf("epoch %d, before %d: there was a failover for nothing", now, epoch)
	}
}

func primaryCutOff(t *Trial) {
	began := time.Now()
	t.Isolate(t.A)
	t.Serves(t.B)
	t.OnlyHasVIPs(t.B)
	t.Run(severalLeases)
	t.PauseAtMost(began, failoverAtMost)
	t.HealLinks()
	t.OnlyServes(t.B, time.Second)
}

func standbyCutOff(t *Trial) {
	began := time.Now()
	t.Isolate(t.B)
	t.Mode(t.A, "solo")
	t.OnlyServes(t.A, severalLeases)
	t.PauseAtMost(began, stallAtMost)
	t.HealLinks()
	t.Armed()
	t.OnlyServes(t.A, time.Second)
}

// standbyVoterCutOff is what a firewall on B does that has come to let nobody in at one port: its data follow A, and its vote is lost.
func standbyVoterCutOff(t *Trial) {
	began := time.Now()
	t.Blow("nothing comes in at B's port for Raft", func() error {
		port := t.Ports(t.B).Raft
		return t.site.Cut(site.Cut{From: t.A, To: t.B, Port: port}, site.Cut{From: t.W, To: t.B, Port: port})
	})
	t.Mode(t.A, "solo")
	t.saysInStatus(t.A, "port for Raft: look at its firewall")
	t.PauseAtMost(began, unnoticedAtMost)
	if s := t.State(t.B); !s.GetStreaming() {
		t.Failf("B does not follow any more: %s", s.GetRole())
	}
	t.PowerOff(t.W)
	t.OnlyServes(t.A, severalLeases)
	t.HealLinks()
	t.PowerOn(t.W)
	t.Armed()
	t.OnlyServes(t.A, time.Second)
}

// saysInStatus waits until the node's status gives the words as a reason why failover is not armed.
func (t *Trial) saysInStatus(node, words string) {
	t.Until("the status of "+node+" says: "+words, serveWithin, func(ctx context.Context) string {
		s, err := t.Status(ctx, node)
		if err != nil {
			return err.Error()
		}
		if why := strings.Join(s.GetNotArmed(), "; "); !strings.Contains(why, words) {
			return why
		}
		return ""
	})
}

// witnessCutOff lasts until the record no longer counts on the witness, and then some.
func witnessCutOff(t *Trial) {
	epoch, began := t.Epoch(t.A), time.Now()
	t.Isolate(t.W)
	t.Mode(t.A, "solo")
	t.OnlyServes(t.A, aWhile)
	t.HealLinks()
	t.Armed()
	t.OnlyServes(t.A, time.Second)
	t.PauseAtMost(began, unnoticedAtMost)
	if now := t.Epoch(t.A); now != epoch {
		t.Failf("epoch %d, before %d: there was a failover for nothing", now, epoch)
	}
}

func allIsolated(t *Trial) {
	t.Blow("cut all links", func() error {
		return t.site.Cut(append(site.Around(t.A, t.B, t.W), site.Both(t.B, t.W)...)...)
	})
	t.Until("nobody serves", serveWithin, t.nobody)
	t.NobodyAnswers(severalLeases)
}

// nobody says who serves.
func (t *Trial) nobody(ctx context.Context) string {
	if p := t.Primary(ctx); p != "" {
		return p + " serves"
	}
	return ""
}

func oneWayBetweenDataNodes(t *Trial) {
	for _, c := range []site.Cut{{From: t.A, To: t.B}, {From: t.B, To: t.A}} {
		began := time.Now()
		t.Blow(fmt.Sprintf("drop all from %s to %s", c.From, c.To), func() error { return t.site.Cut(c) })
		t.Mode(t.A, "solo")
		t.OnlyServes(t.A, severalLeases)
		t.PauseAtMost(began, stallAtMost)
		t.HealLinks()
		t.Armed()
		t.OnlyServes(t.A, time.Second)
	}
}

// churnAtMost is by how many terms Raft may go on while one direction to or from the witness is cut: a voter that hears nothing may campaign, but
// must not do so again and again.
const churnAtMost = 2

func oneWayWitness(t *Trial) {
	for _, c := range []site.Cut{{From: t.A, To: t.W}, {From: t.W, To: t.A}, {From: t.B, To: t.W}, {From: t.W, To: t.B}} {
		epoch, term, began := t.Epoch(t.A), t.State(t.A).GetTerm(), time.Now()
		t.Blow(fmt.Sprintf("drop all from %s to %s", c.From, c.To), func() error { return t.site.Cut(c) })
		t.OnlyServes(t.A, severalLeases)
		t.HealLinks()
		t.OnlyServes(t.A, 2*time.Second)
		t.PauseAtMost(began, unnoticedAtMost)
		if now := t.Epoch(t.A); now != epoch {
			t.Failf("epoch %d, before %d: there was a failover for nothing", now, epoch)
		}
		if now := t.State(t.A).GetTerm(); now > term+churnAtMost {
			t.Failf("Raft went from term %d to %d", term, now)
		}
		t.Armed()
	}
}

func interfaceDown(t *Trial) {
	began := time.Now()
	t.Blow("A's interface down", func() error { return t.site.SetInterface(t.A, false) })
	t.Serves(t.B)
	t.vipFollows(began, t.B)
	t.Run(severalLeases)
	t.PauseAtMost(began, failoverAtMost)
	t.OnlyHasVIPs(t.B)
	t.Heal("A's interface up", func() error { return t.site.SetInterface(t.A, true) })
	t.OnlyServes(t.B, time.Second)
}

// rebootTakes is how long a small switch is away.
const rebootTakes = 35 * time.Second

func switchReboots(t *Trial) {
	epoch := t.Epoch(t.A)
	t.Blow("all links down", func() error { return t.site.SetPorts(false) })
	t.Until("nobody serves", serveWithin, t.nobody)
	t.NobodyAnswers(rebootTakes)
	t.Heal("all links up", func() error { return t.site.SetPorts(true) })
	t.Serves(t.A)
	t.Armed()
	t.OnlyServes(t.A, time.Second)
	if now := t.Epoch(t.A); now != epoch {
		t.Failf("epoch %d, before %d: somebody was promoted", now, epoch)
	}
}
