package postgres

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"kineshim/raftwitness/record"
)

const (
	// strayWithin bounds the wait for a walreceiver that was started on what Freeze had taken away already; it heeds a signal in milliseconds.
	strayWithin = time.Second
	// pollPromotion is how often Promote asks whether the promotion is through; it takes 10 ms and more, and each question 0.2 ms.
	pollPromotion = 2 * time.Millisecond
	// checkpointAfter keeps the checkpoint after a promotion out of the way of the first writes.
	checkpointAfter = time.Second
)

// Promote makes the frozen standby a primary for the given epoch, on a new timeline, and returns that timeline and where it
// left its parent. All WAL on the disk is replayed first. ErrNotStandby if it is a primary already, ErrNotFrozen if it still
// receives. After any other error the promotion may have happened or may yet happen (ErrUnknownOutcome): Inspect and Observe
// tell, and StopImmediate makes an end of it.
func (s *Server) Promote(ctx context.Context, epoch uint64) (timeline uint32, switchLSN record.LSN, err error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("promote: %w", err)
	}
	defer release()
	c, err := s.current()
	if err != nil {
		return 0, 0, fmt.Errorf("promote: %w", err)
	}
	err = s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		timeline, switchLSN, err = s.promote(ctx, conn, c, epoch)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("promote: %w", err)
	}
	s.log.Info("promoted", "epoch", epoch, "timeline", timeline, "switchLSN", switchLSN)
	s.monitor.sawTimeline(timeline)
	c.goBackground(s.checkpointLater)
	return timeline, switchLSN, nil
}

func (s *Server) promote(ctx context.Context, conn *pgconn.PgConn, c *child, epoch uint64) (uint32, record.LSN, error) {
	if err := mustBeStandby(ctx, conn); err != nil {
		return 0, 0, err
	}
	if err := s.mustBeFrozen(ctx, conn, c); err != nil {
		return 0, 0, err
	}
	s.openAhead(c)
	var control uint32
	const query = `SELECT to_json(greatest(c.timeline_id, r.min_recovery_end_timeline)) FROM pg_control_checkpoint() c, pg_control_recovery() r`
	if _, err := queryJSON(ctx, conn, query, &control); err != nil {
		return 0, 0, err
	}
	marker := Promotion{Epoch: epoch, FromTimeline: s.monitor.sawTimeline(control)}
	if err := s.writeMarker(s.promotionMarkerPath(), marker); err != nil {
		return 0, 0, err
	}
	if err := execute(ctx, conn, `SELECT pg_promote(false)`); err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	if err := s.awaitPrimary(ctx, conn); err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	var err error
	if marker.Timeline, err = currentTimeline(ctx, conn); err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	if marker.Timeline <= marker.FromTimeline {
		return 0, 0, fmt.Errorf("%w: the timeline is %d after %d: it did not go up", ErrUnknownOutcome, marker.Timeline, marker.FromTimeline)
	}
	parent, at, err := s.readHistory(marker.Timeline)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	marker.FromTimeline, marker.SwitchLSN = parent, at
	if err := s.writeMarker(s.promotionMarkerPath(), marker); err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	return marker.Timeline, marker.SwitchLSN, nil
}

// mustBeFrozen returns ErrNotFrozen if the standby has an upstream or a walreceiver. It does not look at primary_conninfo: a
// session learns of a reload later than Freeze returns. So does the process that starts walreceivers: one more may have been started since. It has no
// password and receives nothing, but it can take long to find that out, of a peer that is silent; it is ended.
func (s *Server) mustBeFrozen(ctx context.Context, conn *pgconn.PgConn, c *child) error {
	if _, err := os.Stat(s.upstreamPassfile()); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(ErrNotFrozen, err)
	}
	ctx, cancel := context.WithTimeout(ctx, strayWithin)
	defer cancel()
	if err := s.awaitNoWalReceiver(ctx, conn, c, 0); err != nil {
		return fmt.Errorf("%w: %w", ErrNotFrozen, err)
	}
	return nil
}

// awaitPrimary waits for the end of recovery.
func (s *Server) awaitPrimary(ctx context.Context, conn *pgconn.PgConn) error {
	what := func() string { return "recovery has not ended" }
	return poll(ctx, pollPromotion, what, func() (bool, error) {
		err := mustBePrimary(ctx, conn)
		if errors.Is(err, ErrNotPrimary) {
			return false, nil
		}
		return err == nil, err
	})
}

// currentTimeline asks a primary for the timeline it writes. pg_control lags until the next checkpoint; the name of the
// present WAL file does not.
func currentTimeline(ctx context.Context, conn *pgconn.PgConn) (uint32, error) {
	var name string
	if _, err := queryJSON(ctx, conn, `SELECT to_json(pg_walfile_name(pg_current_wal_lsn()))`, &name); err != nil {
		return 0, err
	}
	return timelineOfFile(name)
}

// timelineOfFile reads the timeline from a WAL file's name, of which it is the first eight digits.
func timelineOfFile(name string) (uint32, error) {
	if len(name) < 8 {
		return 0, fmt.Errorf("WAL file name %q is too short", name)
	}
	n, err := strconv.ParseUint(name[:8], 16, 32)
	return uint32(n), err
}

// readHistory returns a timeline's parent and where it left it, from the last line of its history file.
func (s *Server) readHistory(timeline uint32) (parent uint32, at record.LSN, err error) {
	b, err := os.ReadFile(filepath.Join(s.cfg.DataDir, "pg_wal", fmt.Sprintf("%08X.history", timeline)))
	if err != nil {
		return 0, 0, err
	}
	forks, err := parseHistory(b)
	if err != nil {
		return 0, 0, err
	}
	if len(forks) == 0 {
		return 0, 0, fmt.Errorf("history of timeline %d is empty", timeline)
	}
	last := forks[len(forks)-1]
	return last.timeline, last.end, nil
}

// ended is a timeline and where its successor left it.
type ended struct {
	timeline uint32
	end      record.LSN
}

// parseHistory reads a timeline history file: lines of timeline, switch point and reason; # begins a comment.
func parseHistory(b []byte) ([]ended, error) {
	var forks []ended
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("timeline history line %q has no switch point", lines.Text())
		}
		timeline, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("timeline history: %w", err)
		}
		at, err := record.ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("timeline history: %w", err)
		}
		forks = append(forks, ended{uint32(timeline), at})
	}
	return forks, nil
}

// checkpointLater leaves a crowded segment and runs a checkpoint a while after a promotion, unless the postmaster ends first. Until then pg_control names
// the old timeline, and pg_rewind (before version 16) would find nothing to rewind on the other node. PostgreSQL's own
// checkpoint after a promotion takes minutes, by design.
func (s *Server) checkpointLater(ctx context.Context) {
	t := time.NewTimer(checkpointAfter)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return
	}
	err := s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		return errors.Join(s.leaveCrowdedSegment(ctx, conn), execute(ctx, conn, `CHECKPOINT`))
	})
	if err != nil && ctx.Err() == nil {
		s.log.Warn("checkpoint after promotion", "err", err)
	}
}
