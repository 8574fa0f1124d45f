// Command shimctl is the operator's command: it shows how a cluster is and changes who serves. It speaks kineshim.v1.Control
// over the socket of a data node and holds no knowledge of its own about what is safe: the nodes decide, shimctl explains.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"kineshim/pki"
)

// Exit codes, for scripts. They are documented in docs/operations.md and do not change.
const (
	exitFine       = 0 // done; status: serving and armed
	exitFailed     = 1 // no node reachable, interrupted, or anything else
	exitUsage      = 2 // the command line is wrong; nothing was asked of a node
	exitNotArmed   = 3 // status: serving, but no automatic failover would succeed
	exitNotServing = 4 // status: nobody answers clients
	exitUnsafe     = 5 // refused, because it is not safe
)

const (
	defaultSocket  = "/var/lib/kineshim/control.sock"
	socketEnv      = "KINESHIM_SOCKET"
	credentialsEnv = "KINESHIM_CREDENTIALS"
	// defaultTimeout bounds each question to a node but a promotion. A node answers from memory in milliseconds: one that needs
	// seconds is frozen, and the next socket is tried.
	defaultTimeout = 3 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole command; args are without the program's name. It returns the exit code, and writes to stdout only what was
// asked for. The environment variable KINESHIM_SOCKET is read.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitFine
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		// All that a command itself returns is an exitError: what is left are cobra's complaints about the command line.
		fmt.Fprintf(stderr, "shimctl: %v\nSee shimctl --help.\n", err)
		return exitUsage
	}
	if exit.err != nil {
		fmt.Fprintf(stderr, "shimctl: %v\n", exit.err)
	}
	return exit.code
}

// exitError ends the command with a code of its own. A nil err ends it silently: what there was to say stands on stdout.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func exitWith(code int, format string, args ...any) error {
	return &exitError{code: code, err: fmt.Errorf(format, args...)}
}

// app is one invocation.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	// sockets is --socket as given; socketPaths has the defaults.
	sockets []string
	timeout time.Duration
	// credentials is the file by which nodes on other machines are asked, nodes where they are, instead of where the file says.
	credentials string
	nodes       []string
	// pass is what the file has, once it was read; nil: nodes are asked through their sockets.
	pass *pki.Credentials
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "shimctl",
		Short: "show and steer a kineshim cluster",
		Long: `shimctl shows how a kineshim cluster is, and changes who serves.

It speaks with the kineshim on this machine through its control socket, ` + defaultSocket + `
unless --socket or the environment variable ` + socketEnv + ` (several paths: a:b) says otherwise.
Several sockets are tried in order until one answers. The socket belongs to root: use sudo.

From another machine: --credentials FILE (or ` + credentialsEnv + `), with a file that
"kineshim operator" has made; what may be done with it was said then.

Exit codes: 0 fine, 1 error, 2 usage, 3 status: serving but not armed,
4 status: nobody serves, 5 refused because it is not safe.`,
		Example: `  shimctl status                      how is the cluster?
  shimctl status --watch              the same, drawn again every second
  shimctl promote b                   switch over to node b, without losing a write
  shimctl promote b --force           b takes over though it may lack writes: shows the loss, asks first
  shimctl history                     what happened when, and why
  shimctl pause                       before maintenance: nobody takes over by itself
  shimctl doctor                      is this machine fit for it? checks, and says what to do
  shimctl --socket run/a/control.sock --socket run/b/control.sock status
  shimctl --credentials alice.json status    from another machine`,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.timeout <= 0 {
				return fmt.Errorf("--timeout=%v is not a time to wait", a.timeout)
			}
			return a.chooseWay()
		},
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	flags := root.PersistentFlags()
	flags.StringArrayVar(&a.sockets, "socket", nil, "control socket of a node, a `path`; may be given several times")
	flags.StringVar(&a.credentials, "credentials", "", "ask the nodes from afar, with the `file` that kineshim operator has made")
	flags.StringArrayVar(&a.nodes, "node", nil, "`host:port` of a node, with --credentials, if the file has not the right ones; may be given several times")
	flags.DurationVar(&a.timeout, "timeout", defaultTimeout, "how long a node may take to answer")
	root.AddCommand(a.statusCommand(), a.promoteCommand(), a.historyCommand(), a.pauseCommand(), a.resumeCommand(), a.versionCommand(), a.snapshotCommand(),
		a.witnessCommand(), a.nodeCommand(), a.serveCommand(), a.operatorCommand(), a.doctorCommand())
	return root
}

// command makes a cobra RunE of f, whose errors are the command's own and not the command line's.
func command(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := f(cmd.Context(), args)
		var exit *exitError
		if err == nil || errors.As(err, &exit) {
			return err
		}
		return &exitError{code: exitFailed, err: err}
	}
}

// outputFormat is the flag -o.
type outputFormat string

const (
	asTable outputFormat = "table"
	asJSON  outputFormat = "json"
)

// String, Set and Type make it a pflag.Value.
func (f *outputFormat) String() string { return string(*f) }

// Set refuses unknown formats.
func (f *outputFormat) Set(s string) error {
	switch v := outputFormat(s); v {
	case asTable, asJSON:
		*f = v
		return nil
	}
	return fmt.Errorf("unknown format %q: table or json", s)
}

// Type is what --help shows.
func (f *outputFormat) Type() string { return "table|json" }
