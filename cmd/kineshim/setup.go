package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"kineshim/config"
	"kineshim/failover/postgres"
	"kineshim/joining"
	"kineshim/ownership"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
	"kineshim/unit"
)

// service is what the package's unit is called.
const service = "kineshim.service"

// setup is the configuration of a machine that is about to become a member: as it is there, or as it is to be written.
type setup struct {
	joining.ConfigFile
	cfg config.Node
}

// newSetup reads the configuration, or makes one by the command line. by is the command, shared the YAML that both data nodes have.
func (o options) newSetup(by, shared string) (setup, error) {
	s := setup{ConfigFile: joining.ConfigFile{Path: o.config}}
	name := o.name
	if name == "" {
		if _, host, err := joining.HostName(); err == nil {
			name = host
		} else if _, missing := os.Stat(o.config); errors.Is(missing, fs.ErrNotExist) {
			return s, err
		}
	}
	wanted := config.Written{By: by, Name: name, DataDir: o.dataDir, ClientListen: o.clientListen, HTTPListen: o.httpListen, Shared: shared}.Text()
	there, err := os.ReadFile(o.config)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Text = wanted
		s.cfg, err = config.ParseNode("the configuration to be written to "+o.config, wanted)
	case err == nil:
		s.cfg, err = config.ParseNode(o.config, there)
		if err == nil && !bytes.Equal(there, wanted) {
			err = o.agrees(s.cfg)
		}
	}
	if err != nil {
		return s, err
	}
	return s, o.override(&s.cfg)
}

// agrees refuses what a command line says that a configuration which is there says otherwise.
func (o options) agrees(cfg config.Node) error {
	switch {
	case o.name != "" && o.name != cfg.Name:
		return fmt.Errorf("%s is there, and says node: %s, not %s: change or remove it", o.config, cfg.Name, o.name)
	case o.dataDir != config.DefaultNodeDir && o.dataDir != cfg.DataDir:
		return fmt.Errorf("%s is there, and says data_dir: %s, not %s: change or remove it", o.config, cfg.DataDir, o.dataDir)
	case o.vip != "" && o.vip != vipsOf(cfg):
		return fmt.Errorf("%s is there, and is used as it is: put the virtual addresses under `vips` there, or remove it", o.config)
	}
	return nil
}

// vipsOf is what --vip would say of the configuration.
func vipsOf(cfg config.Node) string {
	var out []string
	for _, v := range cfg.VIPs {
		out = append(out, v.Address)
	}
	return strings.Join(out, ",")
}

// describe says what of the configuration would be written.
func (s setup) describe(w io.Writer) {
	if s.Text == nil {
		fmt.Fprintf(w, "  %s is there, and stays as it is\n", s.Path)
		return
	}
	fmt.Fprintf(w, "  write %s:\n", s.Path)
	for line := range strings.Lines(string(s.Text)) {
		fmt.Fprintf(w, "      %s", line)
	}
}

// member is this machine as a member: where its configuration says that it is, or at the host with the usual ports.
func (s setup) member(host string) (raftwitness.Peer, error) {
	p := raftwitness.Peer{Member: record.Member{Name: s.cfg.Name, Role: record.Data}}
	if m, ok := s.cfg.Members[s.cfg.Name]; ok {
		p.Raft, p.Peer, p.Postgres = m.Raft, m.Peer, m.Postgres
		return p, nil
	}
	var err error
	for _, a := range []struct {
		field *string
		port  int
	}{{&p.Raft, config.DefaultRaftPort}, {&p.Peer, config.DefaultPeerPort}, {&p.Postgres, config.DefaultPostgresPort}} {
		if *a.field, err = joining.At(host, a.port); err != nil {
			return p, err
		}
	}
	for _, v := range s.cfg.VIPs {
		if prefix, err := v.Prefix(); err == nil && prefix.Addr().String() == host {
			return p, fmt.Errorf("%s is to move between the servers as a virtual address: --advertise takes the machine's own", host)
		}
	}
	return p, nil
}

// major is the version of the PostgreSQL that this machine would run.
func (s setup) major(ctx context.Context) (int, error) {
	pc := localPostgres(s.cfg, postgres.NewSecrets(), slog.New(slog.DiscardHandler))
	pc.Port, pc.Peer = config.DefaultPostgresPort, postgres.HostPort{Host: "127.0.0.1", Port: config.DefaultPostgresPort}
	service, err := ownership.User(s.cfg.DataDir)
	if err != nil {
		return 0, err
	}
	if service != "" { // root asks, but it is the service that will run it
		pc.OSUser = service
	}
	pg, err := postgres.New(pc)
	if err != nil {
		return 0, err
	}
	return pg.MajorVersion(ctx)
}

// ownListeners are where the node is to listen besides the addresses at which the others find it.
func (s setup) ownListeners() []string {
	own := []string{s.cfg.HTTPListen, s.cfg.APIServer.Listen}
	for _, a := range s.cfg.ClientAddresses() {
		own = append(own, a.HostPort)
	}
	return own
}

// serviceFits refuses a data directory that the package's service could not use.
func (s setup) serviceFits(ctx context.Context) error {
	if s.Path != config.DefaultNodeFile {
		return nil
	}
	return unit.Fits(ctx, service, s.cfg.DataDir)
}

// startService has systemd start the node, if it knows it; it reports whether it does.
func (s setup) startService(ctx context.Context) (known bool, err error) {
	if s.Path != config.DefaultNodeFile || !unit.Known(ctx, service) {
		return false, nil
	}
	if err := unit.Start(ctx, service); err != nil {
		return true, fmt.Errorf("%w\nsee journalctl -u kineshim", err)
	}
	return true, nil
}

// start has systemd start the node, or says how to; it reports whether it runs.
func (s setup) start(ctx context.Context, stdout io.Writer) (bool, error) {
	known, err := s.startService(ctx)
	switch {
	case err != nil:
		return false, err
	case !known:
		fmt.Fprintf(stdout, "Start it: kineshim --config %s\n", s.Path)
	default:
		fmt.Fprintf(stdout, "%s runs, and starts with the machine.\n", service)
	}
	return known, nil
}

// refuseMember refuses a machine that is a member of a cluster, or founds one, and says of which.
func refuseMember(dataDir string) error {
	id, err := raftwitness.LoadIdentity(dataDir)
	switch {
	case err == nil:
		var b strings.Builder
		fmt.Fprintf(&b, "%s belongs to cluster %s already, as %s:\n", dataDir, id.ClusterID, id.ServerID)
		for _, p := range id.Peers {
			fmt.Fprintf(&b, "  %-7s %s at %s\n", p.Role, p.ServerID, p.Raft)
		}
		b.WriteString("nothing was changed. shimctl status shows how it is")
		return errors.New(b.String())
	case !errors.Is(err, raftwitness.ErrNotEnrolled):
		return err
	}
	f, err := joining.Book{Dir: dataDir}.Load()
	switch {
	case err == nil:
		return fmt.Errorf("%s: cluster %s is being founded here already:\n%s\nnothing was changed. For new tokens: kineshim token. To begin from nothing: stop kineshim, remove %s",
			dataDir, f.Cluster, progress(f), dataDir)
	case !errors.Is(err, joining.ErrNoFounding):
		return err
	}
	return nil
}

// progress says who of the three is there.
func progress(f *joining.Founding) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %s, the founder, at %s", f.Founder.Name, joining.HostOf(f.Founder.Raft))
	for _, i := range f.Invitations {
		if g := i.Guest; g != nil {
			fmt.Fprintf(&b, "\n  %s, the %s, at %s", g.Name, joining.Words(g.Role), joining.HostOf(g.Raft))
		} else {
			fmt.Fprintf(&b, "\n  the %s is waited for; its token ends on %s", joining.Words(i.Role), i.Expires.UTC().Format("2006-01-02 15:04 UTC"))
		}
	}
	return b.String()
}
