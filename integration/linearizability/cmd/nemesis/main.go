// Command nemesis makes a cluster on three hosts of network namespaces fail again and again, as a seed or a plan says, and checks all that clients were told.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"kineshim.example/linearizability/storm"
	"kineshim/integration/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code: 0 all promises were kept, 1 some were not, or nothing could be tried, 2 called wrongly.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("nemesis", flag.ContinueOnError)
	flags.SetOutput(stderr)
	cfg := storm.Config{Out: stdout}
	flags.Uint64Var(&cfg.Seed, "seed", 0, "the seed of the bursts; 0: a fresh one, which is printed")
	flags.IntVar(&cfg.First, "burst", 0, "do only this burst of the seed")
	flags.DurationVar(&cfg.For, "for", 5*time.Minute, "how long to go on; the last burst is finished")
	flags.IntVar(&cfg.Failures, "failures", 1, "end after so many bursts in which something was wrong")
	flags.StringVar(&cfg.KeepDir, "out", filepath.Join(os.TempDir(), "kineshim-nemesis"), "directory for the evidence of bursts in which something was wrong")
	flags.StringVar(&cfg.Settings, "settings", "", "lines to add to the data nodes' configuration, such as timing: {heartbeat_timeout: 200ms}")
	plan := flags.String("plan", "", "file with bursts to do instead of a seed's")
	draw := flags.Int("draw", 0, "print so many bursts of the seed, and do nothing")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	if cfg.First > 0 {
		cfg.Bursts = 1
	}
	for n := range *draw {
		fmt.Fprintln(stdout, storm.Draw(cfg.Seed, uint64(n+1)))
	}
	if *draw > 0 {
		return 0
	}
	if *plan != "" {
		text, err := os.ReadFile(*plan)
		if err == nil {
			cfg.Plan, err = storm.Parse(string(text))
		}
		if err != nil {
			fmt.Fprintln(stderr, "nemesis:", err)
			return 2
		}
	}
	var err error
	if cfg.Binaries, err = cluster.BinariesIn(os.Getenv(cluster.BinDirEnv)); err != nil {
		fmt.Fprintf(stderr, "nemesis: %v: set %s to where make build puts them\n", err, cluster.BinDirEnv)
		return 2
	}
	fmt.Fprintf(stdout, "seed %d\n", cfg.Seed)
	summary, err := storm.Run(ctx, cfg)
	fmt.Fprintln(stdout, summary)
	for _, w := range summary.Wrong {
		fmt.Fprintln(stdout, "  WRONG", w)
	}
	if err != nil {
		fmt.Fprintln(stderr, "nemesis:", err)
	}
	if err != nil || len(summary.Wrong) > 0 || summary.Bursts == 0 {
		return 1
	}
	return 0
}
