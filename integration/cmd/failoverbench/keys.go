package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"kineshim/integration/cluster"
)

const (
	keysPrefix  = "/registry/keys/"
	keyValue    = 300 // bytes
	keyWorkers  = 64
	keysWithin  = 40 * time.Minute // a million keys at 400 a second
	keyPause    = 50 * time.Millisecond
	tellKeysFor = 10 * time.Second // between two lines about how far it is
)

// keysResult is the line of the results about the keys that were loaded.
type keysResult struct {
	Kind    string  `json:"kind"` // "keys"
	Keys    int     `json:"keys"`
	Seconds float64 `json:"seconds"`
}

// loadKeys creates n keys, each in a transaction of its own, and waits until the cluster is armed again and both nodes count them all.
func (b *bench) loadKeys(ctx context.Context, n int) error {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, keysWithin)
	defer cancel()
	primary, err := b.c.WaitPrimary(ctx)
	if err != nil {
		return err
	}
	conns, err := dialSeveral(b.c, primary)
	defer func() {
		for _, conn := range conns {
			_ = conn.Close() // it fails only if it is closed already
		}
	}()
	if err == nil {
		err = b.createAll(ctx, conns, n)
	}
	if err == nil {
		err = b.c.WaitArmed(ctx)
	}
	for _, node := range cluster.DataNodes {
		if err == nil {
			err = b.countKeys(ctx, node, int64(n))
		}
	}
	if err != nil {
		return fmt.Errorf("load %d keys: %w", n, err)
	}
	b.keys = n
	took := time.Since(begun)
	fmt.Fprintf(b.out, "%d keys loaded in %.0f s\n\n", n, took.Seconds())
	return b.enc.Encode(keysResult{Kind: "keys", Keys: n, Seconds: took.Seconds()})
}

// createAll creates the keys with many workers.
func (b *bench) createAll(ctx context.Context, conns []*grpc.ClientConn, n int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Int64
	var running sync.WaitGroup
	running.Go(func() { b.tellKeys(ctx, &done, n) })
	var working sync.WaitGroup
	for i := range keyWorkers {
		working.Go(func() {
			kv := etcdserverpb.NewKVClient(conns[i%len(conns)])
			for j := next.Add(1); j <= int64(n); j = next.Add(1) {
				if err := createKey(ctx, kv, j); err != nil {
					cancel(err)
					return
				}
				done.Add(1)
			}
		})
	}
	working.Wait()
	err := context.Cause(ctx)
	cancel(nil)
	running.Wait()
	return err
}

// createKey creates one key, again until it is there or ctx ends.
func createKey(ctx context.Context, kv etcdserverpb.KVClient, number int64) error {
	key := fmt.Sprintf("%sns-%03d/obj-%08d", keysPrefix, number%200, number)
	for {
		// That it exists already shows that an earlier try was done after all.
		_, err := kv.Txn(ctx, &etcdserverpb.TxnRequest{Compare: modIs(key, 0), Success: put(key, make([]byte, keyValue))})
		if err == nil {
			return nil
		}
		if !wait(ctx, keyPause) {
			return err
		}
	}
}

func (b *bench) tellKeys(ctx context.Context, done *atomic.Int64, n int) {
	for wait(ctx, tellKeysFor) {
		fmt.Fprintf(b.out, "%d of %d keys\n", done.Load(), n)
	}
}

// countKeys says whether the node counts them all.
func (b *bench) countKeys(ctx context.Context, node string, n int64) error {
	conn, err := dialRaw(b.c, node)
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := etcdserverpb.NewKVClient(conn).Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(keysPrefix),
		RangeEnd: []byte(clientv3.GetPrefixRangeEnd(keysPrefix)), CountOnly: true})
	if err != nil {
		return err
	}
	if answer.Count != n {
		return fmt.Errorf("%s counts %d", node, answer.Count)
	}
	return nil
}
