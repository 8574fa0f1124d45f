// Command sim runs the simulation of integration/sim: one seed, with a line for each event; or many, for a while; or the mutants.
//
//	sim -seed 17 [-keep 3,7,9] [-mutant pairing]   replay one history
//	sim -minutes 10 [-from 1000]                   many histories, until one breaks
//	sim -mutants [-bound 3000]                     search a history that kills each mutant
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kineshim/integration/sim"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

type options struct {
	seed, keep, mutant string
	minutes            float64
	from, bound        uint64
	mutants            bool
	workers            int
}

func run(args []string, out io.Writer) error {
	var o options
	f := flag.NewFlagSet("sim", flag.ContinueOnError)
	f.StringVar(&o.seed, "seed", "", "replay the history of this seed")
	f.StringVar(&o.keep, "keep", "", "of its failures, these only")
	f.StringVar(&o.mutant, "mutant", "", "break this rule")
	f.Float64Var(&o.minutes, "minutes", 1, "how long to run many histories")
	f.Uint64Var(&o.from, "from", uint64(time.Now().UnixNano()/1e6), "the first of many seeds")
	f.Uint64Var(&o.bound, "bound", 3000, "how many seeds to try for each mutant")
	f.BoolVar(&o.mutants, "mutants", false, "search a history that kills each mutant")
	f.IntVar(&o.workers, "workers", runtime.GOMAXPROCS(0), "histories side by side")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case o.seed != "":
		return replay(o, out)
	case o.mutants:
		return mutants(o, out)
	}
	return many(o, out)
}

// replay shows one history.
func replay(o options, out io.Writer) error {
	seed, err := strconv.ParseUint(o.seed, 10, 64)
	if err != nil {
		return err
	}
	h := sim.History{Seed: seed, Mutant: o.mutant}
	for _, s := range strings.FieldsFunc(o.keep, func(r rune) bool { return r == ',' || r == ' ' }) {
		i, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		h.Keep = append(h.Keep, i)
	}
	r := h.Run(true)
	for _, l := range r.Trace {
		fmt.Fprintln(out, l)
	}
	if r.Bad != "" {
		return errors.New(r.Bad)
	}
	fmt.Fprintf(out, "%s: no violation in %d steps, %v; %d epochs, %d writes and %d reads answered\n", h, r.Steps, r.Time.Round(time.Second), r.Epochs, r.Acked, r.Reads)
	return nil
}

// report says what the histories came to, and how fast.
func report(t sim.Total, wall time.Duration) string {
	cpu := processorTime()
	return fmt.Sprintf("%d histories, %.1f h simulated, %.1f million steps, %d epochs, %d answers; armed again after at most %v; %.1f million steps a minute of processor time (%v of %v)",
		t.Histories, t.Time.Hours(), float64(t.Steps)/1e6, t.Epochs, t.Acked+t.Reads, t.ArmedAfter.Round(time.Millisecond),
		float64(t.Steps)/1e6/cpu.Minutes(), cpu.Round(time.Second), wall.Round(time.Second))
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// many runs histories until the time is up or one breaks.
func many(o options, out io.Writer) error {
	began, last := time.Now(), time.Now()
	end := began.Add(time.Duration(o.minutes * float64(time.Minute)))
	fmt.Fprintf(out, "seeds from %d, for %v\n", o.from, time.Until(end).Round(time.Second))
	total, bad := sim.Explore(o.from, o.mutant, o.workers, func(uint64) bool { return time.Now().Before(end) }, func(t sim.Total) {
		if time.Since(last) > 10*time.Second {
			last = time.Now()
			fmt.Fprintln(out, report(t, time.Since(began)))
		}
	})
	fmt.Fprintln(out, report(total, time.Since(began)))
	if bad == nil {
		fmt.Fprintln(out, "no violation")
		return nil
	}
	return explain(sim.History{Seed: bad.Seed, Mutant: o.mutant}, bad.Bad, out)
}

// explain shows the shortest history that breaks in the same manner, and how to see it again.
func explain(h sim.History, bad string, out io.Writer) error {
	fmt.Fprintf(out, "\nVIOLATION (%s): %s\nshrinking\n", h, bad)
	h = h.Shrink()
	for _, f := range h.Faults() {
		fmt.Fprintln(out, "   ", f)
	}
	r := h.Run(true)
	const lines = 120
	for _, l := range r.Trace[max(0, len(r.Trace)-lines):] {
		fmt.Fprintln(out, l)
	}
	fmt.Fprintf(out, "\nall of it again: %s make sim\n", h)
	return errors.New(r.Bad)
}

// mutants searches for each broken rule a history that shows it.
func mutants(o options, out io.Writer) error {
	if o.from > 1<<40 { // the same search each time, unless another one is asked for
		o.from = 0
	}
	var alive []string
	for _, m := range sim.Mutants {
		if o.mutant != "" && o.mutant != m.Name {
			continue
		}
		began := time.Now()
		from := o.from
		total, bad := sim.Explore(from, m.Name, o.workers, func(done uint64) bool { return done < o.bound }, nil)
		if bad == nil {
			alive = append(alive, m.Name)
			fmt.Fprintf(out, "%-34s ALIVE after %d histories\n", m.Name, total.Histories)
			continue
		}
		h := sim.History{Seed: bad.Seed, Mutant: m.Name}
		fmt.Fprintf(out, "%-34s killed after %d histories, %v: %s  (%s make sim)\n", m.Name, total.Histories, time.Since(began).Round(time.Millisecond), bad.Bad, h)
	}
	if len(alive) > 0 {
		return fmt.Errorf("mutants that nothing killed: %s", strings.Join(alive, ", "))
	}
	return nil
}
