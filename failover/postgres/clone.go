package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	if d, err = s.Inspect(ctx); err != nil { // what is left
		return err
	}
	if err := errors.Join(s.writeConfig(s.toolPassfile(), s.renderPassfile()), s.writeTLS()); err != nil {
		return err
	}
	s.log.Info("cloning", "from", s.cfg.Peer.Host, "port", s.cfg.Peer.Port)
	cmd := s.command(syscall.SIGKILL, "pg_basebackup", "-D", fresh, "-X", "stream", "--checkpoint=fast", "--progress", "--no-password",
		"-d", s.peerConninfo(cloneName, s.peerAddress(ctx)))
	report("waiting for the peer's checkpoint", 0, 0)
	dense := density(s.cfg.DataDir) // before, as the copy does not wait
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
			if err := s.roomFor(uint64(float64(total-min(total, done))*dense), d); err != nil {
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

// roomFor is ErrNoRoom if a copy that takes so much does not fit beside the old data directory. Without one it is tried: nothing can be removed for it.
func (s *Server) roomFor(size uint64, old DataState) error {
	if !old.Exists {
		return nil
	}
	free, _, err := s.space(filepath.Dir(s.cfg.DataDir))
	if err != nil {
		s.log.Warn("whether there is room for the copy is not known", "error", err)
		return nil
	}
	if need := size + cloneReserve; uint64(max(free, 0)) < need {
		return fmt.Errorf("%w: the copy takes %d MiB, and %d MiB are free on the disk of %s: make room. The old data stay until the copy is whole; "+
			"if this node's are of no use to anybody any more: systemctl stop kineshim, rm -r %s, systemctl start kineshim", ErrNoRoom, need>>20, free>>20, s.cfg.DataDir, s.cfg.DataDir)
	}
	return nil
}

// density is how much of the disk the files below the directory take, of what they say: less than 1 where the file system compresses, as it will a copy of them.
func density(dir string) float64 {
	var taken, sizes uint64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		taken += uint64(fi.Sys().(*syscall.Stat_t).Blocks) * 512
		sizes += uint64(fi.Size())
		return nil
	})
	if err != nil || sizes == 0 || taken > sizes {
		return 1
	}
	return float64(taken) / float64(sizes)
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
