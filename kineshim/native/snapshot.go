package native

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kineshim/kineshim/mvcc"
	"kineshim/kineshim/snapshot"
	"kineshim/version"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// blobBytes is how much of a snapshot one message carries. etcd's carry 32 KiB; clients take any size up to 4 MiB.
	blobBytes = 128 << 10
	// snapshotStall is how long a client may take for one message, and snapshotBound for all: as long as a snapshot is under way,
	// no row that it may need is deleted.
	snapshotStall = time.Minute
	snapshotBound = 2 * time.Hour
	// typicalRow is what a row is taken for before the first one has been seen, in bytes.
	typicalRow = 1 << 10
)

// identified is a Cluster that knows what the cluster is called.
type identified interface{ ClusterID() string }

// Snapshot sends all live keys and the leases, as they are at one revision, as a stream of package snapshot. It reads in small
// chunks and makes nobody wait but the compactor. RemainingBytes is an estimate until it is 0, which it is in the last message
// only.
func (e *Engine) Snapshot(_ *pb.SnapshotRequest, s pb.Maintenance_SnapshotServer) error {
	if err := e.usable(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.Context(), snapshotBound)
	defer cancel()
	held := newPatientHold(e.hold(), snapshotStall)
	defer held.end()
	began := time.Now()
	c, err := e.cut(ctx)
	if err != nil {
		return err
	}
	out := &blobs{revision: c.header.Revision, keys: c.header.Keys, send: s.Send, each: held.goOn}
	err = e.writeSnapshot(ctx, out, c)
	switch {
	case err == nil:
		if line := e.said.happened("snapshot"); line.Say {
			e.log.Info("a snapshot was sent", "revision", c.header.Revision, "keys", c.header.Keys, "bytes", out.sent, "took", time.Since(began).Round(time.Millisecond),
				"unsaid", line.Unsaid)
		}
		return nil
	case held.expired.Load():
		// Rows may be gone since then: what was read afterwards says nothing about the table.
		return errSlowClient
	case s.Context().Err() != nil:
		return s.Context().Err()
	case errors.Is(err, context.DeadlineExceeded):
		return errSlowClient
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return e.tableError(ctx, err)
}

var errSlowClient = status.Errorf(codes.Aborted, "etcdserver: the snapshot was given up: the client took longer than %v for a message, or than %v for all",
	snapshotStall, snapshotBound)

// cutting is what a snapshot holds besides its rows.
type cutting struct {
	header snapshot.Header
	leases []snapshot.Lease
}

// cut chooses the revision and takes the leases that live at it, in one turn. The caller holds the rows.
func (e *Engine) cut(ctx context.Context) (cutting, error) {
	c := cutting{header: snapshot.Header{Software: "kineshim " + version.Version, Taken: time.Now()}}
	if named, ok := e.cfg.Cluster.(identified); ok {
		c.header.ClusterID = named.ClusterID()
	}
	err := e.submit(ctx, func(t *turn) error {
		c.header.Revision, c.header.Compacted = t.revision(), e.seq.compacted
		for _, l := range e.leases.All() {
			if _, left, ok := e.leases.Get(l.ID); ok {
				c.leases = append(c.leases, snapshot.Lease{ID: l.ID, TTL: l.TTL, Remaining: min(max(left, 0), time.Duration(l.TTL)*time.Second)})
			}
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	slices.SortFunc(c.leases, func(a, b snapshot.Lease) int { return cmp.Compare(a.ID, b.ID) })
	c.header.Leases = int64(len(c.leases))
	c.header.Keys = e.index.Count(mvcc.Span{Open: true}, c.header.Revision)
	return c, nil
}

func (e *Engine) writeSnapshot(ctx context.Context, out *blobs, c cutting) error {
	w, err := snapshot.NewWriter(out, c.header)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	for _, l := range c.leases {
		if err := w.Lease(l); err != nil {
			return writing(err)
		}
	}
	all := func(mvcc.Item) bool { return true }
	err = e.stream(ctx, c.header.Revision, all, func(i mvcc.Item, value []byte) error {
		out.done++
		return writing(w.Row(snapshot.Row{Key: i.Key, Value: value, Create: i.Create, Mod: i.Mod, Version: i.Version, Lease: i.Lease}))
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return writing(err)
	}
	if err := e.usable(); err != nil {
		return err // before the checksum: what has been sent is worth nothing without it
	}
	return out.end()
}

// writing is an error of a snapshot.Writer: the client's stream's, or that this engine has contradicted itself.
func writing(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return status.Error(codes.Internal, "etcdserver: "+err.Error())
}

// blobs is an io.Writer that makes messages. It keeps the last one back, until it is known to be the last.
type blobs struct {
	revision   int64
	keys, done int64 // rows in all, and so far
	send       func(*pb.SnapshotResponse) error
	// each is called before each message; an error ends the stream.
	each func() error
	buf  []byte
	sent int64
}

func (b *blobs) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if len(b.buf) == blobBytes {
			if err := b.flush(max(b.remaining(), 1)); err != nil {
				return written, err
			}
		}
		if b.buf == nil {
			b.buf = make([]byte, 0, blobBytes) // a new one for each message: the one before may still be on its way
		}
		n := min(len(p), blobBytes-len(b.buf))
		b.buf = append(b.buf, p[:n]...)
		p = p[n:]
		written += n
	}
	return written, nil
}

// remaining estimates what will follow after the buffer, in bytes.
func (b *blobs) remaining() int64 {
	row := int64(typicalRow)
	if b.done > 0 {
		row = (b.sent + int64(len(b.buf))) / b.done
	}
	return (b.keys - b.done) * row
}

func (b *blobs) flush(remaining int64) error {
	if err := b.each(); err != nil {
		return err
	}
	m := &pb.SnapshotResponse{Header: &pb.ResponseHeader{Revision: b.revision}, RemainingBytes: uint64(remaining), Blob: b.buf, Version: storageVersion}
	b.sent += int64(len(b.buf))
	b.buf = nil
	return b.send(m)
}

func (b *blobs) end() error { return b.flush(0) }

// patientHold is a hold of rows that ends by itself when nothing moves for too long: a client that has stopped to read must not
// keep the compactor from its work, and cannot be told either.
type patientHold struct {
	patience time.Duration
	timer    *time.Timer
	once     sync.Once
	release  func()
	// expired is set before the rows are let go.
	expired atomic.Bool
}

func newPatientHold(release func(), patience time.Duration) *patientHold {
	h := &patientHold{patience: patience, release: release}
	h.timer = time.AfterFunc(patience, func() {
		h.expired.Store(true)
		h.once.Do(release)
	})
	return h
}

// goOn says that something has moved, or why that does not help any more.
func (h *patientHold) goOn() error {
	// If the timer fires now, the next call sees it, and no row that is gone is taken for one that was never there: see Snapshot.
	h.timer.Reset(h.patience)
	if h.expired.Load() {
		return errSlowClient
	}
	return nil
}

func (h *patientHold) end() {
	h.timer.Stop()
	h.once.Do(h.release)
}
