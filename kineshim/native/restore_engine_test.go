package native

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"kineshim/integration/pgtest"
	"kineshim/kineshim"
	"kineshim/kineshim/snapshot"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// backedUp is an engine on a database of its own, and the tests' way to ask it.
type backedUp struct {
	*Engine
	t       *testing.T
	session kineshim.Session
}

func openBackedUp(t *testing.T, pg *pgtest.Server, database string) *backedUp {
	t.Helper()
	if err := pg.CreateDatabase(database); err != nil {
		t.Fatal(err)
	}
	k := &backedUp{t: t, session: kineshim.Session{
		SocketDir: pg.Dir, Port: pgtest.Port, DSN: func(dir string) string { return pg.DSNAt(database, dir) },
	}}
	k.open()
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return k
}

func (k *backedUp) open() {
	k.t.Helper()
	e, err := Open(k.t.Context(), Config{Cluster: &fakeCluster{}}, k.session)
	if err != nil {
		k.t.Fatal(err)
	}
	k.Engine = e
}

// again closes the engine and opens another.
func (k *backedUp) again() {
	k.t.Helper()
	if err := k.Close(); err != nil {
		k.t.Fatal(err)
	}
	k.open()
}

func (k *backedUp) put(key, value string, lease int64) int64 {
	k.t.Helper()
	r, err := k.Put(k.t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease})
	if err != nil {
		k.t.Fatal(err)
	}
	return r.Header.Revision
}

func (k *backedUp) drop(key string) {
	k.t.Helper()
	if _, err := k.DeleteRange(k.t.Context(), &pb.DeleteRangeRequest{Key: []byte(key)}); err != nil {
		k.t.Fatal(err)
	}
}

// pair puts two keys in one revision.
func (k *backedUp) pair(a, b string) {
	k.t.Helper()
	op := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte("of a pair")}}}
	}
	if _, err := k.Txn(k.t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{op(a), op(b)}}); err != nil {
		k.t.Fatal(err)
	}
}

// all is every key at a revision, 0 for now.
func (k *backedUp) all(revision int64) []*mvccpb.KeyValue {
	k.t.Helper()
	r, err := k.Range(k.t.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision})
	if err != nil {
		k.t.Fatal(err)
	}
	return r.Kvs
}

func (k *backedUp) hash(revision int64) *pb.HashKVResponse {
	k.t.Helper()
	h, err := k.HashKV(k.t.Context(), &pb.HashKVRequest{Revision: revision})
	if err != nil {
		k.t.Fatal(err)
	}
	return h
}

// snapshotStream takes a snapshot in memory.
type snapshotStream struct {
	grpc.ServerStream
	ctx context.Context
	bytes.Buffer
}

func (s *snapshotStream) Context() context.Context { return s.ctx }
func (s *snapshotStream) Send(r *pb.SnapshotResponse) error {
	_, err := s.Write(r.Blob)
	return err
}

func (k *backedUp) save() []byte {
	k.t.Helper()
	s := &snapshotStream{ctx: k.t.Context()}
	if err := k.Snapshot(&pb.SnapshotRequest{}, s); err != nil {
		k.t.Fatal(err)
	}
	if s.Len()%512 != 32 {
		k.t.Fatalf("etcdctl snapshot save refuses %d bytes", s.Len())
	}
	return s.Bytes()
}

// restore restores and opens a new engine, as the endpoint does.
func (k *backedUp) restore(b []byte, o kineshim.RestoreOptions) kineshim.RestoreResult {
	k.t.Helper()
	o.TempDir = k.t.TempDir()
	r, err := k.Restore(k.t.Context(), bytes.NewReader(b), o)
	if err != nil {
		k.t.Fatal(err)
	}
	select {
	case <-k.Failed():
	default:
		k.t.Fatal("the engine goes on with what it had in memory")
	}
	if _, err := k.Put(k.t.Context(), &pb.PutRequest{Key: []byte("late")}); status.Code(err) != codes.Unavailable {
		k.t.Fatalf("a put on the engine that was replaced: %v", err)
	}
	k.again()
	return r
}

// same compares keys; an empty value is the same as none.
var same = cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreFields(mvccpb.KeyValue{}, "XXX_NoUnkeyedLiteral", "XXX_unrecognized", "XXX_sizecache")}

// write makes a small history: creations, updates, a deletion, a pair, a lease, odd keys, an empty value.
func write(k *backedUp) (lease int64) {
	k.t.Helper()
	granted, err := k.LeaseGrant(k.t.Context(), &pb.LeaseGrantRequest{TTL: 600})
	if err != nil {
		k.t.Fatal(err)
	}
	k.put("/registry/a", "1", 0)
	k.put("/registry/b", "1", granted.ID)
	k.put("/registry/a", "2", 0)
	k.put("gone", "x", 0)
	k.drop("gone")
	k.pair("one", "two")
	k.put("\xff\x00odd", "bytes", 0)
	k.put("compact_rev_key", "5", 0)
	k.put("compact_rev_key", "6", 0)
	k.put("empty", "", 0)
	k.pair("one", "three")
	return granted.ID
}

func TestBackupsOnPostgreSQL(t *testing.T) {
	pg := pgtest.New(t)
	for name, f := range map[string]func(*testing.T, *pgtest.Server){
		"into an empty store":           restoresIntoAnEmptyStore,
		"in place of other keys":        replacesKeys,
		"refused as long as it must be": refusesToRestore,
		"while others write":            savesOneRevision,
		"hash":                          hashesWhatCanBeRead,
		"maintenance":                   maintains,
		"after a forced promotion":      goesOnAheadWhenForced,
	} {
		t.Run(name, func(t *testing.T) { f(t, pg) })
	}
}

func restoresIntoAnEmptyStore(t *testing.T, pg *pgtest.Server) {
	from, to := openBackedUp(t, pg, "from"), openBackedUp(t, pg, "to")
	lease := write(from)
	want, b := from.all(0), from.save()
	at := from.committed()
	h, err := snapshot.Verify(bytes.NewReader(b))
	if err != nil || h.Revision != at || h.Keys != int64(len(want)) || h.Leases != 1 || h.ClusterID != "c-test" || h.Compacted != -1 {
		t.Fatalf("%+v, %v, want revision %d, %d keys", h, err, at, len(want))
	}

	// The lease clock of a store that has served for long.
	to.clock.mu.Lock()
	to.clock.value += time.Hour
	to.clock.mu.Unlock()
	r := to.restore(b, kineshim.RestoreOptions{})
	if r != (kineshim.RestoreResult{Keys: h.Keys, Revision: at}) || to.committed() != at || to.compacted() != at {
		t.Errorf("%+v, at %d, compacted %d", r, to.committed(), to.compacted())
	}
	if diff := cmp.Diff(want, to.all(0), same); diff != "" {
		t.Error(diff)
	}
	if a, b := from.hash(0), to.hash(0); a.Hash == b.Hash {
		t.Error("different histories, one hash") // the other one is compacted
	}
	if _, err := to.Range(t.Context(), &pb.RangeRequest{Key: []byte("one"), Revision: at - 1}); err != rpctypes.ErrGRPCCompacted {
		t.Errorf("a revision of which the snapshot knows nothing: %v", err)
	}
	ttl, err := to.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: lease, Keys: true})
	if err != nil || ttl.GrantedTTL != 600 || ttl.TTL < 590 || ttl.TTL > 600 || len(ttl.Keys) != 1 || string(ttl.Keys[0]) != "/registry/b" {
		t.Errorf("%v, %v", ttl, err)
	}
	// Life goes on, and another engine finds the same.
	for n := range 3 {
		if got := to.put("/registry/a", fmt.Sprint("again ", n), 0); got != at+int64(n)+1 {
			t.Errorf("revision %d after %d", got, at)
		}
	}
	want = to.all(0)
	to.again()
	if diff := cmp.Diff(want, to.all(0), same); diff != "" {
		t.Error(diff)
	}
	if kv := want[0]; to.committed() != at+3 || string(kv.Key) != "/registry/a" || kv.Version != 5 {
		t.Errorf("at %d: %v", to.committed(), kv)
	}
	// What was restored is saved as it was.
	to.restore(to.save(), kineshim.RestoreOptions{Replace: true})
	if diff := cmp.Diff(want, to.all(0), same); diff != "" {
		t.Error(diff)
	}
}

func replacesKeys(t *testing.T, pg *pgtest.Server) {
	k := openBackedUp(t, pg, "replace")
	write(k)
	want, b := k.all(0), k.save()
	k.put("/registry/later", "lost", 0)
	for range 20 {
		k.put("/registry/a", "lost", 0)
	}
	k.drop("one")
	at := k.committed()
	if _, err := k.Compact(t.Context(), &pb.CompactionRequest{Revision: at - 5}); err != nil {
		t.Fatal(err)
	}
	r := k.restore(b, kineshim.RestoreOptions{Replace: true})
	if r.Revision != at+revisionJump || k.committed() != r.Revision || k.compacted() != r.Revision {
		t.Errorf("%+v after %d, compacted %d", r, at, k.compacted())
	}
	if diff := cmp.Diff(want, k.all(0), same); diff != "" {
		t.Error(diff)
	}
	// What a client may have cached is no revision to go on from.
	for _, old := range []int64{1, at - 1, at, at + 1, r.Revision - 1} {
		if _, err := k.Range(t.Context(), &pb.RangeRequest{Key: []byte("one"), Revision: old}); err != rpctypes.ErrGRPCCompacted {
			t.Errorf("at %d: %v", old, err)
		}
	}
	if got := k.put("new", "1", 0); got != r.Revision+1 {
		t.Errorf("revision %d after %d", got, r.Revision)
	}
	k.pair("one", "two")
	want = k.all(0)
	k.again()
	if diff := cmp.Diff(want, k.all(0), same); diff != "" || k.committed() != r.Revision+2 {
		t.Errorf("at %d: %s", k.committed(), diff)
	}
	// Nothing but what is restored: no key, and no revision that could have been seen.
	at = k.committed()
	empty := encode(t, 3, nil)
	if r := k.restore(empty, kineshim.RestoreOptions{Replace: true}); r.Keys != 0 || r.Revision != at+revisionJump || len(k.all(0)) != 0 {
		t.Errorf("%+v", r)
	}
	if r := k.restore(encode(t, r.Revision*5, nil), kineshim.RestoreOptions{Bump: true}); r.Revision != k.committed() || r.Revision%5 != revisionJump%5 {
		t.Errorf("%+v", r)
	}
	k.put("and", "on", 0)
	k.again()
	if len(k.all(0)) != 1 {
		t.Error("lost")
	}
}

// After a forced promotion, clients may know more of the history than the table: what they know must not be taken for what comes now.
func goesOnAheadWhenForced(t *testing.T, pg *pgtest.Server) {
	k := openBackedUp(t, pg, "forced")
	write(k)
	k.put("one", "again", 0)
	want, at, lineage := k.all(0), k.committed(), k.lineage.Load()
	k.session.Forced, k.session.Epoch = true, 2
	k.again()
	begun := k.committed()
	if begun < 2*epochRevisions || begun >= 3*epochRevisions-epochRevisions/2 || k.compacted() != begun || k.lineage.Load() == lineage {
		t.Errorf("at %d, compacted %d, after %d; lineage %d after %d", k.committed(), k.compacted(), at, k.lineage.Load(), lineage)
	}
	if diff := cmp.Diff(want, k.all(0), same); diff != "" {
		t.Error(diff)
	}
	for _, lost := range []int64{at, at + 1, at + 50, at + 100*revisionJump} { // the other one may have gone on alone for long
		if _, err := k.Range(t.Context(), &pb.RangeRequest{Key: []byte("one"), Revision: lost}); err != rpctypes.ErrGRPCCompacted {
			t.Errorf("at %d: %v", lost, err)
		}
		w := &watcher{ctx: t.Context(), from: lost}
		go func() { _ = k.Watch(w) }() // until the test's end
		w.cancelled(t, k.compacted())
	}
	got, err := k.Txn(t.Context(), &pb.TxnRequest{Compare: []*pb.Compare{{
		Key: []byte("one"), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: at + 7},
	}}})
	if err != nil || got.Succeeded {
		t.Errorf("compared with what is lost: %v, %v", got, err)
	}
	if r := k.put("new", "1", 0); r != begun+1 {
		t.Errorf("revision %d", r)
	}
	want, now := k.all(0), k.committed()
	k.session.Forced, k.session.Epoch = false, 3
	k.again()
	if diff := cmp.Diff(want, k.all(0), same); diff != "" || k.committed() != now {
		t.Errorf("at %d, not %d: %s", k.committed(), now, diff)
	}
}

func refusesToRestore(t *testing.T, pg *pgtest.Server) {
	k := openBackedUp(t, pg, "refuse")
	k.put("mine", "1", 0)
	b := k.save()
	k.put("mine", "2", 0)
	try := func(b []byte, o kineshim.RestoreOptions) error {
		_, err := k.Restore(t.Context(), bytes.NewReader(b), o)
		return err
	}
	if err := try(b, kineshim.RestoreOptions{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("keys would be lost: %v", err)
	}
	if err := try(b[:len(b)-1], kineshim.RestoreOptions{Replace: true}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("cut short: %v", err)
	}
	if kvs := k.all(0); len(kvs) != 1 || string(kvs[0].Value) != "2" || k.put("mine", "3", 0) != 4 {
		t.Errorf("something has changed: %v", kvs)
	}
}

func savesOneRevision(t *testing.T, pg *pgtest.Server) {
	k := openBackedUp(t, pg, "busy")
	for n := range 400 {
		k.put(fmt.Sprintf("key-%03d", n), "0", 0)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writing sync.WaitGroup
	for w := range 4 {
		rnd := rand.New(rand.NewPCG(uint64(w), 1))
		writing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := []byte(fmt.Sprintf("key-%03d", rnd.IntN(500)))
				if rnd.IntN(4) == 0 {
					_, _ = k.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key})
				} else {
					_, _ = k.Put(ctx, &pb.PutRequest{Key: key, Value: fmt.Append(nil, n)})
				}
			}
		})
	}
	for range 4 {
		b := k.save()
		r, err := snapshot.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		want := k.all(r.Header().Revision)
		if int64(len(want)) != r.Header().Keys {
			t.Fatalf("%d keys at revision %d, saved %d", len(want), r.Header().Revision, r.Header().Keys)
		}
		for _, kv := range want {
			rec, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			got := &mvccpb.KeyValue{Key: []byte(rec.Row.Key), Value: rec.Row.Value, CreateRevision: rec.Row.Create, ModRevision: rec.Row.Mod,
				Version: rec.Row.Version, Lease: rec.Row.Lease}
			if diff := cmp.Diff(kv, got, same); diff != "" {
				t.Fatal(diff)
			}
		}
		if _, err := k.Compact(t.Context(), &pb.CompactionRequest{Revision: r.Header().Revision}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	writing.Wait()
}

func hashesWhatCanBeRead(t *testing.T, pg *pgtest.Server) {
	k, other := openBackedUp(t, pg, "hash"), openBackedUp(t, pg, "hash2")
	write2 := func(k *backedUp) {
		for n := range 150 {
			k.put(fmt.Sprintf("key-%02d", n%40), fmt.Sprint(n), 0)
		}
		k.drop("key-07")
		k.pair("a", "b")
		k.drop("a")
	}
	write2(k)
	other.put("x", "", 0) // other revisions, and with the same keys
	write2(other)
	if k.hash(0).Hash == other.hash(0).Hash {
		t.Error("different revisions, one hash")
	}
	at := k.committed()
	whole, middle := k.hash(0), k.hash(at-20)
	if whole.HashRevision != at || middle.HashRevision != at-20 || whole.CompactRevision != -1 || whole.Hash == middle.Hash {
		t.Errorf("%v, %v", whole, middle)
	}
	k.put("later", "1", 0)
	if again := k.hash(at); again.Hash != whole.Hash || again.Header.Revision != at+1 {
		t.Errorf("%v, then %v", whole, again)
	}
	k.again()
	if again := k.hash(at); again.Hash != whole.Hash {
		t.Errorf("%v, another engine says %v", whole, again)
	}
	// However far the rows of a compaction have been deleted.
	release := k.hold()
	if _, err := k.Compact(t.Context(), &pb.CompactionRequest{Revision: at - 30}); err != nil {
		t.Fatal(err)
	}
	before, short := k.hash(at), k.hash(at-30)
	rows := k.index.Revisions()
	if before.CompactRevision != at-30 || before.Hash == whole.Hash {
		t.Errorf("%v", before)
	}
	release()
	if err := k.compaction.wait(t.Context(), k.Engine, at-30); err != nil {
		t.Fatal(err)
	}
	if k.index.Revisions() >= rows {
		t.Fatal("the compaction has deleted nothing")
	}
	if after := k.hash(at); after.Hash != before.Hash {
		t.Errorf("%v, with fewer rows %v", before, after)
	}
	k.again()
	if again := k.hash(at); again.Hash != before.Hash || again.CompactRevision != at-30 {
		t.Errorf("%v, another engine says %v", before, again)
	}
	for revision, want := range map[int64]error{at - 31: rpctypes.ErrGRPCCompacted, 1: rpctypes.ErrGRPCCompacted, at + 2: rpctypes.ErrGRPCFutureRev} {
		if _, err := k.HashKV(t.Context(), &pb.HashKVRequest{Revision: revision}); err != want {
			t.Errorf("at %d: %v, want %v", revision, err, want)
		}
	}
	if short.Hash == before.Hash {
		t.Error("30 revisions more, one hash")
	}
	if h, err := k.Hash(t.Context(), &pb.HashRequest{}); err != nil || h.Hash != k.hash(0).Hash {
		t.Errorf("%v, %v", h, err)
	}
}

func maintains(t *testing.T, pg *pgtest.Server) {
	k := openBackedUp(t, pg, "maintain")
	k.put("a", "1", 0)
	s, err := k.Status(t.Context(), &pb.StatusRequest{})
	if err != nil || s.Version != etcdVersion || s.DbSize < 8192 || s.DbSizeInUse <= 0 || s.DbSizeInUse > s.DbSize || s.Leader != 1 || s.RaftIndex != 12 ||
		s.RaftAppliedIndex != 11 || s.RaftTerm != 5 || s.Header.Revision != 2 || len(s.Errors) != 0 || s.IsLearner {
		t.Errorf("%v, %v", s, err)
	}
	if _, err := k.Defragment(t.Context(), &pb.DefragmentRequest{}); err != nil {
		t.Error(err)
	}
	full := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: pb.AlarmType_NOSPACE}
	if r, err := k.Alarm(t.Context(), full); err != nil || len(r.Alarms) != 1 {
		t.Errorf("%v, %v", r, err)
	}
	put := &pb.PutRequest{Key: []byte("a"), Value: []byte("2")}
	if _, err := k.Put(t.Context(), put); err != rpctypes.ErrGRPCNoSpace {
		t.Errorf("put: %v", err)
	}
	if _, err := k.Txn(t.Context(), &pb.TxnRequest{Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}}}); err != rpctypes.ErrGRPCNoSpace {
		t.Errorf("transaction: %v", err)
	}
	if _, err := k.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 60}); err != rpctypes.ErrGRPCNoSpace {
		t.Errorf("grant: %v", err)
	}
	if s, err := k.Status(t.Context(), &pb.StatusRequest{}); err != nil || len(s.Errors) != 1 {
		t.Errorf("%v, %v", s, err)
	}
	k.drop("a") // deletions and compactions go on
	if _, err := k.Compact(t.Context(), &pb.CompactionRequest{Revision: 2}); err != nil {
		t.Error(err)
	}
	full.Action = pb.AlarmRequest_DEACTIVATE
	if r, err := k.Alarm(t.Context(), full); err != nil || len(r.Alarms) != 1 {
		t.Errorf("%v, %v", r, err)
	}
	k.put("a", "2", 0)
	if r, err := k.Alarm(t.Context(), &pb.AlarmRequest{}); err != nil || len(r.Alarms) != 0 {
		t.Errorf("%v, %v", r, err)
	}
}
