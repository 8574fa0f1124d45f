package raftwitness

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kineshim/raftwitness/record"
)

// testPromise is long enough for a busy machine with slow disks to keep a leader, and short enough for many elections a minute.
const testPromise = 300 * time.Millisecond

// patience bounds waits for what must happen, on a machine that may be very slow.
const patience = 20 * time.Second

// eventually polls until ok says so, or fails the test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// steadily checks that ok holds for a while.
func steadily(t *testing.T, what string, d time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if !ok() {
			t.Fatalf("%s: not for %v", what, d)
		}
	}
}

// testLog shows what is logged if the environment asks for it: the lines of a test that has ended must not reach it.
func testLog(name string) *slog.Logger {
	if os.Getenv("RAFTWITNESS_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("voter", name)
}

func newTestListener(t *testing.T, name string) *Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := NewListener(ln, testLog(name))
	t.Cleanup(func() { l.Close() })
	return l
}

// identities are those of a new cluster of a, b and w, whose Raft ports are filled in from address.
func identities(promise time.Duration, address map[string]string) map[string]Identity {
	cluster := NewClusterID()
	var peers []Peer
	for _, name := range []string{"a", "b", "w"} {
		role := record.Data
		if name == "w" {
			role = record.Witness
		}
		peers = append(peers, Peer{Member: record.Member{Name: name, ServerID: NewServerID(name), Role: role}, Raft: address[name]})
	}
	ids := map[string]Identity{}
	for _, p := range peers {
		ids[p.Name] = Identity{ClusterID: cluster, Name: p.Name, ServerID: p.ServerID, Role: p.Role, Founder: "a", Promise: promise, Peers: peers}
	}
	return ids
}

// testNode is a voter that can be stopped and started again.
type testNode struct {
	*Node
	name     string
	cfg      Config
	stopped  chan struct{}
	cancel   context.CancelFunc
	runError error
}

// testCluster is three real voters over loopback TCP in one process.
type testCluster struct {
	t     *testing.T
	ids   map[string]Identity
	links *links
	dir   string

	mu    sync.Mutex // guards nodes
	nodes map[string]*testNode
}

var voters = []string{"a", "b", "w"}

// newTestCluster makes the cluster without starting its voters.
func newTestCluster(t *testing.T, promise time.Duration) *testCluster {
	t.Helper()
	// In memory: a disk that flushes for a tenth of a second, a dozen times in a row, is not what the bounds of these tests are about.
	c := &testCluster{t: t, links: newLinks(), dir: inMemoryDir(t), nodes: map[string]*testNode{}}
	_ = t.TempDir() // what tests put below it is removed after the voters have ended, which is cleaned up before: the last first
	address, listeners := map[string]string{}, map[string]*Listener{}
	for _, name := range voters {
		listeners[name] = newTestListener(t, name)
		address[name] = listeners[name].Addr().String()
	}
	c.ids = identities(promise, address)
	for _, name := range voters {
		c.nodes[name] = &testNode{name: name, cfg: Config{
			Dir: filepath.Join(c.dir, name), Identity: c.ids[name], Listener: listeners[name],
			Dial: c.links.dialer(name, address), Log: testLog(name),
		}}
	}
	t.Cleanup(func() {
		for _, name := range voters {
			c.stop(name)
		}
	})
	return c
}

// startCluster makes a cluster, starts it and waits for the lease of a data node, whose name it returns.
func startCluster(t *testing.T, promise time.Duration) (*testCluster, string) {
	t.Helper()
	c := newTestCluster(t, promise)
	for _, name := range voters {
		c.start(name)
	}
	return c, c.leader()
}

func (c *testCluster) start(name string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[name]
	node, err := Open(n.cfg)
	if err != nil {
		c.t.Fatalf("open %s: %v", name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.Node, n.cancel, n.stopped = node, cancel, make(chan struct{})
	go func() {
		defer close(n.stopped)
		n.runError = node.Run(ctx)
	}()
}

// stop ends a voter and waits for it.
func (c *testCluster) stop(name string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[name]
	if n.Node == nil {
		return
	}
	n.cancel()
	select {
	case <-n.stopped:
		if n.runError != nil {
			c.t.Errorf("run %s: %v", name, n.runError)
		}
	case <-time.After(patience):
		c.t.Fatalf("%s does not stop", name)
	}
	n.Node = nil
}

// node is the running voter, nil if it is stopped.
func (c *testCluster) node(name string) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name].Node
}

// leader waits until a data node has a lease.
func (c *testCluster) leader() string {
	c.t.Helper()
	var leader string
	eventually(c.t, "a data node leads with a lease", func() bool {
		for _, name := range []string{"a", "b"} {
			if n := c.node(name); n != nil && n.LeaseLeft() > 0 {
				leader = name
				return true
			}
		}
		return false
	})
	return leader
}

// lead makes the named data node lead with a lease.
func (c *testCluster) lead(name string) {
	c.t.Helper()
	eventually(c.t, name+" leads with a lease", func() bool {
		if c.node(name).LeaseLeft() > 0 {
			return true
		}
		if l := c.leader(); l != name {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := c.node(l).HandOver(ctx, name); err != nil {
				c.t.Logf("hand over from %s: %v", l, err)
			}
		}
		return c.node(name).LeaseLeft() > 0
	})
}

// propose commits a command decided in the epoch that the leader sees, following the leadership where it goes.
func (c *testCluster) propose(cmd record.Command) {
	c.t.Helper()
	unknown := false
	eventually(c.t, "commit "+string(cmd.Kind), func() bool {
		n := c.node(c.leader())
		r, _ := n.Record()
		cmd.Epoch = r.Epoch
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err := n.Propose(ctx, cmd)
		if unknown && errors.Is(err, record.ErrNotAllowed) {
			return true // an attempt whose outcome was not known has done it
		}
		unknown = unknown || errors.Is(err, ErrUnknownOutcome)
		if err != nil && !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrUnknownOutcome) {
			c.t.Fatalf("propose %s: %v", cmd.Kind, err)
		}
		return err == nil
	})
}

// initialise gives the cluster the primary a, paired with b, on timeline 1.
func (c *testCluster) initialise() {
	c.t.Helper()
	c.propose(record.Command{Kind: record.Init, By: "a", Node: "a", ClusterID: c.ids["a"].ClusterID, SystemID: 7, Members: c.ids["a"].Members()})
	c.propose(record.Command{Kind: record.Timeline, By: "a", Timeline: 1, SwitchLSN: 0x1000})
	c.propose(record.Command{Kind: record.Pair, By: "a", Node: "b", Timeline: 1})
}

// agree waits until all running voters hold the same log and have applied the same record, and returns it.
func (c *testCluster) agree() record.Record {
	c.t.Helper()
	var got record.Record
	eventually(c.t, "all voters hold the same log", func() bool {
		leader := c.node(c.leader())
		r, index := leader.Record()
		got = *r
		for _, name := range voters {
			n := c.node(name)
			if n == nil {
				continue
			}
			if _, i := n.Record(); i != index || n.raft.LastIndex() != leader.raft.LastIndex() || n.raft.CommitIndex() != leader.raft.CommitIndex() {
				return false
			}
		}
		return true
	})
	return got
}
