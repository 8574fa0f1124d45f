package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
)

// Clone replaces the data directory by a copy of the peer's, which must be running. The copy is made beside it; the old one
// is removed only when the new one is whole and in place (a data directory that is not whole is removed first). PostgreSQL
// must be stopped (ErrRunning otherwise). After an error the old data directory is what it was, or Inspect says that it is
// not whole.
func (s *Server) Clone(ctx context.Context, progress func(Progress)) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	defer release()
	if err := s.clone(ctx, reporter("clone", progress)); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	return nil
}

func (s *Server) clone(ctx context.Context, report func(string, uint64, uint64)) error {
	if _, err := s.MajorVersion(ctx); err != nil {
		return err
	}
	report("preparing", 0, 0)
	fresh, err := s.freshDataDir(ctx)
	if err != nil {
		return err
	}
	d, err := s.Inspect(ctx)
	if err != nil {
		return err
	}
	if err := s.makeRoom(d); err != nil {
		return err
	}
	if err := errors.Join(s.writeConfig(s.toolPassfile(), s.renderPassfile()), s.writeTLS()); err != nil {
		return err
	}
	s.log.Info("cloning", "from", s.cfg.Peer.Host, "port", s.cfg.Peer.Port)
	cmd := s.command(syscall.SIGKILL, "pg_basebackup", "-D", fresh, "-X", "stream", "--checkpoint=fast", "--progress", "--no-password",
		"-d", s.peerConninfo(cloneName, s.peerAddress(ctx)))
	report("waiting for the peer's checkpoint", 0, 0)
	copying, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	began := false
	err = s.tool(copying, cmd, func(line string) {
		done, total, ok := parseKilobytes(line)
		if !ok {
			return
		}
		if !began { // later it has room that the copy itself has taken
			began = true
			if err := s.roomFor(total-min(total, done), d); err != nil {
				giveUp(err)
			}
		}
		report("copying", done, max(done, total))
	})
	if err != nil {
		os.RemoveAll(fresh)
		if cause := context.Cause(copying); errors.Is(cause, ErrNoRoom) {
			return cause
		}
		return err
	}
	if d.Complete {
		s.keepWhatClonesReplace(ctx, d)
	}
	report("putting the copy in place", 0, 0)
	return s.replaceDataDir(ctx, fresh, "clone")
}

// cloneReserve is what a clone leaves free: WAL comes with the copy.
const cloneReserve = 64 << 20

// roomFor is ErrNoRoom if a copy of that size does not fit beside the old data directory.
func (s *Server) roomFor(size uint64, old DataState) error {
	free, _, err := s.space(filepath.Dir(s.cfg.DataDir))
	if err != nil {
		s.log.Warn("whether there is room for the copy is not known", "error", err)
		return nil
	}
	if need := size + cloneReserve; uint64(max(free, 0)) < need {
		text := fmt.Sprintf("the copy takes %d MiB, and %d MiB are free on the disk of %s: make room", need>>20, free>>20, s.cfg.DataDir)
		if old.Exists {
			text += ". The old data stay until the copy is whole; if this node's are of no use to anybody any more, remove them by hand: rm -r " + s.cfg.DataDir
		}
		return fmt.Errorf("%w: %s", ErrNoRoom, text)
	}
	return nil
}

// keepWhatClonesReplace keeps the WAL that only the old data directory has, if it can: after a forced promotion of the peer
// it may hold acknowledged writes. A clone is not given up for it.
func (s *Server) keepWhatClonesReplace(ctx context.Context, d DataState) {
	stream, err := s.peerStream(ctx)
	if err == nil {
		defer closeSession(stream)
		var peer peerState
		if peer, err = askPeer(ctx, stream); err == nil && peer.systemID == d.SystemID {
			err = s.keepDiverged(d, peer)
		}
	}
	if err != nil {
		s.log.Warn("the WAL of the replaced data directory is not kept", "err", err)
	}
}

// cloneName is the application_name of a running clone. It is not among the synchronous standbys.
const cloneName = "kineshim_clone"

// makeRoom removes a data directory that is of no use to anybody: one that a rewind or a clone has left half made.
func (s *Server) makeRoom(d DataState) error {
	if err := os.RemoveAll(s.cfg.DataDir + oldSuffix); err != nil {
		return err
	}
	var m dataMarker
	marked, err := readMarker(s.dataMarkerPath(), &m)
	if err != nil || !marked || m.Complete || !d.Exists {
		return err
	}
	return os.RemoveAll(s.cfg.DataDir)
}

var kilobytesPattern = regexp.MustCompile(`(\d+)/(\d+) kB`)

// parseKilobytes reads a progress line of pg_basebackup or pg_rewind: "12345/67890 kB (18%), …".
func parseKilobytes(line string) (doneBytes, totalBytes uint64, ok bool) {
	m := kilobytesPattern.FindStringSubmatch(line)
	if m == nil {
		return 0, 0, false
	}
	done, err1 := strconv.ParseUint(m[1], 10, 50)
	total, err2 := strconv.ParseUint(m[2], 10, 50)
	return done << 10, total << 10, err1 == nil && err2 == nil
}
