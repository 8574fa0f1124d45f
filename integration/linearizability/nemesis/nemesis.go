// Package nemesis makes primaries fail and change, one after the other.
package nemesis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"kineshim/integration/cluster"
)

// Nodes is what is told of processes that are ended.
type Nodes interface {
	// End: the node's process is going to be ended.
	End(node string)
	// Begin: it has ended, and is going to be started anew.
	Begin(node string)
}

// Load is the load that goes on meanwhile.
type Load interface {
	// Now is its clock.
	Now() int64
	// WritesSince is how many writes through a node, begun since an instant, have been acknowledged; an empty node is any.
	WritesSince(at int64, node string) int
}

// Nemesis strikes at a cluster under load.
type Nemesis struct {
	Cluster *cluster.Cluster
	Nodes   Nodes
	Load    Load
	// Visible is time for PostgreSQL to recover from a crash, and for clients to see what it shows; 0: visibleFor. With waitingFor, it must be shorter than
	// the time after which the primary goes on alone.
	Visible time.Duration
	// Log tells what is done.
	Log func(format string, args ...any)
}

// Bounds of waiting. Whoever hits one has found something worse than what is looked for here.
const (
	// recoverWithin is far above what a failover may take.
	recoverWithin = 60 * time.Second
	// armWithin includes a new copy of the data.
	armWithin = 90 * time.Second
)

const (
	// frozenFor is longer than any failover takes, so that the old primary wakes up in a world that has gone on.
	frozenFor = 3500 * time.Millisecond
	// behindFor is how long the standby's kineshim is frozen before the primary is killed. It is shorter than the silence after which the primary would go
	// on alone.
	behindFor = 150 * time.Millisecond
	// waitingFor lets commits get as far as the wait for the standby. Together with visibleFor it is shorter than the second after which the primary would go on
	// alone.
	waitingFor = 80 * time.Millisecond
	visibleFor = 700 * time.Millisecond
	// goesOnFor is how long the new primary serves before the old one is healed.
	goesOnFor = 500 * time.Millisecond
	lookEvery = 20 * time.Millisecond
)

// Fault is a way in which a primary ends.
type Fault struct {
	Name   string
	strike func(ctx context.Context, n *Nemesis, primary string) error
}

// Failovers are the faults for which nobody is prepared.
var Failovers = []Fault{KillNode, FreezeNode, KillPostgres, KillNodeBehind, FreezeKineshim, KillNodeUnreplicated}

// Switchovers are planned. Most are an operator's; some nodes are stopped cleanly.
var Switchovers = []Fault{Switch, Switch, Stop}

var (
	// KillNode kills every process of the primary.
	KillNode = Fault{"kill node", func(ctx context.Context, n *Nemesis, primary string) error {
		n.Nodes.End(primary)
		if err := n.Cluster.KillNode(primary); err != nil {
			return err
		}
		return n.restart(ctx, primary)
	}}
	// KillPostgres kills PostgreSQL of the primary; kineshim lives.
	KillPostgres = Fault{"kill PostgreSQL", func(ctx context.Context, n *Nemesis, primary string) error {
		if err := n.Cluster.KillPostgres(primary); err != nil {
			return err
		}
		return n.recovered(ctx, "")
	}}
	// FreezeNode stops every process of the primary for a while. It is silent, and then believes that no time has passed.
	FreezeNode = Fault{"freeze node", func(ctx context.Context, n *Nemesis, primary string) error {
		return n.freeze(ctx, primary, n.Cluster.FreezeNode)
	}}
	// FreezeKineshim does so to kineshim only.
	FreezeKineshim = Fault{"freeze kineshim", func(ctx context.Context, n *Nemesis, primary string) error {
		return n.freeze(ctx, primary, n.Cluster.FreezeKineshim)
	}}
	// KillNodeBehind kills the primary when the standby's kineshim is asleep: it wakes up with a copy that is behind its PostgreSQL.
	KillNodeBehind = Fault{"kill node while the other's copy is behind", func(ctx context.Context, n *Nemesis, primary string) error {
		other := cluster.Other(primary)
		if err := n.Cluster.FreezeKineshim(other); err != nil {
			return err
		}
		pause(ctx, behindFor)
		n.Nodes.End(primary)
		if err := errors.Join(n.Cluster.KillNode(primary), n.Cluster.ThawNode(other)); err != nil {
			return err
		}
		return n.restart(ctx, primary)
	}}
	// KillNodeUnreplicated makes commits that wait for the standby visible on the primary, by a crash that PostgreSQL recovers from, and kills the primary
	// before the standby has them: nobody may have been shown them.
	KillNodeUnreplicated = Fault{"kill node with visible commits that were not replicated", func(ctx context.Context, n *Nemesis, primary string) error {
		other := cluster.Other(primary)
		sender, err := n.walsender(primary)
		if err != nil {
			return err
		}
		// The sender first: what it has sent reaches the standby, however late that reads it.
		if err := syscall.Kill(sender, syscall.SIGSTOP); err != nil {
			return err
		}
		if err := n.Cluster.FreezePostgres(other); err != nil { // it would connect again
			return err
		}
		pause(ctx, waitingFor)
		err = syscall.Kill(sender, syscall.SIGKILL)
		pause(ctx, cmp.Or(n.Visible, visibleFor))
		n.Nodes.End(primary)
		err = errors.Join(err, n.Cluster.KillNode(primary), n.Cluster.ThawNode(other))
		if err != nil {
			return err
		}
		return n.restart(ctx, primary)
	}}
	// Switch is a switchover by an operator.
	Switch = Fault{"switchover", func(ctx context.Context, n *Nemesis, primary string) error {
		if err := n.Cluster.Switchover(ctx, cluster.Other(primary)); err != nil {
			return err
		}
		return n.recovered(ctx, "")
	}}
	// Stop stops the primary cleanly, as a reboot does.
	Stop = Fault{"stop", func(ctx context.Context, n *Nemesis, primary string) error {
		n.Nodes.End(primary)
		if err := n.Cluster.Stop(ctx, primary); err != nil {
			return err
		}
		return n.restart(ctx, primary)
	}}
)

// walsender is the process of the primary's PostgreSQL that sends WAL to the standby.
func (n *Nemesis) walsender(primary string) (int, error) {
	for _, pid := range n.Cluster.PostgresPIDs(primary) {
		title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(title), "walsender") && strings.Contains(string(title), "streaming") {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("PostgreSQL on %s sends no WAL", primary)
}

// Round does one fault, from an armed cluster to an armed cluster.
func (n *Nemesis) Round(ctx context.Context, f Fault) error {
	primary, err := n.Cluster.WaitPrimary(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, recoverWithin+armWithin)
	defer cancel()
	if err := f.strike(ctx, n, primary); err != nil {
		return fmt.Errorf("%s %s: %w", f.Name, primary, err)
	}
	if err := n.recovered(ctx, cluster.A); err != nil {
		return fmt.Errorf("%s %s: %w", f.Name, primary, err)
	}
	if err := n.recovered(ctx, cluster.B); err != nil {
		return fmt.Errorf("%s %s: %w", f.Name, primary, err)
	}
	if err := n.armed(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", f.Name, primary, err)
	}
	n.Log("%s %s: armed again after %s", f.Name, primary, time.Since(began).Round(10*time.Millisecond))
	return nil
}

func (n *Nemesis) armed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, armWithin)
	defer cancel()
	return n.Cluster.WaitArmed(ctx)
}

// restart starts a node when the other has served for a while.
func (n *Nemesis) restart(ctx context.Context, node string) error {
	if err := n.recovered(ctx, cluster.Other(node)); err != nil {
		return err
	}
	pause(ctx, goesOnFor)
	n.Nodes.Begin(node)
	return n.Cluster.Start(ctx, node)
}

// freeze freezes the primary until the other node has served for a while.
func (n *Nemesis) freeze(ctx context.Context, primary string, freeze func(string) error) error {
	began := time.Now()
	err := freeze(primary)
	if err == nil {
		err = n.recovered(ctx, cluster.Other(primary))
	}
	if err == nil {
		pause(ctx, max(goesOnFor, frozenFor-time.Since(began)))
	}
	return errors.Join(err, n.Cluster.ThawNode(primary))
}

// recovered waits until a write through the node, begun from now on, is acknowledged; an empty node is any.
func (n *Nemesis) recovered(ctx context.Context, node string) error {
	now := n.Load.Now()
	deadline := time.Now().Add(recoverWithin)
	for n.Load.WritesSince(now, node) == 0 {
		if !pause(ctx, lookEvery) {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no write through %q was acknowledged within %s", node, recoverWithin)
		}
	}
	return nil
}

// pause waits, and says whether it was not broken off.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
