// Package cluster runs a whole cluster of two data nodes and a witness on this machine, as real processes that can be stopped, killed
// and frozen.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// The nodes' names. A is the founding node, the first primary.
const (
	A       = "a"
	B       = "b"
	Witness = "w"
)

// DataNodes are the nodes that hold data.
var DataNodes = []string{A, B}

// Nodes are all nodes.
var Nodes = []string{A, B, Witness}

// Other is the other data node.
func Other(node string) string {
	if node == A {
		return B
	}
	return A
}

// Options say how a cluster is made and run.
type Options struct {
	Binaries Binaries
	// Log tells what is done to the cluster. Nil: nothing is told.
	Log *slog.Logger
	// JSONLogs makes the processes log JSON lines instead of text.
	JSONLogs bool
	// Engine is the engine of the data nodes; empty: the default one.
	Engine string
	// Prefer are the ports to take if they are free, by node. 0 and nil: any free ones.
	Prefer map[string]Ports
	// Place puts each node on a host of its own. Nil: all are on this machine, on loopback.
	Place Place
	// LogDir takes the logs of the nodes' processes; "": each is in the node's data directory. A node whose disk is to fail needs another.
	LogDir string
	// Extra are lines to add to the nodes' configurations, by node.
	Extra map[string]string
	// Env is what the nodes' processes have in their environment beside this process's own, by node.
	Env map[string][]string
}

// Place gives each node a network of its own, as another machine has. The ports are then the same everywhere.
type Place interface {
	// Address is the IP address at which the others reach the node.
	Address(node string) string
	// Enter moves the calling thread to the node's host. A command that the thread starts afterwards runs there. The thread is locked to
	// its goroutine and ends with it.
	Enter(node string) error
}

// placedPorts are the ports of a node that has a host of its own.
var placedPorts = Ports{Client: 2379, Peer: 2383, Raft: 2384, Postgres: 5433, HTTP: 8008}

// Cluster is a cluster in a directory. Its methods may be called from several goroutines, but what is done to one node must be done by
// one at a time.
type Cluster struct {
	dir  string
	opts Options
	plan layout

	mu        sync.Mutex // guards what follows
	processes map[string]*process
	control   map[string]*grpc.ClientConn
	blowAt    time.Time // when the signals of the last blow had been sent
	blowNoted bool      // blowAt is that of the present blow
}

// New makes a cluster in the directory, or takes over the one that is there, with its ports. It starts nothing. The directory and those
// above it must be open (0755) to PostgreSQL's OS user if this runs as root, and its path must be short: it is to hold sockets.
func New(ctx context.Context, dir string, opts Options) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("new cluster: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("new cluster: %w", err)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{dir: dir, opts: opts, processes: map[string]*process{}, control: map[string]*grpc.ClientConn{}}
	resumed, err := c.plan.load(dir)
	if err != nil {
		return nil, fmt.Errorf("new cluster: %w", err)
	}
	if resumed {
		return c, c.writeConfigs()
	}
	if err := c.enrol(ctx); err != nil {
		return nil, fmt.Errorf("new cluster: %w", err)
	}
	return c, nil
}

// enrol gives the nodes their ports, configuration and identities. The layout is saved last: a directory without it is unfinished.
func (c *Cluster) enrol(ctx context.Context) error {
	for _, node := range Nodes {
		left := filepath.Join(c.dir, node)
		if entries, err := os.ReadDir(left); err == nil && len(entries) > 0 {
			return fmt.Errorf("%s is left from a cluster that was not finished: remove a, b and w in %s (make clean removes run/)", left, c.dir)
		}
		if err := os.MkdirAll(left, 0o755); err != nil {
			return err
		}
	}
	if c.opts.Place != nil {
		c.plan.Ports = map[string]Ports{A: placedPorts, B: placedPorts, Witness: {Raft: placedPorts.Raft, HTTP: placedPorts.HTTP}}
	} else {
		var err error
		if c.plan.Ports, err = choosePorts(c.opts.Prefer); err != nil {
			return err
		}
	}
	if err := c.writeConfigs(); err != nil {
		return err
	}
	enrolments, err := os.MkdirTemp(c.dir, "enrolments-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(enrolments)
	kineshim, witness := c.opts.Binaries.Kineshim, c.opts.Binaries.Raftwitness
	for _, cmd := range [][]string{
		{kineshim, "init", "--config", c.configPath(A), "--enrolments", enrolments},
		{kineshim, "join", "--config", c.configPath(B), filepath.Join(enrolments, B+".json")},
		{witness, "join", "--config", c.configPath(Witness), filepath.Join(enrolments, Witness+".json")},
	} {
		if out, err := exec.CommandContext(ctx, cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd, err, out)
		}
	}
	return c.plan.save(c.dir)
}

// Dir is where the cluster lives.
func (c *Cluster) Dir() string { return c.dir }

// DataDir is the node's data directory.
func (c *Cluster) DataDir(node string) string { return filepath.Join(c.dir, node) }

// LogPath is the file to which the node's process logs. It is kept across restarts.
func (c *Cluster) LogPath(node string) string {
	if c.opts.LogDir != "" {
		return filepath.Join(c.opts.LogDir, node+".log")
	}
	return filepath.Join(c.dir, node, "log")
}

// SocketPath is the data node's control socket.
func (c *Cluster) SocketPath(node string) string { return filepath.Join(c.dir, node, "control.sock") }

// ClientURL is where the data node serves the etcd API: on the loopback of its host.
func (c *Cluster) ClientURL(node string) string {
	return fmt.Sprintf("http://127.0.0.1:%d", c.plan.Ports[node].Client)
}

// HTTPURL is where the node answers load balancers and Prometheus: on the loopback of its host.
func (c *Cluster) HTTPURL(node string) string {
	return fmt.Sprintf("http://127.0.0.1:%d", c.plan.Ports[node].HTTP)
}

// Ports are those of a node.
func (c *Cluster) Ports(node string) Ports { return c.plan.Ports[node] }

// ClientPort is the port of ClientURL.
func (c *Cluster) ClientPort(node string) int { return c.plan.Ports[node].Client }

func (c *Cluster) pgdata(node string) string { return filepath.Join(c.dir, node, "pgdata") }

// StartAll starts the nodes that do not run.
func (c *Cluster) StartAll(ctx context.Context) error {
	for _, node := range Nodes {
		if c.Running(node) {
			continue
		}
		if err := c.Start(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// stopOrder is who is stopped when: the witness last, so that whoever is primary can go cleanly.
var stopOrder = []string{B, A, Witness}

// StopAll stops all nodes cleanly; what does not stop within its bound is killed.
func (c *Cluster) StopAll(ctx context.Context) error {
	var errs []error
	for _, node := range stopOrder {
		if c.Running(node) {
			errs = append(errs, c.Stop(ctx, node))
		}
	}
	return errors.Join(errs...)
}

// Destroy kills all that runs and removes the directory.
func (c *Cluster) Destroy() error {
	err := c.Abandon()
	return errors.Join(err, os.RemoveAll(c.dir))
}

// Abandon kills all that runs and leaves the directory, for looking at.
func (c *Cluster) Abandon() error {
	var errs []error
	for _, node := range Nodes {
		errs = append(errs, c.KillNode(node))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.control {
		errs = append(errs, conn.Close())
	}
	clear(c.control)
	return errors.Join(errs...)
}

// pollEvery is the pace at which conditions are polled.
const pollEvery = 50 * time.Millisecond

// poll asks again until done says so, or ctx ends; the error then says what was last amiss.
func poll(ctx context.Context, what string, done func() (bool, string)) error {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	last := "never asked"
	for {
		ok, amiss := done()
		if ok {
			return nil
		}
		if until, ok := ctx.Deadline(); ctx.Err() == nil && (!ok || time.Until(until) > pollEvery) { // else it may only say that time is up
			last = amiss
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; last: %s", what, ctx.Err(), last)
		case <-t.C:
		}
	}
}

func isDataNode(node string) bool { return slices.Contains(DataNodes, node) }
