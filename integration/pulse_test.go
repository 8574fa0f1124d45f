package integration

import (
	"context"
	"sync"
	"time"
)

// pulse knows when this machine has let nothing run: what is measured then is not the product's.
type pulse struct {
	mu    sync.Mutex
	beats []beat // those that came late
}

// beat is one that came late, and by how much.
type beat struct {
	at   time.Time
	late time.Duration
}

const (
	pulseEvery = 10 * time.Millisecond
	// pulseLate is what counts as late.
	pulseLate = 50 * time.Millisecond
)

// run beats until ctx ends.
func (p *pulse) run(ctx context.Context) {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		if late := now.Sub(last) - pulseEvery; late > pulseLate {
			p.mu.Lock()
			p.beats = append(p.beats, beat{now, late})
			p.mu.Unlock()
		}
		last = now
	}
}

// latest is by how much a beat since then came late at most; 0 on a machine that is well.
func (p *pulse) latest(since time.Time) (most time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.beats {
		if b.at.After(since) {
			most = max(most, b.late)
		}
	}
	return most
}
