package kinetable

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
)

// keyIndex is the index's size, and how many other indexes are not valid.
func keyIndex(t *testing.T, s *Store) (size, invalid int64) {
	t.Helper()
	err := s.helpers.with(t.Context(), func(ctx context.Context, conn *pgx.Conn) error {
		if err := conn.QueryRow(ctx, keyIndexSQL).Scan(nil, nil, &size, nil, nil); err != nil {
			return err
		}
		return conn.QueryRow(ctx, "SELECT count(*) FROM pg_index WHERE indrelid = to_regclass('kine') AND NOT indisvalid").Scan(&invalid)
	})
	if err != nil {
		t.Fatal(err)
	}
	return size, invalid
}

func TestIndexIsRebuiltBesideTheWrites(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	load(t, s)
	const rows, keptOne = 200_000, 350 // about one in each page of the index
	batch := make([]Row, rows)
	var dead []int64
	for i := range batch {
		id := int64(i) + 2
		batch[i] = Row{ID: id, Revision: id, Key: fmt.Sprint(i), Created: true, Version: 1}
		if i%keptOne != 0 {
			dead = append(dead, id)
		}
	}
	write(t, s, Batch{Rows: batch})
	if err := s.Delete(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	if err := s.Vacuum(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, _ := keyIndex(t, s)
	if before < rows*10 {
		t.Fatalf("the index has %d bytes: VACUUM alone has made it small", before)
	}

	interrupt(t, s, server.DSN(database))
	if _, invalid := keyIndex(t, s); invalid != 1 {
		t.Fatalf("%d invalid indexes after an interrupted rebuild", invalid)
	}

	tidied := make(chan error, 1)
	go func() {
		tidied <- s.helpers.with(t.Context(), func(ctx context.Context, conn *pgx.Conn) error { return s.tidy(ctx, conn, 1<<20) })
	}()
	var err error
	id := int64(rows) + 1
	for done := false; !done; {
		id++
		write(t, s, Batch{Rows: []Row{{ID: id, Revision: id, Key: "beside", Created: true, Version: 1}}})
		select {
		case err = <-tidied:
			done = true
		default:
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	after, invalid := keyIndex(t, s)
	if after > before/5 || invalid != 0 {
		t.Errorf("%d bytes after %d, %d invalid indexes", after, before, invalid)
	}
	s = reopen(t, s, server, database)
	if loaded, _ := load(t, s); int64(len(loaded)) != id-1-int64(len(dead)) {
		t.Errorf("%d rows, not %d", len(loaded), id-1-int64(len(dead)))
	}
}

func TestSmallIndexIsLeftAlone(t *testing.T) {
	s := newStore(t)
	load(t, s)
	before := indexFile(t, s)
	if err := s.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := indexFile(t, s); after != before {
		t.Error("a small index was rebuilt")
	}
}

// indexFile changes with each rebuild.
func indexFile(t *testing.T, s *Store) (file uint32) {
	t.Helper()
	err := s.helpers.with(t.Context(), func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT relfilenode FROM pg_class WHERE relname = 'kine_pkey'").Scan(&file)
	})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// interrupt leaves what a rebuild leaves that dies half-way: it waits for a transaction that holds the table.
func interrupt(t *testing.T, s *Store, dsn string) {
	t.Helper()
	holder, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close(context.WithoutCancel(t.Context()))
	if _, err := holder.Exec(t.Context(), "BEGIN; LOCK TABLE kine IN ROW SHARE MODE; LOCK TABLE kine IN ROW EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	err = s.helpers.with(t.Context(), func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "SET statement_timeout = '2s'"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "REINDEX INDEX CONCURRENTLY kine_pkey")
		if err == nil {
			return fmt.Errorf("the rebuild was not interrupted")
		}
		_, err = conn.Exec(ctx, "SET statement_timeout = 0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
