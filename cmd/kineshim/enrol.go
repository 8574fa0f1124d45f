package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kineshim/config"
	"kineshim/durable"
	"kineshim/failover/postgres"
	"kineshim/ownership"
	"kineshim/pki"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

const secretsFile = "secrets.json"

// found makes a new cluster's identities and secrets: this node's own in its data directory, the others' in dir. path is the node's configuration.
func found(path string, cfg config.Node, dir string, stdout io.Writer) error {
	if err := refuseMember(cfg.DataDir); err != nil {
		return err
	}
	var voters []raftwitness.Peer
	for name, m := range cfg.Members {
		role := record.Data
		if m.Witness() {
			role = record.Witness
		}
		voters = append(voters, raftwitness.Peer{Member: record.Member{Name: name, Role: role}, Raft: m.Raft, Peer: m.Peer, Postgres: m.Postgres})
	}
	slices.SortFunc(voters, func(a, b raftwitness.Peer) int { return strings.Compare(a.Name, b.Name) })
	secrets, err := newSecrets()
	if err != nil {
		return err
	}
	settings, err := config.Shared(path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ids := raftwitness.Found(cfg.Name, cfg.Timing.HeartbeatTimeout, voters)
	authority, err := pki.NewAuthority(ids[0].ClusterID, time.Now())
	if err != nil {
		return err
	}
	var own raftwitness.Enrolment
	for _, id := range ids {
		e, err := id.Enrolment(authority, cfg.CertificateLifetime)
		if err != nil {
			return err
		}
		if id.Name == cfg.Name {
			own = e
			continue
		}
		if id.Role == record.Data {
			e.Secrets, e.Settings = secrets, settings
		}
		if err := writeEnrolment(filepath.Join(dir, id.Name+".json"), e); err != nil {
			return err
		}
	}
	if err := saveSecrets(cfg.DataDir, secrets); err != nil {
		return err
	}
	if err := own.Save(cfg.DataDir); err != nil { // last: with it, the node is enrolled
		return err
	}
	if err := ownership.Give(cfg.DataDir); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "founded cluster %s; this node is %s.\nCarry to the other machines, over a trusted path, and remove afterwards:\n", own.Identity.ClusterID, own.Identity.ServerID)
	fmt.Fprintf(stdout, "  %s\tkineshim join --config FILE %s.json\n", filepath.Join(dir, cfg.Other()+".json"), cfg.Other())
	fmt.Fprintf(stdout, "  %s\traftwitness join --config FILE %s.json\n", filepath.Join(dir, cfg.WitnessName()+".json"), cfg.WitnessName())
	return nil
}

// newSecrets makes those of a new cluster, as the data nodes keep them.
func newSecrets() ([]byte, error) { return json.MarshalIndent(postgres.NewSecrets(), "", "  ") }

func writeEnrolment(path string, e raftwitness.Enrolment) error {
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	return durable.Write(path, append(b, '\n'), 0o600)
}

// saveSecrets keeps the secrets readable by kineshim alone. The data directory itself may be entered by PostgreSQL's user.
func saveSecrets(dir string, secrets []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return durable.Write(filepath.Join(dir, secretsFile), append(secrets, '\n'), 0o600)
}

func loadSecrets(dir string) (postgres.Secrets, error) {
	var s postgres.Secrets
	path := filepath.Join(dir, secretsFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("read the cluster's secrets: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read the cluster's secrets %s: %w", path, err)
	}
	return s, nil
}

// join takes the identity and the secrets that were made for this node, and that were in the file.
func join(cfg config.Node, path string, e raftwitness.Enrolment, stdout io.Writer) error {
	id := e.Identity
	switch {
	case id.Name != cfg.Name:
		return fmt.Errorf("%s is for %q, this node is %q", path, id.Name, cfg.Name)
	case id.Role != record.Data || len(e.Secrets) == 0:
		return fmt.Errorf("%s is not for a data node", path)
	}
	old, err := raftwitness.LoadIdentity(cfg.DataDir)
	if err != nil && !errors.Is(err, raftwitness.ErrNotEnrolled) {
		return fmt.Errorf("%w\nnothing was changed. If it is beyond repair, move it aside and run this again: the data stay, and are used if they fit", err)
	}
	renewed := err == nil && id.Renews(old)
	if err == nil && old.ServerID != id.ServerID && !renewed {
		return fmt.Errorf("%s belongs to cluster %s already, as %s; nothing was changed", cfg.DataDir, old.ClusterID, old.ServerID)
	}
	if err := saveEnrolment(cfg.DataDir, e); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "joined cluster %s as %s\n", id.ClusterID, id.ServerID)
	if renewed {
		fmt.Fprintf(stdout, "%s is void from now on; the data are kept, and used if they fit. Start kineshim, or restart it if it runs.\n", old.ServerID)
	}
	return nil
}

// saveEnrolment writes all that makes this machine a data node, in an order in which it can be done again if it was interrupted.
func saveEnrolment(dataDir string, e raftwitness.Enrolment) error {
	if err := saveSecrets(dataDir, e.Secrets); err != nil {
		return err
	}
	return e.Save(dataDir)
}

// enrolment makes the enrolment file of a member that was enrolled anew.
func (n *node) enrolment(r *record.Record, name string) ([]byte, error) {
	id, err := n.id.Enrol(r, name, func(name string) string { return n.cfg.Members[name].Raft })
	if err != nil {
		return nil, err
	}
	e, err := id.Enrolment(n.security.authority, n.security.lifetime)
	if err != nil {
		return nil, err
	}
	if id.Role == record.Data {
		if e.Secrets, err = os.ReadFile(filepath.Join(n.cfg.DataDir, secretsFile)); err != nil {
			return nil, fmt.Errorf("read the cluster's secrets: %w", err)
		}
		if e.Settings, err = config.Shared(n.cfgPath); err != nil {
			return nil, err
		}
	}
	b, err := json.MarshalIndent(e, "", "  ")
	return append(b, '\n'), err
}
