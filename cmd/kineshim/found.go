package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"kineshim/config"
	"kineshim/joining"
	"kineshim/pki"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

const (
	// defaultValidFor is long enough to walk to two machines.
	defaultValidFor = 2 * time.Hour
	maxValidFor     = 30 * 24 * time.Hour
	// defaultAPIServer is where the Kubernetes API is balanced to if there is a virtual address for it.
	defaultAPIServer = ":7443"
)

// foundByTokens begins a cluster: this machine's part of it, and a token for each of the others.
func (o options) foundByTokens(ctx context.Context, stdout io.Writer) error {
	shared, err := config.SharedText(o.vips(), o.apiServer())
	if err != nil {
		return err
	}
	s, err := o.newSetup("kineshim init", shared)
	if err != nil {
		return err
	}
	if err := refuseMember(s.cfg.DataDir); err != nil {
		return err
	}
	if err := s.serviceFits(ctx); err != nil {
		return err
	}
	if o.advertise == "" {
		if o.advertise, err = joining.OwnAddress(); err != nil {
			return err
		}
	}
	self, err := s.member(o.advertise)
	if err != nil {
		return err
	}
	if err := joining.CanListen(append(s.ownListeners(), self.Raft, self.Peer, self.Postgres)...); err != nil {
		return err
	}
	major, err := s.major(ctx)
	if err != nil {
		return err
	}
	if o.dryRun {
		fmt.Fprintf(stdout, "Nothing is changed. kineshim init would:\n")
		s.describe(stdout)
		fmt.Fprintf(stdout, "  found a cluster, with this machine as %s at %s, Raft %s, peer %s, PostgreSQL %d at %s\n", self.Name, joining.HostOf(self.Raft), self.Raft, self.Peer, major, self.Postgres)
		fmt.Fprintf(stdout, "  keep its identity, its certificate authority and its data in %s\n", s.cfg.DataDir)
		fmt.Fprintf(stdout, "  print a command for the other server and one for the witness, good for %s\n", o.validFor)
		return nil
	}
	tokens, err := o.found(s, self)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Cluster %s is being founded; this machine is its node %s, at %s.\n", tokens[0].Cluster, self.Name, joining.HostOf(self.Raft))
	if _, err = s.start(ctx, stdout); err != nil {
		err = fmt.Errorf("%w. The cluster is being founded all the same: when the cause is gone, systemctl start kineshim", err)
	}
	fmt.Fprint(stdout, instructions(tokens)) // nothing can show the same ones again
	return err
}

// vips are those of the command line.
func (o options) vips() []string {
	if o.vip == "" {
		return nil
	}
	return strings.Split(o.vip, ",")
}

// apiServer is where the Kubernetes API is balanced to: as the command line says, or where a virtual address leads to.
func (o options) apiServer() string {
	if o.apiServerListen == "" && o.vip != "" {
		return defaultAPIServer
	}
	return o.apiServerListen
}

// found writes all that the founder has before the others have come. The list of invitations is the last of it: before, it can be begun again.
func (o options) found(s setup, self raftwitness.Peer) ([]joining.Token, error) {
	cluster := raftwitness.NewClusterID()
	self.ServerID = raftwitness.NewServerID(self.Name)
	now := time.Now()
	authority, err := pki.NewAuthority(cluster, now)
	if err != nil {
		return nil, err
	}
	own, err := raftwitness.Identity{ClusterID: cluster, Name: self.Name, ServerID: self.ServerID, Role: record.Data}.Enrolment(authority, s.cfg.CertificateLifetime)
	if err != nil {
		return nil, err
	}
	f := joining.New(cluster, s.cfg.Timing.HeartbeatTimeout, self)
	var tokens []joining.Token
	for _, role := range f.Missing() {
		t, err := f.Invite(role, authority.Fingerprint(), o.validFor, now)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, t)
	}
	secrets, err := newSecrets()
	if err != nil {
		return nil, err
	}
	if err := s.Save(s.cfg.DataDir); err != nil {
		return nil, err
	}
	if err := saveSecrets(s.cfg.DataDir, secrets); err != nil {
		return nil, err
	}
	if err := own.Certificates.Save(raftwitness.CertificatesDir(s.cfg.DataDir)); err != nil {
		return nil, err
	}
	if err := (joining.Book{Dir: s.cfg.DataDir}).Save(f); err != nil {
		return nil, err
	}
	return tokens, s.Own(s.cfg.DataDir)
}

// instructions say what to do with tokens.
func instructions(tokens []joining.Token) string {
	var b strings.Builder
	for _, t := range tokens {
		where, program := "On the other server", "kineshim"
		if t.Role == record.Witness {
			where, program = "On the machine of the witness", "raftwitness"
		}
		fmt.Fprintf(&b, "\n%s, as root, before %s:\n\n  echo %s | %s join\n", where, t.Expires.UTC().Format("2006-01-02 15:04 UTC"), t, program)
	}
	fmt.Fprintf(&b, "\nThey find this node at %s, and the three begin when both have joined: shimctl status.\nEach token lets one machine in, once: keep it to yourself until then. For new ones: kineshim token.\n", tokens[0].Addresses[0])
	return b.String()
}

// newTokens makes new tokens for whoever has not joined yet. It also does what is left of an init that was interrupted after its list was written.
func (o options) newTokens(ctx context.Context, stdout io.Writer) error {
	cfg, err := config.LoadNode(o.config)
	if err != nil {
		return err
	}
	authority, err := pki.LoadAuthority(raftwitness.CertificatesDir(cfg.DataDir))
	if err != nil {
		return err
	}
	var tokens []joining.Token
	_, err = joining.Book{Dir: cfg.DataDir}.Change(func(f *joining.Founding) (bool, error) {
		missing := f.Missing()
		if o.forRole != "" {
			missing = []record.Role{record.Role(o.forRole)}
		}
		if len(missing) == 0 {
			return false, fmt.Errorf("all three members of cluster %s have joined:\n%s\n"+
				"One whose join was interrupted goes on with the command that it was given. If that is lost, and to have another machine in the place of one: shimctl node replace, shimctl witness replace", f.Cluster, progress(f))
		}
		for _, role := range missing {
			t, err := f.Invite(role, authority.Fingerprint(), o.validFor, time.Now())
			if err != nil {
				return false, err
			}
			tokens = append(tokens, t)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	s := setup{joining.ConfigFile{Path: o.config}, cfg}
	if err = s.Own(cfg.DataDir); err == nil && os.Geteuid() == 0 { // the service itself, which may not, runs
		_, err = s.startService(ctx)
	}
	fmt.Fprint(stdout, instructions(tokens)) // nothing can show the same ones again
	return err
}
