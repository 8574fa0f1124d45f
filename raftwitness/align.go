package raftwitness

import (
	"context"
	"errors"
	"slices"
	"time"

	"kineshim/raftwitness/record"

	"github.com/hashicorp/raft"
)

const (
	// alignEvery is how often a leader looks whether Raft's voters are the record's.
	alignEvery = 500 * time.Millisecond
	// alignTimeout bounds one change of Raft's voters.
	alignTimeout = 5 * time.Second
	// heardLately is how lately a new voter must have made itself known to be given a vote: it does so every second while it has none.
	heardLately = 5 * time.Second
)

// align has Raft's voters follow the record's, one at a time, while this data node leads: whatever leader comes next goes on where one has
// crashed. First those go that the record does not name. Then a new one comes, when it is there: from then on a majority counts it.
func (n *Node) align(ctx context.Context) {
	if n.cfg.Identity.Role == record.Witness { // it hands leadership on
		return
	}
	changes, stop := n.Changes()
	defer stop()
	t := time.NewTicker(alignEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
		case <-t.C:
		}
		if n.raft.State() != raft.Leader || n.barrierTerm.Load() != n.raft.CurrentTerm() || n.memory.void() != nil {
			continue
		}
		if err := n.alignOnce(); err != nil && !errors.Is(err, raft.ErrNotLeader) {
			n.cfg.Log.Warn("the voters are not as the record names them", "error", err)
		}
	}
}

// alignOnce makes one change, if one is due.
func (n *Node) alignOnce() error {
	f := n.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	r, _ := n.Record()
	if !r.Initialised() {
		return nil
	}
	for _, s := range f.Configuration().Servers {
		if _, ok := r.Voter(string(s.ID)); !ok {
			n.cfg.Log.Info("a voter is removed", "server", s.ID)
			return n.raft.RemoveServer(s.ID, f.Index(), alignTimeout).Error()
		}
	}
	for _, m := range n.notJoined(f.Configuration()) {
		n.mu.Lock()
		heard := time.Since(n.called[m.ServerID]) < heardLately
		n.mu.Unlock()
		if heard {
			n.cfg.Log.Info("a voter is added", "server", m.ServerID)
			return n.raft.AddVoter(raft.ServerID(m.ServerID), raft.ServerAddress(m.ServerID), f.Index(), alignTimeout).Error()
		}
	}
	return nil
}

// notJoined are the voters that the record names and Raft does not count.
func (n *Node) notJoined(c raft.Configuration) []record.Member {
	r, _ := n.Record()
	var ms []record.Member
	for _, m := range r.Voters() {
		if !slices.ContainsFunc(c.Servers, func(s raft.Server) bool { return string(s.ID) == m.ServerID }) {
			ms = append(ms, m)
		}
	}
	return ms
}
