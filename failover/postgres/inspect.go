package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kineshim/raftwitness/record"
)

// inspectWithin bounds pg_controldata, which reads one small file.
const inspectWithin = 10 * time.Second

// DataState says what is on the disk, whether or not PostgreSQL runs.
type DataState struct {
	// Exists: there is a data directory with something in it.
	Exists bool
	// Complete: it is whole, and the one that was made here. Only then does Start accept it, and only then hold the fields
	// from SystemID on.
	Complete bool
	// What made it: "initdb", "clone", "rewind"; "" if nothing says so.
	What string
	// Why it is not complete, in words; "" if it is.
	Why string
	// SystemID is shared by all copies of one database.
	SystemID uint64
	// Timeline is the latest that pg_control knows. It may lag while PostgreSQL runs.
	Timeline uint32
	// CheckpointTimeline is that of the latest checkpoint: behind Timeline from a promotion until the next checkpoint.
	CheckpointTimeline uint32
	// ControlState is pg_controldata's "Database cluster state", such as "shut down in recovery".
	ControlState string
	// MinRecovery is how far a standby must replay before it is consistent; 0 for a primary.
	MinRecovery record.LSN
	// Checkpoint is the latest checkpoint's place. All WAL before it is in the data files.
	Checkpoint record.LSN
	// WALSegmentBytes is the size of a WAL file.
	WALSegmentBytes uint64
	Promotion       Promotion
	// Damaged: pages with a wrong checksum have been found since the data directory was made; see CheckDamage.
	Damaged bool
}

// rewindable reports whether pg_rewind accepts the data directory as it is. It must have been stopped cleanly; and before
// version 16, pg_rewind takes the checkpoint's timeline for the data directory's.
func (d DataState) rewindable() bool {
	clean := d.ControlState == "shut down" || d.ControlState == "shut down in recovery"
	return clean && d.CheckpointTimeline == d.Timeline
}

// Inspect reads the markers and pg_control. It works while PostgreSQL runs and while it does not. A data directory that is
// missing or damaged is not an error but a DataState that says so.
func (s *Server) Inspect(ctx context.Context) (DataState, error) {
	d, _, err := s.inspect(ctx)
	if err != nil {
		return DataState{}, fmt.Errorf("inspect: %w", err)
	}
	return d, nil
}

func (s *Server) inspect(ctx context.Context) (DataState, dataMarker, error) {
	var d DataState
	var m dataMarker
	marked, err := readMarker(s.dataMarkerPath(), &m)
	if err != nil {
		return d, m, err
	}
	if _, err := readMarker(s.promotionMarkerPath(), &d.Promotion); err != nil {
		return d, m, err
	}
	if d.Damaged, err = exists(s.damagePath()); err != nil {
		return d, m, err
	}
	if d.Exists, err = exists(s.cfg.DataDir); err != nil {
		return d, m, err
	}
	d.What = m.What
	switch {
	case !d.Exists:
		d.Why = "there is no data directory"
		return d, m, nil
	case !marked:
		d.Why = "nothing says that kineshim made this data directory"
	case !m.Complete:
		d.Why = "interrupted: " + m.What
	}
	controlErr := s.readControl(ctx, &d)
	switch {
	case controlErr != nil && ctx.Err() != nil:
		return d, m, controlErr
	case d.Why != "":
	case controlErr != nil:
		d.Why = controlErr.Error()
	case d.SystemID != m.SystemID:
		d.Why = fmt.Sprintf("the system identifier is %d, the data directory made here had %d", d.SystemID, m.SystemID)
	default:
		d.Complete = true
	}
	return d, m, nil
}

// readControl fills in what pg_controldata says. A running server may be writing pg_control just then; what looks damaged is
// looked at again.
func (s *Server) readControl(ctx context.Context, d *DataState) error {
	err := s.readControlOf(ctx, s.cfg.DataDir, d)
	for range 3 {
		if err == nil || ctx.Err() != nil || !s.Running() {
			break
		}
		err = s.readControlOf(ctx, s.cfg.DataDir, d)
	}
	return err
}

// readControlOf is readControl of any data directory.
func (s *Server) readControlOf(ctx context.Context, dir string, d *DataState) error {
	ctx, cancel := context.WithTimeout(ctx, inspectWithin)
	defer cancel()
	cmd := s.command(syscall.SIGKILL, "pg_controldata", "-D", dir)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := s.tool(ctx, cmd, nil); err != nil {
		return err
	}
	return d.parseControl(out.String())
}

// parseControl reads pg_controldata's output, in English and the same in versions 14 to 18.
func (d *DataState) parseControl(out string) error {
	fields := make(map[string]string)
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	// pg_controldata goes on with a warning when the checksum is wrong; nothing it prints is worth anything then.
	if strings.Contains(out, "WARNING: Calculated CRC checksum does not match") {
		return errors.New("pg_control is damaged: its checksum does not match")
	}
	var errs []error
	number := func(name string, bits int) uint64 {
		n, err := strconv.ParseUint(fields[name], 10, bits)
		if err != nil {
			errs = append(errs, fmt.Errorf("pg_controldata: %s: %w", name, err))
		}
		return n
	}
	lsn := func(name string) record.LSN {
		l, err := record.ParseLSN(fields[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("pg_controldata: %s: %w", name, err))
		}
		return l
	}
	d.SystemID = number("Database system identifier", 64)
	d.CheckpointTimeline = uint32(number("Latest checkpoint's TimeLineID", 32))
	d.Timeline = max(d.CheckpointTimeline, uint32(number("Min recovery ending loc's timeline", 32)))
	d.ControlState = fields["Database cluster state"]
	d.MinRecovery = lsn("Minimum recovery ending location")
	d.Checkpoint = lsn("Latest checkpoint location")
	d.WALSegmentBytes = number("Bytes per WAL segment", 32)
	return errors.Join(errs...)
}
