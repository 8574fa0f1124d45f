package postgres

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"kineshim/raftwitness/record"
)

const (
	// pollSolo is how often ConnectSolo and DisconnectSolo look at pg_stat_replication.
	pollSolo = 2 * time.Millisecond
	// leaveWithin is how long a walsender may take to see that its client has gone, before it is ended.
	leaveWithin = 200 * time.Millisecond
	// ackWithin bounds the sending of one acknowledgement to a server that does not read.
	ackWithin = 5 * time.Second
)

// solo is kineshim's own place among the synchronous standbys: as a replication client it acknowledges all WAL that the
// server has flushed. While it is connected, commits do not wait for the standby.
type solo struct {
	// mu guards acker, the present connection or the last one; nil before the first.
	mu    sync.Mutex
	acker *acker
}

// acker is one such connection.
type acker struct {
	conn net.Conn
	// done is closed when the goroutine that reads has ended, and with it the connection.
	done chan struct{}

	// mu guards acked and writing to conn.
	mu    sync.Mutex
	acked record.LSN
}

// ConnectSolo lets commits through without the standby: kineshim acknowledges them itself. It returns when it counts.
// Being connected already is fine. ErrNotPrimary on a standby.
func (s *Server) ConnectSolo(ctx context.Context) error {
	if s.SoloConnected() {
		return nil
	}
	err := s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		if err := mustBePrimary(ctx, conn); err != nil {
			return err
		}
		a, err := s.openAcker(ctx)
		if err != nil {
			return err
		}
		if err := a.awaitCounted(ctx, conn); err != nil {
			a.close()
			return err
		}
		s.solo.set(a)
		return nil
	})
	if err != nil {
		return fmt.Errorf("connect solo: %w", err)
	}
	s.log.Info("commits are acknowledged by kineshim itself")
	return nil
}

// DisconnectSolo ends it: from its return on, a commit waits for the standby, without any reload. It returns when the server
// has no such client any more. Not being connected, and a server that does not run, are fine.
func (s *Server) DisconnectSolo(ctx context.Context) error {
	was := s.SoloConnected()
	s.solo.close()
	if !s.Running() {
		return nil
	}
	began := time.Now()
	err := s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		var pids []int
		what := func() string { return fmt.Sprintf("walsenders %v stay", pids) }
		return poll(ctx, pollSolo, what, func() (bool, error) {
			pids = nil
			_, err := queryJSON(ctx, conn, `SELECT coalesce(json_agg(pid), '[]') FROM pg_stat_replication WHERE application_name = '`+SoloName+`'`, &pids)
			if err != nil || len(pids) == 0 {
				return err == nil, err
			}
			if time.Since(began) > leaveWithin {
				for _, pid := range pids {
					if err := terminateBackend(ctx, conn, pid, SoloName); err != nil {
						return false, err
					}
				}
			}
			return false, nil
		})
	})
	if err != nil {
		return fmt.Errorf("disconnect solo: %w", err)
	}
	if was {
		s.log.Info("commits are no longer acknowledged by kineshim itself")
	}
	return nil
}

// SoloConnected reports whether kineshim acknowledges commits itself.
func (s *Server) SoloConnected() bool {
	s.solo.mu.Lock()
	defer s.solo.mu.Unlock()
	return s.solo.acker != nil && !s.solo.acker.ended()
}

// SoloLost returns a channel that is closed when the connection that the last ConnectSolo made has ended, for whatever
// reason, DisconnectSolo included. Before the first ConnectSolo it returns nil, which blocks for ever in a select.
func (s *Server) SoloLost() <-chan struct{} {
	s.solo.mu.Lock()
	defer s.solo.mu.Unlock()
	if s.solo.acker == nil {
		return nil
	}
	return s.solo.acker.done
}

// set makes a the present connection, unless another ConnectSolo was faster.
func (o *solo) set(a *acker) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.acker != nil && !o.acker.ended() {
		a.close()
		return
	}
	o.acker = a
}

// close ends the connection and waits for its goroutine.
func (o *solo) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.acker != nil {
		o.acker.close()
	}
}

// soloSession opens a replication connection that does not stream yet.
func (s *Server) soloSession(ctx context.Context) (*pgconn.PgConn, error) {
	return connect(ctx, s.cfg.SocketDir, s.cfg.Port, ReplicationRole, s.cfg.Secrets.Replication, "", map[string]string{
		"application_name": SoloName,
		"replication":      "true",
	})
}

// openAcker starts streaming from where the WAL is flushed, and acknowledging.
func (s *Server) openAcker(ctx context.Context) (*acker, error) {
	c, err := s.current()
	if err != nil {
		return nil, err
	}
	if conn := c.ahead.take(ctx, forSolo); conn != nil {
		a, err := newAcker(ctx, conn)
		if err == nil {
			return a, nil
		}
		s.log.Debug("the connection that was opened before the promotion is of no use", "err", err)
	}
	conn, err := s.soloSession(ctx)
	if err != nil {
		return nil, err
	}
	return newAcker(ctx, conn)
}

// newAcker takes the connection over, whatever comes of it.
func newAcker(ctx context.Context, conn *pgconn.PgConn) (*acker, error) {
	at, err := whereabouts(ctx, conn) // it makes a connection from before a promotion see that the server is a primary
	if err == nil {
		err = startStreaming(ctx, conn, at.flushed, at.timeline)
	}
	if err != nil {
		closeSession(conn)
		return nil, err
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		closeSession(conn)
		return nil, err
	}
	a := &acker{conn: hijacked.Conn, done: make(chan struct{}), acked: at.flushed}
	go a.run(hijacked.Frontend)
	return a, nil
}

// startStreaming sends START_REPLICATION and waits for the server's consent.
func startStreaming(ctx context.Context, conn *pgconn.PgConn, from record.LSN, timeline uint32) error {
	conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION PHYSICAL %s TIMELINE %d", from, timeline)})
	if err := conn.Frontend().Flush(); err != nil {
		return err
	}
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(msg)
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return fmt.Errorf("start replication: unexpected %T", msg)
		}
	}
}
