package raftwitness

import (
	"context"
	"time"
)

// Turns returns nil as soon as Raft's own loop has turned, or waits for a disk that takes no writes, which a restart would not mend. Else it waits
// until ctx ends, and returns its error.
func (n *Node) Turns(ctx context.Context) error {
	if n.stable.stuck.Load() {
		return ctx.Err()
	}
	turned := make(chan struct{})
	go func() {
		_ = n.raft.VerifyLeader().Error() // a follower is told that it is none: by the loop, and that is what matters
		close(turned)
	}() // ends with Raft at the latest
	t := time.NewTicker(retryStore)
	defer t.Stop()
	for {
		select {
		case <-turned:
			return ctx.Err()
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			if n.stable.stuck.Load() {
				return ctx.Err()
			}
		}
	}
}
