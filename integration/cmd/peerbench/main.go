// Command peerbench measures kineshim's whole cluster side by side with etcd and with kine, on this machine, by one load generator.
//
// All systems run at the same time, with fsync, and are measured in turn, in short slices, so that the machine's noise hits all of them.
// The generator takes its share of the same cores. Systems that are not being measured are idle, but not silent: they send heartbeats, and
// PostgreSQL and etcd write in the background what they took in before. How much CPU that took is printed with the results.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := execute(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "peerbench:", err)
		}
		os.Exit(1)
	}
}

// garbagePercent keeps the generator's collector from competing with the servers.
const garbagePercent = 400

// options are the command line's.
type options struct {
	out, dir, engine         string
	quick, keep              bool
	systems, ops             []string
	workers                  []int
	slices                   int
	warm, window, budget     time.Duration
	growTo                   int
	only, names, someWorkers string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("peerbench", flag.ContinueOnError)
	flags.StringVar(&o.out, "out", "bench.jsonl", "file for the results, one JSON object per line")
	flags.BoolVar(&o.quick, "quick", false, "only what is to be reached, within 6 minutes")
	flags.StringVar(&o.only, "only", "", "only these operations or phases, with commas: create, …, small-prefix, idle-watchers, growth")
	flags.StringVar(&o.names, "systems", strings.Join(systemNames, ","), "only these systems")
	flags.StringVar(&o.someWorkers, "workers", "", "only lines with these numbers of workers")
	flags.IntVar(&o.slices, "slices", 0, "slices per line and system; 0: as planned")
	flags.DurationVar(&o.warm, "warm", 0, "warm-up of a slice; 0: as planned")
	flags.DurationVar(&o.window, "window", 0, "measured time of a slice; 0: as planned")
	flags.DurationVar(&o.budget, "budget", 0, "time for all but the end, to which slices are shortened; 0: as planned")
	flags.IntVar(&o.growTo, "grow-to", 1_000_000, "keys that the growth ends with")
	flags.StringVar(&o.engine, "engine", "", "kineshim's engine; empty: its default")
	flags.StringVar(&o.dir, "dir", "", "directory on a disk below which all data lives; empty: /tmp or /var/tmp")
	flags.BoolVar(&o.keep, "keep", false, "leave data and logs behind")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.systems = strings.Split(o.names, ",")
	for _, name := range o.systems {
		if !slices.Contains(systemNames, name) {
			return o, fmt.Errorf("no system %q; there are %s", name, strings.Join(systemNames, ", "))
		}
	}
	if o.only != "" {
		o.ops = strings.Split(o.only, ",")
	}
	if o.someWorkers != "" {
		for _, s := range strings.Split(o.someWorkers, ",") {
			n, err := strconv.Atoi(s)
			if err != nil || n < 1 || n > poolKeys {
				return o, fmt.Errorf("workers: %q is not a number from 1 to %d", s, poolKeys)
			}
			o.workers = append(o.workers, n)
		}
	}
	return o, nil
}

func (o options) timing(t timing) timing {
	if o.slices > 0 {
		t.slices = o.slices
	}
	if o.warm > 0 {
		t.warm = o.warm
	}
	if o.window > 0 {
		t.window = o.window
	}
	return t
}

// lines are those to measure, without the growth.
func (o options) lines() []line {
	all := longLines()
	if o.quick {
		all = quickLines()
	}
	return selected(all, o.ops, o.workers)
}

// grows says whether the growth is part of the run.
func (o options) grows() bool {
	return !o.quick && o.growTo > 0 && (o.ops == nil || slices.Contains(o.ops, phaseGrowth))
}

func execute(ctx context.Context, args []string, out io.Writer) (err error) {
	begun := time.Now()
	o, err := parse(args)
	if err != nil {
		return err
	}
	debug.SetGCPercent(garbagePercent)
	b := &bench{out: out}
	b.timings.plain, b.timings.watch, b.timings.growth = o.timing(longTiming), o.timing(longWatchTiming), o.timing(growthTiming)
	if o.quick {
		b.timings.plain, b.timings.watch = o.timing(quickTiming), o.timing(quickWatchTiming)
		b.deadline = begun.Add(quickBudget)
	}
	if o.budget > 0 {
		b.deadline = begun.Add(o.budget)
	}
	if b.dir, err = makePlace(o.dir); err != nil {
		return err
	}
	if !o.keep {
		defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	}
	results, err := os.Create(o.out)
	if err != nil {
		return err
	}
	defer results.Close()
	b.enc = json.NewEncoder(results)
	bins, err := buildBinaries(ctx, b.dir, o.systems)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "binaries after %.1f s; %d cores, %s\n", time.Since(begun).Seconds(), runtime.NumCPU(), runtime.Version())
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.start(ctx, o.systems, bins, o.engine); err != nil {
		return err
	}
	fmt.Fprintf(out, "all serve after %.1f s\n", time.Since(begun).Seconds())
	err = b.runAll(ctx, o.lines())
	if err == nil && o.grows() {
		err = b.grow(ctx, o.growTo)
	}
	printTable(out, b.results, o.systems)
	printMemory(out, b.results, b.systems)
	printGoals(out, findGoals(b.results))
	fmt.Fprintf(out, "results are in %s; %.0f s in all\n", o.out, time.Since(begun).Seconds())
	return err
}
