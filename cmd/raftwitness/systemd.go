package main

import (
	"context"
	"fmt"
	"time"

	"kineshim/raftwitness"
	"kineshim/sdnotify"
)

// stopsWithin bounds a clean stop, and thereby TimeoutStopSec in deploy/systemd/raftwitness.service.
const stopsWithin = 10 * time.Second

// statusLine is what `systemctl status` shows.
func statusLine(votes, broken int) string {
	line := fmt.Sprintf("votes in %d clusters", votes)
	if votes == 1 {
		line = "votes in 1 cluster"
	}
	if broken > 0 {
		line += fmt.Sprintf("; in %d it does not: see the log", broken)
	}
	return line
}

// showLife gives systemd a sign of life whenever all voters have shown one, until ctx ends.
func showLife(ctx context.Context, systemd *sdnotify.Notifier, voters []*raftwitness.Node) {
	if systemd.Every() == 0 {
		return
	}
	t := time.NewTicker(systemd.Every())
	defer t.Stop()
	for {
		for _, n := range voters {
			if n.Turns(ctx) != nil {
				return // ctx has ended
			}
		}
		systemd.Turned()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
