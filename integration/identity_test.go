package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/integration/cluster"
	"kineshim/proto"
)

// waitArmed waits until a failover would succeed.
func (r *rig) waitArmed(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), armWithin)
	defer cancel()
	must(t, r.WaitArmed(ctx))
}

// raftDir is where the node keeps its Raft log.
func (r *rig) raftDir(t *testing.T, node string) string {
	t.Helper()
	dir, err := r.RaftDir(node)
	must(t, err)
	return dir
}

// waitHealth waits until the status, asked of one node, says so of another's health.
func (r *rig) waitHealth(t *testing.T, via, of, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), failoverWithin)
	defer cancel()
	must(t, r.WaitStatus(ctx, via, fmt.Sprintf("%s says %q of %s", via, want, of), func(s *proto.StatusResponse) string {
		for _, n := range s.GetNodes() {
			if n.GetName() == of && strings.Contains(n.GetHealth(), want) {
				return ""
			} else if n.GetName() == of {
				return "health: " + n.GetHealth()
			}
		}
		return "no such node"
	}))
}

func (r *rig) replace(t *testing.T, node string, alive bool) {
	t.Helper()
	var err error
	r.eventually(t, "replace "+node, func(ctx context.Context) error {
		var primary string
		if primary = r.Primary(ctx); primary == "" {
			return errors.New("no primary")
		}
		err = r.Replace(t.Context(), primary, node, alive)
		return err
	})
	r.start(t, node)
}

// Failure matrix, rows 38 and 40: the witness comes back without its log, under its old identity. It does not vote; what still runs goes on; enrolled
// anew, it is one of the three again.
func TestWipedWitnessIsReplaced(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		must(t, r.KillNode(cluster.Witness))
		must(t, cluster.Wipe(r.raftDir(t, cluster.Witness)))
		r.start(t, cluster.Witness)
		r.waitHealth(t, p, cluster.Witness, "shimctl witness replace")
		control, err := r.Control(p)
		must(t, err)
		if resp, err := control.Replace(t.Context(), &proto.ReplaceRequest{Node: p, Check: true}); err != nil || resp.Done || !strings.Contains(resp.Reason, "is the primary") {
			t.Errorf("the primary is replaced: %v, %v", resp, err)
		}
		if resp, err := control.Replace(t.Context(), &proto.ReplaceRequest{Node: cluster.Other(p), Check: true}); err != nil || resp.Done || !resp.Alive {
			t.Errorf("a standby that is alive is replaced: %v, %v", resp, err)
		}
		r.replace(t, cluster.Witness, false)
		r.waitArmed(t)
		if now := r.primary(t); now != p {
			t.Errorf("%s serves, %s was primary", now, p)
		}
	})
}

// Row 39: the Raft log of the standby is lost, its data are not. Enrolled anew, it joins with the data that it has. Who has stolen its keys before is shown out.
func TestDataNodeWithoutItsLogIsReplacedAndKeepsItsData(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		standby := cluster.Other(p)
		inside := newIntruder(t, r).enter(p, standby)
		must(t, inside(t.Context()))
		must(t, r.KillNode(standby))
		must(t, os.RemoveAll(r.raftDir(t, standby)))
		r.start(t, standby)
		r.waitHealth(t, standby, standby, "out of the cluster")
		r.waitHealth(t, standby, standby, "shimctl node replace "+standby)
		r.waitMode(t, p, "solo", failoverWithin)
		seen := r.logSize(t, standby)
		must(t, inside(t.Context()))
		r.replace(t, standby, false)
		r.eventually(t, "who has the old keys is shown out", func(ctx context.Context) error {
			if inside(ctx) == nil {
				return errors.New("he is still in")
			}
			return nil
		})
		r.waitArmed(t)
		if log := r.logSince(t, standby, seen); strings.Contains(log, `"action":"clone"`) {
			t.Error("the data that it had were not used")
		}
	})
}

func (r *rig) logSize(t *testing.T, node string) int64 {
	t.Helper()
	st, err := os.Stat(r.LogPath(node))
	must(t, err)
	return st.Size()
}

func (r *rig) logSince(t *testing.T, node string, offset int64) string {
	t.Helper()
	b, err := os.ReadFile(r.LogPath(node))
	must(t, err)
	return string(b[offset:])
}

// A copy of the witness's directory runs on another port: it is refused, and the witness is not. Then the witness itself is restored from that
// copy, which has forgotten what was agreed on since: it is refused too (failure matrix, row 41).
func TestCopiesOfTheWitnessAreRefused(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		copied := filepath.Join(t.TempDir(), "copy")
		must(t, os.CopyFS(copied, os.DirFS(r.DataDir(cluster.Witness))))
		log := r.startCopy(t, copied)
		r.eventually(t, "the copy is refused", func(context.Context) error {
			if b, err := os.ReadFile(log); err != nil || !strings.Contains(string(b), `"breach":"duplicated"`) {
				return fmt.Errorf("%w; its log: %s", errors.Join(err, errors.New("not yet")), b)
			}
			return nil
		})
		r.waitHealth(t, p, cluster.Witness, "ok")
		must(t, os.RemoveAll(copied))
		must(t, os.CopyFS(copied, os.DirFS(r.DataDir(cluster.Witness))))

		r.setPaused(t, p, true) // something that all three agree on
		r.setPaused(t, p, false)
		time.Sleep(2 * time.Second) // the others have written what the witness has
		must(t, r.KillNode(cluster.Witness))
		must(t, os.RemoveAll(r.DataDir(cluster.Witness)))
		must(t, os.CopyFS(r.DataDir(cluster.Witness), os.DirFS(copied)))
		r.start(t, cluster.Witness)
		r.waitHealth(t, p, cluster.Witness, "was restored")
		l.waitWrite(t, p, failoverWithin)
		r.replace(t, cluster.Witness, false)
		r.waitArmed(t)
	})
}

// startCopy runs a witness with the directory on another port until the test ends, and returns where it logs.
func (r *rig) startCopy(t *testing.T, dir string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := ln.Addr().String()
	must(t, ln.Close())
	config, out := filepath.Join(t.TempDir(), "copy.yaml"), filepath.Join(t.TempDir(), "copy.log")
	must(t, os.WriteFile(config, fmt.Appendf(nil, "node: %s\ndata_dir: %s\nlisten: %s\nlog: {format: json}\n", cluster.Witness, dir, address), 0o644))
	log, err := os.Create(out)
	must(t, err)
	cmd := exec.Command(lab.binaries.Raftwitness, "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
	})
	return out
}
