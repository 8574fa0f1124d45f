// Command devcluster runs a cluster of two data nodes and a witness on this machine, for trying things out: it makes the cluster or takes up
// the one that is in the directory, waits until automatic failover is armed, says how to use it, and starts again what is killed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"kineshim/integration/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, stop, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "devcluster:", err)
		os.Exit(1)
	}
}

// preferred are the ports that people expect.
var preferred = map[string]cluster.Ports{
	cluster.A:       {Client: 2379, Raft: 2384, Peer: 2383, Postgres: 5433, HTTP: 8008},
	cluster.B:       {Client: 22379, Raft: 22384, Peer: 22383, Postgres: 25433, HTTP: 28008},
	cluster.Witness: {Raft: 32384, HTTP: 38008},
}

// stopWithin bounds the clean stop of all; after it, and on a second Ctrl-C, everything is killed.
const stopWithin = 60 * time.Second

func run(ctx context.Context, stopSignals func(), args []string, out io.Writer) error {
	flags := flag.NewFlagSet("devcluster", flag.ContinueOnError)
	dir := flags.String("dir", "run", "where the cluster lives")
	k3s := flags.Bool("k3s", false, "print the command line of a k3s server that uses the cluster")
	restart := flags.Duration("restart-after", 3*time.Second, "how long a node stays away that was killed")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := findPostgres(); err != nil {
		return err
	}
	place, err := settle(*dir, out)
	if err != nil {
		return err
	}
	unlock, err := lock(place)
	if err != nil {
		return err
	}
	defer unlock()
	binaries, cleanup, err := findBinaries(ctx)
	if err != nil {
		return err
	}
	defer cleanup()

	c, err := open(ctx, place, binaries, out)
	if err != nil {
		return err
	}
	d := &display{c: c, dir: *dir, out: out, k3s: *k3s}
	err = supervise(ctx, c, d, *restart)
	stopSignals() // a second Ctrl-C ends us at once, and the nodes with us
	return errors.Join(err, shutDown(c, d))
}

func open(ctx context.Context, place string, binaries cluster.Binaries, out io.Writer) (*cluster.Cluster, error) {
	c, err := cluster.New(ctx, place, cluster.Options{Binaries: binaries, Prefer: preferred})
	if err != nil {
		return nil, err
	}
	if err := c.CheckPorts(); err != nil {
		return nil, fmt.Errorf("%w\nThe cluster keeps its ports. Stop what uses them, or remove the cluster with `make clean`", err)
	}
	for _, node := range cluster.DataNodes {
		if want := preferred[node].Client; c.ClientPort(node) != want {
			fmt.Fprintf(out, "Port %d was taken when the cluster was made: node %s serves on %d.\n", want, node, c.ClientPort(node))
		}
	}
	return c, nil
}

func shutDown(c *cluster.Cluster, d *display) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	d.say("stopping")
	err := c.StopAll(ctx)
	err = errors.Join(err, c.Abandon())
	if err == nil {
		d.say("stopped; `make run` takes it up again, `make clean` removes it")
	}
	return err
}

// findBinaries takes the binaries beside our own, as `make build` leaves them, or builds them.
func findBinaries(ctx context.Context) (cluster.Binaries, func(), error) {
	nothing := func() {}
	if self, err := os.Executable(); err == nil && os.Getenv(cluster.BinDirEnv) == "" {
		if b, err := cluster.BinariesIn(filepath.Dir(self)); err == nil {
			return b, nothing, nil
		}
	}
	dir, err := os.MkdirTemp("", "kineshim-bin-")
	if err != nil {
		return cluster.Binaries{}, nil, err
	}
	b, err := cluster.Build(ctx, dir)
	if err != nil {
		os.RemoveAll(dir)
		return cluster.Binaries{}, nil, err
	}
	return b, func() { os.RemoveAll(dir) }, nil
}
