// Command raftwitness is the third voter of a kineshim cluster: it holds no data and decides nothing.
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
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"kineshim/config"
	"kineshim/monitor"
	"kineshim/ownership"
	"kineshim/priority"
	"kineshim/raftwitness"
	"kineshim/sdnotify"
	"kineshim/version"
)

const usage = `raftwitness is the third voter of kineshim clusters: a few MB, no data, hardly a write to disk.

  raftwitness --config FILE                    run
  raftwitness join --config FILE ENROLMENT     join a cluster, with the file that "kineshim init" made for this witness;
                                               may be repeated for several clusters
  raftwitness --config FILE --check            say what is wrong with the configuration
  raftwitness --version

Flag that overrides the file:
  --http-listen HOST:PORT   where Prometheus asks how the witness is, as 127.0.0.1:8008
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code: 0 fine, 1 failed, 2 called wrongly.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("raftwitness", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, usage) }
	path := fs.String("config", "", "configuration file")
	check := fs.Bool("check", false, "check the configuration and exit")
	httpListen := fs.String("http-listen", "", "where Prometheus asks")
	show := fs.Bool("version", false, "print the version and exit")
	join := len(args) > 0 && args[0] == "join"
	if join {
		args = args[1:]
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case *show:
		fmt.Fprintln(stdout, version.Version)
		return 0
	case *path == "", join != (fs.NArg() == 1):
		fs.Usage()
		return 2
	}
	cfg, err := config.LoadWitness(*path)
	if err == nil && *httpListen != "" {
		cfg.HTTPListen = *httpListen
		err = cfg.Validate()
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	switch {
	case *check:
		fmt.Fprintln(stdout, "the configuration is valid")
		return 0
	case join:
		err = enrol(cfg, fs.Arg(0), stdout)
	default:
		err = serve(ctx, cfg, cfg.Log.Logger(stderr))
	}
	if err != nil {
		fmt.Fprintf(stderr, "raftwitness: %v\n", err)
		return 1
	}
	return 0
}

// enrol takes the identity that the founding node made for this witness.
func enrol(cfg config.Witness, path string, stdout io.Writer) error {
	e, err := raftwitness.ReadEnrolment(path)
	if err != nil {
		return err
	}
	id := e.Identity
	if id.Name != cfg.Name {
		return fmt.Errorf("%s is for %q, this witness is %q", path, id.Name, cfg.Name)
	}
	dir := filepath.Join(cfg.DataDir, id.ClusterID)
	old, err := raftwitness.LoadIdentity(dir)
	renewed := err == nil && id.Renews(old)
	if err := e.Save(dir); err != nil {
		return err
	}
	if err := ownership.Give(cfg.DataDir); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "joined cluster %s as %s\n", id.ClusterID, id.ServerID)
	if renewed {
		fmt.Fprintf(stdout, "%s is void from now on. Start raftwitness, or restart it if it runs.\n", old.ServerID)
	}
	return nil
}

// serve runs the groups of all clusters that this witness has joined, until ctx ends.
func serve(ctx context.Context, cfg config.Witness, log *slog.Logger) error {
	ids, err := identities(cfg.DataDir)
	if err != nil {
		return err
	}
	systemd := sdnotify.New(log)
	defer systemd.Close()
	priority.Raise(log)
	ln, err := raftwitness.Listen(ctx, cfg.Listen)
	if err != nil {
		return err
	}
	l := raftwitness.NewListener(ln, log)
	defer l.Close()
	web, err := listenHTTP(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	known := voters{node: cfg.Name, started: time.Now(), listener: l}
	var broken []error
	var running []*raftwitness.Node
	for dir, id := range ids {
		glog := log.With("cluster", id.ClusterID)
		n, err := open(dir, id, l, glog)
		if err != nil { // the other clusters do not suffer from it
			glog.Error("does not vote", "as", id.ServerID, "error", err)
			broken = append(broken, fmt.Errorf("cluster %s: %w", id.ClusterID, err))
			known.all = append(known.all, voter{cluster: id.ClusterID, err: err})
			continue
		}
		known.all = append(known.all, voter{cluster: id.ClusterID, node: n})
		wg.Go(func() {
			if err := n.Run(ctx); err != nil {
				cancel(fmt.Errorf("cluster %s: %w", id.ClusterID, err))
			}
		})
		running = append(running, n)
		glog.Info("votes", "as", id.ServerID, "listen", ln.Addr().String(), "version", version.Version)
	}
	if len(broken) == len(ids) {
		return errors.Join(broken...)
	}
	if web != nil {
		log.Info("answers Prometheus", "http", web.Addr().String())
		wg.Go(func() {
			if err := monitor.Serve(ctx, web, monitor.WitnessPages(known.health), log); err != nil {
				cancel(err)
			}
		})
	}
	systemd.Ready()
	systemd.Status(statusLine(len(running), len(broken)))
	wg.Go(func() { showLife(ctx, systemd, running) })
	<-ctx.Done()
	systemd.Stopping(stopsWithin)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// open starts the voter whose identity is in dir.
func open(dir string, id raftwitness.Identity, l *raftwitness.Listener, log *slog.Logger) (*raftwitness.Node, error) {
	credentials, err := id.LoadCredentials(dir)
	if err != nil {
		return nil, err
	}
	return raftwitness.Open(raftwitness.Config{Dir: id.LogDir(dir, dir), Identity: id, Credentials: credentials, Listener: l, Log: log})
}

// identities reads the clusters joined, by directory.
func identities(dataDir string) (map[string]raftwitness.Identity, error) {
	entries, err := os.ReadDir(dataDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ids := map[string]raftwitness.Identity{}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(dataDir, e.Name())
		id, err := raftwitness.LoadIdentity(dir)
		if errors.Is(err, raftwitness.ErrNotEnrolled) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ids[dir] = id
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s: this witness has joined no cluster yet: raftwitness join --config FILE ENROLMENT", dataDir)
	}
	return ids, nil
}
