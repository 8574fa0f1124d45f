package kinetable

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestReplaceIsLoadedAgain(t *testing.T) {
	big := []byte(strings.Repeat("x", 3<<19))
	rows := []Row{
		{ID: 2, Revision: 2, Key: compactKey, Created: true, Version: 1, Value: []byte("v1")},
		{ID: 4, Revision: 3, Key: "\xff", Created: true, Version: 1, Value: big, Lease: math.MinInt64, TTL: math.MaxInt64},
		{ID: 5, Revision: 3, Key: compactKey, CreateID: 2, CreateRevision: 2, PrevID: 2, Version: 2, Value: []byte("v2"), OldValue: []byte("v1")},
		{ID: 6, Revision: 4, Key: "\xff", CreateID: 4, CreateRevision: 3, PrevID: 4, Version: 2, OldValue: big},
		{ID: 7, Revision: 5, Key: compactKey, Deleted: true, PrevID: 5, OldValue: []byte("v2")},
	}
	want := []LoadedRow{
		{ID: 2, Revision: 2, Key: compactKey, Created: true, Version: 1},
		{ID: 4, Revision: 3, Key: "\xff", Created: true, Version: 1, Lease: math.MinInt64, TTL: math.MaxInt32},
		{ID: 5, Revision: 3, Key: compactKey, CreateRevision: 2, CreateID: 2, PrevID: 2, Version: 2},
		{ID: 6, Revision: 4, Key: "\xff", CreateRevision: 3, CreateID: 4, PrevID: 4, Version: 2},
		{ID: 7, Revision: 5, Key: compactKey, Deleted: true, PrevID: 5},
	}
	leases := []LeaseRow{{ID: 5, TTL: 60, Expires: time.Hour}}
	first := []Row{{ID: 1, Revision: 1, Key: "a", Created: true, Version: 1}}
	for _, test := range []struct {
		name string
		meta Meta
		rows []Row
		want []LoadedRow
		last int64 // if not meta's
	}{
		{"rows", Meta{LastID: 7, Revision: 5, Compacted: 3, LeaseClock: time.Minute, Leases: leases}, rows, want, 0},
		{"compacted to the last", Meta{LastID: 7, Revision: 5, Compacted: 5}, rows, want, 0},
		{"compacted before the first", Meta{LastID: 7, Revision: 5, Compacted: 1}, rows, want, 0},
		{"rows gone at the end", Meta{LastID: 12, Revision: 8, Compacted: 8}, rows, want, 0},
		{"not compacted to the end", Meta{LastID: 12, Revision: 8, Compacted: 3}, rows, want, 0},
		{"empty", Meta{LastID: 1, Revision: 1}, nil, nil, 0},
		{"all compacted", Meta{LastID: 9, Revision: 6, Compacted: 6}, nil, nil, 0},
		{"row 1 is a client's", Meta{LastID: 1, Revision: 1}, first, []LoadedRow{{ID: 1, Revision: 1, Key: "a", Created: true, Version: 1}}, 2},
	} {
		for _, table := range []string{"", oldKineTable} {
			if table != "" && test.name != "rows" {
				continue
			}
			t.Run(test.name, func(t *testing.T) {
				server, database := testDatabase(t)
				if table != "" {
					run(t, plainSession(t, server, database), table)
				}
				s := openStore(t, server, database)
				load(t, s)
				write(t, s, Batch{Rows: []Row{created(2), created(3)}, Leases: []LeaseRow{{ID: 99}}, LeaseClock: time.Hour})
				err := s.Replace(t.Context(), test.meta, func(yield func(Row) error) error {
					for _, row := range test.rows {
						if err := yield(row); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				meta := test.meta
				meta.LastID = max(meta.LastID, test.last)
				got, gotMeta := load(t, s)
				expectEqual(t, "rows", got, test.want)
				expectEqual(t, "meta", gotMeta, meta)
				next := meta.LastID + 1
				write(t, s, Batch{Rows: []Row{{ID: next, Revision: meta.Revision + 1, Key: "next", Created: true, Version: 1}}})
				s = reopen(t, s, server, database)
				_, gotMeta = load(t, s)
				meta.LastID, meta.Revision = meta.LastID+1, meta.Revision+1
				expectEqual(t, "meta after a write", gotMeta, meta)
				if len(test.rows) < 3 {
					return
				}
				if got := valuesOf(t, s, 2, 4, 5); got[4] != string(big) || got[2] != "v1" || got[5] != "v2" {
					t.Fatal("values are not what they were")
				}
				history, err := s.History(t.Context(), 4, 7, 10)
				if err != nil || string(history[0].OldValue) != "v1" || string(history[1].OldValue) != string(big) || string(history[2].OldValue) != "v2" {
					t.Fatalf("old values are not what they were: %v", err)
				}
			})
		}
	}
}

func TestReplaceThatFailsLeavesAllAsItWas(t *testing.T) {
	s := newStore(t)
	load(t, s)
	write(t, s, Batch{Rows: []Row{created(2)}})
	before, beforeMeta := load(t, s)
	own := errors.New("mine")
	meta := Meta{LastID: 5, Revision: 5}
	for name, rows := range map[string]func(yield func(Row) error) error{
		"own error": func(yield func(Row) error) error { return errors.Join(yield(created(3)), own) },
		"order":     func(yield func(Row) error) error { return errors.Join(yield(created(4)), yield(created(4))) },
		"beyond":    func(yield func(Row) error) error { return yield(created(6)) },
		"old value": func(yield func(Row) error) error {
			return yield(Row{ID: 5, Revision: 5, Key: "a", FetchOld: true, PrevID: 4})
		},
		"after an end": func(yield func(Row) error) error { _ = yield(created(5)); return yield(created(4)) },
	} {
		err := s.Replace(t.Context(), meta, rows)
		if err == nil || name == "own error" && !errors.Is(err, own) {
			t.Fatalf("%s: %v", name, err)
		}
		after, afterMeta := load(t, s)
		expectEqual(t, "rows", after, before)
		expectEqual(t, "meta", afterMeta, beforeMeta)
	}
	write(t, s, Batch{Rows: []Row{created(3)}})
}
