package integration

import (
	"context"
	"testing"
	"time"

	"kineshim/integration/cluster"
	"kineshim/proto"
)

// Bounds on stalls. The targets are much lower; these hold on a busy machine too.
const (
	stallAtMost       = 5 * time.Second // a standby lost, a switchover
	unnoticedAtMost   = time.Second     // a witness lost
	stayAwayFor       = time.Second     // how long the killed stay away after the others have gone on
	witnessGoneWithin = 25 * time.Second
)

// scenario runs a failure under load, as often as asked for, and checks the promises after each.
func scenario(t *testing.T, fail func(t *testing.T, r *rig, l *load)) {
	for range rounds() {
		r := armed(t)
		l := r.startLoad(t)
		fail(t, r, l)
		l.finish(t)
		if t.Failed() {
			return
		}
	}
}

// must is for steps that have to work for the test to mean anything.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) start(t *testing.T, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		must(t, r.Start(t.Context(), node))
	}
}

// waitPrimaryIs waits until the node serves, and clients of that node are served.
func (l *load) waitPrimaryIs(t *testing.T, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), failoverWithin)
	defer cancel()
	began := time.Now()
	must(t, l.r.WaitStatus(ctx, node, node+" serves", func(s *proto.StatusResponse) string {
		if !cluster.Self(s).GetGateOpen() {
			return "its gate is closed: " + cluster.Self(s).GetGateReason()
		}
		return ""
	}))
	l.waitWrite(t, node, failoverWithin)
	t.Logf("%s served after %s", node, time.Since(began).Round(time.Millisecond))
}

// waitMode waits until the node says that the record says so.
func (r *rig) waitMode(t *testing.T, via, mode string, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	must(t, r.WaitStatus(ctx, via, "the record says "+mode, func(s *proto.StatusResponse) string {
		if s.GetMode() != mode {
			return "mode " + s.GetMode()
		}
		return ""
	}))
}

// expectStall logs the longest stall of writes since an instant, and bounds it.
func (l *load) expectStall(t *testing.T, what string, since time.Time, atMost time.Duration) {
	t.Helper()
	gap, late := l.gapSince(since), l.pulse.Latest(since)
	t.Logf("%s: longest time without an acknowledged write: %s; the machine stood still for %s", what, gap.Round(time.Millisecond), late.Round(time.Millisecond))
	if gap > atMost+late {
		t.Errorf("%s: no write was acknowledged for %s, at most %s is bearable", what, gap, atMost)
	}
}

func TestPrimaryKineshimKilled(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		blow := time.Now()
		must(t, r.Kill(p))
		l.waitPrimaryIs(t, cluster.Other(p))
		l.expectStall(t, "primary's kineshim killed", blow, failoverWithin)
		l.run(stayAwayFor)
		r.start(t, p)
	})
}

func TestPrimaryNodeKilled(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		blow := time.Now()
		must(t, r.KillNode(p))
		l.waitPrimaryIs(t, cluster.Other(p))
		l.expectStall(t, "primary node killed", blow, failoverWithin)
		l.run(stayAwayFor)
		r.start(t, p)
	})
}

// Who is primary afterwards is left open: PostgreSQL may be restarted where it was, or the other node take over.
func TestPrimaryPostmasterKilled(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		blow := time.Now()
		must(t, r.KillPostgres(r.primary(t)))
		l.run(time.Second)
		l.waitWrite(t, "", failoverWithin)
		l.expectStall(t, "postmaster killed", blow, failoverWithin)
	})
}

// PostgreSQL then ends all sessions and recovers by itself, and rows become visible that the standby may lack.
func TestPrimaryBackendKilled(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		blow := time.Now()
		must(t, r.KillBackend(r.primary(t)))
		l.run(time.Second)
		l.waitWrite(t, "", failoverWithin)
		l.expectStall(t, "backend killed", blow, failoverWithin)
	})
}

// frozen freezes a part of the primary, sees the other node take over, and lets it go on.
func frozen(t *testing.T, freeze func(r *rig, node string) error) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		blow := time.Now()
		must(t, freeze(r, p))
		thawed := false
		defer func() {
			if !thawed {
				_ = r.ThawNode(p)
			}
		}()
		l.waitPrimaryIs(t, cluster.Other(p))
		l.expectStall(t, "frozen", blow, failoverWithin)
		l.run(max(0, freezeFor()-time.Since(blow)))
		thawed = true
		must(t, r.ThawNode(p))
	})
}

func TestPrimaryKineshimFrozen(t *testing.T) {
	frozen(t, func(r *rig, node string) error { return r.FreezeKineshim(node) })
}

func TestPrimaryPostgresFrozen(t *testing.T) {
	frozen(t, func(r *rig, node string) error { return r.FreezePostgres(node) })
}

func TestPrimaryNodeFrozen(t *testing.T) {
	frozen(t, func(r *rig, node string) error { return r.FreezeNode(node) })
}

// standbyFails strikes at the standby: the primary stays, and writes stall only until it goes on alone.
func standbyFails(t *testing.T, strike func(r *rig, standby string) error, back func(t *testing.T, r *rig, standby string)) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		standby := cluster.Other(p)
		blow := time.Now()
		must(t, strike(r, standby))
		r.waitMode(t, p, "solo", failoverWithin)
		l.waitWrite(t, p, failoverWithin)
		l.run(freezeFor() / 2)
		l.expectStall(t, "standby lost", blow, stallAtMost)
		back(t, r, standby)
		ctx, cancel := context.WithTimeout(t.Context(), armWithin)
		defer cancel()
		must(t, r.WaitArmed(ctx))
		if now := r.primary(t); now != p {
			t.Errorf("%s took over, although the primary %s never failed", now, p)
		}
	})
}

func startAgain(t *testing.T, r *rig, node string) { r.start(t, node) }

func thaw(t *testing.T, r *rig, node string) { must(t, r.ThawNode(node)) }

func TestStandbyNodeKilled(t *testing.T) {
	standbyFails(t, func(r *rig, s string) error { return r.KillNode(s) }, startAgain)
}

func TestStandbyKineshimKilled(t *testing.T) {
	standbyFails(t, func(r *rig, s string) error { return r.Kill(s) }, startAgain)
}

func TestStandbyKineshimFrozen(t *testing.T) {
	standbyFails(t, func(r *rig, s string) error { return r.FreezeKineshim(s) }, thaw)
}

func TestStandbyPostgresFrozen(t *testing.T) {
	standbyFails(t, func(r *rig, s string) error { return r.FreezePostgres(s) }, thaw)
}

func TestStandbyNodeFrozen(t *testing.T) {
	standbyFails(t, func(r *rig, s string) error { return r.FreezeNode(s) }, thaw)
}

// PostgreSQL on the standby is started again at once, so that the record may go on saying paired.
func TestStandbyPostmasterKilled(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		blow := time.Now()
		must(t, r.KillPostgres(cluster.Other(p)))
		l.run(3 * time.Second)
		l.expectStall(t, "standby's postmaster killed", blow, stallAtMost)
		if now := r.primary(t); now != p {
			t.Errorf("%s took over, although the primary %s never failed", now, p)
		}
	})
}

func TestWitnessKilledIsNotNoticed(t *testing.T) {
	witnessFails(t, func(r *rig) error { return r.Kill(cluster.Witness) }, startAgain)
}

func TestWitnessFrozenIsNotNoticed(t *testing.T) {
	witnessFails(t, func(r *rig) error { return r.FreezeNode(cluster.Witness) }, thaw)
}

func witnessFails(t *testing.T, strike func(r *rig) error, back func(t *testing.T, r *rig, node string)) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		before, err := r.StatusOf(t.Context(), p)
		must(t, err)
		blow := time.Now()
		must(t, strike(r))
		l.run(4 * time.Second)
		back(t, r, cluster.Witness)
		l.run(2 * time.Second)
		l.expectStall(t, "witness lost", blow, unnoticedAtMost)
		after, err := r.StatusOf(t.Context(), r.primary(t))
		must(t, err)
		if after.GetPrimary() != p || after.GetEpoch() != before.GetEpoch() {
			t.Errorf("%s serves epoch %d, %s served epoch %d before", after.GetPrimary(), after.GetEpoch(), p, before.GetEpoch())
		}
	})
}

func TestPrimaryStoppedCleanly(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		blow := time.Now()
		must(t, r.Stop(t.Context(), p))
		l.waitPrimaryIs(t, cluster.Other(p))
		l.expectStall(t, "primary stopped", blow, stallAtMost)
		l.run(stayAwayFor)
		r.start(t, p)
	})
}

func TestSwitchover(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		ctx, cancel := context.WithTimeout(t.Context(), failoverWithin)
		defer cancel()
		blow := time.Now()
		must(t, r.Switchover(ctx, cluster.Other(p)))
		l.waitPrimaryIs(t, cluster.Other(p))
		l.run(time.Second)
		l.expectStall(t, "switchover", blow, stallAtMost)
	})
}
