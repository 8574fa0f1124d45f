package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"
)

// settle lets a system come to rest before the next one is measured.
const settle = 20 * time.Millisecond

// system is one of those that are compared.
type system struct {
	name    string
	host    host
	store   *store
	addr    string
	clients []*client // of addr
	// idleCPU is what its processes used while others were measured, of idleFor.
	idleCPU, idleFor time.Duration
	processes        []process // as of the beginning of the line
}

// connect dials the server that now takes load, if it is not the one that did.
func (s *system) connect(ctx context.Context) error {
	addr, err := s.host.Endpoint(ctx)
	if err != nil || addr == s.addr {
		return err
	}
	s.disconnect()
	s.clients, err = dialAll(addr)
	s.addr = addr
	return err
}

func dialAll(addr string) ([]*client, error) {
	var out []*client
	for range connections {
		c, err := dial(addr)
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func closeAll(clients []*client) {
	for _, c := range clients {
		c.close()
	}
}

func (s *system) disconnect() {
	closeAll(s.clients)
	s.clients, s.addr = nil, ""
}

// bench is a run.
type bench struct {
	dir     string
	systems []*system
	out     io.Writer
	enc     *json.Encoder
	results []result
	// deadline is when the last slice must be over; the zero time: there is none.
	deadline time.Time
	timings  struct{ plain, watch, growth timing }
	seed     uint64
	// sliced is the number of slices so far, and lost the time that was not warm-up and not measured.
	sliced int
	lost   time.Duration
}

// start starts all systems and writes their first keys. On an error the bench must be closed all the same.
func (b *bench) start(ctx context.Context, names []string, bins binaries, engine string) error {
	fmt.Fprintf(b.out, "start %v in %s\n", names, b.dir)
	var starting sync.WaitGroup
	errs := make([]error, len(names))
	b.systems = make([]*system, len(names))
	for i, name := range names {
		s := &system{name: name, store: &store{}}
		b.systems[i] = s
		starting.Go(func() {
			dir := filepath.Join(b.dir, name)
			if errs[i] = os.Mkdir(dir, 0o755); errs[i] == nil {
				s.host, errs[i] = startHost(ctx, name, dir, bins, engine)
			}
		})
	}
	starting.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	begun := time.Now()
	for i, s := range b.systems {
		starting.Go(func() {
			if errs[i] = s.connect(ctx); errs[i] == nil {
				errs[i] = s.seed(ctx)
			}
		})
	}
	starting.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "%d keys written to each in %.1f s\n", listKeys+poolKeys, time.Since(begun).Seconds())
	return nil
}

// close ends all processes. The directory is the caller's to remove.
func (b *bench) close() error {
	var errs []error
	for _, s := range b.systems {
		if s == nil {
			continue
		}
		s.disconnect()
		if s.host != nil {
			errs = append(errs, s.host.Close())
		}
	}
	return errors.Join(errs...)
}

// runAll measures the lines in turn, with fewer and shorter slices when time runs out; what does not fit any more is left out and said.
func (b *bench) runAll(ctx context.Context, lines []line) error {
	for i, l := range lines {
		t, fits := b.timing(l), true
		if !b.deadline.IsZero() {
			var rest []timing
			for _, l := range lines[i:] {
				rest = append(rest, b.timing(l))
			}
			t, fits = fit(rest, len(b.systems), b.between(), time.Until(b.deadline))
		}
		if !fits {
			fmt.Fprintf(b.out, "LEFT OUT, because the time is used up: %s\n", l)
			continue
		}
		begun, before := time.Now(), b.sliced
		if err := b.runLine(ctx, l, t); err != nil {
			return fmt.Errorf("%s: %w", l, err)
		}
		n := b.sliced - before
		b.lost += time.Since(begun) - time.Duration(n)*(t.warm+t.window)
	}
	return nil
}

// between is what lay between two slices, in the mean.
func (b *bench) between() time.Duration {
	if b.sliced == 0 {
		return betweenAtFirst
	}
	return b.lost / time.Duration(b.sliced)
}

func (b *bench) timing(l line) timing {
	switch {
	case l.watches():
		return b.timings.watch
	case l.phase == phaseGrowth:
		return b.timings.growth
	}
	return b.timings.plain
}

// runLine measures a line on all systems, slice by slice in turn.
func (b *bench) runLine(ctx context.Context, l line, t timing) error {
	runs := make([]*run, 0, len(b.systems))
	defer func() {
		for _, r := range runs {
			r.end()
		}
	}()
	for _, s := range b.systems {
		r, err := s.prepare(ctx, l, t)
		if errors.Is(err, errNoOther) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		runs = append(runs, r)
	}
	for _, s := range b.systems {
		s.processes = s.host.Processes()
	}
	for slice := range t.slices {
		for _, r := range inTurn(runs, slice) {
			b.seed++
			b.sliced++
			if err := b.runSlice(ctx, r, t, slice); err != nil {
				return fmt.Errorf("%s: %w", r.s.name, err)
			}
		}
	}
	for _, r := range runs {
		res := newResult(r, memoryOf(r.s.host.Processes()), r.s.host.Amiss(ctx))
		b.results = append(b.results, res)
		if err := b.enc.Encode(res); err != nil {
			return err
		}
		b.show(res)
	}
	return ctx.Err()
}

// inTurn turns the order round with every slice, so that it is not always the same system that is measured while the same other one still
// has something to write in the background.
func inTurn(runs []*run, slice int) []*run {
	runs = slices.Clone(runs)
	if slice%2 == 1 {
		slices.Reverse(runs)
	}
	return runs
}

// runSlice measures one slice of one system, and what the others use meanwhile.
func (b *bench) runSlice(ctx context.Context, r *run, t timing, slice int) error {
	runtime.GC() // the generator's own garbage is not to be another system's burden
	begun, before := time.Now(), b.cpu()
	o, err := r.slice(ctx, t, slice, b.seed)
	if err != nil {
		return err
	}
	took, after := time.Since(begun), b.cpu()
	for i, s := range b.systems {
		used := max(0, after[i]-before[i])
		if s == r.s {
			o.cpu = used
			continue
		}
		s.idleCPU += used
		s.idleFor += took
	}
	r.outcomes = append(r.outcomes, o)
	pause(ctx, settle, nil, nil)
	return ctx.Err()
}

func (b *bench) cpu() []time.Duration {
	out := make([]time.Duration, len(b.systems))
	for i, s := range b.systems {
		out[i] = cpuOf(s.processes)
	}
	return out
}

// show prints a result as it comes.
func (b *bench) show(r result) {
	l := line{op: r.Op, workers: r.Workers, rate: r.Rate, keys: r.Keys, phase: r.Phase}
	fmt.Fprintf(b.out, "%-50s %-10s %10.1f/s  p50 %9.3f  p99 %9.3f ms  %7.1f CPU µs/op  %5.0f MB", l, r.System, r.OpsPerSec, r.P50, r.P99, r.CPUMicros,
		float64(r.RSS)/1e6)
	if r.Errors > 0 {
		fmt.Fprintf(b.out, "  %d errors, the first: %s", r.Errors, r.FirstError)
	}
	if r.Amiss != "" {
		fmt.Fprintf(b.out, "  DOES NOT COUNT: %s", r.Amiss)
	}
	if r.CatchUp > 1000 {
		fmt.Fprintf(b.out, "  watchers were %.1f s behind what was written before", r.CatchUp/1000)
	}
	fmt.Fprintln(b.out)
}
