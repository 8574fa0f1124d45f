package native

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/integration/pgtest"
	"kineshim/kineshim"
)

// attempted runs a write in one engine, and then again in the next one on the same table.
type attempted struct {
	t    *testing.T
	e    *leaseEngine
	next int64
}

func newAttempted(t *testing.T) *attempted {
	return &attempted{t: t, e: startLeaseEngine(t, pgtest.New(t), "attempts")}
}

func (a *attempted) put(key, value string) int64 {
	a.t.Helper()
	r, err := a.e.Put(a.t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	if err != nil {
		a.t.Fatal(err)
	}
	return r.Header.Revision
}

// twice does a write, ends the engine, lets others write, and does it again as one whose outcome is not known.
func twice[R any](a *attempted, do func(ctx context.Context) (R, error)) (first, again R) {
	a.t.Helper()
	a.next++
	attempt := kineshim.Attempt{ID: a.next, After: a.e.committedID.Load()}
	first, err := do(kineshim.WithAttempt(a.t.Context(), attempt))
	if err != nil {
		a.t.Fatal(err)
	}
	a.put("other", "written later")
	a.e.reopen(a.t)
	before := a.e.committed()
	attempt.Again = true
	if again, err = do(kineshim.WithAttempt(a.t.Context(), attempt)); err != nil {
		a.t.Fatal(err)
	}
	if a.e.committed() != before {
		a.t.Error("it was done twice")
	}
	return first, again
}

func TestRepeatedWriteIsAnsweredAsTheFirstTime(t *testing.T) {
	a := newAttempted(t)
	revision := a.put("key", "old")
	put := func(value string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("key"), Value: []byte(value), PrevKv: true}}}
	}
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("key")}}}
	first, again := twice(a, func(ctx context.Context) (*pb.TxnResponse, error) {
		return a.e.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{{Target: pb.Compare_MOD, Key: []byte("key"), TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}},
			Success: []*pb.RequestOp{put("new")}, Failure: []*pb.RequestOp{get},
		})
	})
	ignore := cmpopts.IgnoreUnexported(pb.TxnResponse{})
	if diff := cmp.Diff(first, again, ignore); diff != "" || !again.Succeeded {
		t.Errorf("transaction: %v\n%s", again, diff)
	}
	byValue, valueAgain := twice(a, func(ctx context.Context) (*pb.TxnResponse, error) {
		return a.e.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{{Target: pb.Compare_VALUE, Key: []byte("key"), TargetUnion: &pb.Compare_Value{Value: []byte("nothing")}}},
			Success: []*pb.RequestOp{get}, Failure: []*pb.RequestOp{put("newer")},
		})
	})
	if diff := cmp.Diff(byValue, valueAgain, ignore); diff != "" || valueAgain.Succeeded {
		t.Errorf("transaction by value: %v\n%s", valueAgain, diff)
	}
	remove := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), PrevKv: true}}}
	}
	several, severalAgain := twice(a, func(ctx context.Context) (*pb.TxnResponse, error) {
		return a.e.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{remove("missing"), put("one of several"), remove("other"), remove("missing")}})
	})
	if diff := cmp.Diff(several, severalAgain, ignore); diff != "" {
		t.Errorf("transaction with several changes: %v\n%s", severalAgain, diff)
	}
	plain, plainAgain := twice(a, func(ctx context.Context) (*pb.PutResponse, error) {
		return a.e.Put(ctx, &pb.PutRequest{Key: []byte("key"), Value: []byte("newest"), PrevKv: true})
	})
	if diff := cmp.Diff(plain, plainAgain); diff != "" {
		t.Error(diff)
	}
	a.put("key2", "x")
	gone, goneAgain := twice(a, func(ctx context.Context) (*pb.DeleteRangeResponse, error) {
		return a.e.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), PrevKv: true})
	})
	if diff := cmp.Diff(gone, goneAgain); diff != "" || gone.Deleted != 2 {
		t.Error(diff)
	}
}

func TestWriteThatWasNotDoneIsDoneWhenItIsRepeated(t *testing.T) {
	a := newAttempted(t)
	a.put("key", "old")
	ctx := kineshim.WithAttempt(t.Context(), kineshim.Attempt{ID: 99, After: a.e.committedID.Load(), Again: true})
	a.put("key", "somebody else's")
	r, err := a.e.Put(ctx, &pb.PutRequest{Key: []byte("key"), Value: []byte("mine"), PrevKv: true})
	if err != nil || r.PrevKv == nil || string(r.PrevKv.Value) != "somebody else's" {
		t.Error(r, err)
	}
}

func TestCompactedOutcomeIsInDoubt(t *testing.T) {
	a := newAttempted(t)
	for name, c := range map[string]struct{ done bool }{"done": {true}, "not done": {false}} {
		t.Run(name, func(t *testing.T) {
			a.next++
			attempt := kineshim.Attempt{ID: a.next, After: a.e.committedID.Load()}
			write := func(ctx context.Context) error {
				_, err := a.e.Put(ctx, &pb.PutRequest{Key: []byte("key"), Value: []byte("x"), PrevKv: true})
				return err
			}
			if c.done {
				if err := write(kineshim.WithAttempt(t.Context(), attempt)); err != nil {
					t.Fatal(err)
				}
			}
			revision := a.put("key", "later")
			if _, err := a.e.Compact(t.Context(), &pb.CompactionRequest{Revision: revision, Physical: true}); err != nil {
				t.Fatal(err)
			}
			attempt.Again = true
			before := a.e.committed()
			err := write(kineshim.WithAttempt(t.Context(), attempt))
			if status.Code(err) != codes.Unavailable || kineshim.NotDone(err) || a.e.committed() != before {
				t.Errorf("%v, revision %d after %d", err, a.e.committed(), before)
			}
		})
	}
}
