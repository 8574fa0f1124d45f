package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

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
	return c.Join(ctx, node, path)
}

// Join joins the node's directory, in which nothing must run, with the enrolment in the file.
func (c *Cluster) Join(ctx context.Context, node, enrolment string) error {
	binary := c.opts.Binaries.Raftwitness
	if isDataNode(node) {
		binary = c.opts.Binaries.Kineshim
	}
	if out, err := exec.CommandContext(ctx, binary, "join", "--config", c.configPath(node), enrolment).CombinedOutput(); err != nil {
		return fmt.Errorf("join %s: %w\n%s", node, err, out)
	}
	return nil
}

// RaftDir is where the node keeps its Raft log. A voter that was enrolled anew has another one.
func (c *Cluster) RaftDir(node string) (string, error) {
	base, first := c.DataDir(node), "raft"
	if !isDataNode(node) {
		ids, err := filepath.Glob(filepath.Join(c.DataDir(node), "*", identityFile))
		if err != nil || len(ids) != 1 {
			return "", fmt.Errorf("the witness %s is in %d clusters", node, len(ids))
		}
		base, first = filepath.Dir(ids[0]), ""
	}
	b, err := os.ReadFile(filepath.Join(base, identityFile))
	if err != nil {
		return "", err
	}
	var id struct {
		ServerID    string
		Incarnation uint64
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return "", fmt.Errorf("read the identity of %s: %w", node, err)
	}
	if id.Incarnation == 0 {
		return filepath.Join(base, first), nil
	}
	return filepath.Join(base, "raft-"+id.ServerID), nil
}

// identityFile says who a voter is, and certificates are what it shows for that.
const (
	identityFile = "identity.json"
	certificates = "tls"
)

// Wipe empties a Raft directory but for the voter's identity and its certificates.
func Wipe(dir string) error { return empty(dir, identityFile, certificates) }

// Empty removes all that is in a directory, and not the directory, which may be a mount point.
func Empty(dir string) error { return empty(dir) }

func empty(dir string, but ...string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if !slices.Contains(but, e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
