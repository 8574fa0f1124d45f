package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"kineshim/raftwitness/record"
)

const (
	// pollFreeze is how often Freeze looks for a walreceiver; each look is one cheap query, and the walreceiver goes within a millisecond.
	pollFreeze = time.Millisecond
	// reloadWithin is how long the reload may take to end the walreceiver before it is signalled itself.
	reloadWithin = 300 * time.Millisecond
	// freezeWithin bounds Freeze, whatever the caller's context.
	freezeWithin = 5 * time.Second
	// resolveWithin bounds the look-up of the peer's name.
	resolveWithin = 2 * time.Second
)

// Follow makes the standby receive WAL from the peer, now and whenever the connection comes back. It returns without
// waiting for the connection: Observation.WalReceiver tells. Calling it again is cheap; it looks the peer's name up anew.
func (s *Server) Follow(ctx context.Context) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	defer release()
	err = s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		if err := mustBeStandby(ctx, conn); err != nil {
			return err
		}
		if err := s.forgetUnfinishedPromotion(); err != nil {
			return err
		}
		if err := s.setUpstream(ctx); err != nil {
			return err
		}
		return s.reload(ctx, conn)
	})
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	return nil
}

// forgetUnfinishedPromotion removes a promotion marker that does not say which timeline it began: a later timeline may come
// from the peer from now on.
func (s *Server) forgetUnfinishedPromotion() error {
	var p Promotion
	if _, err := readMarker(s.promotionMarkerPath(), &p); err != nil {
		return err
	}
	if p.Epoch == 0 || p.Timeline != 0 {
		return nil
	}
	return removeDurably(s.promotionMarkerPath())
}

// setUpstream writes the peer into upstream.conf, and the password first.
func (s *Server) setUpstream(ctx context.Context) error {
	if err := s.writeConfig(s.upstreamPassfile(), s.renderPassfile()); err != nil {
		return err
	}
	return s.writeConfig(s.upstreamPath(), s.renderUpstream(s.peerAddress(ctx)))
}

// clearUpstream takes the password away first: a walreceiver that starts afterwards cannot connect.
func (s *Server) clearUpstream() error {
	if err := os.Remove(s.upstreamPassfile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.writeConfig(s.upstreamPath(), []byte(noUpstream))
}

// peerAddress looks the peer's name up, because a walreceiver that waits for the name service cannot be stopped. It returns
// "" if the peer is given by address, or the name cannot be found now.
func (s *Server) peerAddress(ctx context.Context) string {
	if _, err := netip.ParseAddr(s.cfg.Peer.Host); err == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, s.cfg.Peer.Host)
	if err != nil || len(addrs) == 0 {
		s.log.Warn("peer's name not found", "host", s.cfg.Peer.Host, "err", err)
		return ""
	}
	return preferred(addrs)
}

// preferred is where somebody listens who was told to at a name with these addresses: the first of IPv4, as net.Listen has it, or else the first.
func preferred(addrs []string) string {
	for _, a := range addrs {
		if ip, err := netip.ParseAddr(a); err == nil && ip.Is4() {
			return a
		}
	}
	return addrs[0]
}

// reload makes the server read its configuration again, with ALTER SYSTEM undone.
func (s *Server) reload(ctx context.Context, conn *pgconn.PgConn) error {
	if err := s.emptyAutoConf(); err != nil {
		return err
	}
	return execute(ctx, conn, `SELECT pg_reload_conf()`)
}

// Freeze ends replication for good and returns the position up to which WAL is on this disk: it does not move any more
// until Follow. ErrNotStandby if the server is not in recovery.
//
// The order matters. The walreceiver's password is taken away first, then its connection string by a reload, then it is
// awaited. The process that starts walreceivers may act once more on the old string; but as every walreceiver is visible
// before it reads the password, once none has been seen no later one can connect.
func (s *Server) Freeze(ctx context.Context) (record.LSN, error) {
	ctx, cancel := context.WithTimeout(ctx, freezeWithin)
	defer cancel()
	release, err := s.acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("freeze: %w", err)
	}
	defer release()
	c, err := s.current()
	if err != nil {
		return 0, fmt.Errorf("freeze: %w", err)
	}
	var at record.LSN
	err = s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		if err := mustBeStandby(ctx, conn); err != nil {
			return err
		}
		if err := s.clearUpstream(); err != nil {
			return err
		}
		if err := s.reload(ctx, conn); err != nil {
			return err
		}
		if err := s.awaitNoWalReceiver(ctx, conn, c, reloadWithin); err != nil {
			return err
		}
		at, err = s.lastWAL(ctx, conn)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("freeze: %w", err)
	}
	s.log.Info("replication frozen", "lsn", at)
	return at, nil
}

// awaitNoWalReceiver waits until no walreceiver process exists, and signals one that has not gone by itself after patience.
func (s *Server) awaitNoWalReceiver(ctx context.Context, conn *pgconn.PgConn, c *child, patience time.Duration) error {
	signalAt := time.Now().Add(patience)
	var pid int
	what := func() string { return fmt.Sprintf("walreceiver %d goes on", pid) }
	return poll(ctx, pollFreeze, what, func() (bool, error) {
		pid = 0
		_, err := queryJSON(ctx, conn, `SELECT to_json(pid) FROM pg_stat_activity WHERE backend_type = 'walreceiver'`, &pid)
		if err != nil || pid == 0 {
			return err == nil, err
		}
		if time.Now().After(signalAt) && parentOf(pid) == c.pid {
			s.log.Warn("ending a walreceiver", "pid", pid)
			signalAt = time.Now().Add(reloadWithin)
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return false, fmt.Errorf("signal walreceiver %d: %w", pid, err)
			}
			// One that is stopped reacts only after this.
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
				return false, fmt.Errorf("signal walreceiver %d: %w", pid, err)
			}
		}
		return false, nil
	})
}

// lastWAL returns the end of the WAL on this disk, of a standby without a walreceiver. What was received says so itself.
// A standby that has received nothing since it started knows only what it has replayed, and that is the end of its WAL only
// once it looks for more.
func (s *Server) lastWAL(ctx context.Context, conn *pgconn.PgConn) (record.LSN, error) {
	const query = `SELECT json_build_object(
		'received', pg_last_wal_receive_lsn(),
		'replayed', pg_last_wal_replay_lsn(),
		'waits', EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup'
			AND wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval')))`
	var at struct {
		Received, Replayed *record.LSN
		Waits              bool
	}
	what := func() string { return fmt.Sprintf("WAL is still being replayed, at %v", at.Replayed) }
	err := poll(ctx, pollFreeze, what, func() (bool, error) {
		at.Received, at.Replayed = nil, nil
		if _, err := queryJSON(ctx, conn, query, &at); err != nil {
			return false, err
		}
		return at.Received != nil && at.Replayed != nil || at.Replayed != nil && at.Waits, nil
	})
	if err != nil {
		return 0, err
	}
	if at.Received == nil {
		return *at.Replayed, nil
	}
	// A walreceiver begins at the start of a WAL file: until it has caught up, what it received lies behind.
	return max(*at.Received, *at.Replayed), nil
}

// mustBeStandby returns ErrNotStandby unless the server is in recovery.
func mustBeStandby(ctx context.Context, conn *pgconn.PgConn) error {
	var is bool
	if _, err := queryJSON(ctx, conn, `SELECT to_json(pg_is_in_recovery())`, &is); err != nil {
		return err
	}
	if !is {
		return ErrNotStandby
	}
	return nil
}

// mustBePrimary returns ErrNotPrimary if the server is in recovery.
func mustBePrimary(ctx context.Context, conn *pgconn.PgConn) error {
	switch err := mustBeStandby(ctx, conn); {
	case errors.Is(err, ErrNotStandby):
		return nil
	case err == nil:
		return ErrNotPrimary
	default:
		return err
	}
}
