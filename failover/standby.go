package failover

import "kineshim/failover/decide"

// StandbyLife says whether the local PostgreSQL may be read for a copy of the data: it is a standby that streams from the recorded primary,
// on the recorded timeline, so that what it holds is a part of that primary's history. (A standby that has just started may hold a tail that
// nobody else has, and shows it.)
//
// The life changes whenever PostgreSQL starts here, and whenever its walreceiver is stopped or started: what was read in one life, which
// was ok before and is the same and ok after, was read from such a standby. It may be called from any goroutine, and asks nobody.
func (a *Agent) StandbyLife() (life uint64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := &a.local
	rec, _ := a.store.Record()
	if a.role() != decide.Standby || l.promoting || l.frozen || l.adrift || !l.unstreamedSince.IsZero() {
		return l.life, false
	}
	if rec.Primary != a.cfg.Other || rec.Timeline == 0 || l.obs.WalReceiver.Timeline != rec.Timeline {
		return l.life, false
	}
	if l.copyEpoch == 0 {
		l.copyEpoch = rec.Epoch // whatever is loaded from now on has all that was forced before
	}
	return l.life, true
}
