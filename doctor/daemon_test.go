package doctor

import (
	"errors"
	"fmt"
	"testing"
)

func TestTheRunningKineshimSaysHowItIs(t *testing.T) {
	gone := fmt.Errorf("/x: %w", ErrNotRunning)
	for name, tc := range map[string]struct {
		err     error
		running bool
		spoil   func(*node)
		want    []string
	}{
		"armed":             {running: true, want: []string{"ok a serves. Automatic failover is armed", "ok kineshim v1 runs here, as new as shimctl"}},
		"not running":       {err: gone, want: []string{"warn kineshim does not run // systemctl start kineshim"}},
		"its unit does":     {err: gone, running: true, want: []string{"FAIL kineshim's unit runs, but nobody listens at // journalctl"}},
		"no answer":         {err: errors.New("no answer within 3s"), running: true, want: []string{"FAIL kineshim does not answer: no answer within 3s // journalctl"}},
		"not armed":         {running: true, spoil: func(n *node) { n.status.Armed, n.status.NotArmed = false, []string{"b is away"} }, want: []string{"warn NOT ARMED: if a is lost, nobody takes over by itself.\nb is away // shimctl status", "ok kineshim v1"}},
		"not serving":       {running: true, spoil: func(n *node) { n.status.Serving = false }, want: []string{"FAIL NOBODY SERVES // shimctl status", "ok kineshim v1"}},
		"an older one runs": {running: true, spoil: func(n *node) { n.status.Version, n.status.Nodes[1].State.Version = "v0", "v0" }, want: []string{"ok a serves", "warn kineshim v0 runs here, and shimctl is v1 // systemctl restart kineshim"}},
		"another one runs on b": {running: true, spoil: func(n *node) { n.status.Nodes[1].State.Version = "v0" },
			want: []string{"ok a serves", "ok kineshim v1", "warn b runs kineshim v0, this node v1 // the same version"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.running = tc.running
			if tc.err == nil {
				n.status = runningStatus()
			}
			if tc.spoil != nil {
				tc.spoil(n)
			}
			expect(t, n.checkDaemon(tc.err, "v1"), tc.want...)
		})
	}
}
