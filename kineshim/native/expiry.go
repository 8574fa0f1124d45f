package native

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"kineshim/kineshim/lease"
)

const (
	// confirmEvery is how often the lease clock is told that the engine commits. An idle engine answers that from memory.
	confirmEvery = 500 * time.Millisecond
	// confirmationsPerSave makes one second of it: what a lease gains at most by a failover.
	confirmationsPerSave = 2
	// saveBound ends the storing of the lease clock. What is not stored makes leases longer, by as much.
	saveBound = 5 * time.Second

	// maxExpirySleep bounds how late a new lease is seen: no lease is shorter than lease.MinTTL.
	maxExpirySleep = time.Second
	// minExpirySleep bounds how often a lease is looked at whose expiry stays near because the lease clock stands still.
	minExpirySleep = 10 * time.Millisecond
	// maxRevokesAtOnce and maxKeysAtOnce bound what expiry adds to the batches of the writers: they are what one batch holds
	// in rows. A lease with more keys goes alone, because its keys go as one revision.
	maxRevokesAtOnce = 64
	maxKeysAtOnce    = 1000
	// maxRevokePause bounds how long expiry pauses for the writers between two rounds.
	maxRevokePause = time.Second
	// revokeRetry is how long expiry waits after an error. The engine as a whole is about to end then, or is overloaded.
	revokeRetry = time.Second
)

// runLeases keeps the lease clock, stores it while there are leases, and revokes leases whose time is over, until ctx ends.
func (e *Engine) runLeases(ctx context.Context) {
	k := leaseKeeper{
		book: e.leases, clock: e.clock, log: e.log, serves: e.serves,
		commits: func(ctx context.Context) error { return e.submit(ctx, func(*turn) error { return nil }) },
		save:    e.store.SaveLeaseClock,
		expire:  e.expire,
	}
	k.run(ctx)
}

// expire revokes a lease if its time is over when it is its turn: it may have been renewed or revoked before.
func (e *Engine) expire(ctx context.Context, id int64) error {
	return e.submit(ctx, func(t *turn) error {
		if _, remaining, ok := e.leases.Get(id); !ok || remaining > 0 {
			return nil
		}
		return e.revoke(t, id)
	})
}

// leaseKeeper is the engine's work on leases that no client asks for.
type leaseKeeper struct {
	book  *lease.Book
	clock *leaseClock
	log   *slog.Logger
	// serves says whether clients could renew their leases now.
	serves func() bool
	// commits returns nil when all that the engine has in hand is durable.
	commits func(context.Context) error
	// save stores the lease clock.
	save func(context.Context, time.Duration) error
	// expire revokes a lease whose time is over, and returns when that is durable. It may be called concurrently.
	expire func(ctx context.Context, id int64) error
}

// run returns when ctx has ended and its goroutines with it.
func (k *leaseKeeper) run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { k.keepTime(ctx) })
	running.Go(func() { k.keepExpiring(ctx) })
	running.Wait()
}

// keepTime starts the lease clock, confirms it while the engine commits and clients are answered, and stores it once a second while there are leases.
func (k *leaseKeeper) keepTime(ctx context.Context) {
	k.clock.confirm()
	unsaved, failing := 0, false
	for sleep(ctx, confirmEvery) {
		if !k.serves() || k.commits(ctx) != nil {
			continue // the clock stands still meanwhile
		}
		k.clock.confirm()
		if _, any := k.book.Next(); !any {
			continue
		}
		if unsaved++; unsaved < confirmationsPerSave {
			continue
		}
		unsaved = 0
		err := k.saveClock(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			k.log.Warn("the lease clock is not stored: leases would last longer after a failover", "err", err)
		}
		failing = err != nil
	}
}

func (k *leaseKeeper) saveClock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, saveBound)
	defer cancel()
	return k.save(ctx, k.clock.now())
}

// keepExpiring revokes each lease when its time is over.
func (k *leaseKeeper) keepExpiring(ctx context.Context) {
	for {
		wait := maxExpirySleep
		if in, ok := k.book.Next(); ok {
			wait = min(max(in, minExpirySleep), maxExpirySleep)
		}
		if !sleep(ctx, wait) {
			return
		}
		if !k.serves() { // the clock stands still, or is about to
			if !sleep(ctx, confirmEvery) {
				return
			}
			continue
		}
		if err := k.revokeExpired(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("leases are not revoked in time", "err", err)
			sleep(ctx, revokeRetry)
		}
	}
}

// revokeExpired revokes all leases whose time is over, in rounds, and pauses after each for as long as it took: however many
// expire at the same time, they take no more than half of what PostgreSQL can do from the writers.
func (k *leaseKeeper) revokeExpired(ctx context.Context) error {
	for {
		round := k.nextRound()
		if len(round) == 0 {
			return nil
		}
		began := time.Now()
		if err := k.revokeAll(ctx, round); err != nil {
			return err
		}
		if !sleep(ctx, min(time.Since(began), maxRevokePause)) {
			return ctx.Err()
		}
	}
}

// nextRound is the leases to revoke next, those that expired first first.
func (k *leaseKeeper) nextRound() []int64 {
	ids := k.book.Expired(maxRevokesAtOnce)
	keys := 0
	for i, id := range ids {
		keys += k.book.KeyCount(id)
		if keys > maxKeysAtOnce && i > 0 {
			return ids[:i]
		}
	}
	return ids
}

// revokeAll revokes the leases side by side, so that they share batches.
func (k *leaseKeeper) revokeAll(ctx context.Context, ids []int64) error {
	errs := make([]error, len(ids))
	var running sync.WaitGroup
	for i, id := range ids {
		running.Go(func() { errs[i] = k.expire(ctx, id) })
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return err // one is enough to know: they have the same cause
		}
	}
	return nil
}

// sleep waits; false means that ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
