package native

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// retentionSteps is how finely the age of revisions is known, and with it how far compactions are apart.
const retentionSteps = 10

// runRetention compacts what is older than the configured retention, until the engine ends. It knows no revision older than
// the engine itself: after a start, it waits for the whole retention.
func (e *Engine) runRetention(ctx context.Context) {
	if e.cfg.Retention <= 0 {
		return
	}
	tick := time.NewTicker(e.cfg.Retention / retentionSteps)
	defer tick.Stop()
	var seen []int64 // one revision for each step, oldest first
	for {
		seen = append(seen, e.committed())
		if len(seen) > retentionSteps {
			_, err := e.Compact(ctx, &pb.CompactionRequest{Revision: seen[0]})
			if err != nil && ctx.Err() == nil && !errors.Is(err, rpctypes.ErrGRPCCompacted) {
				e.log.Warn("automatic compaction", "error", err)
			}
			seen = seen[1:]
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
