package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"kineshim/config"
	"kineshim/failover"
	"kineshim/failover/postgres"
	"kineshim/pgrelay"
)

const (
	// provisionLook is how often it is looked whether this node has become the primary, so that applications' roles and databases are due.
	provisionLook = 250 * time.Millisecond
	// provisionRetry is the pause after a failure, and provisionTimeout ends an attempt.
	provisionRetry, provisionTimeout = 10 * time.Second, time.Minute
)

// startApplications serves other applications' connections to PostgreSQL until stop is called, if there are any.
func (n *node) startApplications() (stop func() error, err error) {
	apps := n.cfg.Applications
	if len(apps.Databases) == 0 {
		return func() error { return nil }, nil
	}
	from, err := apps.Networks()
	if err != nil {
		return nil, fmt.Errorf("applications.from: %w", err)
	}
	cfg := pgrelay.Config{
		For: "applications", Hint: "See applications in kineshim's configuration.",
		Gate: applicationsGate{n.cfg.Name, n.agent.Gate()}, From: from, MaxConnections: apps.TotalConnections() + config.AppsBeginning, Log: n.log,
		Socket: n.pg.SocketPath(),
	}
	for _, d := range apps.Databases {
		cfg.Accounts = append(cfg.Accounts, pgrelay.Account{Database: d.Name, User: d.User})
	}
	if n.applicationTLS != nil {
		cfg.TLS, cfg.NoPlainText = n.applicationTLS.ServerConfig(), !apps.AcceptPlainText
	}
	r, err := pgrelay.New(cfg)
	if err != nil {
		return nil, err
	}
	lns, err := n.applicationListeners()
	if err != nil {
		return nil, err
	}
	n.limits.count("applications", r)
	stopRelay := n.background(func(ctx context.Context) error { return r.Run(ctx, lns) })
	stopProvision := n.background(n.provision)
	return func() error { return errors.Join(stopProvision(), stopRelay()) }, nil
}

func (n *node) applicationListeners() ([]net.Listener, error) {
	apps := n.cfg.Applications
	var lns []net.Listener
	if apps.Port != 0 {
		var err error
		if lns, err = vipListeners(n.cfg.VIPs, apps.Port, &n.vipConns); err != nil {
			return nil, fmt.Errorf("applications.port: %w", err)
		}
	}
	for i, addr := range apps.Listen {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			for _, ln := range lns {
				ln.Close()
			}
			return nil, fmt.Errorf("applications.listen.%d: %w", i, err)
		}
		lns = append(lns, n.vipConns.Wrap(ln))
	}
	return lns, nil
}

// provision makes applications' roles and databases, once in each session in which this node serves, until ctx ends.
func (n *node) provision(ctx context.Context) error {
	var done failover.Token
	for pause := provisionLook; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = provisionLook
		t, err := n.agent.Gate().Enter()
		if err != nil || t == done {
			continue
		}
		if err := n.provisionAll(ctx); err == nil {
			done = t
		} else if ctx.Err() == nil && n.agent.Gate().Check(t) == nil {
			n.log.Warn("applications' databases are not all ready", "error", err, "again", provisionRetry)
			pause = provisionRetry
		}
	}
}

func (n *node) provisionAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	var errs []error
	for i, d := range n.cfg.Applications.Databases {
		b, err := os.ReadFile(d.PasswordFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("applications.databases.%d.password_file: %w", i, err))
			continue
		}
		errs = append(errs, n.pg.EnsureApplication(ctx, application(d), strings.TrimRight(string(b), "\r\n")))
	}
	return errors.Join(errs...)
}

func application(d config.Application) postgres.Application {
	return postgres.Application{Database: d.Name, User: d.User, Connections: d.Connections}
}

// applicationsGate gives the relay the agent's gate.
type applicationsGate struct {
	node string
	g    *failover.Gate
}

func (a applicationsGate) Enter() (pgrelay.Session, error) {
	t, err := a.g.Enter()
	if err != nil {
		return nil, fmt.Errorf("%s does not serve: %w", a.node, err)
	}
	return applicationsSession{a.g, t}, nil
}

type applicationsSession struct {
	g *failover.Gate
	t failover.Token
}

func (s applicationsSession) Check() error                   { return s.g.Check(s.t) }
func (s applicationsSession) Wait(ctx context.Context) error { return s.g.Wait(ctx, s.t) }
func (s applicationsSession) Over() bool                     { return s.g.Over(s.t) }
