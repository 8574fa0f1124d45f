package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kineshim/durable"
	"kineshim/proto"
)

// replacement is the command line of witness replace and node replace.
type replacement struct {
	node, address, out string
	alive, dryRun      bool
}

func (a *app) witnessCommand() *cobra.Command {
	var r replacement
	replace := &cobra.Command{
		Use:   "replace",
		Short: "enrol a new witness in the place of one that is lost",
		Long: `replace gives the witness a new identity, and writes the file with which a new one joins, on a new
machine or on the old one. The old witness is void from then on, whatever it comes back with. The
cluster goes on meanwhile, and arms itself when the new witness has joined.

It must be asked of the primary, and the other data node must be reachable: the two record it.`,
		Example: `  sudo shimctl witness replace                            writes ./w.json, says what to do with it
  sudo shimctl witness replace --raft 10.0.0.9:7100       the new one is at another address
  sudo shimctl witness replace --dry-run                  would it be done?`,
		Args: noArgs,
		RunE: command(func(ctx context.Context, _ []string) error { return a.replace(ctx, r) }),
	}
	r.flags(replace)
	cmd := &cobra.Command{Use: "witness", Short: "replace the witness", Args: noArgs}
	cmd.AddCommand(replace)
	return cmd
}

func (a *app) nodeCommand() *cobra.Command {
	var r replacement
	replace := &cobra.Command{
		Use:   "replace NODE",
		Short: "enrol a new data node in the place of one that is lost",
		Long: `replace gives the data node a new identity, and writes the file with which it joins: a new machine, or
the old one with its disk or its raft/ directory lost. The old node is void from then on, whatever it
comes back with. The new one gets its data from the primary (what PostgreSQL data it still has are used
if they fit), and the cluster arms itself.

It must be asked of the primary, and the witness must be reachable: the two record it. The file holds the
cluster's secrets: carry it over a trusted path, and remove it afterwards.`,
		Example: `  sudo shimctl node replace b                             on a: writes ./b.json, says what to do with it
  sudo shimctl node replace b --out /media/usb/b.json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("node replace takes one node's name, got %d arguments", len(args))
			}
			return nil
		},
		RunE: command(func(ctx context.Context, args []string) error {
			r.node = args[0]
			return a.replace(ctx, r)
		}),
	}
	r.flags(replace)
	cmd := &cobra.Command{Use: "node", Short: "replace a data node", Args: noArgs}
	cmd.AddCommand(replace)
	return cmd
}

func (r *replacement) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.address, "raft", "", "`HOST:PORT` of the new one's Raft, if it is not the old one's")
	f.StringVar(&r.out, "out", "", "the `file` to write; NAME.json here by default")
	f.BoolVar(&r.alive, "yes", false, "replace it although it is alive")
	f.BoolVar(&r.dryRun, "dry-run", false, "say whether it would be done, and change nothing")
}

// replace asks the primary, and writes the enrolment.
func (a *app) replace(ctx context.Context, r replacement) error {
	n, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer n.close()
	if r.node == "" {
		r.node = witnessName(n.status)
	} else if err := checkDataNode(n.status, r.node); err != nil {
		return err
	}
	if r.out == "" {
		r.out = r.node + ".json"
	}
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	if err := canWrite(r.out); err != nil {
		return err
	}
	req := &proto.ReplaceRequest{Node: r.node, Operator: operator(), Address: r.address, Alive: r.alive, Check: true}
	resp, err := a.askReplace(ctx, n, req)
	if err != nil {
		return err
	}
	fmt.Fprint(a.stdout, renderReplacement(n.status, r, resp))
	if r.dryRun {
		fmt.Fprintln(a.stdout, "Nothing has changed.")
		return nil
	}
	req.Check = false
	if resp, err = a.askReplace(ctx, n, req); err != nil {
		return err
	}
	if err := durable.Write(r.out, resp.GetEnrolment(), 0o600); err != nil {
		return fmt.Errorf("%s is %s now, but its enrolment file was not written: %w\nmake room and run this again", r.node, resp.GetServerId(), err)
	}
	fmt.Fprint(a.stdout, renderEnrolment(r, resp))
	return nil
}

func (a *app) askReplace(ctx context.Context, n *node, req *proto.ReplaceRequest) (*proto.ReplaceResponse, error) {
	ask, cancel := context.WithTimeout(ctx, a.timeout+3*recordGrace)
	defer cancel()
	resp, err := n.control.Replace(ask, req)
	switch {
	case err != nil:
		return nil, explainCall(n.socket, err)
	case !resp.GetDone():
		return nil, exitWith(exitUnsafe, "%s was not replaced, nothing has changed: %s", req.GetNode(), resp.GetReason())
	}
	return resp, nil
}

// canWrite refuses a file that is there, or cannot be made, before anything changes.
func canWrite(path string) error {
	if _, err := os.Stat(path); err == nil {
		return exitWith(exitUsage, "%s exists: remove it, or name another file with --out", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".shimctl-*")
	if err != nil {
		return fmt.Errorf("the enrolment file cannot be written: %w", err)
	}
	f.Close()
	return os.Remove(f.Name())
}

func witnessName(st *proto.StatusResponse) string {
	for _, n := range st.GetNodes() {
		if n.GetRole() == witnessRole {
			return n.GetName()
		}
	}
	return ""
}

// renderReplacement says what will happen.
func renderReplacement(st *proto.StatusResponse, r replacement, p *proto.ReplaceResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s so far, is enrolled anew.\n", r.node, p.GetOldServerId())
	if p.GetAlive() {
		fmt.Fprintf(&b, "It is alive: it is taken out, and stops taking part at once.\n")
	}
	if st.GetMode() != modeSolo {
		fmt.Fprintf(&b, "The record counts on it: it is changed to solo first.\n")
	}
	fmt.Fprintf(&b, "Automatic failover is not armed until the new one has joined. %s goes on serving.\n", st.GetPrimary())
	return b.String()
}

// renderEnrolment says what to do on the new machine.
func renderEnrolment(r replacement, p *proto.ReplaceResponse) string {
	program := "kineshim"
	if p.GetRole() == witnessRole {
		program = "raftwitness"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s is %s now. %s is void.\n\nOn the machine of %s, with the file %s:\n\n", r.node, p.GetServerId(), p.GetOldServerId(), r.node, r.out)
	fmt.Fprintf(&b, "  %s join %s\n  systemctl restart %s\n\n", program, filepath.Base(r.out), program)
	switch {
	case r.address == "":
	case p.GetRole() == witnessRole:
		fmt.Fprintf(&b, "Put members.%s.raft: %s into the configuration of both data nodes when it suits you: they know it already.\n", r.node, r.address)
	default:
		fmt.Fprintf(&b, "Put its new addresses, all three, under members.%s into the configuration of the other data node, and restart that when it suits you.\n", r.node)
	}
	fmt.Fprintf(&b, "Remove the file afterwards. shimctl status says when failover is armed again.\n")
	return b.String()
}
