// Package enginehost runs an etcd endpoint with one engine on a throw-away PostgreSQL, without the cluster around it: what
// tests of an engine talk to.
package enginehost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"

	"kineshim/integration/pgtest"
	"kineshim/kineshim"
)

const (
	// ClusterID, MemberID and RaftTerm are what every response header carries.
	ClusterID = 0xc1
	MemberID  = 0xa1
	RaftTerm  = 7
	// DefaultDatabase is kine's own default.
	DefaultDatabase = "kubernetes"

	// startBound is for an engine that waits for the one before to let go of its table.
	startBound = 30 * time.Second
)

// Options configure a Host. Engine is required.
type Options struct {
	Engine kineshim.EngineFactory
	// PG is the server that holds the database; nil means one of the host's own, which Close removes.
	PG *pgtest.Server
	// Database is created if PG has none of that name, and left there. Empty means DefaultDatabase.
	Database string
	// Log is where the endpoint and the engine log; nil means nowhere.
	Log *slog.Logger
}

// Host is an endpoint whose engine answers at Address.
type Host struct {
	// Gate is open; tests close it.
	Gate *Gate
	// PG is the server that holds Database.
	PG       *pgtest.Server
	Database string

	own      bool // PG is the host's
	endpoint *kineshim.Endpoint
	server   *grpc.Server
	address  string
	served   chan error
	changing sync.Mutex // one restart at a time
}

// Start starts a host and returns when its engine answers.
func Start(o Options) (*Host, error) {
	h := &Host{Gate: newGate(), PG: o.PG, Database: o.Database, served: make(chan error, 1)}
	if h.Database == "" {
		h.Database = DefaultDatabase
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var err error
	h.endpoint, err = kineshim.New(kineshim.Options{
		MaxWait: -1,
		Node:    "host", Gate: h.Gate, Router: here{}, Engine: o.Engine, Log: log,
		HeaderInfo: func() kineshim.HeaderInfo {
			return kineshim.HeaderInfo{ClusterID: ClusterID, MemberID: MemberID, RaftTerm: RaftTerm}
		},
	})
	if err != nil {
		return nil, err
	}
	if h.PG == nil {
		if h.PG, err = pgtest.Start(); err != nil {
			return nil, err
		}
		h.own = true
	}
	if err := h.start(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// here routes every call to this process's engine.
type here struct{}

func (here) Route() kineshim.Route { return kineshim.Route{Local: true, Node: "host"} }

func (h *Host) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), startBound)
	defer cancel()
	if err := h.createDatabase(ctx); err != nil {
		return fmt.Errorf("create database %s: %w", h.Database, err)
	}
	if err := h.startEngine(ctx); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.address = listener.Addr().String()
	h.server = grpc.NewServer(h.endpoint.ClientServerOptions()...)
	h.endpoint.Register(h.server)
	go func() { h.served <- h.server.Serve(listener) }()
	return nil
}

func (h *Host) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, h.PG.SuperDSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var exists bool
	row := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", h.Database)
	if err := row.Scan(&exists); err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{h.Database}.Sanitize()+" OWNER "+pgtest.Role)
	return err
}

func (h *Host) startEngine(ctx context.Context) error {
	t := h.Gate.current()
	return h.endpoint.StartEngine(ctx, kineshim.Session{
		Epoch: t.Epoch, Generation: t.Generation, SocketDir: h.PG.Dir, Port: pgtest.Port,
		DSN: func(dir string) string { return h.PG.DSNAt(h.Database, dir) },
	})
}

// Address is where etcd clients connect: 127.0.0.1:port, without TLS.
func (h *Host) Address() string { return h.address }

// EngineFailed is closed when the engine is broken and must be started anew.
func (h *Host) EngineFailed() <-chan struct{} { return h.endpoint.EngineFailed() }

// RestartEngine ends the session, and its engine, and starts another on the same database. Calls and streams of the session
// before fail with Unavailable; so do all calls until it returns.
func (h *Host) RestartEngine() error {
	h.changing.Lock()
	defer h.changing.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), startBound)
	defer cancel()
	h.Gate.Kill()
	return h.startEngine(ctx)
}

// Close ends the endpoint, its engine and, if it is the host's own, PostgreSQL.
func (h *Host) Close() error {
	err := h.endpoint.Close()
	if h.server != nil {
		h.server.Stop()
		if e := <-h.served; e != nil && !errors.Is(e, grpc.ErrServerStopped) {
			err = errors.Join(err, e)
		}
		h.server = nil
	}
	if h.own {
		err = errors.Join(err, h.PG.Remove())
		h.own = false
	}
	return err
}
