package native

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"kineshim/kineshim"
	"kineshim/kineshim/kinetable"
	"kineshim/kineshim/mvcc"
	"kineshim/kineshim/snapshot"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// revisionJump is how far the revision jumps ahead of all that clients may have seen: as many writes as no cluster does in
	// the time by which a snapshot is old, and few enough for kine's old tables, which count to 2³¹ only. etcdutl snapshot
	// restore does the same with --bump-revision and --mark-compacted.
	revisionJump = 1_000_000
	// maxRestorable bounds the revisions of a snapshot: far above any that was counted to, far below where counting ends.
	maxRestorable = 1 << 60
	// quiesceBound is how long a restore waits until the writes under way are done.
	quiesceBound = 30 * time.Second
	// replaceBound ends the writing of a snapshot to the table.
	replaceBound = time.Hour
	// spoolBuffer is what is written to the spool file at once.
	spoolBuffer = 256 << 10
)

// errRestored is why an engine ends whose table has been replaced.
var errRestored = errors.New("a snapshot was restored: a new engine loads it")

// Restore puts a snapshot in place of all keys and leases; see kineshim.Restorer. The snapshot is verified to its end before
// anything else; then writes wait, the table is replaced in one transaction, and this engine fails, so that nobody is answered
// from what it had in memory. Nothing is known of revisions before the current one afterwards, as after a compaction: a watch
// that would go on from there is told so, and its client lists again.
func (e *Engine) Restore(ctx context.Context, r io.Reader, o kineshim.RestoreOptions) (kineshim.RestoreResult, error) {
	var none kineshim.RestoreResult
	if err := e.usable(); err != nil {
		return none, err
	}
	if err := e.mayReplace(o); err != nil {
		return none, err // before the upload
	}
	began := time.Now()
	s, err := newSpool(ctx, r, o.TempDir)
	if err != nil {
		return none, spoolError(ctx, err)
	}
	defer s.close()
	waitCtx, cancel := context.WithTimeout(ctx, quiesceBound)
	resume, err := e.quiesce(waitCtx)
	cancel()
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = kineshim.Unavailable("writes under way did not end in time; nothing has changed")
		}
		return none, err
	}
	defer resume()
	if err := e.mayReplace(o); err != nil {
		return none, err
	}
	p := s.plan(e.committed(), e.index.HeadID(), o.Bump)
	meta := kinetable.Meta{
		LastID: p.lastID, Revision: p.revision, Compacted: p.revision, LeaseClock: e.clock.now(),
		Leases: s.leaseRows(e.clock.now()),
	}
	// From here on the caller's end ends nothing: whether the commit came first could not be told.
	writeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), replaceBound)
	defer cancel()
	if err := e.store.Replace(writeCtx, meta, func(yield func(kinetable.Row) error) error { return s.rows(p, yield) }); err != nil {
		e.spoil(fmt.Errorf("a restore whose outcome is not known: %w", err))
		return none, status.Errorf(codes.Unavailable, "restore: %v; whether the old data or the snapshot's are there is not known: look, and repeat it", err)
	}
	e.spoil(errRestored)
	e.log.Warn("a snapshot was restored in place of all data", "keys", s.header.Keys, "leases", s.header.Leases, "snapshotRevision", s.header.Revision,
		"revision", p.revision, "cluster", s.header.ClusterID, "keysWithoutTheirLease", s.orphans, "took", time.Since(began).Round(time.Millisecond))
	return kineshim.RestoreResult{Keys: s.header.Keys, Revision: p.revision}, nil
}

// mayReplace refuses to throw keys away that nobody has said may go.
func (e *Engine) mayReplace(o kineshim.RestoreOptions) error {
	if o.Replace {
		return nil
	}
	if n := e.index.Count(mvcc.Span{Open: true}, e.committed()); n > 0 {
		return status.Errorf(codes.FailedPrecondition, "there are %d keys here already, which would be lost; nothing has changed", n)
	}
	return nil
}

// spool is a verified snapshot in a file that has no name any more.
type spool struct {
	file   *os.File
	header snapshot.Header
	leases []snapshot.Lease
	ttls   map[int64]int64 // of leases, by ID
	index  []spooled
	// orphans counts the keys whose lease the snapshot lacks.
	orphans int
}

// spooled is a row in the file. Rows stand there in key order.
type spooled struct {
	mod, offset int64
	length      int
}

// newSpool keeps a stream, reads it to its end, and accepts nothing but a whole snapshot.
func newSpool(ctx context.Context, r io.Reader, dir string) (*spool, error) {
	file, err := os.CreateTemp(dir, "kineshim-restore-*")
	if err != nil {
		return nil, fmt.Errorf("keep the snapshot: %w", err)
	}
	s := &spool{file: file, ttls: map[int64]int64{}}
	err = errors.Join(os.Remove(file.Name()), s.fill(ctx, r))
	if err != nil {
		s.close()
		return nil, err
	}
	// By revision; those of one revision by key, as they stand in the file.
	slices.SortFunc(s.index, func(a, b spooled) int { return cmp.Or(cmp.Compare(a.mod, b.mod), cmp.Compare(a.offset, b.offset)) })
	return s, nil
}

func (s *spool) close() { _ = s.file.Close() } // nothing of it is needed

func (s *spool) fill(ctx context.Context, r io.Reader) error {
	w := bufio.NewWriterSize(spoolFile{s.file}, spoolBuffer)
	in, err := snapshot.NewReader(io.TeeReader(r, w))
	if err != nil {
		return err
	}
	s.header = in.Header()
	if s.header.Revision > maxRestorable {
		return fmt.Errorf("%w: its revision is %d", snapshot.ErrDamaged, s.header.Revision)
	}
	for ctx.Err() == nil {
		rec, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return w.Flush()
		case err != nil:
			return err
		case rec.Lease != nil:
			s.leases = append(s.leases, *rec.Lease)
			s.ttls[rec.Lease.ID] = rec.Lease.TTL
		default:
			s.index = append(s.index, spooled{mod: rec.Row.Mod, offset: rec.Offset, length: rec.Length})
		}
	}
	return ctx.Err()
}

// spoolFile tells its errors from those of the stream.
type spoolFile struct{ *os.File }

// errSpool is in the errors of a spoolFile.
var errSpool = errors.New("keep the snapshot until it is verified")

func (f spoolFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", errSpool, err)
	}
	return n, err
}

// spoolError is what the caller reads of a snapshot that was not accepted.
func spoolError(ctx context.Context, err error) error {
	const unchanged = "; nothing has changed"
	for _, bad := range []error{snapshot.ErrForeign, snapshot.ErrNewer, snapshot.ErrTruncated, snapshot.ErrDamaged} {
		if errors.Is(err, bad) {
			return status.Error(codes.InvalidArgument, err.Error()+unchanged)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, ok := status.FromError(err); ok {
		return err // the stream's own
	}
	return status.Error(codes.Aborted, err.Error()+unchanged)
}

// leaseRows are the snapshot's leases with what they have left from now on, on the lease clock.
func (s *spool) leaseRows(now time.Duration) []kinetable.LeaseRow {
	rows := make([]kinetable.LeaseRow, 0, len(s.leases))
	for _, l := range s.leases {
		rows = append(rows, kinetable.LeaseRow{ID: l.ID, TTL: l.TTL, Expires: now + l.Remaining})
	}
	return rows
}

// plan is how rows and revisions are numbered.
type plan struct {
	// revision is the current revision afterwards, and the compacted one; lastID is its row ID.
	revision, lastID int64
	// offset is the ID of the first row less its revision. It grows by one with each further row of one revision, and never
	// shrinks: that is how the table tells our rows from those that plain kine adds.
	offset int64
}

// plan numbers the rows such that every ID is greater than lastID, the greatest of the table so far: what an engine that is about
// to end still deletes or completes by ID must meet none of them.
func (s *spool) plan(revision, lastID int64, bump bool) plan {
	p := plan{revision: s.header.Revision}
	if bump || revision >= p.revision {
		p.revision = max(revision, p.revision) + revisionJump
	}
	first := p.revision // if there are no rows: lastID must be a new one too
	if len(s.index) > 0 {
		first = s.index[0].mod
	}
	if first <= lastID {
		p.offset = lastID
	}
	grown := int64(0)
	for n := 1; n < len(s.index); n++ {
		if s.index[n].mod == s.index[n-1].mod {
			grown++
		}
	}
	p.lastID = p.revision + p.offset + grown
	return p
}

// rows yields the rows by ascending ID.
func (s *spool) rows(p plan, yield func(kinetable.Row) error) error {
	s.orphans = 0
	offset := p.offset
	for n, at := range s.index {
		if n > 0 && at.mod == s.index[n-1].mod {
			offset++
		}
		// A new one each time: the row's value is part of it, and yield may keep the row.
		buf := make([]byte, at.length)
		if _, err := s.file.ReadAt(buf, at.offset); err != nil {
			return fmt.Errorf("%w: %w", errSpool, err)
		}
		row, ok := snapshot.DecodeRow(buf)
		if !ok || row.Mod != at.mod {
			return fmt.Errorf("%w: the file has changed", errSpool)
		}
		if err := yield(s.row(row, at.mod+offset)); err != nil {
			return err
		}
	}
	return nil
}

// row is a snapshot's row as the table keeps it. The rows that it was made from are not there, as after a compaction. A lease
// that is not there would never expire: the key stays without it, as it would.
func (s *spool) row(r snapshot.Row, id int64) kinetable.Row {
	out := kinetable.Row{ID: id, Revision: r.Mod, Key: r.Key, Version: r.Version, Lease: r.Lease, Value: r.Value}
	if r.Create == r.Mod {
		out.Created = true
	} else {
		out.CreateRevision, out.CreateID = r.Create, r.Create
	}
	if r.Lease != 0 {
		ttl, ok := s.ttls[r.Lease]
		if !ok {
			out.Lease = 0
			s.orphans++
		}
		out.TTL = ttl
	}
	return out
}
