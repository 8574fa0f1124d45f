package failover

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kineshim/raftwitness/record"
)

type gateFixture struct {
	*Gate
	store              *fakeStore
	confirmed, pairing atomic.Bool
	sentinel           *sentinel
}

// openGate is open in session {1, 1} under the record, confirmed, without a lease.
func openGate(rec *record.Record) *gateFixture {
	f := &gateFixture{store: &fakeStore{rec: rec}, sentinel: &sentinel{}}
	f.Gate = NewGate(f.store, &f.confirmed, &f.pairing)
	f.confirmed.Store(true)
	f.Begin(Session{Epoch: 1, Generation: 1}, f.sentinel)
	f.Open()
	return f
}

func TestGateCheck(t *testing.T) {
	const lease = 100 * time.Millisecond
	for _, c := range []struct {
		name               string
		rec                *record.Record
		confirmed, pairing bool
		lease              time.Duration
		want               error
	}{
		{"solo, confirmed", soloRecord(), true, false, 0, nil},
		{"solo, confirmed, with a lease", soloRecord(), true, false, lease, nil},
		{"solo, not confirmed since the start", soloRecord(), false, false, 0, ErrNoLease},
		{"solo, not confirmed, with a lease", soloRecord(), false, false, lease, nil},
		{"solo, perhaps paired", soloRecord(), true, true, 0, ErrNoLease},
		{"solo, perhaps paired, with a lease", soloRecord(), true, true, lease, nil},
		{"paired without a lease", pairedRecord(), true, false, 0, ErrNoLease},
		{"paired with a lease", pairedRecord(), true, false, lease, nil},
		{"another epoch", failedOver(), true, false, lease, ErrTokenDead},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := openGate(c.rec)
			g.confirmed.Store(c.confirmed)
			g.pairing.Store(c.pairing)
			g.store.setLease(c.lease)
			if err := g.Check(Token{1, 1}); !errors.Is(err, c.want) {
				t.Errorf("Check: %v, want %v", err, c.want)
			}
			if _, err := g.Enter(); (err == nil) != (c.want == nil) {
				t.Errorf("Enter: %v", err)
			}
		})
	}
}

// A pairing is committed and known between the two looks of a check. Looked at in the other order, solo would be taken for
// certain though it has ended.
func TestGateReadsPairingBeforeTheRecord(t *testing.T) {
	g := openGate(soloRecord())
	g.pairing.Store(true)
	g.store.afterRecord = func() {
		g.store.set(pairedRecord())
		g.pairing.Store(false)
	}
	if err := g.Check(Token{1, 1}); !errors.Is(err, ErrNoLease) {
		t.Errorf("Check: %v, want %v", err, ErrNoLease)
	}
}

func TestGateTokensDieWithTheirSession(t *testing.T) {
	for name, end := range map[string]func(*gateFixture){
		"the sentinel's end":  func(g *gateFixture) { g.sentinel.dead.Store(true) },
		"the end of the gate": func(g *gateFixture) { g.End("over") },
		"a new generation":    func(g *gateFixture) { g.Begin(Session{Epoch: 1, Generation: 2}, &sentinel{}) },
		"a new epoch":         func(g *gateFixture) { g.store.set(failedOver()) },
	} {
		t.Run(name, func(t *testing.T) {
			g := openGate(soloRecord())
			token, err := g.Enter()
			if err != nil {
				t.Fatal(err)
			}
			end(g)
			if err := g.Check(token); !errors.Is(err, ErrTokenDead) {
				t.Errorf("Check: %v, want %v", err, ErrTokenDead)
			}
		})
	}
}

// Requests that have begun are answered when the gate closes for new ones.
func TestClosedGateLetsRequestsEndButNotBegin(t *testing.T) {
	g := openGate(soloRecord())
	token, err := g.Enter()
	if err != nil {
		t.Fatal(err)
	}
	g.Close("switching over to b")
	var closed ClosedError
	if _, err := g.Enter(); !errors.As(err, &closed) || closed.Why != "switching over to b" || g.accepting() || g.answers() {
		t.Errorf("Enter: %v", err)
	}
	if err := g.Check(token); err != nil {
		t.Errorf("Check: %v", err)
	}
	g.Open()
	if _, err := g.Enter(); err != nil || !g.answers() {
		t.Errorf("Enter, open again: %v", err)
	}
}

// An open gate without a session is one whose PostgreSQL has ended since the last decision.
func TestOpenGateWithoutASessionLetsNothingBegin(t *testing.T) {
	g := openGate(soloRecord())
	g.End("PostgreSQL has ended")
	g.Open()
	if _, err := g.Enter(); err == nil || g.answers() {
		t.Errorf("Enter: %v", err)
	}
}

func TestGateWait(t *testing.T) {
	t.Run("until the lease is back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := openGate(pairedRecord())
			began := time.Now()
			time.AfterFunc(30*time.Millisecond, func() { g.store.setLease(time.Second) })
			if err := g.Wait(t.Context(), Token{1, 1}); err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d < 30*time.Millisecond || d > 30*time.Millisecond+waitPoll {
				t.Errorf("waited %v", d)
			}
		})
	})
	t.Run("until the token is dead", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := openGate(pairedRecord())
			time.AfterFunc(30*time.Millisecond, func() { g.store.set(failedOver()) })
			if err := g.Wait(t.Context(), Token{1, 1}); !errors.Is(err, ErrTokenDead) {
				t.Error(err)
			}
		})
	})
	t.Run("until the caller gives up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := openGate(pairedRecord())
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			if err := g.Wait(ctx, Token{1, 1}); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
	})
}

func TestWhatLastsEndsWithTheGateAndNotWithTheLease(t *testing.T) {
	g := openGate(pairedRecord())
	g.store.setLease(time.Second)
	token := Token{1, 1}
	if g.Over(token) {
		t.Error("over though all is well")
	}
	g.store.setLease(0)
	if g.Over(token) {
		t.Error("over though the lease may come back")
	}
	g.store.setLease(time.Second)
	g.Close("switching over to b")
	if !g.Over(token) {
		t.Error("goes on through a switchover")
	}
	g.Open()
	g.sentinel.dead.Store(true)
	if !g.Over(token) {
		t.Error("goes on though PostgreSQL has ended")
	}
}
