package linearizability

import (
	"context"
	"log/slog"
	"os"
	"time"

	"google.golang.org/grpc"

	"kineshim.example/linearizability/history"
	"kineshim.example/linearizability/nemesis"
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
	// Settings are lines to add to the data nodes' configuration.
	Settings string
	// Visible is Nemesis.Visible.
	Visible time.Duration
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
)

// trial is one under way.
type trial struct {
	Config
	c       *cluster.Cluster
	session *Session
}

// Run starts a cluster, tries it, and checks what was seen. An error means that nothing could be tried or checked.
func Run(ctx context.Context, cfg Config) (Result, error) {
	t := &trial{Config: cfg}
	defer t.close()
	if err := t.start(ctx); err != nil {
		return Result{}, err
	}
	began := time.Now()
	stopped := t.strike(ctx)
	t.Log("load and faults: %s", time.Since(began).Round(time.Millisecond))
	found, err := t.session.Finish(ctx, stopped == nil)
	if err != nil {
		return Result{}, err
	}
	result := Result{found, stopped}
	if len(found) > 0 || stopped != nil {
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
	if t.c, err = cluster.New(ctx, dir, cluster.Options{Binaries: t.Binaries, Extra: map[string]string{cluster.A: t.Settings, cluster.B: t.Settings}, JSONLogs: true, Log: slog.New(slog.DiscardHandler)}); err != nil {
		os.RemoveAll(dir)
		return err
	}
	founding, cancel := context.WithTimeout(ctx, foundWithin)
	defer cancel()
	if err := t.c.StartAll(founding); err != nil {
		return err
	}
	if err := t.c.WaitArmed(founding); err != nil {
		return err
	}
	crowd := t.Crowd
	if crowd == nil {
		crowd = Crowd()
	}
	t.session, err = StartSession(ctx, SessionConfig{Prefix: "/registry/linearizability/", Seed: t.Seed, Crowd: crowd, CheckFor: t.CheckFor, Out: t.Out, Log: t.Log,
		Dial: t.dial})
	return err
}

func (t *trial) dial(node string) (*grpc.ClientConn, error) { return workload.Dial(t.address(node)) }

// strike does the faults.
func (t *trial) strike(ctx context.Context) error {
	n := &nemesis.Nemesis{Cluster: t.c, Nodes: t.session.Lives(), Load: t.session.rec, Visible: t.Visible, Log: t.Log}
	for _, f := range t.Faults {
		t.session.Renew()
		sleep(ctx, settle)
		if err := n.Round(ctx, f); err != nil {
			return err
		}
	}
	t.session.Renew()
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

func (t *trial) close() {
	if t.session != nil {
		t.session.Close()
	}
	if t.c != nil {
		if err := t.c.Destroy(); err != nil {
			t.Log("destroy the cluster: %v", err)
		}
	}
}
