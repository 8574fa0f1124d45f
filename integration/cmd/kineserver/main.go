// Command kineserver is plain kine on PostgreSQL, as a process: what kineshim is compared with.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	_ "github.com/k3s-io/kine/pkg/drivers/pgsql" // registers postgres://
	"github.com/k3s-io/kine/pkg/server"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// What kine's own command and its endpoint package take where nothing is configured (kine v0.16.4, pkg/app and pkg/endpoint).
const (
	etcdVersion     = "3.6.11"
	notifyEvery     = 5 * time.Second
	minKeepalive    = 5 * time.Second
	maxRequestBytes = 1.5*1024*1024 + 512*1024
	compactTimeout  = 5 * time.Second
	minRetain       = 1000
	compactBatch    = 1000
	pollBatch       = 500
	// stopWithin bounds the wait for requests under way.
	stopWithin = 2 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "kineserver:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("kineserver", flag.ContinueOnError)
	dsn := flags.String("dsn", "", "postgres://… of the database")
	listen := flags.String("listen", "127.0.0.1:2379", "host:port to serve at")
	connections := flags.Int("connections", 20, "the pool's size; kine's default, no bound, collapses under load")
	compactEvery := flags.Duration("compact-every", 0, "pace of kine's own compaction; 0: left to the client, kine's default")
	if err := flags.Parse(args); err != nil {
		return err
	}
	logrus.SetLevel(logrus.WarnLevel)
	driverCtx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	_, backend, err := drivers.New(driverCtx, &running, &drivers.Config{
		Endpoint:             *dsn,
		CompactInterval:      *compactEvery,
		CompactTimeout:       compactTimeout,
		CompactMinRetain:     minRetain,
		CompactBatchSize:     compactBatch,
		PollBatchSize:        pollBatch,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxOpen: *connections, MaxIdle: *connections},
	})
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	if err := backend.Start(driverCtx); err != nil {
		return fmt.Errorf("start kine: %w", err)
	}
	s := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minKeepalive}),
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.MaxRecvMsgSize(maxRequestBytes),
		grpc.MaxSendMsgSize(math.MaxInt32),
	)
	server.New(backend, "http", notifyEvery, etcdVersion).Register(s)
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	select {
	case err = <-served:
	case <-ctx.Done():
		timer := time.AfterFunc(stopWithin, s.Stop)
		defer timer.Stop()
		s.GracefulStop()
		err = <-served
	}
	return err
}
