package ledger

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// defaultRenewEvery is the pace of each renewer. Kubernetes renews a lock every two seconds and a node's lease every ten, but has many of them; one that
// is renewed more often stands for all.
const defaultRenewEvery = 100 * time.Millisecond

// renewedKey is the one key that all renewers of a load renew, below its prefix.
const renewedKey = "renewed/lease"

// renew runs the renewers until ctx ends.
func (l *Load) renew(ctx context.Context) {
	var wg sync.WaitGroup
	for i, ep := range l.Renewers {
		r := newRenewer(l, i, ep)
		wg.Go(func() {
			for ctx.Err() == nil {
				begun := time.Now()
				if r.renew(context.WithoutCancel(ctx)) != codes.OK {
					sleep(ctx, l.Pause)
				}
				sleep(ctx, l.RenewEvery-time.Since(begun))
			}
		})
	}
	wg.Wait()
}

// newRenewer makes the load's renewer of that number, which counts as a worker after the others.
func newRenewer(l *Load, number int, ep Endpoint) *worker {
	w := newWorker(l, l.Workers+number)
	w.endpoint, w.own, w.shared = ep, []string{l.Prefix + renewedKey}, nil
	return w
}

// renew writes the lease over the state of it that was last seen, as leader election does; one that somebody else has renewed meanwhile is learnt
// from the refusal.
func (w *worker) renew(ctx context.Context) codes.Code {
	key, op := w.own[0], Update
	switch {
	case len(w.unread) > 0:
		op, w.unread = Get, nil
	case w.view[key] == 0:
		op = Create
	}
	return w.request(ctx, op, key)
}
