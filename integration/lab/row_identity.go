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
		before := t.lastLine(victim, `"action":"clone"`)
		t.Replace(victim)
		t.Armed()
		if t.lastLine(victim, `"action":"clone"`) != before {
			t.Failf("the database that %s had was not used: it was cloned", victim)
		}
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
		return os.WriteFile(path, []byte(strings.Repeat("damaged ", len(b)/8)), 0o600)
	})
}

func witnessLogDamaged(t *Trial) {
	t.damageLog(t.W)
	t.refusesToStart(t.W, "Raft log")
	t.OnlyServes(t.A, aWhile)
	t.Replace(t.W)
	t.Armed()
	t.OnlyServes(t.A, time.Second)
}

// witnessWiped: a voter that has forgotten its votes does not vote, whether it sees that by itself or has to be told.
func witnessWiped(t *Trial) {
	inCluster, err := filepath.Rel(t.DataDir(t.W), t.raftLog(t.W))
	t.Must(err)
	inCluster, _, _ = strings.Cut(inCluster, "/") // the witness keeps a directory for each of its clusters
	for _, what := range []struct{ lost, says string }{{t.raftLog(t.W), "must be enrolled anew"}, {filepath.Join(t.DataDir(t.W), inCluster), "joined no cluster"}} {
		t.Blow("kill W and remove "+filepath.Base(what.lost), func() error { return t.KillNode(t.W) })
		back := t.aside(what.lost)
		t.refusesToStart(t.W, what.says)
		t.OnlyServes(t.A, aWhile)
		t.Heal("put it back", func() error { return back() })
		t.Heal("start W", func() error { return t.Start(t.ctx, t.W) })
		t.Armed()
	}
	t.blankWitness()
	t.Heal("start W", func() error { return t.Start(t.ctx, t.W) })
	t.doesNotVote("wiped")
	t.Replace(t.W)
	t.Armed()
	t.OnlyServes(t.A, time.Second)
}

// blankWitness kills the witness and takes all that it remembers, but who it is.
func (t *Trial) blankWitness() {
	t.Blow("kill W; its disk is wiped, its identity is not", func() error {
		if err := t.KillNode(t.W); err != nil {
			return err
		}
		dir, err := t.RaftDir(t.W)
		if err != nil {
			return err
		}
		return cluster.Wipe(dir)
	})
}

// doesNotVote sees to it that a witness that was started is refused, for the reason given, and that its vote counts for nothing: what needs a majority of it
// and another one does not happen.
func (t *Trial) doesNotVote(why string) {
	t.says(t.A, t.W, why, "shimctl witness replace")
	t.OnlyServes(t.A, aWhile)
	t.PowerOff(t.A)
	t.NobodyAnswers(severalLeases)
	t.saysWhy(t.B, "no failover without the witness")
	t.PowerOn(t.A)
	t.whoServes() // the two are a majority, and the record says that either has everything
}

// whoServes waits until somebody serves, and calls that node A from now on.
func (t *Trial) whoServes() {
	t.A = t.SomebodyServes()
	t.B = cluster.Other(t.A)
}

// witnessRestored: the witness comes back as it was in an earlier life, and as it was earlier in its present one.
func witnessRestored(t *Trial) {
	for _, life := range []string{"an earlier life", "its present life"} {
		t.Blow("an image of W is made in "+life, func() error { return t.imageWitness() })
		if life != "its present life" {
			t.Heal("W is started again", func() error {
				if err := t.Stop(t.ctx, t.W); err != nil {
					return err
				}
				return t.Start(t.ctx, t.W)
			})
			t.Armed()
		}
		t.switchOver() // so that W has voted, and agreed on something, that the image has forgotten
		t.Armed()
		t.switchOver()
		t.Armed()
		t.Run(2 * time.Second) // the others have written down how far W has come
		t.Blow("kill W, which comes back with the image", func() error {
			if err := t.KillNode(t.W); err != nil {
				return err
			}
			if err := cluster.Empty(t.DataDir(t.W)); err != nil {
				return err
			}
			if err := os.CopyFS(t.DataDir(t.W), os.DirFS(t.image())); err != nil {
				return err
			}
			return t.Start(t.ctx, t.W)
		})
		t.whoServes()
		t.doesNotVote("restored")
		t.Replace(t.W)
		t.Armed()
		t.OnlyServes(t.A, time.Second)
	}
}

// image is where the image of the witness's disk is.
func (t *Trial) image() string { return filepath.Join(t.site.Dir(), "image-of-"+t.W) }

// imageWitness copies all that is on the witness's disk, while it runs.
func (t *Trial) imageWitness() error {
	if err := os.RemoveAll(t.image()); err != nil {
		return err
	}
	return os.CopyFS(t.image(), os.DirFS(t.DataDir(t.W)))
}

// soloThenWitnessWiped: B lacks writes. With a witness that has forgotten that A is alone, B would have a majority.
func soloThenWitnessWiped(t *Trial) {
	t.PowerOff(t.B)
	t.solo(t.A)
	t.blankWitness()
	t.PowerOff(t.A)
	t.PowerOn(t.B)
	t.Heal("start W", func() error { return t.Start(t.ctx, t.W) })
	t.says(t.B, t.W, "wiped", "shimctl witness replace")
	t.NobodyAnswers(severalLeases)
	t.saysWhy(t.B, "there is no majority", "shimctl serve --alone")
	t.PowerOn(t.A)
	t.Serves(t.A)
	t.Replace(t.W)
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

// nodeRestored: the whole of A comes back as it was, Raft log and database. It has forgotten what it has agreed to since, so that it is no voter any more,
// whatever it has in its database.
func nodeRestored(t *Trial) {
	image := filepath.Join(t.site.Dir(), "image-of-"+t.A)
	t.Blow("stop A, and make an image of its disk", func() error {
		if err := t.Stop(t.ctx, t.A); err != nil {
			return err
		}
		return exec.CommandContext(t.ctx, "cp", "-a", t.DataDir(t.A), image).Run()
	})
	t.Serves(t.B)
	t.Heal("start A", func() error { return t.Start(t.ctx, t.A) })
	t.Armed()
	t.switchTo(t.A)
	t.Armed()
	t.PowerOff(t.A, t.B)
	t.Blow("A comes back with the image", func() error {
		if err := t.site.Disk(t.A).Remount(); err != nil {
			return err
		}
		if err := cluster.Empty(t.DataDir(t.A)); err != nil {
			return err
		}
		return exec.CommandContext(t.ctx, "cp", "-a", image+"/.", t.DataDir(t.A)+"/").Run()
	})
	t.PowerOn(t.A)
	t.says(t.A, t.A, "restored", "shimctl node replace")
	t.NobodyAnswers(severalLeases)
	t.PowerOn(t.B)
	t.Serves(t.B)
	t.Replace(t.A)
	t.Armed()
	t.OnlyServes(t.B, time.Second)
	t.Must(os.RemoveAll(image))
}

// restored is row 42.
func restored(t *Trial) {
	primaryRestored(t)
	t.Armed()
	t.whoServes()
	nodeRestored(t)
}

func (t *Trial) pgdata(node string) string { return filepath.Join(t.DataDir(node), "pgdata") }
