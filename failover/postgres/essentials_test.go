package postgres

import (
	"testing"
	"time"
)

func TestEssentialsOfAPrimaryAndItsStandby(t *testing.T) {
	ctx := testContext(t)
	a, b := pair(t, ctx)
	b.streams(ctx)
	open := a.session(ctx, Database)
	check(t, "begin", execute(ctx, open, `BEGIN; SELECT count(*) FROM pg_class`))
	first, err := a.Essentials(ctx)
	check(t, "the primary's", err)
	for _, c := range []struct {
		what string
		ok   bool
	}{
		{"sessions", first.Sessions >= 1 && first.Sessions < first.MaxSessions},
		{"the most sessions", first.MaxSessions >= 20},
		{"the databases' size", first.DatabaseBytes > 1<<20},
		{"the size of pg_wal", first.WALBytes >= 16<<20},
		{"the age of the oldest row", first.XIDAge > 0 && first.XIDAge < 1e6},
		{"the oldest transaction", first.OldestTransaction > 0 && first.OldestTransaction < time.Hour.Seconds()},
		{"the slot's WAL", first.SlotWALBytes >= 0},
		{"blocks", first.BlocksRead > 0 && first.BlocksHit > 0},
		{"checksum failures", first.ChecksumFailures == 0},
	} {
		if !c.ok {
			t.Errorf("%s: %+v", c.what, first)
		}
	}
	check(t, "commit", execute(ctx, open, `COMMIT`))
	eventually(t, ctx, "the commit is counted", func() bool {
		next, err := a.Essentials(ctx)
		return err == nil && next.Commits > first.Commits
	})
	standby, err := b.Essentials(ctx)
	check(t, "the standby's", err)
	if standby.SlotWALBytes != -1 || standby.DatabaseBytes < 1<<20 || standby.Sessions < 1 {
		t.Errorf("%+v", standby)
	}
}
