package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"

	"kineshim/config"
	"kineshim/failover"
	"kineshim/failover/postgres"
	"kineshim/kineshim"
	"kineshim/kineshim/native"
	pb "kineshim/proto"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"

	"google.golang.org/grpc"
)

// store gives the agent its Raft voter.
type store struct{ *raftwitness.Node }

func (s store) Propose(ctx context.Context, c record.Command) (failover.Outcome, error) {
	err := s.Node.Propose(ctx, c)
	switch {
	case err == nil:
		return failover.Done, nil
	case errors.Is(err, raftwitness.ErrUnknownOutcome):
		return failover.Unknown, err
	}
	return failover.NotDone, err
}

func (s store) Status() failover.RaftStatus {
	r := s.Node.Status()
	return failover.RaftStatus{
		Leader: r.Leader, Barrier: r.Barrier, Forfeited: r.Forfeited, LeaderName: r.LeaderName,
		Term: r.Term, CommitIndex: r.CommitIndex, LeaseLeft: r.LeaseLeft, Heard: r.Heard,
		Void: r.Void, Apart: r.Apart,
	}
}

// gate gives the endpoint the agent's gate.
type gate struct{ g *failover.Gate }

func (g gate) Enter() (kineshim.Token, error) {
	t, err := g.g.Enter()
	if err != nil {
		return kineshim.Token{}, &kineshim.ClosedError{Why: err.Error()}
	}
	return kineshim.Token(t), nil
}

func (g gate) Check(t kineshim.Token) error { return g.g.Check(failover.Token(t)) }

func (g gate) Wait(ctx context.Context, t kineshim.Token) error {
	return g.g.Wait(ctx, failover.Token(t))
}

// replication serves the other node's copy of the keys.
type replication struct {
	pb.UnimplementedReplicationServer
	r *native.Replica
}

// Follow is the Replica's.
func (s replication) Follow(q *pb.FollowRequest, stream grpc.ServerStreamingServer[pb.FollowResponse]) error {
	return s.r.Follow(q, stream)
}

// router gives the endpoint the agent's routes.
type router struct{ a *failover.Agent }

func (r router) Route() kineshim.Route {
	x := r.a.Route()
	return kineshim.Route{Local: x.Local, Target: x.Target, Node: x.Node, Epoch: x.Epoch, Why: x.Why, Done: x.Done}
}

// engine gives the agent the endpoint's engine.
type engine struct {
	e  *kineshim.Endpoint
	pg *postgres.Server
	// socketDir and port name PostgreSQL's socket.
	socketDir string
	port      int
	log       *slog.Logger
}

func (e engine) StartEngine(ctx context.Context, s failover.Session) error {
	return e.e.StartEngine(ctx, kineshim.Session{
		Epoch: s.Epoch, Generation: s.Generation, Forced: s.Forced, SocketDir: e.socketDir, Port: e.port, DSN: e.pg.KineDSN, Log: e.log,
	})
}

func (e engine) Drain(ctx context.Context)     { e.e.Drain(ctx) }
func (e engine) StopEngine()                   { e.e.StopEngine() }
func (e engine) UnknownOutcomes() uint64       { return e.e.UnknownOutcomes() }
func (e engine) EngineFailed() <-chan struct{} { return e.e.EngineFailed() }

// postgresConfig is the local PostgreSQL as configured.
func postgresConfig(cfg config.Node, secrets postgres.Secrets, log *slog.Logger) (postgres.Config, error) {
	pc := localPostgres(cfg, secrets, log)
	var err error
	if _, pc.Port, err = hostPort(cfg.Self().Postgres); err != nil {
		return pc, err
	}
	pc.Peer.Host, pc.Peer.Port, err = hostPort(cfg.Members[cfg.Other()].Postgres)
	return pc, err
}

// localPostgres is what does not depend on who the members are.
func localPostgres(cfg config.Node, secrets postgres.Secrets, log *slog.Logger) postgres.Config {
	var apps []postgres.Application
	for _, d := range cfg.Applications.Databases {
		apps = append(apps, application(d))
	}
	return postgres.Config{
		Applications: apps,
		BinDir:       cfg.Postgres.BinDir, OSUser: cfg.Postgres.OSUser, Settings: cfg.Postgres.Settings, SlotKeep: cfg.Postgres.SlotKeep,
		DataDir: filepath.Join(cfg.DataDir, "pgdata"), StateDir: cfg.DataDir, SocketDir: cfg.Postgres.SocketDir, Secrets: secrets, Log: log,
	}
}

func hostPort(s string) (string, int, error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.Atoi(p)
	return host, port, err
}

// checkPostgres reports what PostgreSQL's part of the configuration lacks.
func checkPostgres(ctx context.Context, cfg config.Node) error {
	_, err := setup{cfg: cfg}.major(ctx)
	return err
}
