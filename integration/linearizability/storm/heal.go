package storm

import (
	"context"
	"fmt"
	"time"

	"kineshim/integration/cluster"
)

// Bounds of what follows a burst, generous to a machine whose cores are shared with others. Whoever hits one has found something.
const (
	// armedWithin is how long a healed cluster may take to be armed again, by itself. A clone is in it.
	armedWithin = 90 * time.Second
	// noticedWithin is how long it may take until the cluster notices that something has failed: before, it may seem armed.
	noticedWithin = 1500 * time.Millisecond
	// lateWithin is how much longer is waited after that, for the story only: whether it was slow, or stuck.
	lateWithin = 90 * time.Second
	// writesWithin is how long an armed cluster may take to answer through each endpoint.
	writesWithin = 20 * time.Second
)

// heal undoes whatever still is broken, as an operator with spare parts does, and waits until the cluster is armed. It returns what is wrong; an error means
// that it could not be healed.
func (x *striker) heal() (wrong []string, err error) {
	x.asked.Wait()
	if err := x.mend(); err != nil {
		return nil, fmt.Errorf("heal: %w", err)
	}
	pause(x.ctx, noticedWithin)
	began := time.Now()
	if why := x.armed(armedWithin); x.ctx.Err() != nil {
		return nil, x.ctx.Err()
	} else if why != nil {
		wrong = append(wrong, fmt.Sprintf("not armed within %s after everything was healed: %v", armedWithin, why))
		x.tell("WRONG %s", wrong[0])
		if why := x.armed(lateWithin); why != nil {
			x.tell("      nor %s later: %v", lateWithin, why)
			return wrong, nil
		}
	}
	x.tell("armed, %s after everything was healed", seconds(noticedWithin+time.Since(began)))
	return wrong, nil
}

// mend removes all causes.
func (x *striker) mend() error {
	clear(x.cuts)
	s := x.rig.Site()
	if err := s.Heal(); err != nil {
		return err
	}
	for _, node := range cluster.Nodes {
		if err := s.SetPort(node, true); err != nil {
			return err
		}
		if err := s.SetInterface(node, true); err != nil {
			return err
		}
		if err := s.Disk(node).Empty(); err != nil {
			return err
		}
		if x.rig.Frozen(node) {
			x.tell("%s was still frozen", node)
			if err := x.rig.ThawNode(node); err != nil {
				return err
			}
		}
	}
	return nil
}

// armed waits until a failover would succeed. Processes that end by themselves are started again meanwhile, as systemd does.
func (x *striker) armed(within time.Duration) error {
	ctx, cancel := context.WithTimeout(x.ctx, within)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		if x.paused {
			if err := x.resume(ctx); err != nil {
				result <- err
				return
			}
		}
		result <- x.rig.WaitArmed(ctx)
	}()
	for {
		select {
		case err := <-result:
			return err
		case <-time.After(lookEvery):
		}
		if err := x.supervise(); err != nil {
			cancel()
			return fmt.Errorf("%w; %w", err, <-result)
		}
	}
}

// resume ends a pause whose end an operator could not ask for while it was to end.
func (x *striker) resume(ctx context.Context) error {
	for {
		err := x.setPaused(ctx, false)
		if err == nil {
			x.paused = false
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("resume: %w", err)
		case <-time.After(lookEvery):
		}
	}
}
