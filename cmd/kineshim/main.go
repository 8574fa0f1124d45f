// Command kineshim runs a data node: an etcd v3 endpoint in front of a PostgreSQL that it owns, and a Raft voter.
package main

import (
	"cmp"
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
	"kineshim/joining"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
	"kineshim/version"
)

const usage = `kineshim runs a data node of a two-plus-witness Kubernetes datastore.

Found a cluster, as root, on the first of the two servers:

  kineshim init                        at the address of the default route; prints the commands for the other two machines
  kineshim init --advertise 192.168.1.10 --vip 192.168.1.50/24
  kineshim token                       print new ones, if those have ended before everybody has joined
  kineshim token --for data            and forget the machine that has used one; or --for witness

Join it, on the second server, with the command that was printed:

  echo TOKEN | kineshim join           certificates, configuration, service; waits until automatic failover is armed
  echo TOKEN | kineshim join --dry-run

Flags of init and join:
  --advertise ADDRESS     where the others reach this machine; ports 2384, 2383 and 5433
  --name NAME             what it is called in the cluster; its host name by default
  --vip ADDRESSES         init: addresses that the primary has, separated by commas, as 192.168.1.50/24; the Kubernetes API is at port 7443 there
  --valid-for DURATION    init, token: how long tokens are good, 2h
  --data-dir DIR          /var/lib/kineshim
  --dry-run               say what would be done, and change nothing
  --config FILE           ` + config.DefaultNodeFile + `; written if it is not there, used as it is if it is

Without tokens, with a configuration that names all members:

  kineshim init --config FILE --enrolments DIR   make this node's identity, and in DIR a file for each of the other two members
  kineshim join --config FILE ENROLMENT          join, with the file that was made for this node; shimctl node replace makes one too

Run it:

  kineshim --config FILE               run; SIGTERM hands the primary role over, then stops
  kineshim --config FILE --check       say all that is wrong with the configuration
  kineshim operator NAME --may look    make NAME.json, with which shimctl --credentials looks at the cluster from another machine;
                                       --may act: and switches over, pauses, promotes by force. --valid-for 2160h, --out FILE
  kineshim clean-up --config FILE      end the PostgreSQL and take away the virtual addresses that a killed kineshim
                                       has left; refused while one runs
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
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
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
	// For init, join and token.
	advertise, name, vip, dataDir, forRole string
	validFor                               time.Duration
	dryRun                                 bool
	// For operator.
	operator, may, out string
}

// run returns the exit code: 0 fine, 1 failed, 2 called wrongly.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
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
	switch {
	case o.verb == "init" && o.enrolments == "":
		err = o.foundByTokens(ctx, stdout)
	case o.verb == "token":
		err = o.newTokens(ctx, stdout)
	case o.verb == "join":
		err = o.joinCommand(ctx, stdin, stdout)
	case o.verb == "operator":
		err = o.makeOperator(ctx, stdout)
	default:
		err = o.configured(ctx, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "kineshim: %v\n", err)
		return 1
	}
	return 0
}

// configured does what needs a configuration that is there.
func (o options) configured(ctx context.Context, stdout, stderr io.Writer) error {
	cfg, err := config.LoadNode(o.config)
	if err == nil {
		err = o.override(&cfg)
	}
	if err != nil {
		return err
	}
	if o.verb == "init" {
		if err := cfg.Enrolled(nil); err != nil {
			return err
		}
		return found(o.config, cfg, o.enrolments, stdout)
	}
	log := cfg.Log.Logger(stderr)
	if o.verb == "" && !o.check {
		return serve(ctx, o.config, cfg, log)
	}
	enrolled, err := complete(&cfg)
	switch {
	case err != nil:
		return err
	case o.check:
		warnOfUnreadable(cfg.APIServer, stderr)
		if err = errors.Join(checkIdentity(cfg), checkPostgres(ctx, cfg), checkTLS("client_tls", openClientTLS, cfg, stderr), checkTLS("applications", openApplicationTLS, cfg, stderr)); err == nil {
			fmt.Fprintln(stdout, "the configuration is valid")
		}
		return err
	case !enrolled && len(cfg.Members) == 0:
		return nil // it has never run: there is nothing to clean up
	}
	return cleanUp(ctx, cfg, log, stdout)
}

// checkIdentity says whether this node, if it is enrolled, can start with the configuration.
func checkIdentity(cfg config.Node) error {
	id, err := raftwitness.LoadIdentity(cfg.DataDir)
	if errors.Is(err, raftwitness.ErrNotEnrolled) {
		return nil
	}
	if err != nil {
		return err
	}
	return matches(cfg, id)
}

// complete fills in where the members were enrolled, if this node is.
func complete(cfg *config.Node) (enrolled bool, err error) {
	id, err := raftwitness.LoadIdentity(cfg.DataDir)
	if errors.Is(err, raftwitness.ErrNotEnrolled) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, cfg.Enrolled(joining.Addresses(id.Peers))
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("kineshim", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.config, "config", "", "")
	fs.StringVar(&o.advertise, "advertise", "", "")
	fs.StringVar(&o.name, "name", "", "")
	fs.StringVar(&o.vip, "vip", "", "")
	fs.StringVar(&o.dataDir, "data-dir", config.DefaultNodeDir, "")
	fs.DurationVar(&o.validFor, "valid-for", 0, "")
	fs.StringVar(&o.forRole, "for", "", "")
	fs.StringVar(&o.may, "may", "", "")
	fs.StringVar(&o.out, "out", "", "")
	fs.BoolVar(&o.dryRun, "dry-run", false, "")
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
	if len(args) > 0 && slices.Contains([]string{"init", "join", "token", "operator", "clean-up"}, args[0]) {
		o.verb, args = args[0], args[1:]
	}
	argument, err := parseAround(fs, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stderr, usage)
	}
	if err != nil {
		return o, err
	}
	if o.config == "" && slices.Contains([]string{"init", "join", "token", "operator"}, o.verb) {
		o.config = config.DefaultNodeFile
	}
	most := time.Duration(maxValidFor)
	if o.verb == "operator" {
		most = maxOperatorsFor
		o.validFor = cmp.Or(o.validFor, operatorsFor)
	}
	o.validFor = cmp.Or(o.validFor, defaultValidFor)
	switch {
	case o.version:
		return o, nil
	case o.config == "":
		return o, errors.New("--config is missing")
	case o.validFor < time.Minute || o.validFor > most:
		return o, fmt.Errorf("--valid-for=%v is outside %v to %v", o.validFor, time.Minute, most)
	case o.forRole != "" && o.forRole != string(record.Data) && o.forRole != string(record.Witness):
		return o, fmt.Errorf("--for=%s: data or witness", o.forRole)
	case o.verb == "operator" && argument == "":
		return o, errors.New("operator needs a name: kineshim operator NAME --may look")
	case o.dryRun && !(o.verb == "init" && o.enrolments == "") && !(o.verb == "join" && argument == ""):
		return o, errors.New("--dry-run is for init, and for join with a token: nothing else can only say what it would do. Nothing was changed")
	case o.verb == "join" && joining.IsToken(argument):
		return o, errors.New("everybody on this machine can read a command line: give the token on the standard input: echo TOKEN | kineshim join")
	case fs.NArg() > 0:
		return o, fmt.Errorf("unknown argument %q", fs.Arg(0))
	case argument != "" && o.verb != "join" && o.verb != "operator":
		return o, fmt.Errorf("unknown argument %q", argument)
	}
	if o.verb == "operator" {
		o.operator = argument
	} else {
		o.enrolment = argument
	}
	return o, nil
}

// parseAround parses flags before and after one argument, which may be missing.
func parseAround(fs *flag.FlagSet, args []string) (argument string, err error) {
	if err := fs.Parse(args); err != nil || fs.NArg() == 0 {
		return "", err
	}
	argument = fs.Arg(0)
	return argument, fs.Parse(fs.Args()[1:])
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
