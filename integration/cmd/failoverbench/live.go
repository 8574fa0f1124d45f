package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kineshim/integration/ledger"
)

// liveHistory is a watch through etcd's own client, which has both nodes to choose from and resumes what breaks off, as Kubernetes' do. It is
// one goroutine.
type liveHistory struct {
	mark    atomic.Int64 // its last revision; 0: not known yet
	stop    context.CancelFunc
	running sync.WaitGroup
	history ledger.History // valid after running
	err     error          // valid after running
}

// start begins to watch everything below the prefix after a revision, until ctx or the time ends at the latest.
func (l *liveHistory) start(ctx context.Context, c *clientv3.Client, prefix string, after int64, longest time.Duration) {
	ctx, l.stop = context.WithTimeout(ctx, longest)
	l.running.Go(func() {
		defer l.stop()
		l.history, l.err = ledger.WatchUntil(ctx, "history watched by a client of both nodes", c, prefix, after, l.mark.Load)
	})
}

// end waits for the mark, no longer than the last events may take.
func (l *liveHistory) end(mark int64) (ledger.History, error) {
	l.mark.Store(mark)
	ctx, cancel := context.WithTimeout(context.Background(), deliverWithin)
	defer cancel()
	defer context.AfterFunc(ctx, l.stop)()
	l.running.Wait()
	return l.history, l.err
}

// wait waits until the watch has ended.
func (l *liveHistory) wait() { l.running.Wait() }
