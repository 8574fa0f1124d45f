package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"kineshim/config"
	"kineshim/doctor"
	"kineshim/proto"
	"kineshim/version"
)

func (a *app) doctorCommand() *cobra.Command {
	path, format := config.DefaultNodeFile, asTable
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "check whether this machine is fit for a data node, and say what to do about it",
		Long: `doctor checks on a data node what will matter later: the configuration, the enrolment and its
certificates, the ports of the other two machines and how far away they are, the clocks, the
disk, PostgreSQL, virtual addresses, systemd, and the kineshim that runs, if one does. It
changes nothing and takes 15 seconds at most. Run it as root, on both data nodes.

Each line is ok; warn: it works, and something is worth a change; or FAIL: it does not work, or
will not when it matters. The exit code is 1 if something failed, else 0.`,
		Example: `  sudo shimctl doctor
  sudo shimctl doctor --config /srv/kineshim.yaml
  sudo shimctl doctor -o json | jq -r '.findings[] | select(.level == "fail") | .found'`,
		Args: noArgs,
		RunE: command(func(ctx context.Context, _ []string) error { return a.doctor(ctx, path, format) }),
	}
	cmd.Flags().StringVar(&path, "config", path, "the node's configuration, a `path`")
	cmd.Flags().VarP(&format, "output", "o", "output format")
	return cmd
}

func (a *app) doctor(ctx context.Context, path string, format outputFormat) error {
	path, err := filepath.Abs(path) // it stands in commands that are to be typed
	if err != nil {
		return err
	}
	a.pass = nil // it is this machine that is looked at
	probes, done := doctor.Local()
	defer done()
	probes.StatusOf, probes.Version = a.statusOf, version.Version
	r := doctor.Run(ctx, path, probes)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return a.showReport(r, format)
}

// showReport writes the report; the error is the exit code.
func (a *app) showReport(r doctor.Report, format outputFormat) error {
	text := renderReport(r)
	if format == asJSON {
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		text = string(b) + "\n"
	}
	if _, err := io.WriteString(a.stdout, text); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if r.Failed {
		return &exitError{code: exitFailed}
	}
	return nil
}

// statusOf asks the kineshim of the configuration, or that behind the first --socket.
func (a *app) statusOf(ctx context.Context, socket string) (*proto.StatusResponse, error) {
	if len(a.sockets) > 0 {
		socket = a.sockets[0]
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%s: %w", socket, doctor.ErrNotRunning)
	case err == nil:
		_ = c.Close()
	}
	n, err := a.ask(ctx, socket)
	if err != nil {
		return nil, err
	}
	defer n.close()
	return n.status, nil
}

// renderReport is the report for people: a line for each finding, and below it what to do.
func renderReport(r doctor.Report) string {
	var b strings.Builder
	widest := 0
	for _, f := range r.Findings {
		widest = max(widest, len(f.Check))
	}
	in := strings.Repeat(" ", len("FAIL  ")+widest+2)
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", f.Level, widest, f.Check, strings.ReplaceAll(f.Found, "\n", "\n"+in))
		label := "do: "
		for _, do := range f.Do {
			fmt.Fprintf(&b, "%s%s%s\n", in, label, do)
			label = "    "
		}
	}
	b.WriteString("\n" + verdict(r) + "\n")
	return b.String()
}

// verdict is the last line.
func verdict(r doctor.Report) string {
	who := "this machine"
	if r.Node != "" {
		who = r.Node
	}
	if r.Cluster != "" {
		who += " of cluster " + r.Cluster
	}
	counts := fmt.Sprintf("%s: %d failed, %d to look at, %d ok.", who, r.Count(doctor.Fail), r.Count(doctor.Warn), r.Count(doctor.OK))
	if r.Other == "" {
		return counts
	}
	return fmt.Sprintf("%s Run it on %s too: its ports, its disk and what it can reach are seen from there only.", counts, r.Other)
}
