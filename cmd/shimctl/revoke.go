package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"kineshim/proto"
)

func (a *app) operatorCommand() *cobra.Command {
	revoke := &cobra.Command{
		Use:   "revoke NAME",
		Short: "refuse an operator's credentials from now on",
		Long: `revoke has both data nodes refuse the credentials that "kineshim operator NAME" has made, all of them and
for good: whoever had them gets new ones under another name. A node that cannot be reached refuses them as
soon as it is back with the others. Who is revoked: shimctl history, or shimctl status -o json.`,
		Example: `  sudo shimctl operator revoke alice
  sudo kineshim operator alice-2 --may look`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("which operator? shimctl operator revoke NAME")
			}
			return nil
		},
		RunE: command(func(ctx context.Context, args []string) error { return a.revoke(ctx, args[0]) }),
	}
	cmd := &cobra.Command{Use: "operator", Short: "refuse an operator's credentials", Args: noArgs}
	cmd.AddCommand(revoke)
	return cmd
}

func (a *app) revoke(ctx context.Context, name string) error {
	err := a.putDown(ctx, func(ctx context.Context, c proto.ControlClient) error {
		_, err := c.Revoke(ctx, &proto.RevokeRequest{Name: name, Operator: operator()})
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "The credentials of %s are refused from now on. New ones, under another name: kineshim operator NAME\n", name)
	return nil
}
