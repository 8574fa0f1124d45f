package kineshim

import (
	"context"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
)

// kineBackend is kine's backend with the methods mended that the bridge cannot rely on.
type kineBackend struct {
	server.Backend
	engine *kineEngine

	mu      sync.Mutex // guards the fields below
	synced  int64      // the poll loop has reached this revision
	target  int64      // the highest revision that was asked for
	syncing bool       // a goroutine waits for target
	changed chan struct{}
}

func newKineBackend(inner server.Backend, e *kineEngine) *kineBackend {
	return &kineBackend{Backend: inner, engine: e, changed: make(chan struct{})}
}

// CurrentRevision is at least every revision that a write was answered with: kine's own counter can lag behind until the next
// write. What the bridge reports as progress it reports only after WaitForSyncTo.
func (b *kineBackend) CurrentRevision(ctx context.Context) (int64, error) {
	acked := b.engine.acked.Load()
	current, err := b.Backend.CurrentRevision(ctx)
	return max(current, acked), err
}

// Watch begins with the next revision when none is given, as etcd's does; kine's would replay the whole history.
func (b *kineBackend) Watch(ctx context.Context, key, end string, revision int64) server.WatchResult {
	if revision > 0 {
		return b.Backend.Watch(ctx, key, end, revision)
	}
	current, err := b.CurrentRevision(ctx)
	if err != nil {
		events := make(chan []*server.Event)
		close(events)
		failed := make(chan error, 1)
		failed <- server.ErrGRPCUnhealthy
		return server.WatchResult{Events: events, Errorc: failed}
	}
	return b.Backend.Watch(ctx, key, end, current+1)
}

// WaitForSyncTo blocks until the poll loop has reached a revision, or the engine ends. kine's own cannot be ended, and every
// progress report waits in it: here one goroutine waits for all, so that at most one is left behind. When the engine has
// ended the revision has not been reached, and the report that follows does not leave the stream (watchStream.Send).
func (b *kineBackend) WaitForSyncTo(revision int64) {
	for {
		b.mu.Lock()
		if b.synced >= revision {
			b.mu.Unlock()
			return
		}
		b.target = max(b.target, revision)
		if !b.syncing {
			b.syncing = true
			go b.sync()
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-b.engine.closed:
			return
		}
	}
}

// sync waits until nobody asks for more. It ends when the poll loop has reached the target; if that loop has ended before, it is
// the goroutine that Close cannot end.
func (b *kineBackend) sync() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.synced < b.target {
		target := b.target
		b.mu.Unlock()
		b.Backend.WaitForSyncTo(target)
		b.mu.Lock()
		b.synced = target
		close(b.changed)
		b.changed = make(chan struct{})
	}
	b.syncing = false
}
