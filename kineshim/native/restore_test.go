package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/snapshot"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"
)

// encode writes a snapshot at the revision.
func encode(t testing.TB, revision int64, leases []snapshot.Lease, rows ...snapshot.Row) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := snapshot.NewWriter(&b, snapshot.Header{ClusterID: "c", Taken: time.Now(), Revision: revision, Keys: int64(len(rows)), Leases: int64(len(leases))})
	for _, l := range leases {
		if err == nil {
			err = w.Lease(l)
		}
	}
	for _, r := range rows {
		if err == nil {
			err = w.Row(r)
		}
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestRestoredRowsAreNumberedAsTheTableNeedsIt: row IDs ascend, none has been used before, and the distance between IDs and
// revisions never shrinks, up to the revision at which the store goes on.
func TestRestoredRowsAreNumberedAsTheTableNeedsIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		revision := rapid.Int64Range(1, 50).Draw(t, "snapshot")
		mods := rapid.SliceOfN(rapid.Int64Range(1, revision), 0, 30).Draw(t, "mods")
		s := &spool{header: snapshot.Header{Revision: revision, Keys: int64(len(mods))}}
		slices.Sort(mods)
		for _, m := range mods {
			s.index = append(s.index, spooled{mod: m})
		}
		now := rapid.Int64Range(1, 60).Draw(t, "store")
		last := now + rapid.Int64Range(0, 20).Draw(t, "drift")
		bump := rapid.Bool().Draw(t, "bump")
		p := s.plan(now, last, bump)
		offset, largest := p.offset, last
		for n, m := range mods {
			if n > 0 && m == mods[n-1] {
				offset++
			}
			id := m + offset
			if id <= largest || id < m {
				t.Fatalf("row %d of revision %d has ID %d, after %d: %+v", n, m, id, largest, p)
			}
			largest = id
		}
		if p.lastID < largest || p.lastID-p.revision < offset || p.lastID <= last {
			t.Fatalf("goes on from %+v, the last row is %d with distance %d, the store was at %d", p, largest, offset, last)
		}
		switch {
		case bump || now >= revision:
			if p.revision != max(now, revision)+revisionJump {
				t.Fatalf("revision %d after %d and %d", p.revision, now, revision)
			}
		case p.revision != revision:
			t.Fatalf("revision %d, not the snapshot's %d", p.revision, revision)
		}
	})
}

// A store whose IDs have run ahead of its revisions to exactly where an empty snapshot's revision is.
func TestAnEmptySnapshotLeavesNoUsedID(t *testing.T) {
	s := &spool{header: snapshot.Header{Revision: 45}}
	if p := s.plan(34, 45, false); p.revision != 45 || p.lastID <= 45 {
		t.Errorf("%+v", p)
	}
}

// spoolOf is a snapshot as Restore keeps it.
func spoolOf(t *testing.T, b []byte) *spool {
	t.Helper()
	s, err := newSpool(t.Context(), bytes.NewReader(b), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func TestRestoredRowsAreTheSnapshots(t *testing.T) {
	s := spoolOf(t, encode(t, 20, []snapshot.Lease{{ID: 7, TTL: 60, Remaining: 30 * time.Second}},
		snapshot.Row{Key: "a", Value: []byte("1"), Create: 4, Mod: 9, Version: 3, Lease: 7},
		snapshot.Row{Key: "b", Create: 9, Mod: 9, Version: 1, Lease: 8}, // a lease that is not there
		snapshot.Row{Key: "c", Value: []byte("3"), Create: 2, Mod: 2, Version: 1}))
	p := s.plan(1, 1, false)
	var got []string
	err := s.rows(p, func(r kinetable.Row) error {
		got = append(got, fmt.Sprintf("%s=%s id %d rev %d created %v by %d/%d version %d lease %d ttl %d",
			r.Key, r.Value, r.ID, r.Revision, r.Created, r.CreateRevision, r.CreateID, r.Version, r.Lease, r.TTL))
		return nil
	})
	want := []string{
		"c=3 id 2 rev 2 created true by 0/0 version 1 lease 0 ttl 0",
		"a=1 id 9 rev 9 created false by 4/4 version 3 lease 7 ttl 60",
		"b= id 10 rev 9 created true by 0/0 version 1 lease 0 ttl 0",
	}
	if err != nil || !slices.Equal(got, want) || p.lastID != 21 || p.revision != 20 || s.orphans != 1 {
		t.Errorf("%v, %+v, %d orphans:\n%s", err, p, s.orphans, strings.Join(got, "\n"))
	}
	if l := s.leaseRows(time.Hour); len(l) != 1 || l[0] != (kinetable.LeaseRow{ID: 7, TTL: 60, Expires: time.Hour + 30*time.Second}) {
		t.Errorf("%+v", l)
	}
}

func TestOnlyAWholeSnapshotIsAccepted(t *testing.T) {
	whole := encode(t, 20, nil, snapshot.Row{Key: "a", Create: 9, Mod: 9, Version: 1})
	damaged := bytes.Clone(whole)
	damaged[130] ^= 4
	for name, c := range map[string]struct {
		r    io.Reader
		code codes.Code
		says string
	}{
		"cut short":       {bytes.NewReader(whole[:len(whole)-1]), codes.InvalidArgument, "cut short"},
		"damaged":         {bytes.NewReader(damaged), codes.InvalidArgument, "damaged"},
		"foreign":         {strings.NewReader(strings.Repeat("what", 30)), codes.InvalidArgument, "not a snapshot"},
		"out of range":    {bytes.NewReader(encode(t, maxRestorable+1, nil)), codes.InvalidArgument, "revision"},
		"the client left": {io.MultiReader(bytes.NewReader(whole[:200]), iotest.ErrReader(status.Error(codes.Canceled, "gone"))), codes.Canceled, "gone"},
		"a broken reader": {io.MultiReader(bytes.NewReader(whole[:200]), iotest.ErrReader(errors.New("broken"))), codes.Aborted, "nothing has changed"},
	} {
		_, err := newSpool(t.Context(), c.r, t.TempDir())
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if err := spoolError(t.Context(), err); status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newSpool(ctx, bytes.NewReader(whole), t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("ended before: %v", err)
	}
	if _, err := newSpool(t.Context(), bytes.NewReader(whole), "/nowhere"); err == nil || status.Code(spoolError(t.Context(), err)) != codes.Aborted {
		t.Errorf("nowhere to keep it: %v", err)
	}
}
