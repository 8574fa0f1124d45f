package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// seedWorkers write what a store must hold before it is measured.
	seedWorkers = 64
	// seedTries bounds the attempts to write one key; a start-up's last hiccup is over by then.
	seedTries = 20
	// seedWithin bounds the writing of all keys of a line; a million at 500 a second fit in.
	seedWithin = 40 * time.Minute
)

// seed writes the keys that the lines read and update.
func (s *system) seed(ctx context.Context) error {
	s.store.pool = make([]keyRevision, poolKeys)
	s.store.watched = make([]keyRevision, watchedKeys)
	const fixed = listKeys + poolKeys + watchedKeys
	err := s.fill(ctx, fixed+1, func(i int) (string, *keyRevision) {
		switch {
		case i < listKeys:
			return listKey(i), nil
		case i < listKeys+poolKeys:
			return poolKey(i - listKeys), &s.store.pool[i-listKeys]
		case i < fixed:
			return watchedKey(i - listKeys - poolKeys), &s.store.watched[i-listKeys-poolKeys]
		default:
			return hotKey, nil
		}
	})
	if err != nil {
		return fmt.Errorf("%s: write the first keys: %w", s.name, err)
	}
	return nil
}

// more writes keys that lines may delete.
func (s *system) more(ctx context.Context, n int) error {
	_, err := s.write(ctx, load{clients: s.clients, store: s.store, workers: seedWorkers, op: create, most: int64(n)})
	return err
}

// fill writes n keys, and notes the revision of each where that is asked for.
func (s *system) fill(ctx context.Context, n int, key func(i int) (string, *keyRevision)) error {
	var next atomic.Int64
	op := func(ctx context.Context, w *worker) error {
		name, note := key(int(next.Add(1) - 1))
		r, err := w.mustCreate(ctx, name)
		if err == nil && note != nil {
			*note = keyRevision{key: name, revision: r}
		}
		return err
	}
	o, err := s.write(ctx, load{clients: s.clients, store: s.store, workers: seedWorkers, op: op, most: int64(n)})
	if err == nil && (o.errors > 0 || next.Load() < int64(n)) {
		err = fmt.Errorf("%d of %d keys were tried, %d not written: %s", next.Load(), n, o.errors, o.firstError)
	}
	return err
}

// write does a load that is bounded by its number of operations.
func (s *system) write(ctx context.Context, l load) (outcome, error) {
	l.timing = timing{window: seedWithin, grace: time.Minute}
	o := l.run(ctx)
	return o, ctx.Err()
}

// mustCreate creates the key, again if that fails, and returns its revision. A key that is there already was written by a try before.
func (w *worker) mustCreate(ctx context.Context, key string) (int64, error) {
	var err error
	for range seedTries {
		var r changed
		if r, err = w.client.create(ctx, key, randomValue(w.rng)); err == nil && r.succeeded {
			return r.revision, nil
		}
		if err == nil {
			var there ranged
			if there, err = w.client.get(ctx, key); err == nil && there.keys == 1 {
				return there.lastMod, nil
			}
		}
		pause(ctx, 10*errorPause, nil, nil)
	}
	return 0, fmt.Errorf("create %s: %w", key, err)
}
