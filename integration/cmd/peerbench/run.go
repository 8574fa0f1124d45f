package main

import (
	"context"
	"time"
)

// run is a line on one system, under way.
type run struct {
	s        *system
	l        line
	outcomes []outcome
	watch    []*client // where watches go
	catchUp  time.Duration
	releases []func()
}

func (r *run) end() {
	closeAll(r.watch)
	for _, release := range r.releases {
		release()
	}
}

// prepare does what a line needs before its first slice.
func (s *system) prepare(ctx context.Context, l line, t timing) (*run, error) {
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	r := &run{s: s, l: l}
	var err error
	switch {
	case l.watches():
		err = r.prepareWatch(ctx)
	case l.phase == phaseIdle:
		var release func()
		if release, err = openIdle(ctx, s.clients); err == nil {
			r.releases = append(r.releases, release)
		}
	case l.op == opDelete:
		// What earlier lines have created is mostly enough.
		if need := t.slices * leastDeletes(l.workers, t); len(s.store.created) < need {
			err = s.more(ctx, need-len(s.store.created))
		}
	}
	if err != nil {
		r.end()
		return nil, err
	}
	return r, nil
}

// leastDeletes is how many keys a slice must be able to delete.
func leastDeletes(workers int, t timing) int {
	const perWorkerAndSecond = 150
	return int(float64(min(workers, 64)*perWorkerAndSecond)*(t.warm+t.window).Seconds()) + workers
}

func (r *run) prepareWatch(ctx context.Context) error {
	addr := r.s.addr
	if r.l.op == opWatchOther {
		other, release, err := r.s.host.Other(ctx)
		if err != nil {
			return err
		}
		addr = other
		r.releases = append(r.releases, func() { _ = release() }) // the bench's end tries again
	}
	var err error
	if r.watch, err = dialAll(addr); err != nil {
		return err
	}
	r.catchUp, err = catchUp(ctx, r.s, r.watch[0])
	return err
}

// slice measures once.
func (r *run) slice(ctx context.Context, t timing, number int, seed uint64) (outcome, error) {
	if r.l.watches() {
		return watchLoad{clients: r.s.clients, watch: r.watch, store: r.s.store, rate: r.l.rate, timing: t, seed: seed}.run(ctx)
	}
	l := load{clients: r.s.clients, store: r.s.store, workers: r.l.workers, op: r.operation(), timing: t, most: mostOperations, seed: seed}
	if r.l.op == opDelete {
		l.most = int64(len(r.s.store.created) / (t.slices - number))
	}
	return l.run(ctx), nil
}

func (r *run) operation() operation {
	if r.l.phase == phaseGrowth {
		return r.growthOperation()
	}
	switch r.l.op {
	case opCreate:
		return create
	case opUpdate:
		return update
	case opDelete:
		return remove
	case opGet:
		return read
	case opList500:
		return listFirst
	case opListAll:
		return listAll
	case opCount:
		if r.l.phase == phaseSmall {
			return counter(smallPrefix, smallKeys)
		}
		return counter(listPrefix, listKeys)
	case opMixed:
		return mix
	default:
		return hot
	}
}
