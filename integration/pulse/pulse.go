// Package pulse knows when this machine has let nothing run: what a test measures then is not the product's.
package pulse

import (
	"context"
	"sync"
	"time"
)

// Pulse beats a hundred times a second.
type Pulse struct {
	mu   sync.Mutex
	late []beat
}

// beat is one that came late, and by how much.
type beat struct {
	at time.Time
	by time.Duration
}

const (
	every = 10 * time.Millisecond
	// late is what counts as that.
	late = 50 * time.Millisecond
)

// Run beats until ctx ends.
func (p *Pulse) Run(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		if by := now.Sub(last) - every; by > late {
			p.mu.Lock()
			p.late = append(p.late, beat{now, by})
			p.mu.Unlock()
		}
		last = now
	}
}

// Latest is by how much a beat since then came late at most; 0 on a machine that is well.
func (p *Pulse) Latest(since time.Time) (most time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.late {
		if b.at.After(since) {
			most = max(most, b.by)
		}
	}
	return most
}
