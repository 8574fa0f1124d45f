package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/proto"
)

// defaultPromoteWait bounds a promotion. A switchover takes less than a second, but a standby that has much WAL to replay
// must replay it first.
const defaultPromoteWait = time.Minute

func (a *app) promoteCommand() *cobra.Command {
	var force bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "promote NODE",
		Short: "make NODE the primary: a switchover, or with --force an emergency",
		Long: `promote makes NODE the primary.

Without --force it is a switchover: the primary stops answering, NODE gets everything, and goes on.
No write is lost and clients notice a short pause. It is refused when that can't be promised, and
says why (exit code 5).

With --force, NODE takes over though it may lack writes, because the nodes that have them are lost
for good. It must be asked on NODE itself, and a majority must record it: NODE and the witness must
see each other. It shows what would be lost and which machine must be switched off, and does
nothing until you have typed "promote NODE".`,
		Example: `  shimctl promote b
  sudo shimctl promote b --force                           on b, when a is lost
  echo promote b | sudo shimctl promote b --force          from a script that knows what it does`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("promote takes one node's name, got %d arguments", len(args))
			}
			return nil
		},
		RunE: command(func(ctx context.Context, args []string) error {
			if force {
				return a.forcePromote(ctx, args[0], wait)
			}
			return a.switchover(ctx, args[0], wait)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "promote a node that may lack writes; shows the loss and asks first")
	cmd.Flags().DurationVar(&wait, "wait", defaultPromoteWait, "how long to wait until NODE serves")
	return cmd
}

func (a *app) switchover(ctx context.Context, target string, wait time.Duration) error {
	n, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer n.close()
	if err := checkDataNode(n.status, target); err != nil {
		return err
	}
	return a.promote(ctx, n, &proto.PromoteRequest{Node: target, Operator: operator()}, wait)
}

// promote sends the request and reports its end. An end that is not known is never reported as a failure.
func (a *app) promote(ctx context.Context, n *node, req *proto.PromoteRequest, wait time.Duration) error {
	wctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	resp, err := n.control.Promote(wctx, req)
	switch code := status.Code(err); {
	case err == nil && resp.GetDone():
		fmt.Fprintf(a.stdout, "%s is the primary and serves: epoch %d, took %s.\n", req.GetNode(), resp.GetEpoch(), showMillis(resp.GetTookMs()))
		return nil
	case err == nil:
		return refused(req.GetNode(), resp.GetReason())
	case code == codes.FailedPrecondition:
		return refused(req.GetNode(), status.Convert(err).Message())
	case code == codes.Aborted:
		return fmt.Errorf("%s\nthe promotion of %s was begun and may still happen: see shimctl status and shimctl history", status.Convert(err).Message(), req.GetNode())
	case code == codes.DeadlineExceeded:
		return fmt.Errorf("%s does not serve after %v; it may still come: see shimctl status and shimctl history", req.GetNode(), wait)
	case code == codes.Canceled || code == codes.Unavailable:
		return fmt.Errorf("%w\nthe promotion of %s was asked for and may still happen: see shimctl status and shimctl history",
			explainCall(n.socket, err), req.GetNode())
	default:
		return explainCall(n.socket, err)
	}
}

func refused(node, reason string) error {
	if reason == "" {
		reason = "the node gives no reason; see its log (journalctl -u kineshim)"
	}
	return exitWith(exitUnsafe, "%s was not promoted, nothing has changed: %s", node, reason)
}

// checkDataNode catches a misspelt name before anything is asked for.
func checkDataNode(st *proto.StatusResponse, name string) error {
	var names []string
	for _, n := range st.GetNodes() {
		if n.GetRole() == witnessRole {
			if n.GetName() == name {
				return exitWith(exitUsage, "%s is the witness: it has no data and can't be promoted", name)
			}
			continue
		}
		if n.GetName() == name {
			return nil
		}
		names = append(names, n.GetName())
	}
	return exitWith(exitUsage, "there is no node %q: this cluster's data nodes are %s", name, strings.Join(names, " and "))
}

// operator is who asks, for the history: "anna@rack1", the person behind sudo if there is one.
func operator() string {
	name := os.Getenv("SUDO_USER")
	if name == "" {
		name = fmt.Sprintf("uid %d", os.Getuid())
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}
