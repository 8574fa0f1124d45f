package honesty

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// ownedKeys is how many keys an owner has: so many that it can go on with others while the state of some is not known.
const ownedKeys = 40

// owner writes to keys that nobody else writes to, one request at a time. So it knows what each holds, or which of two things
// it holds, and can tell every answer that is not the truth.
type owner struct {
	t    tester
	c    client
	rng  *rand.Rand
	name string
	keys []*owned
	// values counts the values written: no two are equal.
	values int
	// seen is the greatest revision that an answer had.
	seen int64

	writes *tally // that should change something
	idle   *tally // that should not: compares that must fail
	// doubts are writes that were refused and whose outcome was looked up; done are those of them that had been done.
	doubts, done *atomic.Int64
}

// owned is one key.
type owned struct {
	key string
	kv  *mvccpb.KeyValue // nil: it is not there
	// gone is the revision of the deletion, 0 if it is not known or never was.
	gone int64
	// doubt is what the key may hold as well, since a write whose outcome is not known; the ModRevision is not known then.
	doubt *mvccpb.KeyValue
	// inDoubt: there is such a write. If doubt is nil it is a deletion.
	inDoubt bool
	// refusal is the last write that was refused without a word of its outcome: it has not been done.
	refusal string
	// history is what the key held before kv, the oldest first; a deletion has no value and version 0.
	history []*mvccpb.KeyValue
}

// owners are what a test runs, and what it counts.
type owners struct {
	all          []*owner
	writes, idle tally
	doubts, done atomic.Int64

	stopping atomic.Bool
	running  sync.WaitGroup
}

func (r *rig) own(rng *rand.Rand, n int) *owners {
	o := &owners{}
	for i := range n {
		one := &owner{t: r.t, c: r.client(), rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), name: fmt.Sprintf("%02d", i),
			writes: &o.writes, idle: &o.idle, doubts: &o.doubts, done: &o.done}
		for k := range ownedKeys {
			one.keys = append(one.keys, &owned{key: fmt.Sprintf("/own/%s/%02d", one.name, k)})
		}
		o.all = append(o.all, one)
	}
	return o
}

// run lets the owners write until stop.
func (o *owners) run() {
	for _, one := range o.all {
		o.running.Go(func() {
			for !o.stopping.Load() && !one.t.Failed() {
				one.step()
			}
		})
	}
}

// stop ends the writing.
func (o *owners) stop() {
	o.stopping.Store(true)
	o.running.Wait()
}

// String is what the owners have tried.
func (o *owners) String() string {
	return fmt.Sprintf("%d writes by %d writers: %d acknowledged, %d refused, of which %d had an unknown outcome, %d of those done; %d compares that must fail: %d did, %d refused",
		o.writes.tries.Load(), len(o.all), o.writes.answered.Load(), o.writes.refused.Load(), o.doubts.Load(), o.done.Load(),
		o.idle.tries.Load(), o.idle.answered.Load(), o.idle.refused.Load())
}

// step makes one request: a write to a key whose state is known, or a read of one whose state is not.
func (o *owner) step() {
	k := o.keys[o.rng.IntN(len(o.keys))]
	if k.inDoubt {
		if !o.resolve(k) {
			time.Sleep(retryPause)
		}
		return
	}
	if o.rng.IntN(8) == 0 {
		o.lose(k)
	} else if !o.write(k) {
		time.Sleep(retryPause) // there is no engine, most likely
	}
}

// look checks a header.
func (o *owner) look(h *pb.ResponseHeader) {
	if h.Revision < o.seen {
		o.t.Errorf("a header has revision %d, and one before it had %d", h.Revision, o.seen)
	}
	o.seen = h.Revision
}

// value is a new one.
func (o *owner) value() string {
	o.values++
	return fmt.Sprintf("%s-%d", o.name, o.values)
}

// write changes the key; false means that it was refused.
func (o *owner) write(k *owned) bool {
	value := o.value()
	next := &mvccpb.KeyValue{Key: []byte(k.key), Value: []byte(value), Version: version(1)}
	if k.kv != nil {
		next.CreateRevision, next.Version = k.kv.CreateRevision, version(k.kv.Version+1)
	}
	var what string
	var asksBack bool // for what was there before, which may not be readable when the write is done
	var header *pb.ResponseHeader
	var err error
	switch kind := o.rng.IntN(5); {
	case kind < 1:
		what = "put"
		request := put(k.key, value)
		request.PrevKv = !kine() && o.rng.IntN(2) == 0
		asksBack = request.PrevKv
		var answer *pb.PutResponse
		if answer, err = do(o.c.Put, request); err == nil {
			header = answer.Header
			if request.PrevKv && !same(answer.PrevKv, k.kv) {
				o.t.Errorf("put %s: the previous one was %v, and not %v", k.key, answer.PrevKv, k.kv)
			}
		}
	case k.kv == nil:
		what = "create"
		header, err = o.txn(k, what, create(k.key, value))
	case kind < 4:
		what = "update"
		header, err = o.txn(k, what, update(k.key, value, k.kv.ModRevision))
	case kine() || o.rng.IntN(2) == 0:
		what, next = "compare and delete", nil
		header, err = o.txn(k, what, remove(k.key, k.kv.ModRevision))
	default:
		what, next, asksBack = "delete", nil, true
		var answer *pb.DeleteRangeResponse
		if answer, err = do(o.c.DeleteRange, &pb.DeleteRangeRequest{Key: []byte(k.key), PrevKv: true}); err == nil {
			header = answer.Header
			if answer.Deleted != 1 || len(answer.PrevKvs) != 1 || !same(answer.PrevKvs[0], k.kv) {
				o.t.Errorf("delete %s, which holds %v: %v", k.key, k.kv, answer)
			}
		}
	}
	if !o.writes.add(o.t, what, err) {
		if err == nil || unknown(err) || asksBack {
			k.inDoubt, k.doubt = true, next
			o.doubts.Add(1)
		} else {
			k.refusal = fmt.Sprintf("%s of %s: %v", what, value, err)
		}
		return false // one whose error does not say so has not been done: the key's next answers tell
	}
	o.look(header)
	k.set(next, header.Revision)
	return true
}

// set is a change that was acknowledged, or found to have been done.
func (k *owned) set(next *mvccpb.KeyValue, revision int64) {
	if next != nil {
		next.ModRevision = revision
		if k.kv == nil {
			next.CreateRevision = revision
		}
		k.history = append(k.history, next)
	} else {
		k.gone = revision
		k.history = append(k.history, &mvccpb.KeyValue{Key: []byte(k.key), ModRevision: revision})
	}
	k.kv = next
}

// txn makes a transaction that nothing can have made lose.
func (o *owner) txn(k *owned, what string, request *pb.TxnRequest) (*pb.ResponseHeader, error) {
	answer, err := do(o.c.Txn, request)
	if err != nil {
		return nil, err
	}
	if !answer.Succeeded {
		o.t.Errorf("a false compare failure: %s %s, which holds %v: %v\n\t(the last refusal that said nothing of its outcome: %s)", what, k.key, k.kv,
			answer, k.refusal)
	}
	return answer.Header, nil
}

// lose makes a transaction that has to lose.
func (o *owner) lose(k *owned) {
	var request *pb.TxnRequest
	switch {
	case k.kv == nil:
		request = update(k.key, o.value(), 1+o.rng.Int64N(1<<20))
	case o.rng.IntN(2) == 0 && !kine(): // kine's creation has no other branch
		request = create(k.key, o.value())
		request.Failure = []*pb.RequestOp{rangeOp(get(k.key))}
	default:
		request = update(k.key, o.value(), k.kv.ModRevision-1)
	}
	answer, err := do(o.c.Txn, request)
	if !o.idle.add(o.t, "a compare that must fail", err) {
		return
	}
	o.look(answer.Header)
	if answer.Succeeded {
		o.t.Errorf("%v succeeded on %s, which holds %v", request.Compare, k.key, k.kv)
		return
	}
	if found := first(answer.Responses[0].GetResponseRange()); !same(found, k.kv) {
		o.t.Errorf("%s holds %v after a compare that failed, and must hold %v", k.key, found, k.kv)
	}
}

// first is a range's only key, nil if it has none.
func first(r *pb.RangeResponse) *mvccpb.KeyValue {
	if r == nil || len(r.Kvs) == 0 {
		return nil
	}
	return r.Kvs[0]
}

// resolve reads a key. What it holds is then settled: no write is on its way any more. False means that it could not be read.
func (o *owner) resolve(k *owned) bool {
	answer, err := do(o.c.Range, get(k.key))
	if err != nil {
		refused(o.t, "a read", err)
		return false
	}
	o.look(answer.Header)
	found := first(answer)
	if !k.inDoubt {
		if !same(found, k.kv) {
			o.t.Errorf("%s holds %v, and must hold %v\n\t(the last refusal that said nothing of its outcome: %s)", k.key, found, k.kv, k.refusal)
		}
		return true
	}
	before, after := k.kv, k.doubt
	k.inDoubt, k.doubt = false, nil
	if same(found, before) {
		return true
	}
	o.done.Add(1)
	switch {
	case after == nil && found == nil:
		k.set(nil, 0)
		return true
	case after != nil && found != nil:
		k.set(after, found.ModRevision)
	}
	newer := found != nil && (before == nil && found.ModRevision > k.gone || before != nil && found.ModRevision > before.ModRevision)
	if !newer || !same(found, k.kv) {
		o.t.Errorf("%s holds %v after a write of unknown outcome; it held %v, and the write was of %v", k.key, found, before, after)
	}
	return true
}

// verify looks at every key, and at its whole history from a revision on, when the endpoint serves and nobody writes.
func (o *owners) verify(t *testing.T, c client, from int64) {
	t.Helper()
	keys, changes := 0, 0
	for _, one := range o.all {
		for _, k := range one.keys {
			if !one.resolve(k) {
				t.Fatalf("%s cannot be read", k.key)
			}
			keys++
		}
	}
	events, err := follow(t.Context(), c, &pb.WatchCreateRequest{Key: []byte("/own/"), RangeEnd: end("/own/"), StartRevision: from}, upTo(current(t, c)))
	if err != nil {
		t.Fatalf("read the history: %v", err)
	}
	by := map[string][]*mvccpb.KeyValue{}
	for _, e := range events {
		by[string(e.Kv.Key)] = append(by[string(e.Kv.Key)], e.Kv)
		changes++
	}
	for _, one := range o.all {
		for _, k := range one.keys {
			if err := sameHistory(by[k.key], k.history); err != nil {
				t.Errorf("the history of %s: %v", k.key, err)
			}
		}
	}
	t.Logf("%d keys and %d changes are as they were acknowledged", keys, changes)
}

// sameHistory compares what a watch says with what was acknowledged. Where a deletion turned out to have been done, its revision is not known.
func sameHistory(got, want []*mvccpb.KeyValue) error {
	for i := range min(len(got), len(want)) {
		g, w := *got[i], *want[i]
		if len(w.Value) == 0 { // a deletion: kine says more of what was there before
			if len(g.Value) > 0 && !kine() {
				return fmt.Errorf("change %d is %v, and must be a deletion", i, &g)
			}
			g = mvccpb.KeyValue{Key: g.Key, ModRevision: g.ModRevision}
			if w.ModRevision == 0 {
				w.ModRevision = g.ModRevision
			}
		}
		if !same(&g, &w) {
			return fmt.Errorf("change %d is %v, and was acknowledged as %v", i, &g, &w)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d changes, and %d were acknowledged or seen", len(got), len(want))
	}
	return nil
}
