package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"kineshim/raftwitness/record"
)

const (
	newSuffix = ".new"
	oldSuffix = ".old"
)

// dataMarker is data.json: whether the data directory is whole. It is written, and on disk, before the first step that
// destroys something and after the last one.
type dataMarker struct {
	Complete bool `json:"complete"`
	// What made the data directory: "initdb", "clone", "rewind".
	What string `json:"what"`
	// SystemID is the database's, once it is known.
	SystemID uint64 `json:"systemID,string"`
	// NeedsUpstream says that the data directory becomes consistent only with WAL that the peer has: so it is after a rewind,
	// until the first start has succeeded.
	NeedsUpstream bool      `json:"needsUpstream,omitempty"`
	At            time.Time `json:"at"`
}

// Promotion says which epoch began the timeline that the data directory is on, if this node began it.
type Promotion struct {
	// Epoch is 0 when nothing was promoted here since the data directory was made.
	Epoch uint64 `json:"epoch"`
	// FromTimeline is the timeline before the promotion. A data directory on a later one while Timeline is 0 was promoted,
	// but the process ended before it could write that down.
	FromTimeline uint32 `json:"fromTimeline"`
	// Timeline is what the promotion began, 0 until it is known to have happened.
	Timeline uint32 `json:"timeline"`
	// SwitchLSN is where Timeline left its parent.
	SwitchLSN record.LSN `json:"switchLSN"`
}

func (s *Server) dataMarkerPath() string      { return s.statePath("data.json") }
func (s *Server) promotionMarkerPath() string { return s.statePath("promotion.json") }

// readMarker reads a marker into out. No such file leaves out as it is and returns false.
func readMarker(path string, out any) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return true, nil
}

func (s *Server) writeMarker(path string, content any) error {
	b, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return err
	}
	return s.writeDurably(path, append(b, '\n'))
}

func (s *Server) markData(complete bool, what string, systemID uint64, needsUpstream bool) error {
	err := s.writeMarker(s.dataMarkerPath(), dataMarker{complete, what, systemID, needsUpstream, time.Now().UTC()})
	if err != nil {
		return fmt.Errorf("marker: %w", err)
	}
	s.log.Info("data directory marked", "complete", complete, "what", what, "systemID", systemID)
	return nil
}
