package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kineshim/config"
	"kineshim/joining"
	"kineshim/pki"
	"kineshim/raftwitness"
	"kineshim/sdnotify"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// gatherLook is how often the founder looks whether both have come.
const gatherLook = 500 * time.Millisecond

// gather waits until the other two have joined, and then enrols this node. It returns nil then.
func gather(ctx context.Context, path string, cfg config.Node, systemd *sdnotify.Notifier, log *slog.Logger) error {
	book := joining.Book{Dir: cfg.DataDir}
	f, err := book.Load()
	if err != nil {
		return err
	}
	credentials, err := pki.Load(raftwitness.CertificatesDir(cfg.DataDir), raftwitness.Identity{ClusterID: f.Cluster, ServerID: f.Founder.ServerID, Role: f.Founder.Role}.Subject())
	if err != nil {
		return err
	}
	h, err := newHost(ctx, path, cfg, nil, log)
	if err != nil {
		return err
	}
	ln, err := raftwitness.Listen(ctx, f.Founder.Raft)
	if err != nil {
		return err
	}
	l := raftwitness.NewListener(ln, log)
	defer l.Close()
	l.Receive(f.Cluster, joining.Protocol, credentials.Reception(joining.Protocol), h.Serve)
	stop, err := sayWaiting(cfg, book)
	if err != nil {
		return err
	}
	defer stop()
	log.Info("waiting for the other members to join", "cluster", f.Cluster, "at", f.Founder.Raft)
	systemd.Ready()
	for t := time.NewTicker(gatherLook); ; {
		if f, err = book.Load(); err != nil {
			return err
		}
		if f.Complete() {
			log.Info("all members have joined", "cluster", f.Cluster, "members", strings.Join(names(f.Peers()), " "))
			return f.Identity(f.Founder).Save(cfg.DataDir)
		}
		systemd.Turned()
		systemd.Status(waiting(f))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

func names(peers []raftwitness.Peer) []string {
	var out []string
	for _, p := range peers {
		out = append(out, p.Name)
	}
	return out
}

// waiting says on whom the founder waits.
func waiting(f *joining.Founding) string {
	var who []string
	for _, role := range f.Missing() {
		who = append(who, "the "+joining.Words(role))
	}
	return "The cluster is being founded: waiting for " + strings.Join(who, " and ") + " to join"
}

// sayWaiting answers shimctl while there is nothing to control yet.
func sayWaiting(cfg config.Node, book joining.Book) (stop func(), err error) {
	ln, err := listenOn("unix", cfg.ControlSocket)
	if err != nil {
		return nil, fmt.Errorf("control_socket: %w", err)
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		f, err := book.Load()
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		return status.Errorf(codes.FailedPrecondition, "%s.\n%s\nFor new tokens: kineshim token", waiting(f), progress(f))
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ln) // until stop
	}()
	return func() { s.Stop(); <-done }, nil
}

// newHost is who lets those in that have a token. current is who the members are now; nil: the cluster is not founded yet.
func newHost(ctx context.Context, path string, cfg config.Node, current func(string) (string, bool), log *slog.Logger) (*joining.Host, error) {
	authority, err := pki.LoadAuthority(raftwitness.CertificatesDir(cfg.DataDir))
	if err != nil {
		return nil, err
	}
	secrets, err := os.ReadFile(filepath.Join(cfg.DataDir, secretsFile))
	if err != nil {
		return nil, fmt.Errorf("read the cluster's secrets: %w", err)
	}
	major, err := setup{cfg: cfg}.major(ctx)
	if err != nil {
		return nil, err
	}
	var vips []netip.Addr
	for _, v := range cfg.VIPs {
		p, err := v.Prefix()
		if err != nil {
			return nil, err
		}
		vips = append(vips, p.Addr())
	}
	return &joining.Host{
		Book: joining.Book{Dir: cfg.DataDir}, Authority: authority, Lifetime: cfg.CertificateLifetime, Secrets: json.RawMessage(secrets),
		Settings: func() (string, error) { return config.Shared(path) }, PostgresMajor: major, VIPs: vips, Current: current, Log: log,
	}, nil
}

// keepReceptionFor is how long a member that has joined may ask again for what it was given.
const keepReceptionFor = 24 * time.Hour

// receiveAgain answers those again who have joined, and were interrupted before they had it all.
func (n *node) receiveAgain(ctx context.Context, l *raftwitness.Listener) error {
	book := joining.Book{Dir: n.cfg.DataDir}
	f, err := book.Load()
	if errors.Is(err, joining.ErrNoFounding) {
		return nil
	}
	if err != nil {
		return err
	}
	if f.Cluster != n.id.ClusterID || f.Over(time.Now().Add(-keepReceptionFor)) {
		return book.Remove()
	}
	h, err := newHost(ctx, n.cfgPath, n.cfg, n.current, n.log)
	if err != nil {
		return err
	}
	l.Receive(f.Cluster, joining.Protocol, n.security.credentials.Reception(joining.Protocol), h.Serve)
	return nil
}

// current is the server ID that a member has now.
func (n *node) current(name string) (string, bool) {
	for _, m := range (members{n}).now() {
		if m.Name == name && !m.Lost {
			return m.ServerID, true
		}
	}
	return "", false
}
