package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"kineshim/integration/cluster"
)

// shimHost is a whole cluster of kineshim: two data nodes and a witness.
type shimHost struct{ c *cluster.Cluster }

func startShim(ctx context.Context, dir string, b binaries, engine string) (host, error) {
	c, err := cluster.New(ctx, dir, cluster.Options{Binaries: b.cluster, Engine: engine})
	if err != nil {
		return nil, err
	}
	h := &shimHost{c}
	if err = c.StartAll(ctx); err == nil {
		err = c.WaitArmed(ctx)
	}
	if err != nil {
		for _, node := range cluster.DataNodes {
			err = fmt.Errorf("%w\nend of the log of %s:\n%s", err, node, tail(c.LogPath(node)))
		}
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *shimHost) Endpoint(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	primary, err := h.c.WaitPrimary(ctx)
	return h.addr(primary), err
}

func (h *shimHost) Other(ctx context.Context) (string, func() error, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	primary, err := h.c.WaitPrimary(ctx)
	if err != nil {
		return "", nil, err
	}
	return h.addr(cluster.Other(primary)), func() error { return nil }, nil
}

func (h *shimHost) addr(node string) string { return fmt.Sprintf("127.0.0.1:%d", h.c.ClientPort(node)) }

func (h *shimHost) Processes() []process {
	var out []process
	for _, node := range cluster.Nodes {
		name := kineshim + " " + node
		if node == cluster.Witness {
			name = "raftwitness"
		}
		postgres := h.c.PostgresPIDs(node)
		for _, pid := range h.c.PIDs(node) {
			p := process{name: name, pid: pid}
			if slices.Contains(postgres, pid) {
				p.name, p.postgres = "postgres "+node, true
			}
			out = append(out, p)
		}
	}
	return out
}

// Amiss says why the cluster is not armed: then commits may not wait for the standby.
func (h *shimHost) Amiss(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	primary := h.c.Primary(ctx)
	if primary == "" {
		return "nobody serves"
	}
	s, err := h.c.Status(ctx, primary)
	if err != nil {
		return err.Error()
	}
	if !s.GetArmed() {
		return "not armed: " + strings.Join(s.GetNotArmed(), "; ")
	}
	return ""
}

// Close leaves the directory, which is part of the bench's.
func (h *shimHost) Close() error { return h.c.Abandon() }
