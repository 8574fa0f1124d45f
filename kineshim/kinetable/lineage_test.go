package kinetable

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A history that has parted from another goes on ahead of it, with the same rows.
func TestForkIsLoadedAgain(t *testing.T) {
	for name, table := range map[string]string{"of today": "", "integers": oldKineTable} {
		t.Run(name, func(t *testing.T) {
			server, database := testDatabase(t)
			if table != "" {
				run(t, plainSession(t, server, database), table)
			}
			s := openStore(t, server, database)
			load(t, s)
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			check(s.SetLineage(t.Context(), 7))
			write(t, s, Batch{Rows: []Row{created(2), created(3)}, LeaseClock: time.Hour})
			rows, meta := load(t, s)
			const place = 1 << 37
			forked, err := s.Fork(t.Context(), meta, 8, place)
			check(err)
			want := meta
			want.Revision = place
			if table != "" {
				want.Revision = meta.Revision + oldTablesJump
			}
			want.LastID, want.Compacted = meta.LastID+want.Revision-meta.Revision, want.Revision
			if diff := cmp.Diff(want, forked); diff != "" || s.Lineage() != 8 {
				t.Errorf("lineage %d: %s", s.Lineage(), diff)
			}
			next := created(forked.LastID + 1)
			next.Revision = forked.Revision + 1
			for _, more := range []bool{false, true} {
				if more {
					write(t, s, Batch{Rows: []Row{next}, LeaseClock: time.Hour})
					want.LastID, want.Revision = next.ID, next.Revision
					rows = append(rows, LoadedRow{ID: next.ID, Revision: next.Revision, Key: next.Key, Created: true, Version: next.Version, Lease: next.Lease, TTL: next.TTL})
				}
				gotRows, got := load(t, s)
				if diff := cmp.Diff(want, got) + cmp.Diff(rows, gotRows); diff != "" {
					t.Errorf("more %v: %s", more, diff)
				}
			}
			check(s.Close())
			again := openStore(t, server, database)
			if _, got := load(t, again); again.Lineage() != 8 || got.LastID != next.ID {
				t.Errorf("opened again: lineage %d, %+v", again.Lineage(), got)
			}
			if table == "" {
				return
			}
			// Where the columns end, there is no more than a new number.
			last := created(again.shape.idMax - oldTablesJump)
			last.Revision = last.ID - (next.ID - next.Revision)
			_, meta = load(t, again)
			write(t, again, Batch{Rows: []Row{last}, LeaseClock: time.Hour})
			_, meta = load(t, again)
			forked, err = again.Fork(t.Context(), meta, 9, place)
			check(err)
			if diff := cmp.Diff(meta, forked); diff != "" || again.Lineage() != 9 {
				t.Errorf("lineage %d: %s", again.Lineage(), diff)
			}
		})
	}
}
