package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// damage is damaged.json: pages with a wrong checksum have been found in the data directory. PostgreSQL counts them, and forgets the count when it
// crashes; so it is written down, until a copy from the other node takes the data directory's place.
type damage struct {
	// Pages is how many failures had been counted when the first were noticed. One page may have been read several times.
	Pages int64     `json:"pages"`
	At    time.Time `json:"at"`
}

func (s *Server) damagePath() string { return s.statePath("damaged.json") }

// damageQuery asks for the checksum failures of all databases, and of what is shared by them, since the statistics began: in files that a session
// has read, or a clone.
const damageQuery = `SELECT to_json(coalesce(sum(checksum_failures), 0)) FROM pg_stat_database`

// CheckDamage returns how many checksum failures the running server has counted, and writes down that there were some; Inspect then says so. It works on
// primary and standby. It finds only what has been read.
func (s *Server) CheckDamage(ctx context.Context) (failures int64, err error) {
	err = s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		_, err := queryJSON(ctx, conn, damageQuery, &failures)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("check damage: %w", err)
	}
	if failures == 0 {
		return 0, nil
	}
	var known damage
	if there, err := readMarker(s.damagePath(), &known); there || err != nil {
		return failures, err
	}
	return failures, s.writeMarker(s.damagePath(), damage{failures, time.Now().UTC()})
}
