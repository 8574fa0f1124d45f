package honesty

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

const (
	listed = 20_000
	// rewritten is how many of them are there in a second version.
	rewritten = 2_000
	// smallCache holds some hundred values, so that lists read the table.
	smallCache = 64 << 10
	fillers    = 32
	listers    = 4
)

// fill writes keys, of which later ones replace earlier ones, and returns what has to be there then, in the order of the keys.
func fill(t *testing.T, r *rig, generation string, before []*mvccpb.KeyValue, every int) ([]*mvccpb.KeyValue, int64) {
	t.Helper()
	after := make([]*mvccpb.KeyValue, listed)
	copy(after, before)
	var next, newest atomic.Int64
	var running sync.WaitGroup
	for range fillers {
		c := r.client()
		running.Go(func() {
			for {
				i := int(next.Add(1)-1) * every
				if i >= listed {
					return
				}
				kv := &mvccpb.KeyValue{Key: fmt.Appendf(nil, "/list/%05d", i), Value: fmt.Appendf(nil, "%s of %d", generation, i), Version: version(1)}
				request := create(string(kv.Key), string(kv.Value))
				if old := after[i]; old != nil {
					request = update(string(kv.Key), string(kv.Value), old.ModRevision)
					kv.CreateRevision, kv.Version = old.CreateRevision, version(old.Version+1)
				}
				answer, err := do(c.Txn, request)
				if err != nil || !answer.Succeeded {
					t.Errorf("write %s: %v, %v", kv.Key, answer, err)
					return
				}
				kv.ModRevision = answer.Header.Revision
				if kv.CreateRevision == 0 {
					kv.CreateRevision = kv.ModRevision
				}
				after[i] = kv
				for old := newest.Load(); old < kv.ModRevision && !newest.CompareAndSwap(old, kv.ModRevision); old = newest.Load() {
				}
			}
		})
	}
	running.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return after, newest.Load()
}

// lister asks for all keys in one of several ways and knows the answer.
type lister struct {
	c         client
	then, now []*mvccpb.KeyValue
	revision  int64 // of then
}

// try makes one list. The error of an answer that is not the truth is a *lie.
func (l *lister) try(rng *rand.Rand) error {
	want, request := l.now, list("/list/")
	if rng.IntN(3) == 0 {
		want, request.Revision = l.then, l.revision
	}
	var answer *pb.RangeResponse
	switch kind := rng.IntN(4); {
	case kind == 0 && !kine():
		txn, err := do(l.c.Txn, &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(request)}})
		if err != nil {
			return err
		}
		answer = txn.Responses[0].GetResponseRange()
	case kind == 1: // in two pages at one revision
		request.Limit = 1 + rng.Int64N(listed-1)
		first, err := do(l.c.Range, request)
		if err != nil {
			return err
		}
		if int64(len(first.Kvs)) != request.Limit || !first.More || first.Count != listed {
			return &lie{fmt.Errorf("a page of %d: %d keys, more %v, count %d", request.Limit, len(first.Kvs), first.More, first.Count)}
		}
		if request.Revision == 0 {
			request.Revision = first.Header.Revision
		}
		request.Key, request.Limit = append(first.Kvs[len(first.Kvs)-1].Key, 0), 0
		if answer, err = do(l.c.Range, request); err != nil {
			return err
		}
		answer.Kvs = append(first.Kvs, answer.Kvs...)
		answer.Count += int64(len(first.Kvs))
	default:
		var err error
		if answer, err = do(l.c.Range, request); err != nil {
			return err
		}
	}
	if err := sameKVs(answer.Kvs, want); err != nil || answer.Count != listed || answer.More {
		return &lie{fmt.Errorf("%w; count %d, more %v", orNone(err), answer.Count, answer.More)}
	}
	return nil
}

func orNone(err error) error {
	if err == nil {
		return errors.New("all keys are there")
	}
	return err
}

// lie is the error of an answer that is not the truth.
type lie struct{ error }

const terminateOne = `SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
	WHERE datname = $1 AND backend_type = 'client backend' ORDER BY (state = 'active' AND $2) DESC, random() LIMIT 1) one`

// A list whose values come from the table is answered whole or not at all, whatever happens to the database's sessions.
func TestListIsWholeWhileBackendsAreKilled(t *testing.T) {
	tries := int64(number("HONESTY_TRIES", 1000))
	r := start(t, options{cacheBytes: smallCache})
	rng := random(t)
	then, revision := fill(t, r, "first", nil, 1)
	now, _ := fill(t, r, "second", then, listed/rewritten)
	// Every answer is garbage at once, and collecting it would take as long as making it.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	k := r.keep()
	usual := r.listTime(t, then, revision, now, rng)
	t.Logf("a list takes %v when nothing is killed", usual.Round(time.Millisecond))

	var c tally
	var begun, kills, hit, lies atomic.Int64
	var running sync.WaitGroup
	for range listers {
		l := &lister{c: r.client(), then: then, now: now, revision: revision}
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		running.Go(func() {
			for begun.Add(1) <= tries {
				k.wait()
				before := kills.Load()
				err := l.try(own)
				if wrong := (*lie)(nil); errors.As(err, &wrong) {
					lies.Add(1)
					t.Errorf("a list is wrong: %v", wrong)
					err = nil
				}
				c.add(t, "a list", err)
				if kills.Load() != before {
					hit.Add(1)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()
	began := time.Now()
	for ended := false; !ended; {
		k.wait()
		kills.Add(r.count(terminateOne, r.host.Database, rng.IntN(4) > 0))
		select {
		case <-done:
			ended = true
		case <-time.After(between(rng, usual/6, usual*2/3)):
		}
	}
	k.stop()
	t.Logf("%d lists of %d keys in %v: %d whole, %d refused, %d wrong; %d sessions killed, in the middle of %d lists; %d engines started",
		c.tries.Load(), listed, time.Since(began).Round(time.Second), c.answered.Load()-lies.Load(), c.refused.Load(), lies.Load(), kills.Load(), hit.Load(), k.starts.Load())
	if c.answered.Load() < tries/5 || c.refused.Load() < tries/50 || hit.Load() < tries/10 {
		t.Error("that tries too little: lists must be answered, and lists must be hit")
	}
}

// listTime is how long a list takes at the side of others.
func (r *rig) listTime(t *testing.T, then []*mvccpb.KeyValue, revision int64, now []*mvccpb.KeyValue, rng *rand.Rand) time.Duration {
	t.Helper()
	const each = 5
	var running sync.WaitGroup
	began := time.Now()
	for range listers {
		l := &lister{c: r.client(), then: then, now: now, revision: revision}
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		running.Go(func() {
			for range each {
				if err := l.try(own); err != nil {
					t.Errorf("a list when nothing is killed: %v", err)
				}
			}
		})
	}
	running.Wait()
	return time.Since(began) / each
}

// texts are the different reasons in some errors.
func texts(errs []error) string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), "\n\t")
}
