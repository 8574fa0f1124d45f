package workload

import (
	"bytes"
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"kineshim.example/linearizability/history"
)

// malformedError is an answer that no server may give. Whatever else is in it is not looked at.
type malformedError struct{ what string }

func (e malformedError) Error() string { return "malformed answer: " + e.what }

// call makes the request at a node and fills in its answer. looks asks a write to show the state before it, or why its comparison failed.
func call(ctx context.Context, kv pb.KVClient, o *history.Op, looks bool) error {
	key := []byte(o.Keys[0])
	switch o.Kind {
	case history.Get, history.GetStale, history.GetAt:
		resp, err := kv.Range(ctx, &pb.RangeRequest{Key: key, Serializable: o.Kind == history.GetStale, Revision: o.At})
		if err == nil {
			answered(o, resp.Header, true)
			err = saw(o, true, key, resp.Kvs...)
		}
		return err
	case history.Put:
		resp, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: []byte(o.Value), PrevKv: looks})
		if err == nil {
			answered(o, resp.Header, true)
			err = saw(o, looks, key, resp.PrevKv)
		}
		return err
	case history.Delete:
		resp, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key, PrevKv: looks})
		if err == nil {
			answered(o, resp.Header, true)
			o.Deleted = resp.Deleted
			err = saw(o, looks, key, resp.PrevKvs...)
		}
		return err
	}
	resp, err := kv.Txn(ctx, txnOf(o, looks))
	if err == nil {
		answered(o, resp.Header, resp.Succeeded)
		err = readTxn(o, looks, resp)
	}
	return err
}

func answered(o *history.Op, h *pb.ResponseHeader, succeeded bool) {
	o.Outcome, o.Revision, o.Succeeded = history.Done, h.GetRevision(), succeeded
}

// saw notes the state of a key that the answer shows, if it was asked to.
func saw(o *history.Op, asked bool, key []byte, kvs ...*mvccpb.KeyValue) error {
	if len(kvs) == 1 && kvs[0] == nil {
		kvs = nil
	}
	switch {
	case !asked && len(kvs) > 0:
		return malformedError{fmt.Sprintf("shows %v unasked", kvs)}
	case !asked:
		return nil
	case len(kvs) > 1 || len(kvs) == 1 && !bytes.Equal(kvs[0].Key, key):
		return malformedError{fmt.Sprintf("asked for %q, shows %v", key, kvs)}
	}
	o.Looked = true
	o.Seen = append(o.Seen, StateOf(kvs...))
	return nil
}

// StateOf is the state of a key that is shown, or is not.
func StateOf(kvs ...*mvccpb.KeyValue) history.KV {
	if len(kvs) == 0 || kvs[0] == nil {
		return history.KV{}
	}
	kv := kvs[0]
	return history.KV{Value: string(kv.Value), Create: kv.CreateRevision, Mod: kv.ModRevision, Version: kv.Version}
}

func txnOf(o *history.Op, looks bool) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	if c := o.Compare; c.Target != history.None {
		r.Compare = []*pb.Compare{compareOf([]byte(o.Keys[0]), c)}
	}
	for _, key := range o.Keys {
		r.Success = append(r.Success, opOf(o, []byte(key)))
	}
	if looks {
		r.Failure = []*pb.RequestOp{rangeOp([]byte(o.Keys[0]))}
	}
	return r
}

func compareOf(key []byte, c history.Compare) *pb.Compare {
	out := &pb.Compare{Key: key, Result: pb.Compare_EQUAL}
	switch c.Target {
	case history.Mod:
		out.Target, out.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: c.Number}
	case history.Version:
		out.Target, out.TargetUnion = pb.Compare_VERSION, &pb.Compare_Version{Version: c.Number}
	case history.Create:
		out.Target, out.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{CreateRevision: c.Number}
	case history.Value:
		out.Target, out.TargetUnion = pb.Compare_VALUE, &pb.Compare_Value{Value: []byte(c.Value)}
	}
	return out
}

func opOf(o *history.Op, key []byte) *pb.RequestOp {
	switch o.Kind {
	case history.GetPair:
		return rangeOp(key)
	case history.Remove:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte(o.Value)}}}
}

func rangeOp(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}
}

// readTxn fills in what the answer to a transaction shows.
func readTxn(o *history.Op, looks bool, resp *pb.TxnResponse) error {
	wanted := len(o.Keys)
	if !resp.Succeeded {
		wanted = 0
		if looks {
			wanted = 1
		}
	}
	if len(resp.Responses) != wanted {
		return malformedError{fmt.Sprintf("%d responses, not %d", len(resp.Responses), wanted)}
	}
	for n, r := range resp.Responses {
		switch {
		case r.GetResponseRange() != nil:
			if err := saw(o, true, []byte(o.Keys[n]), r.GetResponseRange().Kvs...); err != nil {
				return err
			}
		case r.GetResponseDeleteRange() != nil:
			o.Deleted += r.GetResponseDeleteRange().Deleted
		}
	}
	return nil
}
