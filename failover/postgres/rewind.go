package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"kineshim/raftwitness/record"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// pollPeerCheckpoint is how often Rewind asks the peer whether its pg_control names its timeline.
	pollPeerCheckpoint = 250 * time.Millisecond
	// peerCheckpointWithin bounds that wait: the peer starts a checkpoint a few seconds after its promotion.
	peerCheckpointWithin = 2 * time.Minute
)

// Rewind takes the data directory back to where the peer's history left it, so that it can follow the peer. PostgreSQL must
// be stopped (ErrRunning otherwise) and the data directory whole (ErrDataIncomplete). What only this node had is copied to
// StateDir/diverged first. The peer must be running.
//
// Everything that can be checked is checked before anything is changed: an error then leaves the data directory as it was. A server that was not stopped
// cleanly has to end its recovery first, which writes WAL of its own behind what is there, perhaps on a timeline that the peer goes on with: from then on, as
// once the real work has begun, an error or a cancelled ctx leaves it not to be used; Inspect and Start know that, and Clone repairs it.
func (s *Server) Rewind(ctx context.Context, progress func(Progress)) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	defer release()
	if err := s.rewind(ctx, reporter("rewind", progress)); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	return nil
}

func (s *Server) rewind(ctx context.Context, report func(string, uint64, uint64)) error {
	if s.Running() {
		return ErrRunning
	}
	if _, err := s.MajorVersion(ctx); err != nil {
		return err
	}
	if err := s.prepareDirs(); err != nil {
		return err
	}
	if err := s.removeLeftovers(ctx); err != nil {
		return err
	}
	d, err := s.Inspect(ctx)
	if err != nil {
		return err
	}
	if !d.Complete {
		return fmt.Errorf("%s: %w", d.Why, ErrDataIncomplete)
	}
	if err := s.writeConf(); err != nil {
		return err
	}
	report("asking the peer", 0, 0)
	peer, err := s.checkPeer(ctx, d)
	if err != nil {
		return err
	}
	if d.Timeline == peer.timeline { // what a standby has of it, it has from there
		s.log.Info("nothing to rewind: the data are on the peer's timeline", "timeline", d.Timeline)
		return nil
	}
	var common record.LSN
	if !d.rewindable() {
		common = d.Checkpoint
		report("recovery", 0, 0)
		if err := s.markData(false, "rewind", d.SystemID, false); err != nil {
			return err
		}
		if err := s.recoverAlone(ctx); err != nil {
			return err
		}
		systemID := d.SystemID
		if d, err = s.Inspect(ctx); err == nil && d.SystemID != systemID {
			err = fmt.Errorf("after its recovery: %s", d.Why)
		}
		if err != nil {
			return err
		}
	}
	return s.runRewind(ctx, d, peer, common, report)
}

// recoverAlone replays all WAL in a server without network, and stops it cleanly, with a checkpoint on the present timeline. pg_rewind could do that too,
// but not while standby.signal is there, and not with our configuration in version 14.
func (s *Server) recoverAlone(ctx context.Context) error {
	if err := removeDurably(filepath.Join(s.cfg.DataDir, "standby.signal")); err != nil {
		return err
	}
	if err := s.clearUpstream(); err != nil {
		return err
	}
	// The names of synchronous standbys would make a commit wait for ever; nothing commits here.
	cmd := s.command(syscall.SIGKILL, "postgres", "--single", "-D", s.cfg.DataDir,
		"-c", "config_file="+s.confPath(), "-c", "synchronous_standby_names=", "template1")
	return s.tool(ctx, cmd, nil)
}

// checkPeer makes sure that the peer is a copy of the same database, and waits until its pg_control names the timeline that
// it is on: pg_rewind before version 16 believes pg_control, which names the old one until the first checkpoint after a
// promotion, and would find nothing to do.
func (s *Server) checkPeer(ctx context.Context, d DataState) (peerState, error) {
	stream, err := s.peerStream(ctx)
	if err != nil {
		return peerState{}, err
	}
	defer closeSession(stream)
	peer, err := askPeer(ctx, stream)
	if err != nil {
		return peer, err
	}
	if peer.systemID != d.SystemID {
		return peer, fmt.Errorf("%w: %d there, %d here", ErrForeign, peer.systemID, d.SystemID)
	}
	conn, err := s.connectPeer(ctx, "postgres",
		map[string]string{"application_name": "kineshim_check", "search_path": "pg_catalog"})
	if err != nil {
		return peer, err
	}
	defer closeSession(conn)
	return peer, awaitPeerCheckpoint(ctx, conn)
}

func awaitPeerCheckpoint(ctx context.Context, conn *pgconn.PgConn) error {
	ctx, cancel := context.WithTimeout(ctx, peerCheckpointWithin)
	defer cancel()
	what := func() string { return "the peer has done no checkpoint since its promotion" }
	return poll(ctx, pollPeerCheckpoint, what, func() (bool, error) {
		now, err := currentTimeline(ctx, conn)
		if err != nil {
			return false, err
		}
		var control uint32
		_, err = queryJSON(ctx, conn, `SELECT to_json(timeline_id) FROM pg_control_checkpoint()`, &control)
		return control == now, err
	})
}

// rewindPlan is what pg_rewind says that it will do.
type rewindPlan struct {
	// common is the checkpoint that it goes back to; 0: it sees nothing to do.
	common record.LSN
}

var commonCheckpoint = regexp.MustCompile(`last common checkpoint at ([0-9A-F]+/[0-9A-F]+) on timeline`)

// read takes in a line of its output.
func (p *rewindPlan) read(line string) {
	if m := commonCheckpoint.FindStringSubmatch(line); m != nil {
		p.common, _ = record.ParseLSN(m[1]) // 0, which is refused, if it cannot be read
	}
}

// goesBackTo refuses a plan that keeps anything which the server has written by itself, in a recovery that began behind the checkpoint: if what it
// had ended before the peer's history left its own, pg_rewind takes that for the peer's too.
func (p rewindPlan) goesBackTo(checkpoint record.LSN) error {
	if p.common == 0 || p.common > checkpoint {
		return fmt.Errorf("pg_rewind would keep WAL that this server has written by itself (back to %s, not to %s): only a clone helps", p.common, checkpoint)
	}
	return nil
}

// runRewind runs pg_rewind twice: first dry, so that what is wrong is found while nothing has been touched. common, unless it is 0, is the
// checkpoint that it must go back to, or behind.
func (s *Server) runRewind(ctx context.Context, d DataState, peer peerState, common record.LSN, report func(string, uint64, uint64)) error {
	args := []string{"--target-pgdata=" + s.cfg.DataDir, "--no-ensure-shutdown", "--progress",
		"--source-server=" + s.peerConninfo("kineshim_rewind", s.peerAddress(ctx)) + " dbname=postgres"}
	var plan rewindPlan
	onLine := func(step string) func(string) {
		return func(line string) {
			plan.read(line)
			if done, total, ok := parseKilobytes(line); ok {
				report(step, done, total)
			}
		}
	}
	report("dry run", 0, 0)
	if err := s.tool(ctx, s.command(syscall.SIGKILL, "pg_rewind", append(args, "--dry-run")...), onLine("dry run")); err != nil {
		return err
	}
	if common != 0 {
		if err := plan.goesBackTo(common); err != nil {
			return err
		}
	}
	if err := s.keepDiverged(d, peer); err != nil {
		return err
	}
	if err := s.markData(false, "rewind", d.SystemID, false); err != nil {
		return err
	}
	if err := removeDurably(s.promotionMarkerPath()); err != nil {
		return err
	}
	s.log.Info("rewinding", "to", s.cfg.Peer.Host, "timeline", d.Timeline)
	report("rewinding", 0, 0)
	if err := s.tool(ctx, s.command(syscall.SIGKILL, "pg_rewind", args...), onLine("rewinding")); err != nil {
		return err
	}
	// Its configuration may be a copy of the peer's.
	if err := s.emptyAutoConf(); err != nil {
		return err
	}
	if err := os.RemoveAll(s.cfg.DataDir + newSuffix); err != nil {
		return err
	}
	return s.markData(true, "rewind", d.SystemID, true)
}
