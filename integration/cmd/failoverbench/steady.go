package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"kineshim/integration/cluster"
)

// steadyPrefix is below which the keys of the steady lines lie.
const steadyPrefix = "/registry/steady/"

const (
	// steadyWriters write at steadyRate, each to keys of its own, so that no compare fails.
	steadyWriters = 32
	steadyKeys    = 4 * steadyWriters
	steadyValue   = 300  // bytes
	steadyRate    = 1000 // writes per second
	// connections to each node, so that no single one is what limits.
	connections = 4
	// steadyWithin bounds all steady lines together.
	steadyWithin = 3 * time.Minute
)

// steadyResult is a line of the results about one node while nothing is struck. Times are milliseconds.
type steadyResult struct {
	Kind string `json:"kind"` // "steady"
	// What is "watch" (from a write's response to its event) or "get" (linearizable).
	What string `json:"what"`
	// Node is "primary", where the writes go, or "standby".
	Node      string  `json:"node"`
	PerSecond float64 `json:"perSecond"` // of writes, or of gets
	P50       float64 `json:"p50ms"`
	P99       float64 `json:"p99ms"`
	Max       float64 `json:"maxms"`
	Count     int     `json:"count"` // of events, or of gets
	// Missing are events that did not come in time, or came twice.
	Missing int `json:"missing"`
	Errors  int `json:"errors"`
	// FirstError is the first of them.
	FirstError string `json:"firstError,omitempty"`
}

// The nodes, by what they are when the lines begin.
const (
	onPrimary = "primary"
	onStandby = "standby"
)

// steadyBench is the cluster as the steady lines see it.
type steadyBench struct {
	conns map[string][]*grpc.ClientConn // by onPrimary, onStandby
	keys  []*steadyKey
}

// runSteady measures both lines and says what they reach.
func (b *bench) runSteady(ctx context.Context) ([]goal, error) {
	ctx, cancel := context.WithTimeout(ctx, steadyWithin)
	defer cancel()
	primary, err := b.c.WaitPrimary(ctx)
	if err != nil {
		return nil, err
	}
	s := &steadyBench{conns: map[string][]*grpc.ClientConn{}}
	defer s.close()
	for at, node := range map[string]string{onPrimary: primary, onStandby: cluster.Other(primary)} {
		if s.conns[at], err = dialSeveral(b.c, node); err != nil {
			return nil, err
		}
	}
	if err := s.createKeys(ctx); err != nil {
		return nil, fmt.Errorf("steady: create keys: %w", err)
	}
	watched, err := s.runWatch(ctx)
	if err != nil {
		return nil, fmt.Errorf("steady watch: %w", err)
	}
	got, err := s.runGets(ctx)
	if err != nil {
		return nil, fmt.Errorf("steady get: %w", err)
	}
	for _, r := range append(watched, got...) {
		if err := b.enc.Encode(r); err != nil {
			return nil, err
		}
		r.print(b.out)
	}
	fmt.Fprintln(b.out)
	return steadyGoals(append(watched, got...)), nil
}

func dialSeveral(c *cluster.Cluster, node string) ([]*grpc.ClientConn, error) {
	var out []*grpc.ClientConn
	for range connections {
		conn, err := dialRaw(c, node)
		if err != nil {
			return out, err
		}
		out = append(out, conn)
	}
	return out, nil
}

func (s *steadyBench) close() {
	for _, conns := range s.conns {
		for _, conn := range conns {
			_ = conn.Close() // it fails only if it is closed already
		}
	}
}

// kv is a client of the node, over the connection that is the worker's by its number.
func (s *steadyBench) kv(at string, worker int) etcdserverpb.KVClient {
	return etcdserverpb.NewKVClient(s.conns[at][worker%connections])
}

// steadyKey is a key and its mod revision as last heard. It belongs to one writer at a time.
type steadyKey struct {
	key      string
	revision int64
}

// update replaces the value as Kubernetes does, and returns the new revision; 0 if somebody else had changed the key, whose revision is then learnt.
func (k *steadyKey) update(ctx context.Context, kv etcdserverpb.KVClient, value []byte) (int64, error) {
	answer, err := kv.Txn(ctx, &etcdserverpb.TxnRequest{Compare: modIs(k.key, k.revision), Success: put(k.key, value), Failure: get(k.key)})
	if err != nil {
		return 0, err
	}
	if answer.Succeeded {
		k.revision = answer.Header.GetRevision()
		return k.revision, nil
	}
	k.revision = 0
	for _, kv := range answer.Responses[0].GetResponseRange().GetKvs() {
		k.revision = kv.ModRevision
	}
	return 0, nil
}

func modIs(key string, revision int64) []*etcdserverpb.Compare {
	return []*etcdserverpb.Compare{{Result: etcdserverpb.Compare_EQUAL, Target: etcdserverpb.Compare_MOD, Key: []byte(key),
		TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: revision}}}
}

func put(key string, value []byte) []*etcdserverpb.RequestOp {
	return []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: []byte(key), Value: value}}}}
}

func get(key string) []*etcdserverpb.RequestOp {
	return []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: []byte(key)}}}}
}

// createKeys creates all keys, or takes over those that are there.
func (s *steadyBench) createKeys(ctx context.Context) error {
	for i := range steadyKeys {
		k := &steadyKey{key: fmt.Sprintf("%sns-%02d/obj-%04d", steadyPrefix, i%8, i)}
		if _, err := k.update(ctx, s.kv(onPrimary, 0), make([]byte, steadyValue)); err != nil {
			return err
		}
		s.keys = append(s.keys, k)
	}
	return nil
}

// faults counts errors of several goroutines.
type faults struct {
	mu    sync.Mutex // guards what follows
	count int
	first string
}

func (f *faults) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count++; f.count == 1 {
		f.first = err.Error()
	}
}
