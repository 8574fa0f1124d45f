package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"kineshim/raftwitness/record"
)

// streamWithin is how long the peer may take to send the first message of a trial stream.
const streamWithin = 3 * time.Second

// peerState is what the peer says about its history.
type peerState struct {
	systemID uint64
	timeline uint32
	// flushed is the end of WAL on a primary's disk.
	flushed record.LSN
	// forks lists the timelines before timeline.
	forks []ended
}

// endOf returns where the peer's history left the given timeline. A timeline that it is still on, or never was on, has
// no end.
func (p peerState) endOf(timeline uint32) (record.LSN, bool) {
	for _, f := range p.forks {
		if f.timeline == timeline {
			return f.end, true
		}
	}
	return 0, false
}

// CheckUpstream asks the peer, which must be a primary, whether this standby can follow it. It changes nothing and may be
// called before Follow or after it. nil means yes. ErrDiverged: this node holds WAL that the peer's history does not have.
// ErrWALRemoved: the peer no longer has what comes next. ErrForeign: it is another database. Any other error: the peer did
// not answer, nothing is known.
func (s *Server) CheckUpstream(ctx context.Context) error {
	if err := s.checkUpstream(ctx); err != nil {
		return fmt.Errorf("check upstream: %w", err)
	}
	return nil
}

func (s *Server) checkUpstream(ctx context.Context) error {
	o, err := s.Observe(ctx)
	if err != nil {
		return err
	}
	if !o.InRecovery {
		return ErrNotStandby
	}
	d, err := s.Inspect(ctx)
	if err != nil {
		return err
	}
	conn, err := s.peerStream(ctx)
	if err != nil {
		return err
	}
	defer closeSession(conn)
	peer, err := askPeer(ctx, conn)
	if err != nil {
		return err
	}
	have := max(o.ReceiveLSN, o.ReplayLSN)
	if err := fits(peer, d.SystemID, o.Timeline, have); err != nil {
		return err
	}
	if o.Timeline == peer.timeline && have == peer.flushed {
		return nil // nothing comes next yet, and a peer with nothing to send is silent for seconds
	}
	return tryStream(ctx, conn, o.Timeline, have, d.WALSegmentBytes)
}

// fits decides whether a standby with the given end of WAL is part of the peer's history.
func fits(peer peerState, systemID uint64, timeline uint32, have record.LSN) error {
	if peer.systemID != systemID {
		return fmt.Errorf("%w: %d there, %d here", ErrForeign, peer.systemID, systemID)
	}
	if timeline == peer.timeline {
		if have > peer.flushed {
			return fmt.Errorf("%w: timeline %d ends at %v there, at %v here", ErrDiverged, timeline, peer.flushed, have)
		}
		return nil
	}
	end, ok := peer.endOf(timeline)
	switch {
	case !ok:
		return fmt.Errorf("%w: timeline %d here is unknown to the peer, which is on %d", ErrDiverged, timeline, peer.timeline)
	case have > end:
		return fmt.Errorf("%w: the peer left timeline %d at %v, here it goes on to %v", ErrDiverged, timeline, end, have)
	}
	return nil
}

// peerStream opens a replication connection to the peer, which must be a primary.
func (s *Server) peerStream(ctx context.Context) (*pgconn.PgConn, error) {
	conn, err := s.connectPeer(ctx, "", map[string]string{
		"application_name": "kineshim_check",
		"replication":      "true",
	})
	if err != nil {
		return nil, err
	}
	if conn.ParameterStatus("in_hot_standby") != "off" {
		closeSession(conn)
		return nil, fmt.Errorf("the peer: %w", ErrNotPrimary)
	}
	return conn, nil
}

// askPeer asks for the peer's identity and history.
func askPeer(ctx context.Context, conn *pgconn.PgConn) (peerState, error) {
	p, err := whereabouts(ctx, conn)
	if err != nil || p.timeline == 1 {
		return p, err
	}
	row, err := oneRow(ctx, conn, fmt.Sprintf("TIMELINE_HISTORY %d", p.timeline), 2)
	if err != nil {
		return p, err
	}
	p.forks, err = parseHistory(row[1])
	return p, err
}

// whereabouts asks the server at the other end of a replication connection for all but its history.
func whereabouts(ctx context.Context, conn *pgconn.PgConn) (peerState, error) {
	row, err := oneRow(ctx, conn, "IDENTIFY_SYSTEM", 3)
	if err != nil {
		return peerState{}, err
	}
	id, err1 := strconv.ParseUint(string(row[0]), 10, 64)
	timeline, err2 := strconv.ParseUint(string(row[1]), 10, 32)
	flushed, err3 := record.ParseLSN(string(row[2]))
	if err := errors.Join(err1, err2, err3); err != nil {
		return peerState{}, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	return peerState{systemID: id, timeline: uint32(timeline), flushed: flushed}, nil
}

func oneRow(ctx context.Context, conn *pgconn.PgConn, command string, columns int) ([][]byte, error) {
	results, err := conn.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	if len(results) == 0 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < columns {
		return nil, fmt.Errorf("%s: unexpected answer", command)
	}
	return results[0].Rows[0], nil
}

// tryStream starts a stream where a walreceiver would, at the beginning of a WAL file, and looks at the first message: a peer
// that has removed that file says so only then.
func tryStream(ctx context.Context, conn *pgconn.PgConn, timeline uint32, have record.LSN, segmentBytes uint64) error {
	if segmentBytes == 0 {
		return errors.New("the size of WAL files is unknown")
	}
	ctx, cancel := context.WithTimeout(ctx, streamWithin)
	defer cancel()
	from := have - have%record.LSN(segmentBytes)
	err := startStreaming(ctx, conn, from, timeline)
	if err != nil {
		return walRemoved(err)
	}
	msg, err := conn.ReceiveMessage(ctx)
	if err != nil {
		return err
	}
	if e, ok := msg.(*pgproto3.ErrorResponse); ok {
		return walRemoved(pgconn.ErrorResponseToPgError(e))
	}
	return nil
}

// walRemoved makes ErrWALRemoved of the server's "requested WAL segment … has already been removed".
func walRemoved(err error) error {
	if sqlState(err) == "58P01" {
		return fmt.Errorf("%w: %w", ErrWALRemoved, err)
	}
	return err
}
