package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"kineshim/proto"
)

// Replace has the primary enrol the node anew, as an operator does, and joins the node's directory, in which nothing must run, with the new
// identity. It starts nothing. alive replaces a node that takes part.
func (c *Cluster) Replace(ctx context.Context, primary, node string, alive bool) error {
	control, err := c.Control(primary)
	if err != nil {
		return err
	}
	resp, err := control.Replace(ctx, &proto.ReplaceRequest{Node: node, Operator: "test", Alive: alive})
	if err == nil && !resp.GetDone() {
		err = errors.New(resp.GetReason())
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", node, err)
	}
	c.opts.Log.Info("replaced", "node", node, "old", resp.GetOldServerId(), "new", resp.GetServerId())
	if c.Running(node) {
		if err := c.KillNode(node); err != nil {
			return err
		}
	}
	path := filepath.Join(c.dir, resp.GetServerId()+".json")
	if err := os.WriteFile(path, resp.GetEnrolment(), 0o600); err != nil {
		return err
	}
	defer os.Remove(path)
	binary := c.opts.Binaries.Raftwitness
	if isDataNode(node) {
		binary = c.opts.Binaries.Kineshim
	}
	if out, err := exec.CommandContext(ctx, binary, "join", "--config", c.configPath(node), path).CombinedOutput(); err != nil {
		return fmt.Errorf("join %s: %w\n%s", node, err, out)
	}
	return nil
}
