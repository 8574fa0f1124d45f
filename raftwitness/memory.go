package raftwitness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/hashicorp/raft"
)

// madeFile says that this directory has held a Raft log, and of which server ID.
const madeFile = "raft.made"

// remember makes the Raft log, once in a voter's life. A voter that has lost its log has forgotten its votes and its entries: if
// it began anew under its old server ID, it could vote twice in a term, or elect a leader that lacks what was committed.
func (n *Node) remember(c *raft.Config, snaps raft.SnapshotStore) error {
	id, path := n.cfg.Identity.ServerID, filepath.Join(n.cfg.Dir, madeFile)
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the Raft log: %w", err)
	}
	marked := err == nil
	if of := strings.TrimSpace(string(b)); marked && of != id {
		return fmt.Errorf("the Raft log in %s is that of voter %s, this is %s: move it away", n.cfg.Dir, of, id)
	}
	has, err := raft.HasExistingState(n.store, n.store, snaps)
	if err != nil {
		return fmt.Errorf("read the Raft log: %w", err)
	}
	if !has && marked {
		return fmt.Errorf("the Raft log in %s is lost: voter %s does not know what it has voted for and must be enrolled anew", n.cfg.Dir, id)
	}
	if !has {
		if err := raft.BootstrapCluster(c, n.store, n.store, snaps, n.voter, n.servers()); err != nil {
			return fmt.Errorf("make the Raft log: %w", err)
		}
	}
	if !marked { // after the log and before the first vote
		if err := renameio.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
			return fmt.Errorf("make the Raft log: %w", err)
		}
	}
	return nil
}
