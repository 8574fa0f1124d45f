package failover

import (
	"context"
	"sync/atomic"
	"time"

	pb "kineshim/proto"
)

// addresses is what the virtual addresses follow. A switchover does not take them before what was begun has been answered: the answers
// go out by them. They are gone before the other node is asked to take over.
type addresses struct {
	allowed atomic.Bool
	changed chan struct{} // of size 1
}

// allow says whether the last decision lets this node have them.
func (s *addresses) allow(yes bool) {
	if s.allowed.Swap(yes) != yes {
		poke(s.changed)
	}
}

// Addresses says whether this node may hold the virtual addresses.
type Addresses struct{ agent *Agent }

// Addresses is for whoever moves them. It may be called before Run.
func (a *Agent) Addresses() Addresses { return Addresses{a} }

// Holds says so by the clock: the gate is open, or closed for a switchover whose requests are still being answered. It takes about a
// microsecond. The epoch is 0 if it does not.
func (s Addresses) Holds() (epoch uint64, yes bool) {
	a := s.agent
	session := a.gate.session.Load()
	if session == nil || !a.addresses.allowed.Load() || a.gate.Check(session.token) != nil {
		return 0, false
	}
	return session.token.Epoch, true
}

// Changed gets a value when that has been decided anew. What ends by the clock, Holds alone tells. For one receiver.
func (s Addresses) Changed() <-chan struct{} { return s.agent.addresses.changed }

// PeerVIPs are the other data node's virtual addresses, as it has last said; nil before.
func (a *Agent) PeerVIPs() []*pb.VipState {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.peer.state.GetVips()
}

// addressesBound is how long a hand-over waits for virtual addresses that this node may hold no longer. They leave within a millisecond; if the
// kernel does not do it, the other node takes them all the same, which is harmless: this one does not answer.
const addressesBound = 100 * time.Millisecond

// awaitNoAddress returns when this node holds no virtual address, may hold them, or the bound is over.
func (a *Agent) awaitNoAddress(ctx context.Context) {
	began := time.Now()
	for a.cfg.VIPs != nil && !a.addresses.allowed.Load() && time.Since(began) < addressesBound {
		held := false
		for _, v := range a.cfg.VIPs() {
			held = held || v.Held
		}
		if !held || !pause(ctx, time.Millisecond) {
			return
		}
	}
}
