// Command engineserver runs etcd endpoints with one engine each for tests that do not link the engine: they ask for them over
// HTTP, each on a database of its own in one throw-away PostgreSQL. It says where on its first line of output:
//
//	control=127.0.0.1:PORT
//
// and ends, with everything that it has started, when its standard input closes or on SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"kineshim/integration/pgtest"
	"kineshim/kineshim"
	"kineshim/kineshim/native"
)

// Of the native one, progress is how often idle watches are told of it; 0: the default.
var engines = map[string]func(progress time.Duration) kineshim.EngineFactory{
	"native": func(progress time.Duration) kineshim.EngineFactory {
		return native.Factory(native.Config{WatchProgressEvery: progress})
	},
	"kine": func(time.Duration) kineshim.EngineFactory { return kineshim.KineEngine },
}

// drainBound is how long control calls in flight may take when the server ends.
const drainBound = 5 * time.Second

// PostgreSQL dies with the thread that starts it: the main goroutine stays on the main thread.
func init() { runtime.LockOSThread() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "engineserver:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) (err error) {
	flags := flag.NewFlagSet("engineserver", flag.ContinueOnError)
	name := flags.String("engine", "native", "native or kine")
	level := slog.LevelWarn
	flags.TextVar(&level, "log-level", level, "of what the engines log to standard error")
	if err := flags.Parse(args); err != nil {
		return err
	}
	engine := engines[*name]
	if engine == nil || flags.NArg() > 0 {
		return errors.New("usage: engineserver [--engine native|kine] [--log-level warn]")
	}
	pg, err := pgtest.Start("max_connections=200")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Remove()) }()
	hosts, err := newHosts(pg, engine, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hosts.close()) }()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: hosts.control(), ReadHeaderTimeout: drainBound}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Fprintf(out, "control=%s\n", listener.Addr())
	select {
	case err := <-served:
		return err
	case <-closed(in):
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), drainBound)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		_ = server.Close() // what still runs then fails when its database goes
	}
	<-served
	return nil
}

// closed is closed when nothing more can be read. Its goroutine ends with the process if that is before.
func closed(in io.Reader) <-chan struct{} {
	end := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(end)
	}()
	return end
}
