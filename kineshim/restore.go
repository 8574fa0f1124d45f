package kineshim

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// RestoreOptions say how a snapshot is restored.
type RestoreOptions struct {
	// Replace allows it although there are keys, which are lost then.
	Replace bool
	// Bump makes the current revision jump ahead of the snapshot's even if the store has not reached it: for a snapshot of
	// another store, whose clients may have seen later revisions than the snapshot knows of. A store that has reached the
	// snapshot's revision always jumps.
	Bump bool
	// TempDir is where the snapshot is kept until it has been verified; "" is os.TempDir.
	TempDir string
}

// RestoreResult is what a restore has made.
type RestoreResult struct {
	// Keys is how many keys there are now.
	Keys int64
	// Revision is the current revision now; everything before it is compacted.
	Revision int64
}

// Restorer is an Engine that can put a snapshot in place of all its data. When it has, it is broken, so that a new engine loads
// them. An error that is a gRPC status says what happened; after any other, nobody knows.
type Restorer interface {
	Restore(ctx context.Context, r io.Reader, o RestoreOptions) (RestoreResult, error)
}

// restoreWait bounds how long the result of a restore waits for the gate. A lease that was missed comes back with the next
// heartbeat.
const restoreWait = 10 * time.Second

// Restore puts a snapshot in place of all data. Only the primary does it: on another node the error, FailedPrecondition, names
// the primary. If ctx ends before the snapshot has been verified, nothing has changed; from then on it is not interrupted.
func (e *Endpoint) Restore(ctx context.Context, r io.Reader, o RestoreOptions) (RestoreResult, error) {
	var none RestoreResult
	route := e.opt.Router.Route()
	switch {
	case route.Local:
	case route.Target != "" && route.Node != "":
		return none, status.Errorf(codes.FailedPrecondition, "%s is not the primary: restore on %s", e.opt.Node, route.Node)
	default:
		return none, Unavailable(noRoute(route))
	}
	token, s, err := e.enter()
	if err != nil {
		return none, err
	}
	restorer, ok := s.engine.(Restorer)
	if !ok {
		return none, status.Error(codes.FailedPrecondition, "the engine of this node restores no snapshots: set engine: native on both data nodes")
	}
	if err := s.beginCall(); err != nil {
		return none, err
	}
	defer s.endCall()
	callCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	result, err := restorer.Restore(callCtx, r, o)
	if err != nil {
		if ctx.Err() == nil && s.ctx.Err() != nil && callCtx.Err() != nil {
			return none, InDoubt(context.Cause(s.ctx).Error())
		}
		return none, engineError(err)
	}
	// It is committed here. That it stays is certain only if this node was the primary afterwards.
	waitCtx, stop := context.WithTimeout(context.WithoutCancel(ctx), restoreWait)
	defer stop()
	if err := e.opt.Gate.Wait(waitCtx, token); err != nil {
		return none, InDoubt(errTokenDead.Error() + " while it restored: " + err.Error())
	}
	return result, nil
}
