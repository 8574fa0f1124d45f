package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/integration/cluster"
	"kineshim/proto"
)

// serveAlone has the node go on alone with the operator's word, once it may, and waits until it serves.
func (r *rig) serveAlone(t *testing.T, node string, force bool) *proto.PreviewAloneResponse {
	t.Helper()
	control, err := r.Control(node)
	must(t, err)
	var preview *proto.PreviewAloneResponse
	r.eventually(t, "preview", func(ctx context.Context) error {
		if preview, err = control.PreviewAlone(ctx, &proto.PreviewAloneRequest{}); err == nil && !preview.Possible {
			err = errors.New(preview.Reason)
		}
		return err
	})
	t.Logf("preview: %v", preview)
	for name, q := range map[string]*proto.ServeAloneRequest{
		"without the confirmation": {Confirm: "something else", Force: true},
		"without --force":          {Confirm: preview.Confirm},
	} {
		if q.Confirm == preview.Confirm && preview.Safe {
			continue
		}
		if done, err := control.ServeAlone(t.Context(), q); err != nil || done.Done {
			t.Fatalf("it goes on alone %s: %v, %v", name, done, err)
		}
	}
	began := time.Now()
	done, err := control.ServeAlone(t.Context(), &proto.ServeAloneRequest{Operator: "test", Confirm: preview.Confirm, Force: force})
	if err != nil || !done.Done {
		t.Fatalf("serve alone: %v, %v", done, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), failoverWithin)
	defer cancel()
	must(t, r.WaitStatus(ctx, node, node+" serves alone", func(s *proto.StatusResponse) string {
		if !cluster.Self(s).GetGateOpen() || s.GetEpoch() != done.Epoch {
			return "its gate is closed: " + cluster.Self(s).GetGateReason()
		}
		return ""
	}))
	t.Logf("%s served alone after %s", node, time.Since(began).Round(time.Millisecond))
	return preview
}

// refusedAlone is what the node says against going on alone.
func (r *rig) refusedAlone(t *testing.T, node string) string {
	t.Helper()
	control, err := r.Control(node)
	must(t, err)
	p, err := control.PreviewAlone(t.Context(), &proto.PreviewAloneRequest{})
	must(t, err)
	if p.Possible {
		t.Errorf("%s might go on alone: %v", node, p)
	}
	return p.Reason
}

// Failure matrix, row 49: the primary and the witness are lost at once. The standby has everything, and serves on an operator's word only.
func TestStandbyServesAloneWhenTheOthersAreLost(t *testing.T) {
	t.Setenv("GOGC", "off") // what the node's run before has not let go of is not let go of by accident
	r := armed(t)
	p := r.primary(t)
	last := cluster.Other(p)
	r.create(t, p, "/alone/both")
	r.waitMode(t, last, "paired", failoverWithin) // it knows so, too: a follower learns a little later what is committed
	if why := r.refusedAlone(t, last); !strings.Contains(why, "is alive and serves") {
		t.Error(why)
	}
	must(t, r.FreezeKineshim(cluster.Witness)) // so that nothing can be agreed on any more
	must(t, r.KillNode(p))
	must(t, r.KillNode(cluster.Witness))
	preview := r.serveAlone(t, last, false)
	if !preview.Safe || len(preview.Others) != 2 {
		t.Errorf("preview: %v", preview)
	}
	if !r.has(t, last, "/alone/both") {
		t.Error("a write that both had is lost")
	}
	r.create(t, last, "/alone/after")
	// It is the only member, also after a restart.
	must(t, r.KillNode(last))
	r.start(t, last)
	if !r.has(t, last, "/alone/after") {
		t.Error("a write is lost after a restart")
	}
	r.replace(t, cluster.Witness, false)
	r.replace(t, p, false)
	r.waitArmed(t)
	ctx, cancel := context.WithTimeout(t.Context(), armWithin)
	defer cancel()
	must(t, r.Switchover(ctx, p))
	if !r.has(t, p, "/alone/both") || !r.has(t, p, "/alone/after") {
		t.Error("the node that was replaced lacks something")
	}
}

// The operator was wrong, or the machines come back: a node that was behind has gone on alone, and the old primary and the witness, which are a
// majority of what they know, start again. They answer nothing; what the old primary had alone is kept aside.
func TestThoseGivenUpAreFencedWhenTheyReturn(t *testing.T) {
	r := armed(t)
	p := r.primary(t)
	last := cluster.Other(p)
	r.create(t, p, "/fenced/both")
	must(t, r.KillNode(last))
	r.waitMode(t, p, "solo", failoverWithin)
	r.create(t, p, "/fenced/lost")
	must(t, r.KillNode(p))
	must(t, r.KillNode(cluster.Witness))
	r.start(t, last)
	preview := r.serveAlone(t, last, true)
	if preview.Safe { // its last record counts on it: it was away when the primary went on without it
		t.Error("the node that was away says that nothing would be lost")
	}
	r.create(t, last, "/fenced/after")
	gates := r.WatchGates()
	r.start(t, cluster.Witness, p)
	r.waitHealth(t, p, p, "given this voter up")
	time.Sleep(3 * time.Second) // as long as it takes to elect, promote and serve several times
	if s, err := r.StatusOf(t.Context(), p); err != nil || cluster.Self(s).GetVoid() == "" || cluster.Self(s).GetRole() == "primary" {
		t.Errorf("the old primary: %v, %v", s, err)
	}
	log, err := os.ReadFile(r.LogPath(cluster.Witness))
	must(t, err)
	if !strings.Contains(string(log), "this voter is void") {
		t.Error("the old witness does not know that it was given up")
	}
	must(t, r.Kill(cluster.Witness))
	r.replace(t, cluster.Witness, false)
	r.replace(t, p, false)
	r.waitArmed(t)
	found, epochs := gates.Stop()
	for _, f := range found {
		t.Error(f)
	}
	for epoch, node := range epochs {
		if node != last {
			t.Errorf("%s served epoch %d", node, epoch)
		}
	}
	kept, err := filepath.Glob(filepath.Join(r.DataDir(p), "diverged", "*", "about.json"))
	must(t, err)
	if len(kept) == 0 {
		t.Error("what only the old primary had is not kept")
	}
	ctx, cancel := context.WithTimeout(t.Context(), armWithin)
	defer cancel()
	must(t, r.Switchover(ctx, p))
	if !r.has(t, p, "/fenced/both") || !r.has(t, p, "/fenced/after") || r.has(t, p, "/fenced/lost") {
		t.Error("the old primary came back with another history")
	}
}
