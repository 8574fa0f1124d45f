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
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"kineshim/config"
	"kineshim/joining"
	"kineshim/monitor"
	"kineshim/priority"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
	"kineshim/sdnotify"
	"kineshim/version"
)

const usage = `raftwitness is the third voter of kineshim clusters: a few MB, no data, hardly a write to disk.

  echo TOKEN | raftwitness join        join a cluster, as root, with the command that "kineshim init" has printed: certificate,
                                       configuration, service; may be done for several clusters, one after the other
  echo TOKEN | raftwitness join --dry-run
  raftwitness join ENROLMENT           join with a file, that "kineshim init --enrolments" or "shimctl witness replace" has made
  raftwitness --config FILE            run
  raftwitness --config FILE --check    say what is wrong with the configuration
  raftwitness --version

Flags of join:
  --advertise ADDRESS     where the others reach this machine, at port 2384
  --name NAME             what it is called in its clusters; its host name by default
  --data-dir DIR          ` + config.DefaultWitnessDir + `
  --dry-run               say what would be done, and change nothing
  --config FILE           ` + config.DefaultWitnessFile + `; written if it is not there, used as it is if it is

Flag that overrides the file:
  --http-listen HOST:PORT   where Prometheus asks how the witness is, as 127.0.0.1:8008
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// options is the command line.
type options struct {
	config, httpListen       string
	join, check, version     bool
	enrolment                string
	advertise, name, dataDir string
	dryRun                   bool
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("raftwitness", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, usage) }
	fs.StringVar(&o.config, "config", "", "")
	fs.BoolVar(&o.check, "check", false, "")
	fs.StringVar(&o.httpListen, "http-listen", "", "")
	fs.BoolVar(&o.version, "version", false, "")
	fs.StringVar(&o.advertise, "advertise", "", "")
	fs.StringVar(&o.name, "name", "", "")
	fs.StringVar(&o.dataDir, "data-dir", config.DefaultWitnessDir, "")
	fs.BoolVar(&o.dryRun, "dry-run", false, "")
	if o.join = len(args) > 0 && args[0] == "join"; o.join {
		args = args[1:]
	}
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.join && fs.NArg() > 0 { // flags may stand behind the file too
		o.enrolment = fs.Arg(0)
		if err := fs.Parse(fs.Args()[1:]); err != nil {
			return o, err
		}
	}
	if o.config == "" && o.join {
		o.config = config.DefaultWitnessFile
	}
	switch {
	case o.version:
	case o.dryRun && (!o.join || o.enrolment != ""):
		return o, errors.New("--dry-run is for join with a token: nothing else can only say what it would do. Nothing was changed")
	case joining.IsToken(o.enrolment):
		return o, errors.New("everybody on this machine can read a command line: give the token on the standard input: echo TOKEN | raftwitness join")
	case o.config == "", fs.NArg() > 0:
		fs.Usage()
		return o, errUsage
	}
	return o, nil
}

// errUsage is for a command line that the usage explains, which has been printed.
var errUsage = errors.New("called wrongly")

// run returns the exit code: 0 fine, 1 failed, 2 called wrongly.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "raftwitness:", err)
		return 2
	case o.version:
		fmt.Fprintln(stdout, version.Version)
		return 0
	case o.join && o.enrolment == "":
		err = o.joinByToken(ctx, stdin, stdout)
	case o.join:
		err = o.joinByFile(ctx, stdout)
	default:
		err = o.configured(ctx, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "raftwitness: %v\n", err)
		return 1
	}
	return 0
}

// configured does what needs a configuration that is there.
func (o options) configured(ctx context.Context, stdout, stderr io.Writer) error {
	cfg, err := config.LoadWitness(o.config)
	if err == nil && o.httpListen != "" {
		cfg.HTTPListen = o.httpListen
		err = cfg.Validate()
	}
	switch {
	case err != nil:
		return err
	case o.check:
		fmt.Fprintln(stdout, "the configuration is valid")
		return nil
	}
	return serve(ctx, cfg, cfg.Log.Logger(stderr))
}

// save makes this witness the cluster's.
func save(cfg config.Witness, e raftwitness.Enrolment, stdout io.Writer) error {
	if !raftwitness.IsClusterID(e.Identity.ClusterID) { // it names the directory
		return fmt.Errorf("%q is not the name of a cluster", e.Identity.ClusterID)
	}
	dir := filepath.Join(cfg.DataDir, e.Identity.ClusterID)
	old, err := raftwitness.LoadIdentity(dir)
	renewed := err == nil && e.Identity.Renews(old)
	if err := e.Save(dir); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "joined cluster %s as %s\n", e.Identity.ClusterID, e.Identity.ServerID)
	if renewed {
		fmt.Fprintf(stdout, "%s is void from now on. Start raftwitness, or restart it if it runs.\n", old.ServerID)
	}
	return joining.Visit{Dir: dir}.Forget() // also one that came to nothing
}

// garbagePercent has the collector run at half the garbage that Go allows by default: from 2 MB of heap on instead of 4. A witness makes little of it, and its
// memory is what a small machine notices.
const garbagePercent = 50

// serve runs the groups of all clusters that this witness has joined, until ctx ends.
func serve(ctx context.Context, cfg config.Witness, log *slog.Logger) error {
	all, err := memberships(cfg.DataDir, log)
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	systemd := sdnotify.New(log)
	defer systemd.Close()
	raised := priority.Raise(log)
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
	for _, m := range all {
		glog := log.With("cluster", m.cluster)
		n, err := open(m, l, glog)
		if err != nil { // the other clusters do not suffer from it
			glog.Error("does not vote", "as", m.id.ServerID, "error", err)
			broken = append(broken, fmt.Errorf("cluster %s: %w", m.cluster, err))
			known.all = append(known.all, voter{cluster: m.cluster, err: err})
			continue
		}
		known.all = append(known.all, voter{cluster: m.cluster, node: n})
		wg.Go(func() {
			if err := n.Run(ctx); err != nil {
				cancel(fmt.Errorf("cluster %s: %w", m.cluster, err))
			}
		})
		running = append(running, n)
		glog.Info("votes", "as", m.id.ServerID, "listen", ln.Addr().String(), "version", version.Version)
	}
	if len(broken) == len(all) {
		return errors.Join(broken...)
	}
	if raised {
		wg.Go(func() { priority.Keep(ctx, log) })
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

// open starts the voter of a membership.
func open(m membership, l *raftwitness.Listener, log *slog.Logger) (*raftwitness.Node, error) {
	if m.err != nil {
		return nil, m.err
	}
	credentials, err := m.id.LoadCredentials(m.dir)
	if err != nil {
		return nil, err
	}
	return raftwitness.Open(raftwitness.Config{Dir: m.id.LogDir(m.dir, m.dir), Identity: m.id, Credentials: credentials, Listener: l, Log: log})
}

// membership is a cluster that this witness has joined. err says why its identity cannot be used.
type membership struct {
	cluster, dir string
	id           raftwitness.Identity
	err          error
}

// memberships reads the clusters joined: each has a directory of its name.
func memberships(dataDir string, log *slog.Logger) ([]membership, error) {
	entries, err := os.ReadDir(dataDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var all []membership
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		m := membership{cluster: e.Name(), dir: filepath.Join(dataDir, e.Name())}
		m.id, m.err = raftwitness.LoadIdentity(m.dir)
		switch {
		case errors.Is(m.err, raftwitness.ErrNotEnrolled):
			continue
		case !raftwitness.IsClusterID(e.Name()): // lost+found; or a copy, of which a second voter would be made
			if m.err == nil {
				log.Warn("a directory with an identity is left alone: a cluster's has the cluster's name", "dir", m.dir, "cluster", m.id.ClusterID)
			}
			continue
		case m.err == nil && m.id.ClusterID != e.Name():
			m.err = fmt.Errorf("%s holds the identity for another cluster, %s", m.dir, m.id.ClusterID)
		case m.err == nil && m.id.Role != record.Witness:
			m.err = fmt.Errorf("%s holds the identity of the data node %s: shimctl node replace %s there, and remove this directory", m.dir, m.id.ServerID, m.id.Name)
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: this witness has joined no cluster yet: raftwitness join --config FILE ENROLMENT", dataDir)
	}
	return all, nil
}
