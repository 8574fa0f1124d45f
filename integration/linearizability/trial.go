package linearizability

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"

	"kineshim.example/linearizability/history"
	"kineshim.example/linearizability/nemesis"
	"kineshim.example/linearizability/watched"
	"kineshim.example/linearizability/workload"
	"kineshim/integration/cluster"
)

// Config says what a trial is.
type Config struct {
	Binaries cluster.Binaries
	// Faults are done one after the other.
	Faults []nemesis.Fault
	// Quiet is how long the load goes on after the last of them.
	Quiet time.Duration
	Seed  uint64
	// CheckFor bounds the search for an order of the requests.
	CheckFor time.Duration
	// Out is where evidence of violations is left.
	Out string
	// Crowd are the clients; nil: Crowd().
	Crowd []workload.Habits
	Log   func(format string, args ...any)
}

// Result is what a trial came to.
type Result struct {
	Violations []history.Violation
	// Stopped is why not all faults could be done: the cluster did not recover. What had happened until then was checked as far as it could be.
	Stopped error
}

const (
	// foundWithin bounds the first start of the cluster, up to where it is armed.
	foundWithin = 90 * time.Second
	// settle is how long keys are used before a fault.
	settle = 400 * time.Millisecond
	// reachWithin bounds how long after the last request watches may take to be shown everything.
	reachWithin = 20 * time.Second
	// readWithin bounds the reading of the whole history, and the like.
	readWithin = time.Minute
	// replays is how many watches are begun from old revisions at the end, on each node.
	replays = 4
	// patience is longer than a node lets requests wait for a primary.
	patience = 15 * time.Second
	think    = 8 * time.Millisecond
	// snapshots is how many old revisions are read at the end, on each node.
	snapshots = 4
)

// trial is one under way.
type trial struct {
	Config
	c       *cluster.Cluster
	rec     *workload.Recorder
	keys    *workload.Keys
	lives   *workload.Lives
	book    *watched.Book
	conns   []*grpc.ClientConn
	nodes   map[string]*grpc.ClientConn // for what is no client's
	clients []*workload.Client
	streams []*workload.Stream
	from    int64 // the revision of the first write
	found   []history.Violation
}

// Run starts a cluster, tries it, and checks what was seen. An error means that nothing could be tried or checked.
func Run(ctx context.Context, cfg Config) (Result, error) {
	t := &trial{Config: cfg, rec: workload.NewRecorder(), keys: &workload.Keys{Prefix: "/registry/linearizability/"}, lives: workload.NewLives(),
		book: watched.NewBook(), nodes: map[string]*grpc.ClientConn{}}
	defer t.close()
	if err := t.start(ctx); err != nil {
		return Result{}, err
	}
	stopped, err := t.run(ctx)
	if err != nil {
		return Result{}, err
	}
	result := Result{t.found, stopped}
	if len(t.found) > 0 || stopped != nil {
		t.keepEvidence(result)
	}
	return result, nil
}

func (t *trial) start(ctx context.Context) error {
	dir, err := os.MkdirTemp("/tmp", "ks-lin-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL's OS user must come through
		return err
	}
	if t.c, err = cluster.New(ctx, dir, cluster.Options{Binaries: t.Binaries, JSONLogs: true, Log: slog.New(slog.DiscardHandler)}); err != nil {
		os.RemoveAll(dir)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, foundWithin)
	defer cancel()
	if err := t.c.StartAll(ctx); err != nil {
		return err
	}
	if err := t.c.WaitArmed(ctx); err != nil {
		return err
	}
	if t.from, err = t.mark(ctx, cluster.A); err != nil {
		return err
	}
	return errors.Join(t.makeClients(), t.makeStreams())
}

// run does the faults under load, and then checks. stopped is why not all were done.
func (t *trial) run(ctx context.Context) (stopped, err error) {
	var clients, streams sync.WaitGroup
	clientCtx, stopClients := context.WithCancel(ctx)
	streamCtx, stopStreams := context.WithCancel(ctx)
	defer streams.Wait()
	defer stopStreams()
	defer clients.Wait()
	defer stopClients()
	for _, s := range t.streams {
		streams.Go(func() { s.Run(streamCtx) })
		if s.AsksProgress {
			clients.Go(func() { workload.AddLate(clientCtx, s, t.keys, t.from, t.random(200)) })
		}
	}
	for _, c := range t.clients {
		clients.Go(func() { c.Run(clientCtx) })
	}
	began := time.Now()
	stopped = t.strike(ctx)
	stopClients()
	clients.Wait()
	if stopped == nil {
		if err := t.catchUp(ctx); err != nil {
			return nil, err
		}
	}
	t.Log("load and faults: %s", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	timeline, through, err := t.timeline(ctx)
	stopStreams()
	streams.Wait()
	if err != nil {
		t.withoutTimeline(stopped, err)
		return stopped, nil
	}
	t.checkWatches(timeline, through)
	err = t.checkRequests(timeline.Events)
	t.Log("checks: %s", time.Since(began).Round(time.Millisecond))
	return stopped, err
}

// strike does the faults.
func (t *trial) strike(ctx context.Context) error {
	n := &nemesis.Nemesis{Cluster: t.c, Nodes: t.lives, Load: t.rec, Log: t.Log}
	for _, f := range t.Faults {
		t.keys.Renew()
		sleep(ctx, settle)
		if err := n.Round(ctx, f); err != nil {
			return err
		}
	}
	t.keys.Renew()
	sleep(ctx, t.Quiet)
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// catchUp writes the last word and waits until all watches have heard of it.
func (t *trial) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	last, err := t.mark(ctx, cluster.B)
	if err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(ctx, reachWithin)
	defer cancel()
	for _, s := range t.streams {
		if err := s.Reached(ctx, last); err != nil {
			t.violate(watched.Gap, "within %s of the last write: %v", reachWithin, err)
		}
	}
	return nil
}

func (t *trial) violate(rule history.Rule, format string, args ...any) {
	t.found = append(t.found, history.Violation{Rule: rule, Message: fmt.Sprintf(format, args...)})
}

func (t *trial) close() {
	for _, conn := range t.conns {
		_ = conn.Close() // nothing is asked any more
	}
	if t.c != nil {
		if err := t.c.Destroy(); err != nil {
			t.Log("destroy the cluster: %v", err)
		}
	}
}
