package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"kineshim/config"
	"kineshim/joining"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
	"kineshim/unit"
)

// service is what the package's unit is called.
const service = "raftwitness.service"

// setup is the witness's configuration: as it is there, or as it is to be written.
type setup struct {
	joining.ConfigFile
	cfg config.Witness
}

// newSetup reads the configuration, or makes one by the command line.
func (o options) newSetup() (setup, error) {
	s := setup{ConfigFile: joining.ConfigFile{Path: o.config}}
	there, err := os.ReadFile(o.config)
	if err == nil {
		if s.cfg, err = config.ParseWitness(o.config, there); err == nil && o.name != "" && o.name != s.cfg.Name {
			err = fmt.Errorf("%s is there, and says node: %s, not %s: change or remove it", o.config, s.cfg.Name, o.name)
		}
		return s, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if o.name == "" {
		if _, o.name, err = joining.HostName(); err != nil {
			return s, err
		}
	}
	s.Text = config.WitnessText("raftwitness join", o.name, o.dataDir, net.JoinHostPort("", strconv.Itoa(config.DefaultRaftPort)))
	s.cfg, err = config.ParseWitness("the configuration to be written to "+o.config, s.Text)
	return s, err
}

// joinByFile joins with what the founder, or shimctl witness replace, has written for this witness.
func (o options) joinByFile(ctx context.Context, stdout io.Writer) error {
	e, err := raftwitness.ReadEnrolment(o.enrolment)
	if err != nil {
		return err
	}
	if e.Identity.Role != record.Witness {
		return fmt.Errorf("%s is for the data node %q. On its machine: kineshim join %s", o.enrolment, e.Identity.Name, o.enrolment)
	}
	if _, err := os.Stat(o.config); errors.Is(err, fs.ErrNotExist) && o.name == "" {
		o.name = e.Identity.Name
	}
	s, err := o.newSetup()
	if err != nil {
		return err
	}
	if e.Identity.Name != s.cfg.Name {
		return fmt.Errorf("%s is for %q, this witness is %q", o.enrolment, e.Identity.Name, s.cfg.Name)
	}
	if err := s.serviceFits(ctx); err != nil {
		return err
	}
	if err := s.Save(s.cfg.DataDir); err != nil {
		return err
	}
	if err := save(s.cfg, e, stdout); err != nil {
		return err
	}
	return s.Own(s.cfg.DataDir)
}

// joinByToken makes this machine the witness of the token's cluster. It may be run again after any interruption.
func (o options) joinByToken(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	t, err := joining.ReadToken(stdin)
	if err != nil {
		return err
	}
	if t.Role != record.Witness {
		return errors.New("this token is for the other server. There: echo TOKEN | kineshim join")
	}
	s, err := o.newSetup()
	if err != nil {
		return err
	}
	if err := s.serviceFits(ctx); err != nil {
		return err
	}
	id, err := raftwitness.LoadIdentity(filepath.Join(s.cfg.DataDir, t.Cluster))
	switch {
	case err == nil:
		fmt.Fprintf(stdout, "This machine is %s of cluster %s already.\n", id.ServerID, id.ClusterID)
		if s.Text != nil && !o.dryRun { // its system was installed anew beside its data
			o.name = id.Name
			if s, err = o.newSetup(); err == nil {
				fmt.Fprintf(stdout, "%s was missing, and is written anew.\n", s.Path)
				err = s.Save(s.cfg.DataDir)
			}
		}
	case errors.Is(err, raftwitness.ErrNotEnrolled):
		err = o.visit(ctx, t, s, stdout)
	}
	if err != nil || o.dryRun {
		return err
	}
	if err := s.Own(s.cfg.DataDir); err != nil {
		return err
	}
	return s.start(ctx, stdout)
}

// visit asks the founder, and writes what it gives.
func (o options) visit(ctx context.Context, t joining.Token, s setup, stdout io.Writer) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	v := joining.Visit{
		Token: t, Dir: filepath.Join(s.cfg.DataDir, t.Cluster), Request: joining.Request{Name: s.cfg.Name, Host: host},
		Settle: func(q *joining.Request, local net.IP) error { return o.settle(s, q, local) },
		Say:    func(format string, args ...any) { fmt.Fprintf(stdout, format+"\n", args...) },
	}
	if o.dryRun {
		a, q, err := v.Check(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "Nothing is changed. %s would take this machine into cluster %s, as its witness %s at %s. raftwitness join would:\n", a.Founder, t.Cluster, q.Name, q.Raft)
		if s.Text != nil {
			fmt.Fprintf(stdout, "  write %s:\n      %s\n", s.Path, bytes.ReplaceAll(bytes.TrimSpace(s.Text), []byte("\n"), []byte("\n      ")))
		}
		fmt.Fprintf(stdout, "  keep its identity and its certificate in %s\n", v.Dir)
		return nil
	}
	e, _, err := v.Join(ctx)
	if err != nil {
		return err
	}
	if err := s.Save(s.cfg.DataDir); err != nil {
		return err
	}
	return save(s.cfg, e, stdout)
}

// settle says to the founder where this witness is reached: at the port that it listens on.
func (o options) settle(s setup, q *joining.Request, local net.IP) error {
	listen, port, err := net.SplitHostPort(s.cfg.Listen)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	host := o.advertise
	if ip := net.ParseIP(listen); host == "" && listen != "" && (ip == nil || !ip.IsUnspecified()) {
		host = listen
	}
	if host == "" {
		host = local.String()
	}
	if q.Raft, err = joining.At(host, number); err != nil || s.Text == nil { // one that has a configuration may run
		return err
	}
	return joining.CanListen(q.Raft, s.cfg.HTTPListen)
}

// serviceFits refuses a data directory that the package's service could not use.
func (s setup) serviceFits(ctx context.Context) error {
	if s.Path != config.DefaultWitnessFile {
		return nil
	}
	return unit.Fits(ctx, service, s.cfg.DataDir)
}

// start has systemd start the witness, or says how to.
func (s setup) start(ctx context.Context, stdout io.Writer) error {
	if s.Path != config.DefaultWitnessFile || !unit.Known(ctx, service) {
		fmt.Fprintf(stdout, "Start it, or restart it if it runs: raftwitness --config %s\n", s.Path)
		return nil
	}
	if err := unit.Restart(ctx, service); err != nil {
		return fmt.Errorf("%w\nsee journalctl -u raftwitness; then run this command again", err)
	}
	fmt.Fprintf(stdout, "%s runs, and starts with the machine.\n", service)
	return nil
}
