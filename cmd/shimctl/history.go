package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kineshim/proto"
)

func (a *app) historyCommand() *cobra.Command {
	format := asTable
	var last int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "show what happened to the cluster, and why",
		Long: `history shows each change of the cluster record, oldest first: who became primary in which epoch,
when the nodes were paired, and why. Times are the clock of the node that proposed the change.`,
		Example: `  shimctl history
  shimctl history -n 5
  shimctl history -o json`,
		Args: noArgs,
		RunE: command(func(ctx context.Context, _ []string) error { return a.showHistory(ctx, format, last) }),
	}
	cmd.Flags().VarP(&format, "output", "o", "output format")
	cmd.Flags().IntVarP(&last, "last", "n", 0, "only the last N events; 0: all that are kept")
	return cmd
}

func (a *app) showHistory(ctx context.Context, format outputFormat, last int) error {
	n, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer n.close()
	ask, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	h, err := n.control.History(ask, &proto.HistoryRequest{})
	if err != nil {
		return explainCall(n.socket, err)
	}
	if last > 0 && len(h.Events) > last {
		h.Events = h.Events[len(h.Events)-last:]
	}
	text := renderHistory(h.GetEvents())
	if format == asJSON {
		if text, err = renderJSON(h); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(a.stdout, text); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func renderHistory(events []*proto.HistoryEvent) string {
	if len(events) == 0 {
		return "Nothing has happened yet.\n"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tEPOCH\tWHAT\tNODE\tWHY")
	for _, e := range events {
		at := time.UnixMilli(e.GetAtUnixMilli()).Format("2006-01-02 15:04:05.000")
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", at, e.GetEpoch(), orDash(e.GetKind()), orDash(e.GetNode()), orDash(e.GetWhy()))
	}
	_ = w.Flush() // to a strings.Builder
	return b.String()
}

// noArgs is for commands that take none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no argument %q", cmd.Name(), args[0])
	}
	return nil
}
