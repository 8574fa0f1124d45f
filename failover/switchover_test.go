package failover

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/postgres"
)

// What is under way when the gate closes is answered before the engine ends, within a bound.
func TestDrainLetsRequestsEndBeforeTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newAgent(t, "a", pairedRecord()).serving(1)
		f.local.generation, f.local.engine = 3, 3
		began := time.Now()
		f.engine.drain = func(ctx context.Context) {
			if f.engine.stops.Load() != 0 || f.local.engine != 3 {
				t.Error("the engine ends while requests are under way")
			}
			<-ctx.Done() // a request that does not end
		}
		if err := f.drain(t.Context()); !errors.Is(err, postgres.ErrNotRunning) { // the standby cannot be asked for
			t.Errorf("drain: %v", err)
		}
		if d := time.Since(began); d != drainRequests || f.engine.stops.Load() != 1 || f.local.engine != 0 {
			t.Errorf("after %v, %d stops, engine of %d", d, f.engine.stops.Load(), f.local.engine)
		}
		if f.wish.drained {
			t.Error("drained, though nobody knows what the standby has")
		}
	})
}

// The other node keeps its way here while what it has forwarded is being answered; new requests are refused at the gate.
func TestADrainingGateIsOpenForTheOtherNode(t *testing.T) {
	f := newAgent(t, "a", pairedRecord()).serving(1)
	f.store.setLease(time.Second)
	s, alive := Session{Epoch: 1, Generation: 3}, &sentinel{}
	f.local.generation, f.local.engine = 3, 3
	f.gate.Begin(s, alive)
	f.gate.Open()
	says := func() bool { return f.nodeState().GateOpen }
	f.wish.switchTo = "b"
	f.gate.Close("switching over to b")
	if _, err := f.gate.Enter(); err == nil {
		t.Fatal("a request begins")
	}
	if !says() {
		t.Error("the way is closed while requests are under way")
	}
	f.store.setLease(0)
	if says() {
		t.Error("the way is open though no answer can be given")
	}
	f.store.setLease(time.Second)
	f.wish.switchTo = ""
	if says() {
		t.Error("a gate that is closed for another reason counts as open")
	}
	f.wish.switchTo, f.local.engine = "b", 0
	if says() {
		t.Error("the way is open though the engine has ended")
	}
	alive.dead.Store(true)
	if f.local.engine = 3; says() {
		t.Error("the way is open though the session has ended")
	}
}

// The pause after an offer of the leadership ends with the leadership.
func TestAnOfferOfLeadershipIsWaitedForOnlyWhileThisNodeLeads(t *testing.T) {
	for name, c := range map[string]struct {
		leads bool // after the offer
		want  time.Duration
	}{
		"it is taken":     {false, 0},
		"it is not taken": {true, 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newAgent(t, "a", pairedRecord())
				f.store.status.Leader = true
				f.store.handOver = func(context.Context, string) error {
					f.store.mu.Lock()
					defer f.store.mu.Unlock()
					f.store.status.Leader = c.leads
					return nil
				}
				began := time.Now()
				if err := f.handOver(t.Context(), "w"); err != nil || time.Since(began) != c.want {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
			})
		})
	}
}

func TestTheAgentLooksAgainWhenTheSilenceIsTooLong(t *testing.T) {
	in := decide.Input{Timing: decide.Timing{Silence: 500 * time.Millisecond}}
	for age, want := range map[time.Duration]time.Duration{
		0:                      tick,
		440 * time.Millisecond: tick,
		470 * time.Millisecond: 31 * time.Millisecond,
		500 * time.Millisecond: time.Millisecond, // not yet longer than the silence
		501 * time.Millisecond: tick,
		decide.Never:           tick,
	} {
		if in.Peer.Age = age; nextLook(&in) != want {
			t.Errorf("silent for %v: looks again after %v, want %v", age, nextLook(&in), want)
		}
	}
}
