package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"kineshim/integration/lab/site"
	"kineshim/proto"
)

// beyondWitness is longer than the time after which the record no longer counts on a lost witness.
const beyondWitness = 12 * time.Second

// solo waits until the primary goes on alone, and is counted on alone.
func (t *Trial) solo(node string) {
	t.Mode(node, "solo")
	t.Serves(node)
}

func primaryAndWitnessLost(t *Trial) {
	t.PowerOff(t.A, t.W)
	t.NobodyAnswers(nobodyFor)
	t.saysWhy(t.B)
	t.goOnAlone(t.B, false, "Lost: nothing that is known of")
	t.fenced(t.B)
}

// saysWhy sees to it that the node tells an operator why it does not serve; the words given must be among what it says.
func (t *Trial) saysWhy(node string, words ...string) {
	s, err := t.StatusOf(t.ctx, node)
	t.Must(err)
	t.timeline.note("%s says: not armed: %q", node, s.GetNotArmed())
	if len(s.GetNotArmed()) == 0 || s.GetArmed() || s.GetServing() {
		t.Failf("the status of %s does not say why nobody serves: %v", node, s)
	}
	for _, w := range words {
		if !strings.Contains(strings.Join(s.GetNotArmed(), "; "), w) {
			t.Failf("the status of %s does not say %q", node, w)
		}
	}
}

func standbyThenWitnessLost(t *Trial) {
	t.PowerOff(t.B)
	t.solo(t.A)
	began := time.Now()
	t.PowerOff(t.W)
	t.OnlyServes(t.A, beyondWitness)
	t.PauseAtMost(began, unnoticedAtMost)
}

func witnessThenPrimaryLost(t *Trial) {
	began := time.Now()
	t.PowerOff(t.W)
	t.solo(t.A)
	t.PauseAtMost(began, unnoticedAtMost)
	s, err := t.StatusOf(t.ctx, t.A)
	t.Must(err)
	if !s.GetSynchronous() {
		t.Failf("with the witness lost, commits no longer wait for the standby that is there")
	}
	t.PowerOff(t.A)
	t.NobodyAnswers(nobodyFor)
	t.saysWhy(t.B)
	t.goOnAlone(t.B, true, "Up to then, "+t.B+" has everything")
	t.fenced(t.B)
}

// force promotes the node with the operator's command, which does nothing without the right word, and returns what the operator was told before; the
// words given must have been shown.
func (t *Trial) force(node string, shown ...string) *proto.PreviewForceResponse {
	control, err := t.Control(node)
	t.Must(err)
	var preview *proto.PreviewForceResponse
	t.Until("a promotion by force is possible", serveWithin, func(ctx context.Context) string {
		if preview, err = control.PreviewForce(ctx, &proto.PreviewForceRequest{Node: node}); err != nil {
			return err.Error()
		}
		return preview.GetReason()
	})
	t.timeline.note("the operator is told: loss known %v, %d bytes, %d ms", preview.GetLossKnown(), preview.GetLossBytes(), preview.GetLossMs())
	t.refused(node, "yes", "promote", node, "--force")
	t.Blow("an operator forces the promotion of "+node, func() error {
		out, err := t.shimctl(node, "promote "+node, "promote", node, "--force")
		for _, w := range shown {
			if err == nil && !strings.Contains(out, w) {
				err = fmt.Errorf("the operator was not told %q", w)
			}
		}
		return err
	})
	return preview
}

func witnessThenStandbyLost(t *Trial) {
	t.PowerOff(t.W)
	t.solo(t.A)
	began := time.Now()
	t.PowerOff(t.B)
	t.OnlyServes(t.A, beyondWitness)
	t.PauseAtMost(began, stallAtMost)
}

func witnessDownThenCut(t *Trial) {
	t.PowerOff(t.W)
	t.solo(t.A)
	t.CutLink(t.A, t.B)
	t.OnlyServes(t.A, beyondWitness)
}

func promotedThenWitnessLost(t *Trial) {
	t.PowerOff(t.A)
	t.Serves(t.B)
	began := time.Now()
	t.PowerOff(t.W)
	t.OnlyServes(t.B, beyondWitness)
	t.PauseAtMost(began, unnoticedAtMost)
}

// forcedWhileCutOff: the operator says that A is gone, but it is not: A, which is solo, serves on until it hears of it. What it acknowledged in that time
// is lost from the cluster, as the operator was told, and kept aside.
func forcedWhileCutOff(t *Trial) {
	before := t.diverged(t.A)
	t.Isolate(t.B)
	t.solo(t.A)
	t.Blow("cut off A instead of B", func() error { return t.site.SetCuts(site.Around(t.A, t.B, t.W)...) })
	t.Run(aWhile)
	t.lossy, t.parted = true, true
	t.force(t.B, "First switch "+t.A+" off")
	t.Serves(t.B)
	t.HealLinks()
	t.Until("A stops", serveWithin, func(ctx context.Context) string {
		if t.State(t.A).GetGateOpen() {
			return "its gate is open"
		}
		return ""
	})
	t.OnlyServes(t.B, time.Second)
	t.Armed()
	if !t.keptAnother(t.A, before) {
		t.Failf("A has not kept what only it had")
	}
}

func onlyPrimaryReturns(t *Trial) {
	t.PowerOff(t.A, t.B, t.W)
	t.PowerOn(t.A)
	t.NobodyAnswers(nobodyFor)
	t.saysWhy(t.A)
	t.PowerOn(t.B)
	now := t.SomebodyServes()
	t.PowerOn(t.W)
	t.Armed()

	other := t.A
	if now == t.A {
		other = t.B
	}
	t.PowerOff(other)
	t.solo(now)
	t.PowerOff(now, t.W)
	t.PowerOn(now)
	t.NobodyAnswers(nobodyFor)
	t.saysWhy(now)
	t.goOnAlone(now, false, "Lost: nothing, unless "+other+" was promoted since by force")
	t.fenced(now)
}

func bothLosePowerPrimaryReturns(t *Trial) {
	t.PowerOff(t.A, t.B)
	t.PowerOn(t.A)
	t.solo(t.A)
	t.OnlyServes(t.A, aWhile)
}

func bothLosePowerStandbyReturns(t *Trial) {
	t.PowerOff(t.A, t.B)
	t.PowerOn(t.B)
	t.solo(t.B)
	t.OnlyServes(t.B, aWhile)
}

func soloBothLosePowerPrimaryReturns(t *Trial) {
	t.PowerOff(t.B)
	t.solo(t.A)
	t.PowerOff(t.A)
	t.PowerOn(t.A)
	t.OnlyServes(t.A, aWhile)
}

func soloBothLosePowerStandbyReturns(t *Trial) {
	t.PowerOff(t.B)
	t.solo(t.A)
	t.PowerOff(t.A)
	t.PowerOn(t.B)
	t.NobodyAnswers(severalLeases)
	t.saysWhy(t.B)
	t.PowerOn(t.A)
	t.Serves(t.A)
}

func allLosePower(t *Trial) {
	for _, back := range [][]string{{t.A, t.W}, {t.B, t.W}, {t.A, t.B}} {
		t.PowerOff(t.A, t.B, t.W)
		t.PowerOn(back...)
		t.SomebodyServes()
		for _, h := range []string{t.A, t.B, t.W} {
			if t.off[h] {
				t.PowerOn(h)
			}
		}
		t.Armed()
	}
}

// laggingStandbyForced: replication is cut, and nothing else, so that B hears how much it lacks.
func laggingStandbyForced(t *Trial) {
	t.Blow("cut the replication of B", func() error {
		return t.site.Cut(site.Cut{From: t.B, To: t.A, Port: postgresPort})
	})
	t.solo(t.A)
	t.Run(aWhile)
	t.PowerOff(t.A)
	t.NobodyAnswers(nobodyFor)
	t.saysWhy(t.B)
	t.lossy = true
	before := t.diverged(t.A)
	preview := t.force(t.B, "bytes), the last ", "First switch "+t.A+" off")
	if !preview.GetLossKnown() || preview.GetLossBytes() == 0 || preview.GetLossMs() <= 0 {
		t.Failf("writes are lost, and the operator is told: %v", preview)
	}
	t.Serves(t.B)
	t.HealLinks()
	t.PowerOn(t.A)
	t.OnlyServes(t.B, severalLeases)
	t.Armed()
	t.OnlyServes(t.B, time.Second)
	if !t.keptAnother(t.A, before) {
		t.Failf("A has not kept what only it had")
	}
}

// postgresPort is that of PostgreSQL on the lab's hosts.
const postgresPort = 5433

// slowLink lets a clone take long enough to be interrupted.
const slowLink = 2 << 20

func primaryDiesDuringClone(t *Trial) {
	t.Blow("kill B", func() error { return t.KillNode(t.B) })
	t.solo(t.A)
	t.Blow("the data directory of B is lost, and its link is slow", func() error {
		if err := t.removeData(t.B); err != nil {
			return err
		}
		return t.site.Cut(site.Cut{From: t.A, To: t.B, BytesPerSecond: slowLink})
	})
	t.Heal("start B", func() error { return t.Start(t.ctx, t.B) })
	t.Until("B is being cloned", serveWithin, func(context.Context) string {
		if st := t.State(t.B); st.GetRole() != "cloning" || st.GetProgress().GetDoneBytes() == 0 {
			return fmt.Sprintf("it is %s, %v", st.GetRole(), st.GetProgress())
		}
		return ""
	})
	t.PowerOff(t.A)
	t.NobodyAnswers(nobodyFor)
	t.saysWhy(t.B)
	t.PowerOn(t.A)
	t.Serves(t.A)
}

// primaryDiesBeforePairing: with the witness cut off from A, everything is there for pairing but the witness, and it stays that way until A is lost.
func primaryDiesBeforePairing(t *Trial) {
	t.Blow("kill B", func() error { return t.KillNode(t.B) })
	t.solo(t.A)
	t.CutLink(t.A, t.W)
	t.Heal("start B", func() error { return t.Start(t.ctx, t.B) })
	t.Until("every commit waits for B", serveWithin, func(context.Context) string {
		if !t.State(t.A).GetStandbyGates() {
			return "they do not"
		}
		return ""
	})
	t.Run(time.Second)
	t.Mode(t.A, "solo")
	t.PowerOff(t.A)
	t.HealLinks()
	t.NobodyAnswers(nobodyFor)
	t.saysWhy(t.B)
	t.PowerOn(t.A)
	t.Serves(t.A)
}

// quickly polls without a pause, for moments that pass.
func (t *Trial) quickly(what, via string, holds func(*proto.StatusResponse) bool) {
	for end := time.Now().Add(serveWithin); time.Now().Before(end); {
		if s, err := t.Status(t.ctx, via); err == nil && holds(s) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("not within %s: %s", serveWithin, what)
}

func primaryDiesAfterPairing(t *Trial) {
	t.Blow("kill B", func() error { return t.KillNode(t.B) })
	t.solo(t.A)
	t.Heal("start B", func() error { return t.Start(t.ctx, t.B) })
	t.quickly("B is recorded in sync", t.A, func(s *proto.StatusResponse) bool { return s.GetMode() == "paired" })
	t.PowerOff(t.A)
	t.Serves(t.B)
}

// promotedCrashes holds PostgreSQL's promotion up by freezing B's postmaster, which would have to carry it out.
func promotedCrashes(t *Trial) {
	epoch := t.Epoch(t.A)
	t.Blow("freeze the postmaster of B", func() error { return t.FreezePostmaster(t.B) })
	t.PowerOff(t.A)
	t.quickly("the promotion of B is committed", t.B, func(s *proto.StatusResponse) bool { return s.GetPrimary() == t.B && s.GetEpoch() == epoch+1 })
	if st := t.State(t.B); st.GetRole() == "primary" {
		t.Fatalf("PostgreSQL of B is promoted already")
	}
	t.PowerOff(t.B)
	t.PowerOn(t.A)
	t.NobodyAnswers(nobodyFor)
	t.PowerOn(t.B)
	t.Serves(t.B)
}

func witnessCrashesDuringPromotion(t *Trial) {
	epoch := t.Epoch(t.A)
	began := time.Now()
	t.PowerOff(t.A)
	t.quickly("the promotion of B is committed", t.B, func(s *proto.StatusResponse) bool { return s.GetPrimary() == t.B && s.GetEpoch() == epoch+1 })
	t.PowerOff(t.W)
	t.Serves(t.B)
	t.OnlyServes(t.B, beyondWitness)
	t.PauseAtMost(began, failoverAtMost)
}

func promotedDies(t *Trial) {
	t.PowerOff(t.A)
	t.Serves(t.B)
	t.Run(time.Second)
	t.PowerOff(t.B)
	t.PowerOn(t.A)
	t.NobodyAnswers(severalLeases)
	t.saysWhy(t.A)
	t.PowerOn(t.B)
	t.Serves(t.B)
}

// partitionHeals: A is stopped while its lease still runs, with commits under way, and goes on when B serves and the links are whole again.
func partitionHeals(t *Trial) {
	before := t.diverged(t.A)
	t.Isolate(t.A)
	t.Run(200 * time.Millisecond)
	t.Blow("freeze kineshim of A, which still believes", func() error { return t.FreezeKineshim(t.A) })
	t.Serves(t.B)
	t.Run(aWhile)
	t.HealLinks()
	t.Heal("let it go on", func() error { return t.ThawNode(t.A) })
	t.OnlyServes(t.B, aWhile)
	t.Armed()
	if !t.keptAnother(t.A, before) {
		t.Failf("A has not kept its tail, which nobody else has")
	}
}

// switchoverCrashes is how often row 68 tries; each time the blow falls into another moment of the switchover, which takes about 100 ms.
const switchoverCrashes = 4

func crashDuringSwitchover(t *Trial) {
	for i := range switchoverCrashes {
		p := t.SomebodyServes()
		to := t.A
		if p == t.A {
			to = t.B
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.ctx, serveWithin)
		asked := make(chan error, 1)
		t.timeline.note("switchover to %s", to)
		go func() { asked <- t.Switchover(ctx, to) }()
		t.Run(time.Duration(i)*30*time.Millisecond + time.Duration(rand.N(20))*time.Millisecond)
		t.PowerOff(p)
		cancel()
		t.timeline.note("the switchover: %v", <-asked)
		t.SomebodyServes()
		t.PauseAtMost(began, failoverAtMost)
		t.PowerOn(p)
		t.Armed()
	}
}

// powerCycles is how often row 70 takes power away.
const powerCycles = 6

func powerCycled(t *Trial) {
	for i := range powerCycles {
		hosts := [][]string{{t.A, t.B}, {t.A}, {t.B}}[i%3]
		t.PowerOff(hosts...)
		t.Run(time.Duration(rand.N(1500)) * time.Millisecond)
		t.PowerOn(hosts...)
		t.Run(time.Duration(rand.N(3000)) * time.Millisecond)
	}
}
