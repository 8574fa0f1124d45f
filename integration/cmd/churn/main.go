// Command churn shows whether the native engine's table stays flat in size. It fills a throw-away PostgreSQL, which syncs to the
// disk as in a real cluster, with a long history as plain kine would have written it, lets the engine adopt and compact it, and
// then writes steadily as Kubernetes does, with a compaction each interval. Each minute it prints one line. It fails if the table
// and what belongs to it are larger, at any time of the second half, by more than 15 % of what they were in the beginning.
//
//	churn --for 1h --rate 300
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kineshim/integration/enginehost"
	"kineshim/integration/pgtest"
	"kineshim/kineshim/native"
)

// settings are those of a real node where they have to do with how much is written and kept. The rest is PostgreSQL's default
// there too. The standby's part is missing: it changes when a commit returns, not what is written.
var settings = []string{"fsync=on", "full_page_writes=on", "wal_level=replica", "wal_log_hints=on", "wal_keep_size=64MB", "jit=off"}

const (
	// startTries: an engine start of enginehost is bounded at 30 s, and the first one on a large table of kine's changes it.
	startTries = 3
	// settle is how long after the begin of the churn the size is taken that later ones are compared with.
	settle = 10 * time.Minute
	// mayGrow is the largest size of the second half, as a multiple of that one.
	mayGrow = 1.15
)

// options are the command's flags.
type options struct {
	revisions, keys int64
	keep            int64
	pack            bool
	rate            float64
	workers         int
	compactEvery    time.Duration
	duration        time.Duration
	sampleEvery     time.Duration
	leaseTTL        int64
	sql             string
	verbose         bool
}

// PostgreSQL dies with the thread that starts it: the main goroutine stays on the main thread.
func init() { runtime.LockOSThread() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "churn:", err)
		}
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("churn", flag.ContinueOnError)
	flags.Int64Var(&o.revisions, "revisions", 5_000_000, "rows that kine has left")
	flags.Int64Var(&o.keys, "keys", 200_000, "keys that they are of")
	flags.Int64Var(&o.keep, "keep", 0, "compact to this many revisions before the newest; 0: to what was the newest an interval "+
		"before, as Kubernetes does")
	flags.BoolVar(&o.pack, "pack", true, "before the churn VACUUM FULL, if all was compacted: the room that the history leaves would hide growth")
	flags.Float64Var(&o.rate, "rate", 300, "writes per second")
	flags.IntVar(&o.workers, "workers", 8, "writers at the same time")
	flags.DurationVar(&o.compactEvery, "compact-every", time.Minute, "pace of compaction")
	flags.DurationVar(&o.duration, "for", time.Hour, "how long to write")
	flags.DurationVar(&o.sampleEvery, "sample-every", time.Minute, "pace of the lines")
	flags.Int64Var(&o.leaseTTL, "lease-ttl", 300, "seconds that events live")
	flags.StringVar(&o.sql, "sql", "", "SQL to run as superuser before the churn, to try settings")
	flags.BoolVar(&o.verbose, "v", false, "log what the engine does")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.keys < 1000 || o.revisions < o.keys || o.rate <= 0 || o.workers < 1 || o.duration <= 0 ||
		o.sampleEvery <= 0 || o.compactEvery <= 0 || o.keep < 0 {
		return o, errors.New("the flags make no sense; see --help")
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	pg, err := pgtest.Start(settings...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Remove()) }()
	if err := pg.CreateDatabase(enginehost.DefaultDatabase); err != nil {
		return err
	}
	began := time.Now()
	if err := fill(ctx, pg.DSN(enginehost.DefaultDatabase), o); err != nil {
		return fmt.Errorf("fill the table: %w", err)
	}
	say(out, began, "kine has left %d revisions of %d keys", o.revisions, o.keys)
	began = time.Now()
	host, err := serve(ctx, pg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	say(out, began, "the native engine has adopted them")
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{host.Address()}, DialTimeout: 10 * time.Second, Logger: zap.NewNop(), MaxCallRecvMsgSize: 1 << 30,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	return measure(ctx, o, pg, client, out)
}

func say(out io.Writer, began time.Time, format string, args ...any) {
	fmt.Fprintf(out, "%s %s, in %v\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...), time.Since(began).Round(100*time.Millisecond))
}

// serve starts the engine.
func serve(ctx context.Context, pg *pgtest.Server, log *slog.Logger) (*enginehost.Host, error) {
	var err error
	for range startTries {
		var host *enginehost.Host
		host, err = enginehost.Start(enginehost.Options{Engine: native.Factory(native.Config{}), PG: pg, Log: log})
		if err == nil {
			return host, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		log.Warn("the engine did not start", "err", err)
	}
	return nil, err
}

// measure compacts the history, churns and samples.
func measure(ctx context.Context, o options, pg *pgtest.Server, client *clientv3.Client, out io.Writer) error {
	s, err := newSampler(ctx, pg.SuperDSN(enginehost.DefaultDatabase), client)
	if err != nil {
		return err
	}
	defer s.close()
	c := newChurn(o, client)
	began := time.Now()
	if err := c.firstCompaction(ctx); err != nil {
		return fmt.Errorf("compact the history: %w", err)
	}
	say(out, began, "the history is compacted to what is kept")
	if o.pack && o.keep == 0 {
		began = time.Now()
		if err := s.exec(ctx, "VACUUM (FULL, ANALYZE) kine"); err != nil {
			return err
		}
		say(out, began, "the table is packed")
	}
	if o.sql != "" {
		if err := s.exec(ctx, o.sql); err != nil {
			return err
		}
	}
	running, stop := context.WithTimeout(ctx, o.duration)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- c.run(running) }()
	v := verdict{settle: min(settle, o.duration/3), half: o.duration / 2}
	sampleErr := s.every(running, o.sampleEvery, c, &v, out)
	stop()
	if err := errors.Join(sampleErr, <-ended); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: no verdict")
	}
	return v.say(out)
}

// verdict compares sizes in bytes.
type verdict struct {
	settle, half   time.Duration
	settled, worst int64
}

func (v *verdict) take(at time.Duration, total int64) {
	if at <= v.settle || v.settled == 0 {
		v.settled = total
	}
	if at >= v.half {
		v.worst = max(v.worst, total)
	}
}

func (v *verdict) say(out io.Writer) error {
	if v.settled == 0 || v.worst == 0 {
		return errors.New("too few samples for a verdict")
	}
	grown := float64(v.worst) / float64(v.settled)
	fmt.Fprintf(out, "verdict: %.1f MB after %v, at most %.1f MB from %v on: %.3f times as much, %.2f allowed\n",
		megabytes(v.settled), v.settle, megabytes(v.worst), v.half, grown, mayGrow)
	if grown > mayGrow {
		return errors.New("the table grows")
	}
	return nil
}

func megabytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }
