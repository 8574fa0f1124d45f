package raftwitness

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"kineshim/durable"
	"kineshim/raftwitness/record"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// LastRecord is the newest record that this voter has on disk, committed or not: after a restart without a majority, Raft applies nothing.
func (n *Node) LastRecord() (record.Record, error) {
	a := n.fsm.state.Load()
	r := a.Record.Clone()
	last, err := n.store.LastIndex()
	if err != nil {
		return r, fmt.Errorf("read the Raft log: %w", err)
	}
	for i := a.Index + 1; i <= last; i++ {
		var l raft.Log
		err := n.store.GetLog(i, &l)
		if errors.Is(err, raft.ErrLogNotFound) { // it is in a snapshot that has been applied meanwhile
			continue
		}
		if err != nil {
			return r, fmt.Errorf("read entry %d of the Raft log: %w", i, err)
		}
		if l.Type != raft.LogCommand {
			continue
		}
		c, err := record.Decode(l.Data)
		if err != nil {
			continue // as when it is applied: it changes nothing
		}
		if next, err := r.Apply(c); err == nil {
			r = next
		}
	}
	return r, nil
}

// BeginAlone makes what this voter needs to go on as the only one: an identity with the record's server ID of its member, and a Raft log below
// dir with the record and no other voter in it. The identity is written to dir last, in one step: before, the voter is what it was; after, it is the
// other one from its next start on. The voter that runs is to be stopped at once. r is a record after record.Alone.
func (n *Node) BeginAlone(dir string, r record.Record, address func(name string) string) error {
	id, err := n.cfg.Identity.Enrol(&r, n.cfg.Identity.Name, address)
	if err != nil {
		return fmt.Errorf("go on alone: %w", err)
	}
	if !id.Renews(n.cfg.Identity) {
		return fmt.Errorf("go on alone: %s is not a later voter than %s", id.ServerID, n.cfg.Identity.ServerID)
	}
	log := id.LogDir(dir, "")
	if err := makeLog(log, id, r, n.raft.CurrentTerm()+1, n.raft.LastIndex()+1, n.cfg.Log); err != nil {
		return errors.Join(fmt.Errorf("go on alone: %w", err), os.RemoveAll(log))
	}
	if err := durable.Sync(dir); err != nil {
		return fmt.Errorf("go on alone: %w", err)
	}
	if err := id.Save(dir); err != nil {
		return fmt.Errorf("go on alone: %w", err)
	}
	return nil
}

// makeLog makes a Raft log that begins with the record, at the index and in the term, and whose only voter is the identity's.
func makeLog(dir string, id Identity, r record.Record, term, index uint64, log *slog.Logger) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	store, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := store.SetUint64(termKey, term); err != nil {
		return err
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, newLogger(log))
	if err != nil {
		return err
	}
	self := raft.Server{ID: raft.ServerID(id.ServerID), Address: raft.ServerAddress(id.ServerID)}
	_, transport := raft.NewInmemTransport(self.Address) // it encodes addresses, for versions of Raft that nobody here has
	sink, err := snaps.Create(raft.SnapshotVersionMax, index, term, raft.Configuration{Servers: []raft.Server{self}}, index, transport)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(sink).Encode(applied{index, r}); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	return durable.Sync(dir)
}
