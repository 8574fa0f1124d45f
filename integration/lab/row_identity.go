package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"kineshim/integration/cluster"
)

// refusesToStart starts a node that must end by itself, and say what is wrong with words among those given.
func (t *Trial) refusesToStart(node, words string) {
	t.timeline.note("start %s", node)
	t.Must(t.Start(t.ctx, node))
	select {
	case <-t.Exited(node):
	case <-time.After(refusesWithin):
		t.Failf("%s runs, and should have refused to", node)
		t.Must(t.KillNode(node))
	}
	says := t.lastLine(node, ": ")
	t.timeline.note("%s says: %s", node, says)
	if !strings.Contains(says, words) {
		t.Failf("%s does not say that %s: %q", node, words, says)
	}
}

// aside moves a file or a directory of a node to where the node does not look, and returns what brings it back in the place of whatever is there then.
func (t *Trial) aside(path string) (back func() error) {
	elsewhere := filepath.Join(filepath.Dir(path), "lab-aside")
	t.Must(os.MkdirAll(elsewhere, 0o700))
	t.Must(os.Rename(path, filepath.Join(elsewhere, filepath.Base(path))))
	return func() error {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		return os.Rename(filepath.Join(elsewhere, filepath.Base(path)), path)
	}
}

// dataNodeLogDamaged: the voter is lost, its database is not.
func dataNodeLogDamaged(t *Trial) {
	for _, victim := range []string{t.B, t.A} { // the standby's log, and then the primary's
		t.switchTo(t.A)
		other := cluster.Other(victim)
		t.damageLog(victim)
		t.Serves(other)
		t.refusesToStart(victim, "Raft log")
		if _, err := os.Stat(filepath.Join(t.pgdata(victim), "PG_VERSION")); err != nil {
			t.Failf("the database is lost with the Raft log: %v", err)
		}
		t.OnlyServes(other, aWhile)
		t.Heal("its log is put back", t.putLogBack(victim))
		t.Heal("start "+victim, func() error { return t.Start(t.ctx, victim) })
		t.Armed()
	}
}

// switchTo makes the node the primary, unless it is already.
func (t *Trial) switchTo(node string) {
	if t.SomebodyServes() != node {
		t.switchOver()
		t.Armed()
	}
}

// damageLog kills a node and overwrites its Raft log.
func (t *Trial) damageLog(node string) {
	t.Blow("kill "+node+" and damage its Raft log", func() error {
		if err := t.KillNode(node); err != nil {
			return err
		}
		path := t.raftLog(node)
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path+".lab", b, 0o600); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(strings.Repeat("damaged ", len(b)/8)), 0o600)
	})
}

func (t *Trial) putLogBack(node string) func() error {
	path := t.raftLog(node)
	return func() error { return os.Rename(path+".lab", path) }
}

func witnessLogDamaged(t *Trial) {
	t.damageLog(t.W)
	t.refusesToStart(t.W, "Raft log")
	t.OnlyServes(t.A, aWhile)
	t.Heal("its log is put back", t.putLogBack(t.W))
}

// witnessWiped: a voter that has forgotten its votes does not vote.
func witnessWiped(t *Trial) {
	for _, what := range []struct{ lost, says string }{{t.raftLog(t.W), "must be enrolled anew"}, {filepath.Dir(t.raftLog(t.W)), "joined no cluster"}} {
		t.Blow("kill W and remove "+filepath.Base(what.lost), func() error { return t.KillNode(t.W) })
		back := t.aside(what.lost)
		t.refusesToStart(t.W, what.says)
		t.OnlyServes(t.A, aWhile)
		t.Heal("put it back", func() error { return back() })
		t.Heal("start W", func() error { return t.Start(t.ctx, t.W) })
		t.Armed()
	}
}

// soloThenWitnessWiped: B lacks writes. With a witness that has forgotten that A is alone, B would have a majority.
func soloThenWitnessWiped(t *Trial) {
	t.PowerOff(t.B)
	t.solo(t.A)
	t.Blow("kill W and remove its Raft log", func() error { return t.KillNode(t.W) })
	back := t.aside(t.raftLog(t.W))
	t.PowerOff(t.A)
	t.PowerOn(t.B)
	t.refusesToStart(t.W, "must be enrolled anew")
	t.NobodyAnswers(severalLeases)
	t.saysWhy(t.B)
	t.Heal("put the witness's log back", func() error { return back() })
	t.Heal("start W", func() error { return t.Start(t.ctx, t.W) })
	t.NobodyAnswers(nobodyFor)
	t.PowerOn(t.A)
	t.Serves(t.A)
}

// primaryRestored: A comes back with a database that is older than the cluster remembers, although the record counts on it.
func primaryRestored(t *Trial) {
	t.Blow("stop A, and make an image of its database", func() error {
		if err := t.Stop(t.ctx, t.A); err != nil {
			return err
		}
		if err := exec.CommandContext(t.ctx, "cp", "-a", t.pgdata(t.A), t.pgdata(t.A)+".lab").Run(); err != nil {
			return err
		}
		return exec.CommandContext(t.ctx, "sync", "-f", t.DataDir(t.A)).Run() // or it is gone with the power
	})
	t.Serves(t.B)
	t.Heal("start A", func() error { return t.Start(t.ctx, t.A) })
	t.Armed()
	t.switchTo(t.A)
	t.PowerOff(t.A, t.B)
	t.Blow("A comes back with the image", func() error {
		if err := t.site.Disk(t.A).Remount(); err != nil {
			return err
		}
		if err := os.RemoveAll(t.pgdata(t.A)); err != nil {
			return err
		}
		return os.Rename(t.pgdata(t.A)+".lab", t.pgdata(t.A))
	})
	t.PowerOn(t.A)
	t.NobodyAnswers(severalLeases)
	t.saysWhy(t.A)
	t.PowerOn(t.B)
	t.Serves(t.B)
	t.Until("A has the cluster's data again", armWithin, func(context.Context) string {
		st := t.State(t.A)
		if !st.GetStreaming() {
			return st.GetRole() + ": " + st.GetRoleReason()
		}
		return ""
	})
}

func (t *Trial) pgdata(node string) string { return filepath.Join(t.DataDir(node), "pgdata") }
