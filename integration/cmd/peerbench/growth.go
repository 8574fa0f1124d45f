package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// growthTiming is that of the lines between which the stores grow. kine takes seconds for a page of a million keys.
var growthTiming = timing{slices: 3, warm: 500 * time.Millisecond, window: 2 * time.Second, grace: time.Minute}

// bytesPerKey is about what all systems together need on disk for one more key: seven copies of it, with their logs and indexes.
const bytesPerKey = 24 << 10

// growthSizes are the numbers of keys at which the lines are measured: from 10,000 by tens up to most.
func growthSizes(most int) []int {
	var out []int
	for n := 10_000; n < most; n *= 10 {
		out = append(out, n)
	}
	return append(out, most)
}

// growthLines are measured at each size.
func growthLines(keys int) []line {
	return []line{
		{op: opCreate, workers: 64, keys: keys, phase: phaseGrowth},
		{op: opGet, workers: 64, keys: keys, phase: phaseGrowth},
		{op: opList500, workers: 16, keys: keys, phase: phaseGrowth},
		{op: opCount, workers: 16, keys: keys, phase: phaseGrowth},
	}
}

// grow measures while the stores grow.
func (b *bench) grow(ctx context.Context, most int) error {
	free, err := freeBytes(b.dir)
	if err != nil {
		return err
	}
	if need := int64(most) * bytesPerKey; free < need {
		return fmt.Errorf("growth: %d keys need about %d GB of disk, %d are free: --grow-to", most, need>>30, free>>30)
	}
	for _, size := range growthSizes(most) {
		if err := b.growTo(ctx, size); err != nil {
			return err
		}
		if err := b.runAll(ctx, growthLines(size)); err != nil {
			return err
		}
	}
	return nil
}

// growTo writes what is missing to the number of keys, to all systems at once.
func (b *bench) growTo(ctx context.Context, size int) error {
	var filling sync.WaitGroup
	errs := make([]error, len(b.systems))
	for i, s := range b.systems {
		filling.Go(func() {
			from, begun := int(s.store.grown.Load()), time.Now()
			if errs[i] = s.connect(ctx); errs[i] != nil || from >= size {
				return
			}
			errs[i] = s.fill(ctx, size-from, func(i int) (string, *keyRevision) { return grownKey(from + i), nil })
			s.store.grown.Store(int64(size))
			fmt.Fprintf(b.out, "%s: grown to %d keys in %.0f s\n", s.name, size, time.Since(begun).Seconds())
		})
	}
	filling.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("%s: grow to %d keys: %w", b.systems[i].name, size, err)
		}
	}
	return nil
}

// growthOperation is an operation on the keys that grow.
func (r *run) growthOperation() operation {
	switch r.l.op {
	case opCreate:
		return func(ctx context.Context, w *worker) error {
			key, value := grownKey(int(w.store.grown.Add(1)-1)), randomValue(w.rng)
			start := w.now()
			c, err := w.client.create(ctx, key, value)
			if err != nil {
				return err
			}
			w.done(start)
			if !c.succeeded {
				return errRefused
			}
			return nil
		}
	case opGet:
		return func(ctx context.Context, w *worker) error { return w.read(ctx, grownKey(w.rng.IntN(r.l.keys))) }
	case opList500:
		return func(ctx context.Context, w *worker) error { return w.firstPage(ctx, grownPrefix, r.l.keys) }
	default:
		return counter(grownPrefix, -1)
	}
}
