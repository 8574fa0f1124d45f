package oracle

import (
	"context"
	"sync"
)

// pool keeps systems ready: an etcd mostly waits for its election, and a database is copied while another is worked on.
type pool struct {
	ready chan made
	stop  context.CancelFunc
	ended sync.WaitGroup
}

type made struct {
	system *system
	err    error
}

// newPool makes systems, so many at a time, and keeps as many.
func newPool(makers int, create func() (*system, error)) *pool {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pool{ready: make(chan made), stop: cancel}
	for range makers {
		p.ended.Go(func() {
			for ctx.Err() == nil {
				s, err := create()
				select {
				case p.ready <- made{s, err}:
				case <-ctx.Done():
					if err == nil {
						_ = s.close() // nobody has used it
					}
				}
			}
		})
	}
	return p
}

func (p *pool) get() (*system, error) {
	m := <-p.ready
	return m.system, m.err
}

func (p *pool) close() {
	p.stop()
	p.ended.Wait()
}
