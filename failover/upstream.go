package failover

import (
	"context"
	"errors"
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/postgres"
)

const (
	// checkUpstreamEvery is how often a standby that does not stream asks whether it ever will.
	checkUpstreamEvery = 2 * time.Second
	// checkUpstreamTimeout gives one such question up.
	checkUpstreamTimeout = 5 * time.Second
)

// noteStreaming notes whether the standby streams. A walreceiver whose primary has nothing for it says that it streams, too, for a moment, and ends; so one
// counts that has said so at the look before.
func (a *Agent) noteStreaming(obs postgres.Observation) {
	l := &a.local
	streams := obs.WalReceiver.Status == "streaming"
	switch {
	case streams && obs.WalReceiver.PID == l.streamPID:
		l.unstreamedSince, l.walRemoved = time.Time{}, false
		l.rewoundEpoch = 0 // the rewind, if there was one, has done its work
	case !streams && l.unstreamedSince.IsZero():
		l.unstreamedSince = time.Now()
	}
	l.streamPID = 0
	if streams {
		l.streamPID = obs.WalReceiver.PID
	}
}

// notePatience has a standby's patience with its primary begin when that one serves, and anew whenever it does not. a.mu is held.
func (a *Agent) notePatience(in *decide.Input) {
	if l := &a.local; !l.unstreamedSince.IsZero() && !in.PeerServes() {
		l.unstreamedSince = time.Now()
	}
}

// watchUpstream asks the primary, while this standby does not stream from it, whether it still has the WAL that comes next, until ctx ends.
func (a *Agent) watchUpstream(ctx context.Context) {
	every(ctx, checkUpstreamEvery, func() {
		a.mu.Lock()
		in := a.input()
		due := in.Local.Role == decide.Standby && !in.Local.Frozen && in.Local.NotStreaming > checkUpstreamEvery && in.Peer.GateOpen && !a.local.walRemoved
		life := a.local.life
		a.mu.Unlock()
		if due {
			a.checkUpstream(ctx, life)
		}
	})
}

// checkUpstream asks for the standby's life of that number.
func (a *Agent) checkUpstream(ctx context.Context, life uint64) {
	ctx, cancel := context.WithTimeout(ctx, checkUpstreamTimeout)
	defer cancel()
	err := a.pg.CheckUpstream(ctx)
	if !errors.Is(err, postgres.ErrWALRemoved) {
		return
	}
	a.log.Warn("the primary no longer has the WAL that this standby needs next", "error", err)
	a.mu.Lock()
	if a.local.life == life {
		a.local.walRemoved = true
	}
	a.mu.Unlock()
	a.wake()
}
