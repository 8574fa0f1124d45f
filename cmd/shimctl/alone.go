package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kineshim/proto"
)

// alonePhrase is what has to be typed.
const alonePhrase = "serve alone"

func (a *app) serveCommand() *cobra.Command {
	var alone, force, dryRun bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "serve --alone",
		Short: "disaster: have the only node that is left serve without the others",
		Long: `serve --alone has this node serve although neither the other data node nor the witness can be reached.
It is for the case that both are lost for good, or that you have made sure that they are switched off:
a node that is cut off can't tell a lost machine from one that runs on without it.

It shows what is known of what would be lost and which machines must be off, and does nothing until you
have typed "serve alone". The other two are given up: whenever they meet this node again, they are told,
stop, and take no part until they are enrolled anew (shimctl witness replace, shimctl node replace NAME).
With --force, also when this node may lack acknowledged writes.

If the witness is left too, this is not needed: shimctl promote NODE --force.`,
		Example: `  sudo shimctl serve --alone --dry-run                     what would be lost?
  sudo shimctl serve --alone
  echo serve alone | sudo shimctl serve --alone --force    from a script that knows what it does`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 || !alone {
				return errors.New("serve takes no arguments, and needs --alone")
			}
			return nil
		},
		RunE: command(func(ctx context.Context, _ []string) error { return a.serveAlone(ctx, force, dryRun, wait) }),
	}
	f := cmd.Flags()
	f.BoolVar(&alone, "alone", false, "yes, without the others")
	f.BoolVar(&force, "force", false, "also if this node may lack acknowledged writes")
	f.BoolVar(&dryRun, "dry-run", false, "show what would be lost, and change nothing")
	f.DurationVar(&wait, "wait", defaultPromoteWait, "how long to wait until the node serves")
	return cmd
}

// serveAlone asks the node that answers, which is the one that would serve.
func (a *app) serveAlone(ctx context.Context, force, dryRun bool, wait time.Duration) error {
	n, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer n.close()
	ask, cancel := context.WithTimeout(ctx, a.timeout)
	preview, err := n.control.PreviewAlone(ask, &proto.PreviewAloneRequest{})
	cancel()
	if err != nil {
		return explainCall(n.socket, err)
	}
	self := n.status.GetNode()
	refused := func(why string) error {
		return exitWith(exitUnsafe, "%s does not go on alone, nothing has changed: %s", self, why)
	}
	if !preview.GetPossible() {
		return refused(preview.GetReason())
	}
	fmt.Fprint(a.stdout, renderAlone(self, preview))
	switch {
	case dryRun:
		fmt.Fprintln(a.stdout, "Nothing has changed.")
		return nil
	case !preview.GetSafe() && !force:
		return refused("it may lack acknowledged writes; if they are lost anyhow, add --force")
	}
	if err := a.confirm(ctx, alonePhrase); err != nil {
		return err
	}
	ask, cancel = context.WithTimeout(ctx, a.timeout+recordGrace)
	resp, err := n.control.ServeAlone(ask, &proto.ServeAloneRequest{Operator: operator(), Confirm: preview.GetConfirm(), Force: force})
	cancel()
	switch {
	case err != nil:
		return fmt.Errorf("%w\nwhether it was decided is not known: see shimctl status and shimctl history", explainCall(n.socket, err))
	case !resp.GetDone():
		return refused(resp.GetReason())
	}
	return a.awaitAlone(ctx, self, resp.GetEpoch(), wait)
}

// awaitAlone waits until the node, which starts anew, serves the epoch.
func (a *app) awaitAlone(ctx context.Context, self string, epoch uint64, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	began := time.Now()
	last := ""
	for {
		n, err := a.connect(ctx, nil)
		if err == nil {
			st := n.status
			n.close()
			if st.GetNode() == self && st.GetEpoch() == epoch && st.GetPrimary() == self && find(st, self).GetState().GetGateOpen() {
				fmt.Fprintf(a.stdout, "%s serves alone: epoch %d, took %s.\n", self, epoch, showMillis(time.Since(began).Milliseconds()))
				fmt.Fprintf(a.stdout, "It has no standby: save a snapshot (shimctl snapshot save), then shimctl witness replace and shimctl node replace.\n")
				return nil
			}
			last = find(st, self).GetState().GetGateReason()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has gone on alone, and does not serve after %v (%s): see shimctl status and its log", self, wait, last)
		case <-time.After(aloneEvery):
		}
	}
}

// aloneEvery is the pace at which the node is asked whether it serves.
const aloneEvery = 200 * time.Millisecond

// renderAlone says what it would cost, and what must be done before.
func renderAlone(self string, p *proto.PreviewAloneResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s goes on alone.\n\n  By the last record that %s has, %s was the primary, in epoch %d; every acknowledged write was on %s.\n",
		self, self, p.GetPrimary(), p.GetEpoch(), strings.Join(p.GetInSync(), " and "))
	other := ""
	for _, m := range p.GetOthers() {
		if m.GetRole() != witnessRole {
			other = m.GetName()
		}
	}
	silent := "not since this kineshim started"
	if p.GetOtherSilentMs() >= 0 {
		silent = showMillis(p.GetOtherSilentMs()) + " ago"
	}
	switch {
	case p.GetSafe() && len(p.GetInSync()) == 1:
		fmt.Fprintf(&b, "  Lost: nothing, unless %s was promoted since by force.\n", other)
	case p.GetSafe():
		fmt.Fprintf(&b, "  Lost: nothing that is known of. But if %s and the witness went on together after %s had heard of them last (%s: %s),\n"+
			"  all that %s acknowledged since is lost.\n", other, self, other, silent, other)
	case p.GetLossKnown() && p.GetLossBytes() > 0:
		fmt.Fprintf(&b, "  Lost: %s of WAL (%d bytes)%s that %s is known to have written and %s lacks, and what it wrote after that.\n",
			showBytes(p.GetLossBytes()), p.GetLossBytes(), lossTime(p.GetLossMs()), other, self)
	case p.GetLossKnown():
		fmt.Fprintf(&b, "  Lost: all that %s wrote after it was heard last, %s. Up to then, %s has everything.\n", other, silent, self)
	default:
		fmt.Fprintf(&b, "  Lost: NOT KNOWN. The others may have gone on without %s, and it can't tell how far %s has written (heard: %s).\n", self, other, silent)
	}
	if newest := p.GetNewestUnixMilli(); newest > 0 {
		at := time.UnixMilli(newest)
		fmt.Fprintf(&b, "  The newest write that %s holds was made at %s, %s ago by the nodes' clocks: what was written since is the worst case.\n",
			self, at.Format(time.DateTime), showMillis(max(0, time.Since(at).Milliseconds())))
	}
	fmt.Fprintf(&b, "\n  First switch these off (the machines: pull their plugs), or be sure that they are lost:\n\n")
	for _, m := range p.GetOthers() {
		fmt.Fprintf(&b, "    %-10s %-8s %s (%s)\n", m.GetName(), m.GetRole(), m.GetAddress(), m.GetServerId())
	}
	fmt.Fprintf(&b, "\n  If they still run somewhere out of sight, they and %s would both answer until they see each other again. Then they\n"+
		"  are told that they were given up: they stop, and what they have written is kept on their disks until you enrol them anew.\n\n", self)
	return b.String()
}
