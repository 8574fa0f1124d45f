package raftwitness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"kineshim/raftwitness/record"

	"github.com/hashicorp/raft"
)

// applied is the record after the log entry Index.
type applied struct {
	Index  uint64
	Record record.Record
}

// fsm carries the record in Raft. hashicorp/raft calls Apply, Snapshot and Restore one at a time; anybody may read state.
type fsm struct {
	log      *slog.Logger
	state    atomic.Pointer[applied]
	onChange func()
	// replayTo is the last log entry of earlier lives of this process: what they logged once is not news. Set before Raft starts.
	replayTo uint64
}

func newFSM(log *slog.Logger, onChange func()) *fsm {
	f := &fsm{log: log, onChange: onChange}
	f.state.Store(&applied{})
	return f
}

// Apply returns nil or the reason why the command was refused.
func (f *fsm) Apply(l *raft.Log) any {
	old := f.state.Load()
	c, err := record.Decode(l.Data)
	next := old.Record
	if err == nil {
		var r record.Record
		if r, err = old.Record.Apply(c); err == nil {
			next = r
		}
	}
	f.state.Store(&applied{l.Index, next})
	switch {
	case errors.Is(err, record.ErrInvariant):
		f.log.Error("command refused: it would break the cluster record", "index", l.Index, "command", string(l.Data), "error", err)
	case err != nil:
		f.log.Warn("command refused", "index", l.Index, "command", string(l.Data), "error", err)
	default:
		level := slog.LevelInfo
		if l.Index <= f.replayTo {
			level = slog.LevelDebug
		}
		f.log.Log(context.Background(), level, "cluster record changed", "index", l.Index, "kind", c.Kind, "node", c.Node, "by", c.By, "why", c.Why,
			"epoch", next.Epoch, "primary", next.Primary, "inSync", next.InSync, "timeline", next.Timeline)
	}
	f.onChange()
	if err != nil {
		return err
	}
	return nil
}

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return fsmSnapshot{*f.state.Load()}, nil }

func (f *fsm) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	var a applied
	if err := json.NewDecoder(rc).Decode(&a); err != nil {
		return fmt.Errorf("restore the cluster record: %w", err)
	}
	f.state.Store(&a)
	f.log.Info("cluster record taken over from a snapshot", "index", a.Index, "epoch", a.Record.Epoch, "primary", a.Record.Primary, "inSync", a.Record.InSync,
		"timeline", a.Record.Timeline)
	f.onChange()
	return nil
}

type fsmSnapshot struct{ a applied }

func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode(s.a); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (fsmSnapshot) Release() {}
