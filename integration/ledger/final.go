package ledger

import (
	"context"
	"fmt"
	"time"
)

// finalPage makes the final list come in many pages.
const finalPage = 50

// ReadFinal lists everything below the prefix, again until it is answered or ctx ends. Give it a context with a bound.
func (r *Recorder) ReadFinal(ctx context.Context, s Store, prefix string, timeout time.Duration) (*Entry, error) {
	for {
		e := Entry{ID: -1, Op: List, Key: prefix, Start: r.Now()}
		attempt, cancel := context.WithTimeout(ctx, timeout)
		a, err := s.List(attempt, prefix, finalPage)
		cancel()
		if err == nil {
			e.End = r.Now()
			fill(&e, a, nil)
			return &e, nil
		}
		sleep(ctx, defaultPause)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("read final state: %w", err)
		}
	}
}
