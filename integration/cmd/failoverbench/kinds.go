package main

import (
	"context"
	"time"

	"kineshim/integration/cluster"
)

// kind is a way in which the primary goes.
type kind struct {
	name string
	// strike does it to the node.
	strike func(ctx context.Context, c *cluster.Cluster, node string) error
	// heal brings the node back after the measurement.
	heal func(ctx context.Context, c *cluster.Cluster, node string) error
	// lingers: the old primary may acknowledge writes for a moment after the blow, or serve again itself. The time is then taken to the end of the
	// longest pause between acknowledged writes, not to the first write after the blow.
	lingers bool
	// pause: the time given is the length of that pause. Nothing has failed at the time of the blow.
	pause bool
	// lives: the node's kineshim outlives it, with the connections of its clients, so that watches there are to go on.
	lives bool
	// graceful: no client anywhere is to see an error.
	graceful bool
}

var kinds = []kind{
	{
		name:   "kill-group",
		strike: func(_ context.Context, c *cluster.Cluster, node string) error { return c.KillGroup(node) },
		heal:   restart,
	},
	{
		name:   "kill-node",
		strike: func(_ context.Context, c *cluster.Cluster, node string) error { return c.KillNode(node) },
		heal:   restart,
	},
	{
		name:    "kill-postgres",
		strike:  func(_ context.Context, c *cluster.Cluster, node string) error { return c.KillPostgres(node) },
		heal:    nothing,
		lingers: true,
		lives:   true,
	},
	{
		name:   "silent",
		strike: func(_ context.Context, c *cluster.Cluster, node string) error { return c.FreezeNode(node) },
		heal:   func(_ context.Context, c *cluster.Cluster, node string) error { return c.ThawNode(node) },
		lives:  true,
	},
	{
		name: "switchover",
		strike: func(ctx context.Context, c *cluster.Cluster, node string) error {
			return c.Switchover(ctx, cluster.Other(node))
		},
		heal:     nothing,
		lingers:  true,
		pause:    true,
		lives:    true,
		graceful: true,
	},
}

// lingerFor is how long after the blow pauses are looked for.
const lingerFor = 3 * time.Second

func restart(ctx context.Context, c *cluster.Cluster, node string) error { return c.Start(ctx, node) }

func nothing(context.Context, *cluster.Cluster, string) error { return nil }

func kindNames() []string {
	var out []string
	for _, k := range kinds {
		out = append(out, k.name)
	}
	return out
}
