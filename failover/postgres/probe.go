package postgres

import (
	"context"
	"fmt"
)

// Probe proves that a primary accepts connections, writes, and reaches its disk: in a new session it commits one row,
// without waiting for the standby. It finds a frozen postmaster, a full disk and a read-only one, which a look at the port
// does not. The caller bounds it by ctx. ErrNotPrimary on a standby.
//
// It writes WAL that nobody has acknowledged: it must not be called any more once a switchover has begun.
func (s *Server) Probe(ctx context.Context) error {
	if err := s.probe(ctx); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}

func (s *Server) probe(ctx context.Context) error {
	conn, err := s.local(ctx, Database, "local")
	if err != nil {
		return err
	}
	defer closeSession(conn)
	if err := mustBePrimary(ctx, conn); err != nil {
		return err
	}
	r := conn.ExecParams(ctx, `UPDATE kineshim.probe SET n = n + 1`, nil, nil, nil, nil).Read()
	if r.Err == nil && r.CommandTag.RowsAffected() != 1 {
		return fmt.Errorf("table kineshim.probe has %d rows, not 1", r.CommandTag.RowsAffected())
	}
	return r.Err
}

// socketIsDead returns an error if some server answers at the socket: with the data directory's own processes gone, it
// would be another one's.
func (s *Server) socketIsDead() error {
	ctx, cancel := context.WithTimeout(context.Background(), connectWithin)
	defer cancel()
	conn, err := connect(ctx, s.cfg.SocketDir, s.cfg.Port, Superuser, s.cfg.Secrets.Superuser, "postgres", nil)
	if err == nil {
		closeSession(conn)
	}
	if err == nil || sqlState(err) != "" {
		return fmt.Errorf("another PostgreSQL listens at %s", s.SocketPath())
	}
	return nil
}
