// Command failoverbench makes the primary fail again and again under load, and measures what clients and watches on both nodes notice of it: how long it takes
// until the next write is acknowledged, which errors come, and whether events are lost.
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
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"kineshim/integration/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "failoverbench:", err)
		}
		os.Exit(1)
	}
}

// armWithin bounds the time between rounds, in which the cluster heals.
const armWithin = 2 * time.Minute

// errLost makes the exit code 1.
var errLost = errors.New("acknowledged writes were lost, or other promises broken")

// options are the command line's.
type options struct {
	kinds  []kind
	rounds int
	keys   int
	steady bool
	busy   time.Duration
	out    string
}

func parse(args []string) (options, error) {
	flags := flag.NewFlagSet("failoverbench", flag.ContinueOnError)
	o := options{}
	flags.IntVar(&o.rounds, "rounds", 50, "how often each kind is tried")
	wanted := flags.String("kinds", strings.Join(kindNames(), ","), "what is done to the primary; none: nothing")
	flags.StringVar(&o.out, "out", "failover.jsonl", "file for the results, one JSON object per line")
	flags.IntVar(&o.keys, "keys", 0, "load so many keys of 300 bytes first")
	flags.BoolVar(&o.steady, "steady", true, "measure watches and reads on both nodes first")
	flags.DurationVar(&o.busy, "busy", 0, "first keep all cores busy for so long: nothing may fail over")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for _, name := range strings.Split(*wanted, ",") {
		if name == "none" {
			continue
		}
		i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
		if i < 0 {
			return o, fmt.Errorf("no kind %q; there are %s", name, strings.Join(kindNames(), ", "))
		}
		o.kinds = append(o.kinds, kinds[i])
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	results, err := os.Create(o.out)
	if err != nil {
		return err
	}
	defer results.Close()
	var extra map[string]string
	if o.busy > 0 {
		extra = map[string]string{cluster.A: busySettings, cluster.B: busySettings}
	}
	b, err := newBench(ctx, stdout, json.NewEncoder(results), extra)
	if err != nil {
		return err
	}
	defer b.close()
	return b.run(ctx, o)
}

// run does all that was asked for. What is done before an error is held against the goals all the same.
func (b *bench) run(ctx context.Context, o options) error {
	var goals []goal
	lost, err := false, error(nil)
	if o.keys > 0 {
		err = b.loadKeys(ctx, o.keys)
	}
	if o.steady && err == nil {
		goals, err = b.runSteady(ctx)
	}
	if o.busy > 0 && err == nil {
		var reached []goal
		reached, err = b.runBusy(ctx, o.busy)
		goals = append(goals, reached...)
	}
	for _, k := range o.kinds {
		if err != nil {
			break
		}
		var s summary
		s, err = b.runKind(ctx, k, o.rounds)
		if s.Rounds > 0 {
			goals = append(goals, goalsOf(s)...)
		}
		lost = lost || s.Lost > 0 || s.Violations > 0
	}
	printGoals(b.out, goals)
	if len(goals) > 0 {
		err = errors.Join(err, b.enc.Encode(goalsResult{"goals", goals}))
	}
	if lost {
		err = errors.Join(err, errLost)
	}
	return err
}

// bench is the cluster under test.
type bench struct {
	c      *cluster.Cluster
	binDir string
	out    io.Writer
	enc    *json.Encoder
	round  int // of all kinds, so that each has keys of its own
	keys   int // that were loaded
	keep   bool
}

func newBench(ctx context.Context, out io.Writer, enc *json.Encoder, extra map[string]string) (*bench, error) {
	binDir, err := os.MkdirTemp("", "kineshim-bin-")
	if err != nil {
		return nil, err
	}
	b := &bench{binDir: binDir, out: out, enc: enc}
	binaries, err := cluster.Build(ctx, binDir)
	if err == nil {
		err = b.newCluster(ctx, binaries, extra)
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) newCluster(ctx context.Context, binaries cluster.Binaries, extra map[string]string) error {
	dir, err := os.MkdirTemp("/tmp", "kineshim-bench-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL's OS user must come through
		return err
	}
	if b.c, err = cluster.New(ctx, dir, cluster.Options{Binaries: binaries, JSONLogs: true, Extra: extra}); err != nil {
		os.RemoveAll(dir)
		return err
	}
	if err := b.c.StartAll(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, armWithin)
	defer cancel()
	return b.c.WaitArmed(ctx)
}

func (b *bench) close() {
	if b.c != nil && b.keep {
		fmt.Fprintf(b.out, "The cluster's logs and data are kept in %s\n", b.c.Dir())
		if err := b.c.Abandon(); err != nil {
			fmt.Fprintln(b.out, err)
		}
	} else if b.c != nil {
		if err := b.c.Destroy(); err != nil {
			fmt.Fprintln(b.out, err)
		}
	}
	os.RemoveAll(b.binDir)
}

// recordPath is the file of a round's ledger.
func (b *bench) recordPath() string {
	return filepath.Join(b.c.Dir(), fmt.Sprintf("ledger-%04d.jsonl", b.round))
}
