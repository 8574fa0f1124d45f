package native

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kineshim/kineshim/lease"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"pgregory.net/rapid"
)

// manualClock is a lease clock that has just begun to run, on a machine whose time the test sets.
func manualClock(stored time.Duration) (*leaseClock, *time.Duration) {
	boot := new(time.Duration)
	*boot = time.Hour
	c := newLeaseClock(stored)
	c.boot = func() time.Duration { return *boot }
	return c, boot
}

func TestLeaseClockStandsUntilTheEngineServes(t *testing.T) {
	c, boot := manualClock(time.Minute)
	*boot += time.Hour
	if now := c.now(); now != time.Minute {
		t.Errorf("before: %v", now)
	}
	c.confirm()
	*boot += time.Second
	if now := c.now(); now != time.Minute+time.Second {
		t.Errorf("after a second: %v", now)
	}
}

func TestLeaseClockCountsTheTimeServedOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, boot := manualClock(time.Minute)
		c.confirm()
		want, unconfirmed := time.Minute, time.Duration(0)
		for _, ms := range rapid.SliceOf(rapid.IntRange(-1, 4000)).Draw(t, "ms, -1 confirms") {
			if ms < 0 {
				c.confirm()
				want, unconfirmed = want+min(unconfirmed, maxUnconfirmed), 0
			} else {
				*boot += time.Duration(ms) * time.Millisecond
				unconfirmed += time.Duration(ms) * time.Millisecond
			}
			if now := c.now(); now != want+min(unconfirmed, maxUnconfirmed) {
				t.Fatalf("%v, want %v and at most %v of %v", now, want, maxUnconfirmed, unconfirmed)
			}
		}
	})
}

func TestBootTimeRuns(t *testing.T) {
	for before, deadline := bootTime(), time.Now().Add(10*time.Second); bootTime() <= before; {
		if time.Now().After(deadline) {
			t.Fatal("CLOCK_BOOTTIME stands still")
		}
	}
}

// keeper is a leaseKeeper of a bubble: its machine's time is the bubble's, its commits succeed at once.
func keeper() *leaseKeeper {
	began := time.Now()
	clock := newLeaseClock(time.Minute)
	clock.boot = func() time.Duration { return time.Hour + time.Since(began) }
	k := &leaseKeeper{
		book: lease.New(clock.now), clock: clock, log: slog.New(slog.DiscardHandler), serves: func() bool { return true },
		commits: func(context.Context) error { return nil },
		save:    func(context.Context, time.Duration) error { return nil },
	}
	k.expire = func(_ context.Context, id int64) error { return k.book.Revoke(id) }
	return k
}

// start runs the keeper until the returned function is called.
func (k *leaseKeeper) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { k.run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

func TestLeasesExpireOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, began := keeper(), time.Now()
		want := map[int64]time.Duration{}
		expired := map[int64]time.Duration{}
		var mu sync.Mutex // guards expired
		k.expire = func(_ context.Context, id int64) error {
			mu.Lock()
			defer mu.Unlock()
			expired[id] = time.Since(began)
			return k.book.Revoke(id)
		}
		defer k.start(t)()
		for i, ttl := range []int64{7, 2, 3600, 30, 2} {
			synctest.Wait()
			if _, err := k.book.Grant(int64(i+1), ttl); err != nil {
				t.Fatal(err)
			}
			want[int64(i+1)] = time.Since(began) + time.Duration(ttl)*time.Second
			time.Sleep(333 * time.Millisecond)
		}
		time.Sleep(2 * time.Hour)
		mu.Lock()
		defer mu.Unlock()
		for id, at := range want {
			if late := expired[id] - at; late < 0 || late > 2*minExpirySleep {
				t.Errorf("lease %d expired after %v, want %v", id, expired[id], at)
			}
		}
	})
}

// With the gate closed nobody can renew a lease, though an idle engine could commit.
func TestNoLeaseExpiresWhileNobodyIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keeper()
		var closed atomic.Bool
		k.serves = func() bool { return !closed.Load() }
		revoked := 0
		k.expire = func(_ context.Context, id int64) error {
			if closed.Load() {
				t.Error("a lease is ended while nobody is answered")
			}
			revoked++
			return k.book.Revoke(id)
		}
		defer k.start(t)()
		synctest.Wait()
		for id, ttl := range []int64{1, 5} { // one has less left than the clock runs on by itself
			if _, err := k.book.Grant(int64(id+1), ttl); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(200 * time.Millisecond)
		closed.Store(true)
		time.Sleep(time.Hour)
		if _, remaining, ok := k.book.Get(2); revoked != 0 || !ok || remaining < 5*time.Second-maxUnconfirmed-confirmEvery {
			t.Fatalf("after an hour %v remain, %v; %d revoked", remaining, ok, revoked)
		}
		closed.Store(false)
		time.Sleep(10 * time.Second)
		if revoked != 2 {
			t.Errorf("%d revoked after the gate was open again", revoked)
		}
	})
}

func TestNoLeaseExpiresBecauseCommitsHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keeper()
		var hangs atomic.Bool
		goOn := make(chan struct{})
		k.commits = func(ctx context.Context) error {
			if !hangs.Load() {
				return nil
			}
			select {
			case <-goOn:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		defer k.start(t)()
		synctest.Wait()
		if _, err := k.book.Grant(1, 5); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second + time.Millisecond)
		hangs.Store(true) // between two confirmations
		time.Sleep(time.Hour)
		_, remaining, ok := k.book.Get(1)
		if !ok || remaining < 4*time.Second-maxUnconfirmed-confirmEvery {
			t.Fatalf("after an hour without commits %v remain, %v", remaining, ok)
		}
		close(goOn)
		time.Sleep(remaining - 100*time.Millisecond)
		if _, _, ok := k.book.Get(1); !ok {
			t.Error("expired early after the stall")
		}
		time.Sleep(time.Second)
		if _, _, ok := k.book.Get(1); ok {
			t.Error("did not expire after the stall")
		}
	})
}

func TestManyExpiredLeasesLeaveTimeToTheWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keeper()
		const commit = 20 * time.Millisecond
		var mu sync.Mutex
		busy, busiest, keys, most := 0, 0, 0, 0
		k.expire = func(_ context.Context, id int64) error {
			n := k.book.KeyCount(id)
			mu.Lock()
			busy, keys = busy+1, keys+n
			busiest, most = max(busiest, busy), max(most, keys)
			mu.Unlock()
			time.Sleep(commit)
			mu.Lock()
			busy, keys = busy-1, keys-n
			mu.Unlock()
			return k.book.Revoke(id)
		}
		for id := range int64(500) {
			if _, err := k.book.Grant(id+1, 2); err != nil {
				t.Fatal(err)
			}
			for n := range id % 100 {
				k.book.Attach(id+1, fmt.Sprint(n))
			}
		}
		began := time.Now()
		defer k.start(t)()
		for len(k.book.All()) > 0 {
			time.Sleep(time.Millisecond)
		}
		took := time.Since(began) - 2*time.Second
		rounds := 500 * 50 / maxKeysAtOnce
		if busiest > maxRevokesAtOnce || most > maxKeysAtOnce || busiest < 2 {
			t.Errorf("%d leases with %d keys at the same time", busiest, most)
		}
		if took < time.Duration(2*rounds-2)*commit || took > time.Duration(4*rounds)*commit {
			t.Errorf("took %v for about %d rounds of %v and their pauses", took, rounds, commit)
		}
	})
}

func TestLeaseWithTooManyKeysGoesAlone(t *testing.T) {
	k := keeper()
	var boot time.Duration
	k.clock.boot = func() time.Duration { return boot }
	k.clock.confirm()
	for id := range int64(3) {
		if _, err := k.book.Grant(id+1, 2); err != nil {
			t.Fatal(err)
		}
	}
	for n := range maxKeysAtOnce + 1 {
		k.book.Attach(1, fmt.Sprint(n))
	}
	for range 2 {
		boot += time.Second
		k.clock.confirm()
	}
	if round := k.nextRound(); !slices.Equal(round, []int64{1}) {
		t.Errorf("first round: %v", round)
	}
	if err := k.book.Revoke(1); err != nil {
		t.Fatal(err)
	}
	if round := k.nextRound(); !slices.Equal(round, []int64{2, 3}) {
		t.Errorf("second round: %v", round)
	}
}

func TestFailedRevocationIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keeper()
		var tries atomic.Int32
		k.expire = func(_ context.Context, id int64) error {
			if tries.Add(1) < 4 {
				return rpctypes.ErrGRPCRequestTooManyRequests
			}
			return k.book.Revoke(id)
		}
		defer k.start(t)()
		synctest.Wait()
		if _, err := k.book.Grant(1, 2); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Second + revokeRetry - time.Millisecond)
		if n := tries.Load(); n != 1 {
			t.Errorf("%d tries at once", n)
		}
		time.Sleep(4 * (revokeRetry + maxExpirySleep))
		if left, n := len(k.book.All()), tries.Load(); left != 0 || n != 4 {
			t.Errorf("%d leases left after %d tries", left, n)
		}
	})
}

func TestLeaseClockIsStoredOnceASecondWhileThereAreLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keeper()
		var saved []time.Duration
		k.save = func(_ context.Context, d time.Duration) error {
			if now := k.clock.now(); d > now {
				t.Errorf("stored %v at %v", d, now)
			}
			saved = append(saved, d)
			return nil
		}
		stop := k.start(t)
		time.Sleep(10 * time.Second)
		if len(saved) != 0 {
			t.Errorf("stored %d times without a lease", len(saved))
		}
		if _, err := k.book.Grant(1, 3600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Second + time.Millisecond)
		stop()
		if len(saved) < 9 || len(saved) > 10 || saved[len(saved)-1] < time.Minute+19*time.Second {
			t.Errorf("stored %v", saved)
		}
	})
}
