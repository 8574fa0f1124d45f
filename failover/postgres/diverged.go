package postgres

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"kineshim/raftwitness/record"
)

const (
	// keepTails is how many diverged tails are kept, the newest ones.
	keepTails = 3
	// maxTailBytes bounds one of them.
	maxTailBytes = 1 << 30
)

// tailInfo is about.json beside the copied WAL files.
type tailInfo struct {
	At       time.Time  `json:"at"`
	SystemID uint64     `json:"systemID,string"`
	Timeline uint32     `json:"timeline"`
	ForkLSN  record.LSN `json:"forkLSN"`
	Files    []string   `json:"files"`
	// Truncated says that there was more than maxTailBytes.
	Truncated bool `json:"truncated,omitempty"`
}

// keepDiverged copies the WAL files that hold what only this node has, from where the peer's history left ours, to
// StateDir/diverged/<time>, for pg_waldump. None of it was ever acknowledged, but an operator may want to look.
func (s *Server) keepDiverged(d DataState, peer peerState) error {
	fork, ok := peer.endOf(d.Timeline)
	if !ok {
		fork = lastCommon(s, d.Timeline, peer)
	}
	info := tailInfo{At: time.Now().UTC(), SystemID: d.SystemID, Timeline: d.Timeline, ForkLSN: fork}
	dir := filepath.Join(s.cfg.StateDir, "diverged", info.At.Format("20060102T150405.000"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := s.copyTail(dir, d, &info); err != nil {
		return fmt.Errorf("keep diverged WAL: %w", err)
	}
	b, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	if err := s.writeDurably(filepath.Join(dir, "about.json"), append(b, '\n')); err != nil {
		return err
	}
	s.log.Info("diverged WAL kept", "dir", dir, "fork", fork, "files", len(info.Files))
	return pruneTails(filepath.Dir(dir))
}

// lastCommon is where our own history left the last timeline that the peer has been on too; 0 if none is known.
func lastCommon(s *Server, timeline uint32, peer peerState) record.LSN {
	for timeline > 1 {
		parent, at, err := s.readHistory(timeline)
		if err != nil {
			return 0
		}
		if end, ok := peer.endOf(parent); ok {
			return min(at, end)
		}
		if parent == peer.timeline {
			return min(at, peer.flushed)
		}
		if parent >= timeline {
			return 0
		}
		timeline = parent
	}
	return 0
}

// copyTail copies the WAL files of our timeline from the fork's on, as long as they hold WAL and not what a recycled file
// held before.
func (s *Server) copyTail(dir string, d DataState, info *tailInfo) error {
	segment := d.WALSegmentBytes
	perID := uint64(1<<32) / segment
	var copied uint64
	for n := uint64(info.ForkLSN) / segment; ; n++ {
		name := fmt.Sprintf("%08X%08X%08X", d.Timeline, n/perID, n%perID)
		path := filepath.Join(s.cfg.DataDir, "pg_wal", name)
		if !holdsWAL(path, n*segment) {
			return nil
		}
		if copied += segment; copied > maxTailBytes {
			info.Truncated = true
			return nil
		}
		if err := copyFile(filepath.Join(dir, name), path); err != nil {
			return err
		}
		info.Files = append(info.Files, name)
	}
}

// holdsWAL reports whether the file's first page is the one that belongs at the given address: the header has the address
// after a magic number, flags and the timeline (XLogPageHeaderData), in the machine's byte order.
func holdsWAL(path string, address uint64) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var header [16]byte
	if _, err := io.ReadFull(f, header[:]); err != nil {
		return false
	}
	return binary.NativeEndian.Uint64(header[8:]) == address
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Sync()
}

// pruneTails removes all but the newest; their names sort by time.
func pruneTails(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	for len(names) > keepTails {
		if err := os.RemoveAll(filepath.Join(dir, names[0])); err != nil {
			return err
		}
		names = names[1:]
	}
	return nil
}
