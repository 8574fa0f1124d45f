package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

// sqlWithin bounds one statement.
const sqlWithin = time.Minute

// SQL runs a statement on the node's PostgreSQL, as the superuser that kineshim itself is, in kine's database; without waiting for the standby. The
// first column of the first row is returned as text, "" if there is none.
func (t *Trial) SQL(node, statement string, args ...any) (string, error) {
	ctx, cancel := context.WithTimeout(t.ctx, sqlWithin)
	defer cancel()
	b, err := os.ReadFile(filepath.Join(t.DataDir(node), "secrets.json"))
	if err != nil {
		return "", err
	}
	var secrets struct{ Superuser string }
	if err := json.Unmarshal(b, &secrets); err != nil {
		return "", err
	}
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=kineshim password=%s dbname=kubernetes sslmode=disable",
		filepath.Join(t.DataDir(node), "sock"), postgresPort, secrets.Superuser))
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "SET synchronous_commit = local"); err != nil {
		return "", err
	}
	rows, err := conn.Query(ctx, statement, args...)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	out := ""
	if rows.Next() && len(rows.FieldDescriptions()) > 0 {
		values, err := rows.Values()
		if err != nil {
			return "", err
		}
		out = fmt.Sprint(values[0])
	}
	rows.Close()
	return out, rows.Err()
}

// query is SQL for what must work.
func (t *Trial) query(node, statement string, args ...any) string {
	out, err := t.SQL(node, statement, args...)
	t.Must(err)
	return out
}
