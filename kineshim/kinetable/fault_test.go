package kinetable

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"kineshim/integration/pgtest"
)

// ownServer is a server that a test may kill, with a database.
func ownServer(t testing.TB, settings ...string) (*pgtest.Server, string) {
	t.Helper()
	server := pgtest.New(t, settings...)
	if err := server.CreateDatabase("own"); err != nil {
		t.Fatal(err)
	}
	return server, "own"
}

func created(id int64) Row {
	return Row{ID: id, Revision: id, Key: fmt.Sprint("/key", id), Created: true, Version: 1, Value: []byte("value")}
}

func expectFailed(t testing.TB, s *Store) {
	t.Helper()
	select {
	case <-s.Failed():
	case <-time.After(patience):
		t.Fatal("Failed is not closed")
	}
	if s.Why() == nil {
		t.Fatal("no reason")
	}
}

// TestServerKilledInFlight: no batch is reported as committed that is not there, and those in flight are all reported
// as failed.
func TestServerKilledInFlight(t *testing.T) {
	server, database := ownServer(t, "fsync=on")
	for range 2 {
		s := openStore(t, server, database)
		_, meta := load(t, s)
		acknowledged := make(chan int64, 1)
		go func() {
			last := meta.LastID
			for s.Done() == nil {
				last++
			}
			for range 3 {
				if s.Done() == nil {
					last = -1
				}
			}
			acknowledged <- last
		}()
		killed := make(chan struct{})
		time.AfterFunc(time.Duration(20+rand.IntN(60))*time.Millisecond, func() {
			server.Kill()
			close(killed)
		})
		id := meta.LastID
		for s.Write(Batch{Rows: []Row{created(id + 1)}}) == nil {
			id++
		}
		expectFailed(t, s)
		last := <-acknowledged
		if last < 0 {
			t.Fatal("Done has no error after an error")
		}
		if !errors.Is(s.Why(), ErrInDoubt) {
			t.Fatalf("%v", s.Why())
		}
		if err := s.Values(t.Context(), []int64{1}, nil); err == nil {
			t.Fatal("a failed store reads")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		<-killed
		if err := server.Resume(); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, server, database)
		rows, meta := load(t, s)
		if meta.LastID < last || meta.LastID > id+1 || int64(len(rows)) != meta.LastID-1 {
			t.Fatalf("acknowledged up to %d, sent up to %d: there are %d rows up to %d", last, id, len(rows), meta.LastID)
		}
		t.Logf("acknowledged %d, there %d, sent %d", last, meta.LastID, id)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoBatchIsCommittedWithoutThoseBefore: PostgreSQL goes on with the batches behind one that fails.
func TestNoBatchIsCommittedWithoutThoseBefore(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	load(t, s)
	admin := server.Admin(t, database)
	run(t, admin, "ALTER TABLE kine ADD CHECK (name <> '/key5')") // stands for a full disk
	for id := int64(2); id <= 9; id++ {
		batch := Batch{Rows: []Row{created(id)}}
		switch id {
		case 6:
			batch = Batch{Leases: []LeaseRow{{ID: 1}}}
		case 7:
			batch.Rows = append(batch.Rows, created(100))
		}
		if s.Write(batch) != nil {
			break // it may have been noticed
		}
	}
	for id := 2; id <= 4; id++ {
		if err := s.Done(); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		if err := s.Done(); err == nil || !strings.Contains(err.Error(), "check constraint") {
			t.Fatalf("%v", err)
		}
	}
	expectFailed(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	run(t, admin, "ALTER TABLE kine DROP CONSTRAINT kine_name_check")
	s = openStore(t, server, database)
	rows, meta := load(t, s)
	if len(rows) != 3 || meta.LastID != 4 || len(meta.Leases) != 0 {
		t.Fatalf("%+v, %+v", rows, meta)
	}
}

// TestCommitThatDidNotWaitForTheStandbyIsInDoubt: it is committed on the primary, and PostgreSQL only warns.
func TestCommitThatDidNotWaitForTheStandbyIsInDoubt(t *testing.T) {
	server, database := ownServer(t)
	for _, end := range []string{"pg_cancel_backend", "pg_terminate_backend"} {
		s := openStore(t, server, database)
		load(t, s)
		write(t, s, Batch{Leases: []LeaseRow{{ID: 1}}})
		admin := server.Admin(t, database)
		run(t, admin, "SET synchronous_commit = off")
		require := func(standby string) {
			run(t, admin, "ALTER SYSTEM SET synchronous_standby_names = '"+standby+"'")
			run(t, admin, "SELECT pg_reload_conf()")
			run(t, admin, "CHECKPOINT") // the checkpointer is who tells the sessions
			eventually(t, "the setting", func() bool { return one[string](t, admin, "SHOW synchronous_standby_names") == standby })
		}
		require("nobody")
		awaitGating(t, server, database, admin)
		for id := int64(1000); id <= 1001; id++ {
			row := created(id)
			row.Key += end
			if err := s.Write(Batch{Rows: []Row{row}}); err != nil {
				t.Fatal(err)
			}
		}
		waits := func() bool {
			return one[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == 1
		}
		eventually(t, "the commit waits", waits)
		run(t, admin, "SELECT "+end+"(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
		if err := s.Done(); !errors.Is(err, ErrInDoubt) || !strings.Contains(err.Error(), "synchronous replication") {
			t.Fatalf("%v", err)
		}
		if err := s.Done(); err == nil {
			t.Fatal("the next batch is reported as committed")
		}
		expectFailed(t, s)
		require("")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		run(t, admin, "DELETE FROM kineshim_lease")
		eventually(t, "the session has ended", func() bool {
			return one[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kineshim_engine'") == 0
		})
		run(t, admin, "DELETE FROM kine WHERE id >= 1000")
	}
}

// awaitGating returns when commits wait for a standby: the checkpointer, which tells the sessions, may hear of the setting after everybody
// else. Each try is a commit of its own, which is ended if it waits.
func awaitGating(t *testing.T, server *pgtest.Server, database string, admin *pgx.Conn) {
	t.Helper()
	probe := server.Admin(t, database)
	pid := probe.PgConn().PID()
	run(t, probe, "SET synchronous_commit = on")
	eventually(t, "commits wait", func() bool {
		ended := make(chan error, 1)
		go func() {
			_, err := probe.Exec(context.WithoutCancel(t.Context()), "UPDATE kineshim_state SET lease_clock_ms = lease_clock_ms")
			ended <- err
		}()
		waited := false
		for {
			select {
			case err := <-ended:
				if err != nil {
					t.Fatal(err)
				}
				return waited
			case <-time.After(time.Millisecond):
			}
			if one[int](t, admin, fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid = %d", pid)) == 1 {
				waited = true
				run(t, admin, fmt.Sprintf("SELECT pg_cancel_backend(%d)", pid))
			}
		}
	})
}

func TestCloseDoesNotHangWhenPostgreSQLHangs(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	s.closeBound = 500 * time.Millisecond
	load(t, s)
	write(t, s, Batch{Rows: []Row{created(2)}})
	if err := s.Delete(t.Context(), []int64{77}); err != nil {
		t.Fatal(err)
	}
	pids := one[[]int](t, server.Admin(t, database), `SELECT array_agg(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'kineshim_engine'`)
	if len(pids) != 3 { // writes, reads, deletes
		t.Fatalf("sessions %v", pids)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer syscall.Kill(pid, syscall.SIGCONT) // the test's own PostgreSQL's
	}
	ended := make(chan error, 3)
	go func() { ended <- s.Values(context.Background(), []int64{2}, nil) }()
	go func() { ended <- s.Delete(context.Background(), []int64{2}) }()
	if err := s.Write(Batch{Rows: []Row{created(3)}}); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- s.Done() }()
	begin := time.Now()
	err := s.Close()
	if took := time.Since(begin); took > s.closeBound+time.Second || err == nil {
		t.Fatalf("%v after %v", err, took)
	}
	for range 3 {
		select {
		case err := <-ended:
			if err == nil {
				t.Fatal("a call has succeeded")
			}
		case <-time.After(patience):
			t.Fatal("a call does not end")
		}
	}
}

// TestLostIdleConnectionIsNoticed: nobody waits in Done.
func TestLostIdleConnectionIsNoticed(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	run(t, server.Admin(t, database), "SELECT pg_terminate_backend($1)", s.pipeline.pid)
	expectFailed(t, s)
	if err := s.Write(Batch{}); err == nil {
		t.Fatal("a failed store writes")
	}
	if err := s.Done(); err == nil {
		t.Fatal("a failed store has committed")
	}
}

// TestReadIsCompleteOrAnError: its session is ended in the middle, many times.
func TestReadIsCompleteOrAnError(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	load(t, s)
	const n, tries = 5000, 30
	rows, ids := make([]Row, n), make([]int64, n)
	for i := range rows {
		rows[i] = created(int64(i) + 2)
		rows[i].Value = make([]byte, 400)
		ids[i] = rows[i].ID
	}
	write(t, s, Batch{Rows: rows})
	admin := server.Admin(t, database)
	hit := 0
	for i := range tries {
		seen := 0
		step := func() error {
			if seen == i*n/tries {
				run(t, admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kineshim_engine' AND datname = $1 AND pid <> $2",
					database, s.pipeline.pid)
			}
			seen++
			return nil
		}
		var err error
		if i%2 == 0 {
			err = s.Values(t.Context(), ids, func(int64, []byte) error { return step() })
		} else {
			_, err = s.Load(t.Context(), func(LoadedRow) error { return step() })
		}
		if err == nil && seen != n {
			t.Fatalf("try %d: %d of %d without an error", i, seen, n)
		}
		if err != nil {
			hit++
		}
		eventually(t, "reads go on", func() bool { // a signal may be under way
			history, err := s.History(t.Context(), 0, n+1, 10)
			return err == nil && len(history) == 10
		})
	}
	t.Logf("%d of %d reads were hit", hit, tries)
	if hit == 0 || s.Why() != nil {
		t.Fatalf("%d hit, the store: %v", hit, s.Why())
	}
}

func TestCopyIsReadInAnyPieces(t *testing.T) {
	var w wire
	w.buf = append(w.buf, copySignature+"\x00\x00\x00\x00\x00\x00\x00\x00"...)
	for range 3 {
		w.int16(3)
		w.text("one")
		w.null()
		w.text("")
	}
	w.int16(-1)
	read := func(pieces int) (rows []string, c *copyReader, err error) {
		c = &copyReader{columns: 3, row: func(f [][]byte) error {
			rows = append(rows, fmt.Sprintf("%q", f))
			return nil
		}}
		for b := w.buf; len(b) > 0 && err == nil; b = b[min(pieces, len(b)):] {
			_, err = c.Write(b[:min(pieces, len(b))])
		}
		return rows, c, err
	}
	for pieces := 1; pieces <= len(w.buf); pieces++ {
		rows, c, err := read(pieces)
		if err != nil || !c.done || c.rows != 3 || len(rows) != 3 || rows[2] != `["one" "" ""]` {
			t.Fatalf("in pieces of %d: %v, %v, %v", pieces, rows, c.done, err)
		}
	}
	w.buf = w.buf[:len(w.buf)-2]
	if _, c, err := read(7); err != nil || c.done {
		t.Fatalf("cut off: %v, %v", c.done, err)
	}
	w.buf = append(w.buf, "\xff\xff\x00"...)
	if _, c, err := read(len(w.buf)); err == nil && c.done {
		t.Fatal("something comes after the end")
	}
}
