// Command kineshim runs a data node: an etcd v3 endpoint in front of a PostgreSQL that it owns, and a Raft voter.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"kineshim/config"
	"kineshim/version"
)

const usage = `kineshim runs a data node of a two-plus-witness Kubernetes datastore.

  kineshim init --config FILE --enrolments DIR   found a cluster: makes this node's identity, and in DIR one enrolment file
                                                 for each of the other two members
  kineshim join --config FILE ENROLMENT          join a cluster, with the file that the founding node made for this node
  kineshim clean-up --config FILE                end the PostgreSQL and take away the virtual addresses that a killed kineshim
                                                 has left; refused while one runs
  kineshim --config FILE                         run; SIGTERM hands the primary role over, then stops
  kineshim --config FILE --check                 say all that is wrong with the configuration
  kineshim --version

Flags that override the file:
  --client-listen ADDRESSES   where the etcd API is served: HOST:PORT, http://HOST:PORT or https://HOST:PORT, separated by commas
  --cert-file FILE, --key-file FILE   serve the etcd API with TLS
  --trusted-ca-file FILE, --client-cert-auth   clients must show a certificate of an authority in the file
  --http-listen HOST:PORT     where load balancers and Prometheus ask how the node is, as 127.0.0.1:8008
  --log-level LEVEL           debug, info, warn or error
  --engine NAME               native, or kine: kine's own engine, as a fallback
  --apiserver-listen HOST:PORT  where the Kubernetes API is balanced to both servers', as :7443; the host may be left out
  --max-wait DURATION         how long a request waits for a primary, as in a failover: 10s
`

func main() {
	sitDeathwatch(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options is the command line.
type options struct {
	verb, config, enrolments, enrolment string
	clientListen, logLevel, engine      string
	certFile, keyFile, trustedCAFile    string
	clientCertAuth                      bool
	apiServerListen, httpListen         string
	maxWait                             time.Duration
	check, version                      bool
}

// run returns the exit code: 0 fine, 1 failed, 2 called wrongly.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "kineshim: %v\n\n%s", err, usage)
		return 2
	case o.version:
		fmt.Fprintln(stdout, version.Version)
		return 0
	}
	cfg, err := config.LoadNode(o.config)
	if err == nil {
		err = o.override(&cfg)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	switch {
	case o.check:
		if err = errors.Join(checkPostgres(cfg), checkClientTLS(cfg.ClientTLS, stderr)); err == nil {
			fmt.Fprintln(stdout, "the configuration is valid")
		}
	case o.verb == "init":
		err = found(cfg, o.enrolments, stdout)
	case o.verb == "join":
		err = join(cfg, o.enrolment, stdout)
	case o.verb == "clean-up":
		err = cleanUp(ctx, cfg, cfg.Log.Logger(stderr), stdout)
	default:
		err = serve(ctx, cfg, cfg.Log.Logger(stderr))
	}
	if err != nil {
		fmt.Fprintf(stderr, "kineshim: %v\n", err)
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("kineshim", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.config, "config", "", "")
	fs.StringVar(&o.enrolments, "enrolments", "", "")
	fs.StringVar(&o.clientListen, "client-listen", "", "")
	fs.StringVar(&o.httpListen, "http-listen", "", "")
	fs.StringVar(&o.certFile, "cert-file", "", "")
	fs.StringVar(&o.keyFile, "key-file", "", "")
	fs.StringVar(&o.trustedCAFile, "trusted-ca-file", "", "")
	fs.BoolVar(&o.clientCertAuth, "client-cert-auth", false, "")
	fs.StringVar(&o.logLevel, "log-level", "", "")
	fs.StringVar(&o.engine, "engine", "", "")
	fs.StringVar(&o.apiServerListen, "apiserver-listen", "", "")
	fs.DurationVar(&o.maxWait, "max-wait", 0, "")
	fs.BoolVar(&o.check, "check", false, "")
	fs.BoolVar(&o.version, "version", false, "")
	if len(args) > 0 && slices.Contains([]string{"init", "join", "clean-up"}, args[0]) {
		o.verb, args = args[0], args[1:]
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stderr, usage)
		}
		return o, err
	}
	switch {
	case o.version:
		return o, nil
	case o.config == "":
		return o, errors.New("--config is missing")
	case o.verb == "init" && o.enrolments == "":
		return o, errors.New("init needs --enrolments DIR, where the files for the other members go")
	case o.verb == "join" && fs.NArg() != 1:
		return o, errors.New("join needs the enrolment file that kineshim init made for this node")
	case o.verb != "join" && fs.NArg() != 0:
		return o, fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	o.enrolment = fs.Arg(0)
	return o, nil
}

// override lets flags win over the file.
func (o options) override(cfg *config.Node) error {
	for _, f := range []struct {
		value string
		field *string
	}{{o.httpListen, &cfg.HTTPListen}, {o.logLevel, &cfg.Log.Level}, {o.engine, &cfg.Engine}} {
		if f.value != "" {
			*f.field = f.value
		}
	}
	if err := o.overrideClient(cfg); err != nil {
		return err
	}
	if o.apiServerListen != "" {
		cfg.SetAPIServerListen(o.apiServerListen)
	}
	if o.maxWait != 0 {
		cfg.MaxWait = o.maxWait
	}
	return cfg.Validate()
}
