package main

import (
	"errors"
	"log/slog"
	"testing"

	"kineshim/integration/pgtest"
	"kineshim/kineshim"
	"kineshim/kineshim/auth"
	"kineshim/kineshim/kinetable"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestKineDoesNotServeWhatNeedsPermission(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	pg := pgtest.New(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(pg.CreateDatabase("guarded"))
	access, err := auth.New().AddUser(&etcdserverpb.AuthUserAddRequest{Name: "root"}, nil)
	must(err)
	access, err = access.GrantRole("root", "root")
	must(err)
	access, err = access.Enable([]byte("key"))
	must(err)
	log := slog.New(slog.DiscardHandler)
	for _, c := range []struct {
		stored *auth.State
		want   error
	}{{access, errGuarded}, {access.Disable(), nil}} {
		wire, err := c.stored.Marshal()
		must(err)
		s, err := kinetable.Open(t.Context(), kinetable.Config{DSN: pg.DSN("guarded"), Log: log})
		must(err)
		_, err = s.Load(t.Context(), func(kinetable.LoadedRow) error { return nil })
		must(err)
		must(s.Write(kinetable.Batch{Access: wire}))
		must(s.Done())
		must(s.Close())
		e, err := kineEngine(t.Context(), kineshim.Session{
			Epoch: 1, Generation: 1, SocketDir: pg.Dir, Port: pgtest.Port, Log: log, DSN: func(dir string) string { return pg.DSNAt("guarded", dir) },
		})
		if !errors.Is(err, c.want) {
			t.Errorf("enabled: %v: %v", c.stored.Enabled(), err)
		}
		if err == nil {
			must(e.Close())
		}
	}
}
