package main

import (
	"context"
	"time"
)

const (
	// stopsWithin bounds a clean stop, and thereby TimeoutStopSec in deploy/systemd/kineshim.service: leaveTimeout, the agent's 20 s for
	// PostgreSQL, and what is left for the rest.
	stopsWithin = 50 * time.Second
	// tellEvery is how old the line in `systemctl status` may be.
	tellEvery = time.Second
)

// tellSystemd shows, in `systemctl status`, the line that `shimctl status` begins with. Signs of life are none of its business: those are given
// by the agent's own loop.
func (n *node) tellSystemd(ctx context.Context) error {
	t := time.NewTicker(tellEvery)
	defer t.Stop()
	for {
		if v := n.agent.Vitals(); v != nil {
			n.systemd.Status(v.Status.Headline())
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			n.systemd.Status("stopping")
			return nil
		}
	}
}
