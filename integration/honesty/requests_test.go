package honesty

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// end is the end of the range of keys that begin with a prefix, whose last byte is not the greatest.
func end(prefix string) []byte {
	b := []byte(prefix)
	b[len(b)-1]++
	return b
}

func get(key string) *pb.RangeRequest { return &pb.RangeRequest{Key: []byte(key)} }

func list(prefix string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(prefix), RangeEnd: end(prefix)}
}

func put(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func putOp(p *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}}
}

func deleteOp(d *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}}
}

func txnOp(txn *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: txn}}
}

func modIs(key string, revision int64) *pb.Compare {
	return &pb.Compare{Key: []byte(key), Result: pb.Compare_EQUAL, Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}
}

// create, update and remove are the transactions that Kubernetes makes.
func create(key, value string) *pb.TxnRequest {
	return &pb.TxnRequest{Compare: []*pb.Compare{modIs(key, 0)}, Success: []*pb.RequestOp{putOp(put(key, value))}}
}

func update(key, value string, mod int64) *pb.TxnRequest {
	return &pb.TxnRequest{
		Compare: []*pb.Compare{modIs(key, mod)}, Success: []*pb.RequestOp{putOp(put(key, value))},
		Failure: []*pb.RequestOp{rangeOp(get(key))},
	}
}

func remove(key string, mod int64) *pb.TxnRequest {
	return &pb.TxnRequest{
		Compare: []*pb.Compare{modIs(key, mod)}, Success: []*pb.RequestOp{deleteOp(&pb.DeleteRangeRequest{Key: []byte(key)})},
		Failure: []*pb.RequestOp{rangeOp(get(key))},
	}
}

// version is a version as the engine says it: kine counts none.
func version(n int64) int64 {
	if kine() {
		return 0
	}
	return n
}

// same says whether two are equal in every field; nil is a key that is not there.
func same(a, b *mvccpb.KeyValue) bool {
	if a == nil || b == nil {
		return a == b
	}
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && a.ModRevision == b.ModRevision &&
		a.CreateRevision == b.CreateRevision && a.Version == b.Version && a.Lease == b.Lease
}

// sameKVs says where two lists differ.
func sameKVs(got, want []*mvccpb.KeyValue) error {
	for i := range min(len(got), len(want)) {
		if !same(got[i], want[i]) {
			return fmt.Errorf("number %d is %v, not %v", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d keys, not %d", len(got), len(want))
	}
	return nil
}

// upTo is a revision that is known.
func upTo(revision int64) func() int64 { return func() int64 { return revision } }

// follow collects events of a watch until it has said all that happened up to a revision; 0 means that it is not known yet.
func follow(ctx context.Context, c client, create *pb.WatchCreateRequest, until func() int64) ([]*mvccpb.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	stream, err := c.Watch(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return nil, err
	}
	asking := make(chan struct{})
	defer func() { cancel(); <-asking }()
	go func() {
		defer close(asking)
		request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
		for stream.Send(request) == nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(progressEvery):
			}
		}
	}()
	var events []*mvccpb.Event
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = errors.New("the stream has ended")
		}
		if err != nil {
			return events, fmt.Errorf("after %d events: %w", len(events), err)
		}
		if response.Canceled {
			return events, fmt.Errorf("canceled: %v", response)
		}
		events = append(events, response.Events...)
		reached := int64(0)
		if n := len(events); n > 0 {
			reached = events[n-1].Kv.ModRevision
		}
		if response.WatchId == -1 {
			reached = response.Header.Revision
		}
		if revision := until(); revision > 0 && reached >= revision {
			return events, nil
		}
	}
}

// progressEvery is how often a watch is asked how far it has come.
const progressEvery = 20 * time.Millisecond

// current is the revision now.
func current(t tester, c client) int64 {
	t.Helper()
	return must(t, c.Range, get("/no/such/key")).Header.Revision
}
