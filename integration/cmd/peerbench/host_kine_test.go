package main

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"kineshim/integration/pgtest"
)

// What kine is measured on would be worth nothing if its commits were not on the standby.
func TestCommitsWaitForTheStandby(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	dir, err := os.MkdirTemp("/tmp", "ks-pair-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := pgtest.StartPair(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	}()
	commit := func(within time.Duration, table string) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		conn, err := pgx.Connect(t.Context(), p.Primary.SuperDSN("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		_, err = conn.Exec(ctx, "CREATE TABLE "+table+"()")
		return err
	}
	if err := commit(10*time.Second, "a"); err != nil {
		t.Fatal(err)
	}
	p.Standby.Kill()
	if err := commit(300*time.Millisecond, "b"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a commit without the standby: %v", err)
	}
	if err := p.Standby.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := commit(20*time.Second, "c"); err != nil {
		t.Error(err)
	}
	var fsync string
	conn, err := pgx.Connect(t.Context(), p.Standby.SuperDSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), "SHOW fsync").Scan(&fsync); err != nil || fsync != "on" {
		t.Errorf("fsync of the standby: %q, %v", fsync, err)
	}
}
