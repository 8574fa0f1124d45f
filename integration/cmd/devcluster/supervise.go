package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"kineshim/integration/cluster"
	"kineshim/proto"
)

// lookEvery is how often the nodes are asked for what is shown.
const lookEvery = 200 * time.Millisecond

// armedWithin is after how long a cluster that is not armed yet is given a hint where to look.
const armedWithin = time.Minute

// supervise starts the nodes, starts again those that end, and shows what changes, until ctx ends.
func supervise(ctx context.Context, c *cluster.Cluster, d *display, restartAfter time.Duration) error {
	if err := c.StartAll(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, node := range cluster.Nodes {
		wg.Go(func() { keepRunning(ctx, c, d, node, restartAfter) })
	}
	d.begun = time.Now()
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		d.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// keepRunning does what systemd's Restart=always does.
func keepRunning(ctx context.Context, c *cluster.Cluster, d *display, node string, after time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.Exited(node):
		}
		if ctx.Err() != nil {
			return
		}
		d.say("node %s has ended; it is started again in %s (its log: %s)", node, after, d.path(node, "log"))
		select {
		case <-ctx.Done():
			return
		case <-time.After(after):
		}
		if err := c.Start(ctx, node); err != nil && !errors.Is(err, context.Canceled) {
			d.say("%v", err)
		}
	}
}

// display tells people what happens.
type display struct {
	c   *cluster.Cluster
	dir string // as the user gave it
	k3s bool

	mu  sync.Mutex // guards out
	out io.Writer

	// What follows is supervise's.
	begun  time.Time
	last   string
	armed  bool // has been once
	hinted bool
}

func (d *display) say(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.out, time.Now().Format("15:04:05.000")+"  "+format+"\n", args...)
}

// path is a file of the cluster as the user would name it.
func (d *display) path(elem ...string) string {
	return filepath.Join(append([]string{d.dir}, elem...)...)
}

// look asks the nodes and shows what has changed.
func (d *display) look(ctx context.Context) {
	s := d.ask(ctx)
	if ctx.Err() != nil {
		return
	}
	if text := describe(s); text != d.last {
		d.last = text
		d.say("%s", text)
		if s.GetArmed() {
			d.tellArmed(s)
		}
	}
	if !d.armed && !d.hinted && time.Since(d.begun) > armedWithin {
		d.hinted = true
		d.say("not armed after %s: see %s and %s", armedWithin, d.path(cluster.A, "log"), d.path(cluster.B, "log"))
	}
}

// ask prefers the answer of the node that serves.
func (d *display) ask(ctx context.Context) *proto.StatusResponse {
	var any *proto.StatusResponse
	for _, node := range cluster.DataNodes {
		if !d.c.Running(node) {
			continue
		}
		s, err := d.c.Status(ctx, node)
		if err != nil {
			continue
		}
		if cluster.Self(s).GetGateOpen() {
			return s
		}
		if any == nil || s.GetEpoch() > any.GetEpoch() {
			any = s
		}
	}
	return any
}

// describe is the cluster in one line; only what is worth a new line when it changes.
func describe(s *proto.StatusResponse) string {
	switch {
	case s == nil:
		return "no data node answers yet"
	case s.GetPrimary() == "":
		return "the cluster is being founded"
	case !cluster.Self(s).GetGateOpen():
		return fmt.Sprintf("epoch %d: nobody serves; primary is %s%s", s.GetEpoch(), s.GetPrimary(), work(s))
	case s.GetArmed():
		return fmt.Sprintf("epoch %d: %s serves, %s is in sync, automatic failover is ARMED", s.GetEpoch(), s.GetPrimary(), cluster.Other(s.GetPrimary()))
	}
	return fmt.Sprintf("epoch %d: %s serves alone (%s)%s", s.GetEpoch(), s.GetPrimary(), s.GetMode(), work(s))
}

// work says what long work is under way on some node.
func work(s *proto.StatusResponse) string {
	var out []string
	for _, n := range s.GetNodes() {
		if p := n.GetState().GetProgress(); p.GetWhat() != "" {
			out = append(out, n.GetName()+": "+p.GetWhat())
		}
	}
	if len(out) == 0 {
		return ""
	}
	return "; " + strings.Join(out, ", ")
}

func (d *display) tellArmed(s *proto.StatusResponse) {
	if !d.armed {
		d.armed = true
		d.tellAll()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.out, "          to kill the primary, kineshim and PostgreSQL:  kill -9 %s\n", strings.Trim(fmt.Sprint(d.c.PIDs(s.GetPrimary())), "[]"))
}

func (d *display) tellAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.out, `
The cluster runs in %[1]s. Either node answers, whoever is primary:
    node a  %[2]s
    node b  %[3]s
Try it:
    bin/kv --endpoint %[2]s put /demo/greeting hello
    bin/kv --endpoint %[3]s get /demo/greeting
    bin/kv --endpoint %[3]s watch /demo/
    etcdctl --endpoints %[2]s get /demo/greeting    # if you have it
    bin/shimctl --socket %[4]s --socket %[5]s status --watch
    curl %[6]s/primary                             # as a load balancer asks; for Prometheus: /metrics
`, d.dir, d.c.ClientURL(cluster.A), d.c.ClientURL(cluster.B), d.path(cluster.A, "control.sock"), d.path(cluster.B, "control.sock"), d.c.HTTPURL(cluster.A))
	if d.k3s {
		fmt.Fprintf(d.out, `Run a Kubernetes server on it:
    k3s server --datastore-endpoint=%s
`, d.c.ClientURL(cluster.A))
	}
	fmt.Fprintf(d.out, `Kill a node and watch here; it is started again after some seconds. Ctrl-C stops everything.

`)
}
