package main

import (
	"context"
	"fmt"
	"math"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// client speaks the etcd API over one connection. It is leaner than etcd's own client, with which the generator would take more of the two
// cores than the servers it measures: no balancer, no retries, and lists are checked but not decoded. Safe for concurrent use.
type client struct{ conn *grpc.ClientConn }

func dial(addr string) (*client, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(leanCodec{}), grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return &client{conn}, nil
}

func (c *client) close() { _ = c.conn.Close() } // it fails only if it is closed already

// changed is a transaction's answer.
type changed struct {
	succeeded bool
	// revision is the change's if it succeeded, else the key's modification revision, 0 if there is no key.
	revision int64
}

// create is Kubernetes' GuaranteedCreate: If(mod(key) == 0) Then(Put).
func (c *client) create(ctx context.Context, key string, value []byte) (changed, error) {
	return c.txn(ctx, &etcdserverpb.TxnRequest{Compare: modIs(key, 0), Success: put(key, value)})
}

// update is Kubernetes' GuaranteedUpdate: If(mod(key) == revision) Then(Put) Else(Range).
func (c *client) update(ctx context.Context, key string, value []byte, revision int64) (changed, error) {
	return c.txn(ctx, &etcdserverpb.TxnRequest{Compare: modIs(key, revision), Success: put(key, value), Failure: get(key)})
}

// remove is Kubernetes' OptimisticDelete: If(mod(key) == revision) Then(DeleteRange) Else(Range).
func (c *client) remove(ctx context.Context, key string, revision int64) (changed, error) {
	return c.txn(ctx, &etcdserverpb.TxnRequest{Compare: modIs(key, revision), Failure: get(key), Success: []*etcdserverpb.RequestOp{
		{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: []byte(key)}}}}})
}

func modIs(key string, revision int64) []*etcdserverpb.Compare {
	return []*etcdserverpb.Compare{{Result: etcdserverpb.Compare_EQUAL, Target: etcdserverpb.Compare_MOD, Key: []byte(key),
		TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: revision}}}
}

func put(key string, value []byte) []*etcdserverpb.RequestOp {
	return []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{
		RequestPut: &etcdserverpb.PutRequest{Key: []byte(key), Value: value}}}}
}

func get(key string) []*etcdserverpb.RequestOp {
	return []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestRange{
		RequestRange: &etcdserverpb.RangeRequest{Key: []byte(key)}}}}
}

func (c *client) txn(ctx context.Context, r *etcdserverpb.TxnRequest) (changed, error) {
	var answer etcdserverpb.TxnResponse
	if err := c.conn.Invoke(ctx, "/etcdserverpb.KV/Txn", r, &answer); err != nil {
		return changed{}, err
	}
	if answer.Succeeded {
		return changed{true, answer.Header.GetRevision()}, nil
	}
	for _, op := range answer.Responses {
		if kvs := op.GetResponseRange().GetKvs(); len(kvs) == 1 {
			return changed{false, kvs[0].ModRevision}, nil
		}
	}
	return changed{}, nil
}

// get reads a key, linearizably. The answer's last fields are the key's; its keys are 0 if there is none.
func (c *client) get(ctx context.Context, key string) (ranged, error) {
	return c.ask(ctx, &etcdserverpb.RangeRequest{Key: []byte(key)})
}

// list reads at most limit keys of [from, end) at a revision; 0: now.
func (c *client) list(ctx context.Context, from, end string, limit, revision int64) (ranged, error) {
	return c.ask(ctx, &etcdserverpb.RangeRequest{Key: []byte(from), RangeEnd: []byte(end), Limit: limit, Revision: revision})
}

// count counts the keys below a prefix.
func (c *client) count(ctx context.Context, prefix string) (int64, error) {
	r, err := c.ask(ctx, &etcdserverpb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(endOf(prefix)), CountOnly: true})
	return r.count, err
}

func (c *client) ask(ctx context.Context, r *etcdserverpb.RangeRequest) (ranged, error) {
	var answer ranged
	err := c.conn.Invoke(ctx, "/etcdserverpb.KV/Range", r, &answer)
	return answer, err
}

// endOf is the end of the range of all keys with the prefix, which must not end in 0xff.
func endOf(prefix string) string {
	last := len(prefix) - 1
	return prefix[:last] + string(prefix[last]+1)
}
