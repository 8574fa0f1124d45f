package kinetable

import (
	"slices"
	"testing"
)

func idsOf(rows []LoadedRow) (ids []int64) {
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	return ids
}

func findAttempt(t testing.TB, s *Store, after, attempt int64) []LoadedRow {
	t.Helper()
	rows, err := s.FindAttempt(t.Context(), after, attempt)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestAttemptIsFoundByItsRows(t *testing.T) {
	for name, table := range map[string]string{"of today": "", "integers": oldKineTable} {
		t.Run(name, func(t *testing.T) {
			server, database := testDatabase(t)
			if table != "" {
				run(t, plainSession(t, server, database), table)
			}
			s := openStore(t, server, database)
			load(t, s)
			const single, many, none = 1 << 62, 7, 8
			row := func(id, revision, attempt int64) Row {
				r := created(id)
				r.Revision, r.Attempt = revision, attempt
				return r
			}
			write(t, s, Batch{Rows: []Row{row(2, 2, single)}})
			write(t, s, Batch{Rows: []Row{row(3, 3, many), row(4, 3, many), row(5, 4, 0), row(6, 5, single+1)}})
			write(t, s, Batch{Rows: []Row{row(7, 6, 0)}})
			write(t, s, Batch{Rows: []Row{row(8, 7, 0), row(9, 8, 0)}})
			s = reopen(t, s, server, database)
			loaded, _ := load(t, s)
			for _, test := range []struct {
				after, attempt int64
				want           []int64
			}{
				{0, single, []int64{2}}, {1, single, []int64{2}}, {2, single, nil}, {0, many, []int64{3, 4}}, {3, many, []int64{4}}, {4, many, nil},
				{0, single + 1, []int64{6}}, {0, none, nil}, {0, 0, nil}, {1000, single, nil},
			} {
				rows := findAttempt(t, s, test.after, test.attempt)
				if got := idsOf(rows); !slices.Equal(got, test.want) {
					t.Errorf("attempt %d after %d: rows %v, not %v", test.attempt, test.after, got, test.want)
				}
				for _, r := range rows {
					if want := loaded[r.ID-2]; r != want {
						t.Errorf("%v, loaded as %v", r, want)
					}
				}
			}
			if n := one[int64](t, server.Admin(t, database), "SELECT count(*) FROM kine WHERE ks_attempt IS NOT NULL"); n != 4 {
				t.Errorf("%d rows have an attempt", n)
			}
			err := s.Replace(t.Context(), Meta{LastID: 20, Revision: 20}, func(yield func(Row) error) error { return yield(row(20, 20, many)) })
			if err != nil {
				t.Fatal(err)
			}
			if rows := findAttempt(t, s, 0, many); len(rows) > 0 {
				t.Errorf("%v after Replace", rows)
			}
		})
	}
}

// TestTableOfAnEarlierKineshimGetsAttempts: its rows, and what revisions they have, stay as they are.
func TestTableOfAnEarlierKineshimGetsAttempts(t *testing.T) {
	server, database := testDatabase(t)
	s := openStore(t, server, database)
	someRows(t, s) // with revisions that are not row IDs
	before, meta := load(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	admin := server.Admin(t, database)
	run(t, admin, "ALTER TABLE kine DROP COLUMN ks_attempt")
	lines := dump(t, admin)

	s = openStore(t, server, database)
	equal(t, "kine's columns", dump(t, admin), lines)
	after, afterMeta := load(t, s)
	expectEqual(t, "rows", after, before)
	expectEqual(t, "meta", afterMeta, meta)
	row := created(meta.LastID + 1)
	row.Revision, row.Attempt = meta.Revision+1, 9
	write(t, s, Batch{Rows: []Row{row}})
	if got := idsOf(findAttempt(t, s, 0, 9)); !slices.Equal(got, []int64{row.ID}) {
		t.Errorf("rows %v", got)
	}
	equal(t, "done by a kine while we serve", startKine(t, server, database).tryAll(t), nil)
	killWriter(t, s, admin)
	k := startKine(t, server, database)
	equal(t, "revision of kine's next create", k.create(t, "/next", "n"), row.ID+2) // it has made /registry/health
	k.stop()
	take(t, server, database).end(t, admin)
}
