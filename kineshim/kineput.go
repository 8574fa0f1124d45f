package kineshim

import (
	"context"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// maxPuts is how often a put is tried against concurrent writers of its key.
const maxPuts = 64

// Put stores a value whatever was there. kine's reads the key and then updates it, and takes a lost race for done: writes that
// were acknowledged are lost. Here a lost race is run again.
func (e *kineEngine) Put(ctx context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	answer, err := asked(ctx, e, true, func() (*etcdserverpb.PutResponse, error) { return e.put(ctx, r) })
	if err != nil {
		return nil, err
	}
	e.ack(answer.Header)
	return answer, nil
}

func (e *kineEngine) put(ctx context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	key := string(r.Key)
	before := e.failures.count()
	for range maxPuts {
		revision, err := e.backend.Create(ctx, key, r.Value, r.Lease)
		if err == nil {
			return putAnswer(revision, nil), nil
		}
		if err != server.ErrKeyExists {
			return nil, err
		}
		_, old, err := e.backend.Get(ctx, key, 0, false)
		if err != nil {
			return nil, err
		}
		if old == nil {
			continue // deleted meanwhile
		}
		revision, now, done, err := e.backend.Update(ctx, key, r.Value, old.ModRevision, r.Lease)
		if err != nil {
			return nil, err
		}
		if done {
			if !r.PrevKv {
				old = nil
			}
			return putAnswer(revision, old), nil
		}
		// What kine calls a lost race may be a failed insert, even one that was done: it is not tried again.
		if e.failures.count() != before || ctx.Err() != nil || now != nil && now.ModRevision == old.ModRevision {
			return nil, InDoubt("the database failed during the request")
		}
	}
	return nil, Unavailable("the key is written by too many at once; the request was not done")
}

func putAnswer(revision int64, old *server.KeyValue) *etcdserverpb.PutResponse {
	answer := &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: revision}}
	if old != nil {
		answer.PrevKv = &mvccpb.KeyValue{Key: []byte(old.Key), Value: old.Value, Version: old.Version, Lease: old.Lease,
			CreateRevision: old.CreateRevision, ModRevision: old.ModRevision}
	}
	return answer
}
