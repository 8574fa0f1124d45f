package honesty

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"pgregory.net/rapid"

	"kineshim/integration/pgtest"
)

// restart is one way in which an engine comes after another.
type restart struct {
	name string
	do   func(r *rig) error
}

var restarts = []restart{
	{"a restart", func(r *rig) error { return r.host.RestartEngine() }},
	{"the end of all sessions", func(r *rig) error {
		failed := r.host.EngineFailed()
		r.terminate()
		return r.afterFailure(failed)
	}},
	{"a kill -9 of the server", func(r *rig) error {
		failed := r.host.EngineFailed()
		r.pg.Kill()
		if err := r.pg.Resume(); err != nil {
			return err
		}
		r.reconnect()
		return r.afterFailure(failed)
	}},
}

func (r *rig) afterFailure(failed <-chan struct{}) error {
	select {
	case <-failed:
		return r.host.RestartEngine()
	case <-time.After(recoverBound):
		return errors.New("the engine has not noticed that its sessions have ended")
	}
}

// survive restarts the engine and compares all that there is.
func (r *rig) survive(c client, how restart) error {
	before, err := look(r.t.Context(), c)
	if err != nil {
		return fmt.Errorf("before %s: %w", how.name, err)
	}
	if err := how.do(r); err != nil {
		return fmt.Errorf("%s: %w", how.name, err)
	}
	after, err := look(r.t.Context(), c)
	if err != nil {
		return fmt.Errorf("after %s: %w", how.name, err)
	}
	if err := after.since(before); err != nil {
		return fmt.Errorf("after %s: %w", how.name, err)
	}
	return nil
}

// Whatever was done before, all that clients can learn is the same after a restart.
func TestEverythingSurvivesRestarts(t *testing.T) {
	needNative(t)
	checks := number("HONESTY_SEQUENCES", 25)
	for name, value := range map[string]string{"rapid.checks": strconv.Itoa(checks), "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	pg := pgtest.New(t)
	var operations, done, survived atomic.Int64
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		r := start(t, options{pg: pg, cacheBytes: smallCache})
		c := r.client()
		defer r.drop()
		restarted := func() {
			how := restarts[0]
			if n := d.n(11); n > 5 {
				how = restarts[1+n/11]
			}
			t.Logf("%s", how.name)
			if err := r.survive(c, how); err != nil {
				t.Fatal(err)
			}
			survived.Add(1)
		}
		for range 8 + d.n(24) {
			o := d.operation()
			err := o.do(c)
			operations.Add(1)
			if err == nil {
				done.Add(1)
			}
			t.Logf("%T %.300s: %v", o, o.String(), err)
			if !matterOfRequest(err) {
				t.Fatalf("%T %v: %v", o, o, err)
			}
			if d.oneIn(8) {
				restarted()
			}
		}
		restarted()
	})
	t.Logf("%d sequences of %d operations, of which %d were done; %d restarts", checks, operations.Load(), done.Load(), survived.Load())
}

// drop ends a host whose database is not needed any more.
func (r *rig) drop() {
	if err := r.host.Close(); err != nil {
		r.t.Error(err)
	}
	r.sql("DROP DATABASE " + r.host.Database + " WITH (FORCE)")
}

// from deletes a key and all after it, which etcd lets a transaction do that puts the key.
func from(key string) *pb.RequestOp {
	return deleteOp(&pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte{0}})
}

func puts(key, value string, lease int64) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease}
}

func txnOf(ops ...*pb.RequestOp) operation { return txn{&pb.TxnRequest{Success: ops}} }

func grant(id int64) operation { return granting{&pb.LeaseGrantRequest{ID: id, TTL: 1000}} }

// oddities are sequences that a table could lose something of. The engine is restarted after each operation.
var oddities = map[string][]operation{
	"a key deleted and put at one revision": {
		putting{put("a", "1")}, txnOf(from("a"), putOp(put("a", "2"))), putting{put("a", "3")},
		compacting{back: 1}, txnOf(from("a"), putOp(put("a", "4"))), compacting{physical: true}, deleting{&pb.DeleteRangeRequest{Key: []byte("a")}},
	},
	"a key put and deleted at one revision": {
		putting{put("a", "1")}, txnOf(putOp(put("a", "2")), from("a")), putting{put("a", "3")},
		txnOf(putOp(put("a", "4")), from("a")), compacting{back: 1, physical: true}, putting{put("a", "5")},
	},
	"a key that was not there, put and deleted at one revision": {
		txnOf(putOp(put("a", "1")), from("a")), txnOf(from("a"), putOp(put("a", "2"))),
		deleting{&pb.DeleteRangeRequest{Key: []byte("a")}}, txnOf(putOp(put("a", "3")), from("a")), compacting{physical: true}, putting{put("a", "4")},
	},
	"an empty keyspace, compacted": {
		txnOf(putOp(put("a", "1")), putOp(put("b", "1")), putOp(put("c", "1"))), deleting{&pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}},
		compacting{physical: true}, putting{put("a", "2")},
	},
	"a compaction within a transaction's rows": {
		txnOf(putOp(put("a", "1")), putOp(put("b", "1")), putOp(put("c", "1"))), txnOf(putOp(put("b", "2")), putOp(put("c", "2"))),
		compacting{back: 1, physical: true}, putting{put("c", "3")}, compacting{back: 1, physical: true}, compacting{physical: true},
	},
	"a key that changes its lease at one revision": {
		grant(1), grant(2), putting{puts("a", "1", 1)}, txnOf(from("a"), putOp(puts("a", "2", 2)), putOp(puts("b", "2", 1))),
		revoking{&pb.LeaseRevokeRequest{ID: 1}}, txnOf(putOp(puts("a", "3", 0)), from("a")), revoking{&pb.LeaseRevokeRequest{ID: 2}},
	},
	"leases of keys that are bytes": {
		grant(1<<63 - 1), putting{puts("\xff\x00", "", 1<<63-1)}, putting{puts(strings.Repeat("k", 5000), "\x00", 1<<63-1)},
		putting{&pb.PutRequest{Key: []byte("\xff\x00"), IgnoreLease: true, Value: []byte("x")}},
		putting{&pb.PutRequest{Key: []byte("\xff\x00"), IgnoreValue: true}},
		renewing{&pb.LeaseKeepAliveRequest{ID: 1<<63 - 1}}, revoking{&pb.LeaseRevokeRequest{ID: 1<<63 - 1}},
	},
	"keys that the table uses itself": {
		putting{put("compact_rev_key", "1")}, putting{put("compact_rev_key", "")}, putting{put("compact_rev_key_apiserver", "x")},
		putting{put("gap-1", "")}, deleting{&pb.DeleteRangeRequest{Key: []byte("gap-1")}}, putting{put("kineshim-bytes-", "x")},
		compacting{back: 2, physical: true}, deleting{&pb.DeleteRangeRequest{Key: []byte("compact_rev_key")}},
		putting{put("compact_rev_key", "2|x")}, compacting{physical: true},
	},
	"a large value, replaced and compacted": {
		putting{put("a", strings.Repeat("v", 1<<20))}, putting{put("a", "")}, deleting{&pb.DeleteRangeRequest{Key: []byte("a")}}, compacting{back: 1, physical: true},
	},
	"leases alone": {grant(1), grant(2), revoking{&pb.LeaseRevokeRequest{ID: 1}}, grant(1), renewing{&pb.LeaseKeepAliveRequest{ID: 2}}},
}

// The sequences that are likeliest to be lost, with a restart after each operation.
func TestOdditiesSurviveRestarts(t *testing.T) {
	needNative(t)
	survived := 0
	for name, operations := range oddities {
		t.Run(name, func(t *testing.T) {
			r := start(t, options{cacheBytes: smallCache})
			c := r.client()
			for n, o := range operations {
				if err := o.do(c); err != nil {
					t.Errorf("operation %d, %T %.200s: %v", n, o, o.String(), err)
				}
				if err := r.survive(c, restarts[n%2]); err != nil {
					t.Fatalf("operation %d, %T %.200s: %v", n, o, o.String(), err)
				}
				survived++
			}
		})
	}
	t.Logf("%d restarts", survived)
}

// Leases end when their time is over, and not before, however often the engine is restarted meanwhile.
func TestLeasesKeepTheirTimeAcrossRestarts(t *testing.T) {
	needNative(t)
	const ttl, pauses = 6, 4
	r := start(t, options{})
	c := r.client()
	began := time.Now()
	for id := int64(1); id <= 3; id++ {
		must(t, c.LeaseGrant, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		must(t, c.Put, puts(fmt.Sprintf("/leased/%d", id), "x", id))
	}
	granted := time.Now()
	for n := range pauses {
		time.Sleep(time.Second)
		if err := r.survive(c, restarts[n%2]); err != nil {
			t.Fatal(err)
		}
	}
	answer := must(t, c.Range, list("/leased/"))
	for answer.Count > 0 && time.Since(began) < 3*ttl*time.Second {
		if answer.Count < 3 && time.Since(began) < ttl*time.Second {
			t.Fatalf("a lease of %d s has ended after %v", ttl, time.Since(began))
		}
		time.Sleep(10 * retryPause)
		answer = must(t, c.Range, list("/leased/"))
	}
	took := time.Since(granted)
	t.Logf("3 leases of %d s, %d restarts: all had ended after %v", ttl, pauses, took.Round(time.Millisecond))
	if answer.Count > 0 {
		t.Fatalf("leases of %d s have not ended after %v", ttl, took)
	}
	if time.Since(began) < ttl*time.Second {
		t.Errorf("leases of %d s have ended after %v", ttl, time.Since(began))
	}
	// Each engine may begin with a clock that is a second and a half behind.
	if most := ttl*time.Second + (pauses+1)*leaseSlack; took > most {
		t.Errorf("leases of %d s have ended after %v", ttl, took)
	}
}
