package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"kineshim/proto"
)

// recordGrace is what a change of the record may take beyond an ordinary answer: a majority must write it, if need be after
// an election.
const recordGrace = 5 * time.Second

func (a *app) pauseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "pause",
		Short: "suspend automatic failover, for maintenance",
		Long: `pause suspends automatic failover: the primary goes on serving, and if it is lost, nobody takes over
until you say resume. Replication goes on, and a switchover (shimctl promote NODE) works. What the primary
needs it needs nevertheless: before work on the network, stop kineshim on the standby instead.`,
		Example: `  shimctl pause    # the primary is to come back by itself, whatever happens to it
  shimctl resume`,
		Args: noArgs,
		RunE: command(func(ctx context.Context, _ []string) error {
			if err := a.setPaused(ctx, true); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, "Automatic failover is paused: if the primary is lost, nobody takes over. To end this: shimctl resume")
			return nil
		}),
	}
}

func (a *app) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "resume",
		Short:   "end a pause",
		Long:    `resume ends a pause: automatic failover is armed again as soon as both data nodes are in sync and the witness is there.`,
		Example: `  shimctl resume && shimctl status`,
		Args:    noArgs,
		RunE: command(func(ctx context.Context, _ []string) error {
			if err := a.setPaused(ctx, false); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, "Automatic failover is no longer paused. Whether it is armed: shimctl status")
			return nil
		}),
	}
}

func (a *app) setPaused(ctx context.Context, paused bool) error {
	return a.putDown(ctx, func(ctx context.Context, c proto.ControlClient) error {
		_, err := c.SetPaused(ctx, &proto.SetPausedRequest{Paused: paused, Operator: operator()})
		return err
	})
}

// putDown has a node record the operator's word.
func (a *app) putDown(ctx context.Context, word func(context.Context, proto.ControlClient) error) error {
	n, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer n.close()
	ask, cancel := context.WithTimeout(ctx, a.timeout+recordGrace)
	defer cancel()
	if err := word(ask, n.control); err != nil {
		return explainCall(n.socket, err)
	}
	return nil
}
