package workload

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim.example/linearizability/history"
)

// fakeKV answers every call with what it is told to.
type fakeKV struct {
	pb.KVClient
	rng  *pb.RangeResponse
	put  *pb.PutResponse
	del  *pb.DeleteRangeResponse
	txn  *pb.TxnResponse
	sent *pb.TxnRequest
	err  error
}

func (f *fakeKV) Range(context.Context, *pb.RangeRequest, ...grpc.CallOption) (*pb.RangeResponse, error) {
	return f.rng, f.err
}

func (f *fakeKV) Put(context.Context, *pb.PutRequest, ...grpc.CallOption) (*pb.PutResponse, error) {
	return f.put, f.err
}

func (f *fakeKV) DeleteRange(context.Context, *pb.DeleteRangeRequest, ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return f.del, f.err
}

func (f *fakeKV) Txn(_ context.Context, r *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	f.sent = r
	return f.txn, f.err
}

var (
	header = &pb.ResponseHeader{Revision: 9}
	shown  = &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("v"), CreateRevision: 3, ModRevision: 5, Version: 2}
	state  = history.KV{Value: "v", Create: 3, Mod: 5, Version: 2}
)

func rangeAnswer(kvs ...*mvccpb.KeyValue) *pb.ResponseOp {
	return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{Kvs: kvs}}}
}

func putAnswer() *pb.ResponseOp {
	return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}}
}

func TestAnswersAreRead(t *testing.T) {
	other := *shown
	other.Key = []byte("b")
	for _, test := range []struct {
		name      string
		op        history.Op
		looks     bool
		kv        fakeKV
		succeeded bool
		deleted   int64
		seen      []history.KV
	}{
		{"get", history.Op{Kind: history.Get, Keys: []string{"a"}}, false, fakeKV{rng: &pb.RangeResponse{Header: header, Kvs: []*mvccpb.KeyValue{shown}}}, true, 0, []history.KV{state}},
		{"get of nothing", history.Op{Kind: history.Get, Keys: []string{"a"}}, false, fakeKV{rng: &pb.RangeResponse{Header: header}}, true, 0, []history.KV{{}}},
		{"put", history.Op{Kind: history.Put, Keys: []string{"a"}}, false, fakeKV{put: &pb.PutResponse{Header: header}}, true, 0, nil},
		{"put that shows", history.Op{Kind: history.Put, Keys: []string{"a"}}, true, fakeKV{put: &pb.PutResponse{Header: header, PrevKv: shown}}, true, 0, []history.KV{state}},
		{"put that shows nothing", history.Op{Kind: history.Put, Keys: []string{"a"}}, true, fakeKV{put: &pb.PutResponse{Header: header}}, true, 0, []history.KV{{}}},
		{"delete", history.Op{Kind: history.Delete, Keys: []string{"a"}}, true,
			fakeKV{del: &pb.DeleteRangeResponse{Header: header, Deleted: 1, PrevKvs: []*mvccpb.KeyValue{shown}}}, true, 1, []history.KV{state}},
		{"pair", history.Op{Kind: history.GetPair, Keys: []string{"a", "b"}}, false,
			fakeKV{txn: &pb.TxnResponse{Header: header, Succeeded: true, Responses: []*pb.ResponseOp{rangeAnswer(shown), rangeAnswer(&other)}}}, true, 0, []history.KV{state, state}},
		{"set", history.Op{Kind: history.Set, Keys: []string{"a"}}, true,
			fakeKV{txn: &pb.TxnResponse{Header: header, Succeeded: true, Responses: []*pb.ResponseOp{putAnswer()}}}, true, 0, nil},
		{"set refused", history.Op{Kind: history.Set, Keys: []string{"a"}}, true,
			fakeKV{txn: &pb.TxnResponse{Header: header, Responses: []*pb.ResponseOp{rangeAnswer()}}}, false, 0, []history.KV{{}}},
		{"set refused without a word", history.Op{Kind: history.Set, Keys: []string{"a"}}, false, fakeKV{txn: &pb.TxnResponse{Header: header}}, false, 0, nil},
	} {
		o := test.op
		if err := call(t.Context(), &test.kv, &o, test.looks); err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if o.Outcome != history.Done || o.Revision != 9 || o.Succeeded != test.succeeded || o.Deleted != test.deleted || o.Looked != (test.seen != nil) || len(o.Seen) != len(test.seen) {
			t.Errorf("%s: %v", test.name, &o)
			continue
		}
		for i := range o.Seen {
			if o.Seen[i] != test.seen[i] {
				t.Errorf("%s: saw %v", test.name, o.Seen)
			}
		}
	}
}

func TestMalformedAnswersAreErrors(t *testing.T) {
	other := *shown
	other.Key = []byte("b")
	for name, test := range map[string]struct {
		op history.Op
		kv fakeKV
	}{
		"another key":      {history.Op{Kind: history.Get, Keys: []string{"a"}}, fakeKV{rng: &pb.RangeResponse{Header: header, Kvs: []*mvccpb.KeyValue{&other}}}},
		"two keys":         {history.Op{Kind: history.Get, Keys: []string{"a"}}, fakeKV{rng: &pb.RangeResponse{Header: header, Kvs: []*mvccpb.KeyValue{shown, shown}}}},
		"unasked":          {history.Op{Kind: history.Put, Keys: []string{"a"}}, fakeKV{put: &pb.PutResponse{Header: header, PrevKv: shown}}},
		"too few answers":  {history.Op{Kind: history.GetPair, Keys: []string{"a", "b"}}, fakeKV{txn: &pb.TxnResponse{Header: header, Succeeded: true, Responses: []*pb.ResponseOp{rangeAnswer()}}}},
		"too many answers": {history.Op{Kind: history.Set, Keys: []string{"a"}}, fakeKV{txn: &pb.TxnResponse{Header: header, Responses: []*pb.ResponseOp{rangeAnswer()}}}},
	} {
		err := call(t.Context(), &test.kv, &test.op, false)
		if odd := (malformedError{}); !errors.As(err, &odd) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestComparisonsAreSentAsTheyAreModelled(t *testing.T) {
	for _, c := range []history.Compare{
		{Target: history.Mod, Number: 5}, {Target: history.Create, Number: 3}, {Target: history.Version, Number: 2}, {Target: history.Value, Value: "v"},
	} {
		o := history.Op{Kind: history.Set, Keys: []string{"a"}, Compare: c, Value: "w"}
		kv := &fakeKV{err: errors.New("none")}
		_ = call(t.Context(), kv, &o, true)
		sent := kv.sent.Compare[0]
		if sent.Result != pb.Compare_EQUAL || sent.GetModRevision()+sent.GetCreateRevision()+sent.GetVersion() != c.Number || string(sent.GetValue()) != c.Value ||
			sent.Target.String() != map[history.Target]string{history.Mod: "MOD", history.Create: "CREATE", history.Version: "VERSION", history.Value: "VALUE"}[c.Target] {
			t.Errorf("%v is sent as %v", c, sent)
		}
	}
}

func TestARequestOfUnknownOutcomeStaysOpen(t *testing.T) {
	rec := NewRecorder()
	kv := &fakeKV{err: status.Error(codes.DeadlineExceeded, "context deadline exceeded")}
	c := NewClient("c", Habits{Nodes: []string{"a"}, Timeout: 1e9}, rec, &Keys{Prefix: "/"}, map[string]pb.KVClient{"a": kv}, rand.New(rand.NewPCG(1, 2)))
	c.step(t.Context())
	c.step(t.Context())
	ops := rec.Ops()
	if ops[0].Outcome != history.Unknown || ops[0].Return != history.Forever || ops[0].Client == ops[1].Client {
		t.Errorf("%v, %v", &ops[0], &ops[1])
	}
	kv.err = status.Error(codes.Unavailable, "etcdserver: no leader: none")
	c.step(t.Context())
	c.step(t.Context())
	if ops = rec.Ops(); ops[2].Outcome != history.NotDone || ops[2].Return == history.Forever || ops[2].Client != ops[3].Client {
		t.Errorf("%v, %v", &ops[2], &ops[3])
	}
}

func TestAReadThatFailedSaysNothing(t *testing.T) {
	rec := NewRecorder()
	kv := &fakeKV{err: status.Error(codes.DeadlineExceeded, "context deadline exceeded")}
	c := NewClient("c", Habits{Nodes: []string{"a"}, Timeout: 1e9, Reads: 100}, rec, &Keys{Prefix: "/"}, map[string]pb.KVClient{"a": kv}, rand.New(rand.NewPCG(1, 2)))
	c.step(t.Context())
	if o := rec.Ops()[0]; o.Outcome != history.NotDone {
		t.Error(&o)
	}
}
