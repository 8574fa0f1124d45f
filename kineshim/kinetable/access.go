package kinetable

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// undefinedTable is PostgreSQL's code for a table that is not there.
const undefinedTable = "42P01"

// StoredAccess is what a Batch has stored of access control, for those who serve the table in another way than by a Store; nil: nothing, or the
// table is not ours.
func StoredAccess(ctx context.Context, dsn string) ([]byte, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("read access control: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var text *string // as JSON, since the column may not be there
	err = conn.QueryRow(ctx, "SELECT to_jsonb(s)->>'access' FROM kineshim_state s").Scan(&text)
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr) && pgErr.Code == undefinedTable, errors.Is(err, pgx.ErrNoRows), err == nil && text == nil:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read access control: %w", err)
	}
	b, err := hex.DecodeString(strings.TrimPrefix(*text, `\x`))
	if err != nil {
		return nil, fmt.Errorf("read access control: %w", err)
	}
	return b, nil
}
