package storm

import (
	"context"

	"kineshim/integration/cluster"
	"kineshim/proto"
)

// switchover asks for one and does not wait for it: the next blow may fall into it.
func switchover(x *striker, b Blow) (func() error, error) {
	to, err := x.host(b.Target)
	if err != nil {
		return nil, err
	}
	x.asked.Go(func() {
		ctx, cancel := context.WithTimeout(x.ctx, askWithin)
		defer cancel()
		if err := x.rig.Switchover(ctx, to); err != nil {
			x.tell("     %v", err)
			return
		}
		x.tell("     switched over to %s", to)
	})
	return nil, nil
}

// pauseFailover suspends automatic failover. Nobody takes over until it is undone.
func pauseFailover(x *striker, _ Blow) (func() error, error) {
	x.paused = true // even if the answer is lost
	if err := x.setPaused(x.ctx, true); err != nil {
		x.tell("     %v", err)
	}
	return func() error {
		if err := x.setPaused(x.ctx, false); err != nil {
			x.tell("     %v", err) // it is asked again when all is healed
			return nil
		}
		x.paused = false
		return nil
	}, nil
}

// setPaused asks through whichever data node answers.
func (x *striker) setPaused(ctx context.Context, paused bool) error {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var last error
	for _, node := range []string{x.role(), cluster.Other(x.role())} {
		control, err := x.rig.Control(node)
		if err != nil {
			return err
		}
		if _, last = control.SetPaused(ctx, &proto.SetPausedRequest{Paused: paused, Operator: "storm"}); last == nil {
			return nil
		}
	}
	return last
}
