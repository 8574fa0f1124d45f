package lab

import (
	"kineshim/integration/cluster"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Bounds on the longest time without an acknowledged write. The targets are much lower; these hold on a busy machine too.
const (
	failoverAtMost  = 10 * time.Second
	stallAtMost     = 5 * time.Second // a standby lost, a switchover
	unnoticedAtMost = 1500 * time.Millisecond
	// probedAtMost is for what only a write probe finds: 3 s of failing, of which each attempt takes up to 2 s, and the promotion.
	probedAtMost = 15 * time.Second
)

// Durations that are part of what is tried.
const (
	// aWhile is how long the cluster goes on with a failure before it is healed.
	aWhile = 4 * time.Second
	// severalLeases is long compared with all that anybody has promised anybody.
	severalLeases = 8 * time.Second
	// nobodyFor is for how long nobody may answer in a row whose right answer is none.
	nobodyFor = 6 * time.Second
)

func postgresCrashes(t *Trial) {
	began := time.Now()
	t.Blow("kill -9 the postmaster of A", func() error { return t.KillPostgres(t.A) })
	t.SomebodyServes()
	t.Run(aWhile)
	t.PauseAtMost(began, failoverAtMost)
}

// recoversWithin is how long PostgreSQL may take to begin anew before the other node is asked to take over; see docs/failures.md.
const recoversWithin = 3 * time.Second

// backendCrashes: PostgreSQL on A begins anew. Only if its recovery takes longer than is borne, on a slow disk, may B take over.
func backendCrashes(t *Trial) {
	began := time.Now()
	t.Blow("kill -9 a backend of A", func() error { return t.KillBackend(t.A) })
	for time.Since(began) < recoversWithin {
		if p := t.Primary(t.ctx); p == t.B {
			t.Fatalf("B took over after %s, before PostgreSQL on A could begin anew", time.Since(began))
		}
		t.Run(sampleEvery)
	}
	if t.SomebodyServes() == t.B {
		t.timeline.note("PostgreSQL on A took longer than %s to begin anew", recoversWithin)
	}
	t.Run(aWhile)
	t.PauseAtMost(began, failoverAtMost)
}

func postmasterFrozen(t *Trial) {
	began := time.Now()
	t.Blow("freeze the postmaster of A", func() error { return t.FreezePostmaster(t.A) })
	t.Serves(t.B)
	t.Run(aWhile)
	t.PauseAtMost(began, probedAtMost)
}

func walsenderHangs(t *Trial) {
	began := time.Now()
	t.Blow("freeze the walsender of A", func() error { return t.FreezeProcess(t.A, "walsender") })
	t.Mode(t.A, "solo")
	t.Serves(t.A)
	t.Run(aWhile)
	t.OnlyServes(t.A, time.Second)
	t.PauseAtMost(began, stallAtMost)
	t.Heal("let it go on", func() error { return t.ThawNode(t.A) })
	t.Armed()
	t.OnlyServes(t.A, time.Second)
}

// checkpointerFrozen: PostgreSQL publishes a change of its synchronous standbys when the checkpointer comes round to it. Whatever the record says while
// it cannot, a failover at that moment must lose nothing.
func checkpointerFrozen(t *Trial) {
	t.Blow("kill B", func() error { return t.KillNode(t.B) })
	t.Mode(t.A, "solo")
	t.Blow("freeze the checkpointer of A", func() error { return t.FreezeProcess(t.A, "checkpointer") })
	t.Heal("start B", func() error { return t.Start(t.ctx, t.B) })
	paired := false
	for end := time.Now().Add(2 * severalLeases); time.Now().Before(end) && !paired; t.Run(sampleEvery) {
		s, err := t.Status(t.ctx, t.A)
		paired = err == nil && s.GetMode() == "paired"
	}
	if !paired {
		t.timeline.note("B is not recorded in sync while the checkpointer is frozen")
		t.OnlyServes(t.A, time.Second)
		t.Heal("let the checkpointer go on", func() error { return t.ThawNode(t.A) })
		t.Armed()
		return
	}
	t.timeline.note("B is recorded in sync: then a failover must lose nothing")
	t.PowerOff(t.A)
	t.Serves(t.B)
}

func kineshimCrashes(t *Trial) {
	began := time.Now()
	t.Blow("kill -9 kineshim of A", func() error { return t.Kill(t.A) })
	t.Serves(t.B)
	t.PauseAtMost(began, failoverAtMost)
	t.Until("PostgreSQL on A dies with kineshim", serveWithin, t.noPostgres(t.A))
	t.Run(time.Second)
}

// kineshimFrozen: nothing on the frozen host can take the virtual address away but its kernel. Everything of the node frozen, with PostgreSQL, is tried too.
func kineshimFrozen(t *Trial) {
	for _, what := range []struct {
		name   string
		freeze func(string) error
	}{{"kineshim", t.FreezeKineshim}, {"everything", t.FreezeNode}} {
		old := t.SomebodyServes()
		next := cluster.Other(old)
		t.OnlyHasVIPs(old)
		began := time.Now()
		t.Blow("freeze "+what.name+" of "+old, func() error { return what.freeze(old) })
		t.Serves(next)
		t.vipFollows(began, next)
		t.vipLeft(old, began)
		t.Run(severalLeases - time.Since(began))
		t.PauseAtMost(began, failoverAtMost)
		t.Heal("let it go on", func() error { return t.ThawNode(old) })
		t.OnlyServes(next, aWhile)
		t.OnlyHasVIPs(next)
		t.Armed()
	}
}

// standbyPostgresCrashes: PostgreSQL on B is started again at once, so that the record may go on saying paired.
func standbyPostgresCrashes(t *Trial) {
	began := time.Now()
	t.Blow("kill -9 the postmaster of B", func() error { return t.KillPostgres(t.B) })
	t.OnlyServes(t.A, aWhile)
	t.PauseAtMost(began, stallAtMost)
}

func standbyPostgresFrozen(t *Trial) {
	for _, what := range []string{"walreceiver", "all"} {
		began := time.Now()
		t.Blow("freeze PostgreSQL of B: "+what, func() error {
			if what == "all" {
				return t.FreezePostgres(t.B)
			}
			return t.FreezeProcess(t.B, what)
		})
		t.Mode(t.A, "solo")
		t.OnlyServes(t.A, aWhile)
		t.PauseAtMost(began, stallAtMost)
		t.Heal("let it go on", func() error { return t.ThawNode(t.B) })
		t.Armed()
		t.OnlyServes(t.A, time.Second)
	}
}

func standbyKineshimLost(t *Trial) {
	began := time.Now()
	t.Blow("freeze kineshim of B", func() error { return t.FreezeKineshim(t.B) })
	t.Mode(t.A, "solo")
	t.OnlyServes(t.A, aWhile)
	t.PauseAtMost(began, stallAtMost)
	t.Heal("let it go on", func() error { return t.ThawNode(t.B) })
	t.Armed()
	began = time.Now()
	t.Blow("kill -9 kineshim of B", func() error { return t.Kill(t.B) })
	t.Mode(t.A, "solo")
	t.OnlyServes(t.A, aWhile)
	t.PauseAtMost(began, stallAtMost)
	t.Heal("start B", func() error { return t.Start(t.ctx, t.B) })
	t.Armed()
	t.OnlyServes(t.A, time.Second)
}

func witnessLost(t *Trial) {
	epoch := t.Epoch(t.A)
	for what, strike := range map[string]func(string) error{"kill -9": t.Kill, "freeze": t.FreezeNode} {
		began := time.Now()
		t.Blow(what+" W", func() error { return strike(t.W) })
		t.Run(3 * time.Second)
		t.warnsOf(t.W)
		t.OnlyServes(t.A, aWhile)
		t.PauseAtMost(began, unnoticedAtMost)
		t.Heal("W is back", func() error {
			if t.Running(t.W) {
				return t.ThawNode(t.W)
			}
			return t.Start(t.ctx, t.W)
		})
		t.Run(2 * time.Second)
	}
	if now := t.Epoch(t.A); now != epoch {
		t.Failf("epoch %d, before %d: there was a failover for nothing", now, epoch)
	}
}

// warnsOf sees to it that the primary's status says that it does not reach the node.
func (t *Trial) warnsOf(node string) {
	s, err := t.StatusOf(t.ctx, t.A)
	t.Must(err)
	for _, n := range s.GetNodes() {
		if n.GetName() == node && !n.GetReachable() && n.GetHealth() != "ok" {
			t.timeline.note("status of A says of %s: %s", node, n.GetHealth())
			return
		}
	}
	t.Failf("the status of A does not say that %s is lost", node)
}

// postgresOutOfMemory: the kernel's OOM killer sends SIGKILL to the process that uses most, which is a backend or the postmaster, or takes all.
func postgresOutOfMemory(t *Trial) {
	began := time.Now()
	t.Blow("kill -9 all of A's PostgreSQL, as the OOM killer does", func() error {
		pids := t.PostgresPIDs(t.A)
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
				return err
			}
		}
		return nil
	})
	t.SomebodyServes()
	t.Run(aWhile)
	t.PauseAtMost(began, failoverAtMost)
}

// nodeSuspended: everything of A stands still for several leases, as when its virtual machine is paused.
func nodeSuspended(t *Trial) {
	began := time.Now()
	t.Blow("freeze all of A", func() error { return t.FreezeNode(t.A) })
	t.Serves(t.B)
	t.PauseAtMost(began, failoverAtMost)
	t.Run(2*severalLeases - time.Since(began))
	t.Heal("let it go on", func() error { return t.ThawNode(t.A) })
	t.OnlyServes(t.B, aWhile)
}

// diverged are the directories in which the node keeps what it wrote and nobody else has.
func (t *Trial) diverged(node string) []string {
	entries, err := os.ReadDir(t.DataDir(node) + "/diverged")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out
}

// keptAnother says whether the node has kept another tail than those. It keeps the newest few, so that their number says nothing.
func (t *Trial) keptAnother(node string, before []string) bool {
	return slices.ContainsFunc(t.diverged(node), func(name string) bool { return !slices.Contains(before, name) })
}
