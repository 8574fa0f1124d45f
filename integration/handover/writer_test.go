package handover

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// prefix begins the names of all keys of the tests that plain kine can show.
const prefix = "/t/"

// change is an event as a watch shows it.
type change struct {
	key, value  string
	deleted     bool
	create, mod int64  // create is 0 for a deletion
	prev        string // the value before, "" if the key was not there
}

// writer writes as Kubernetes does, and knows what came of it.
type writer struct {
	t   tester
	rng *rand.Rand
	// objects are what is there, with the versions that etcd would show.
	objects map[string]object
	// changes are all there have been, oldest first.
	changes []change
	values  int
}

func newWriter(t tester, rng *rand.Rand) *writer {
	return &writer{t: t, rng: rng, objects: map[string]object{}}
}

// value is a new one.
func (w *writer) value() string {
	w.values++
	return fmt.Sprintf("value %d %x", w.values, w.rng.Uint64())
}

// put creates or updates a key.
func (w *writer) put(r *running, key string, lease clientv3.LeaseID) {
	w.t.Helper()
	before := w.objects[key]
	value := w.value()
	var opts []clientv3.OpOption
	if lease != 0 {
		opts = append(opts, clientv3.WithLease(lease))
	}
	mod := r.do(before.mod, clientv3.OpPut(key, value, opts...))
	o := object{value: value, create: before.create, mod: mod, version: before.version + 1, lease: int64(lease)}
	if before.mod == 0 {
		o.create = mod
	}
	w.objects[key] = o
	w.changes = append(w.changes, change{key: key, value: value, create: o.create, mod: mod, prev: before.value})
}

func (w *writer) delete(r *running, key string) {
	w.t.Helper()
	before := w.objects[key]
	mod := r.do(before.mod, clientv3.OpDelete(key))
	delete(w.objects, key)
	w.changes = append(w.changes, change{key: key, deleted: true, mod: mod, prev: before.value})
}

// some does n writes to about as many keys as are given.
func (w *writer) some(r *running, n, keys int) {
	w.t.Helper()
	for range n {
		key := fmt.Sprintf("%s%c/object-%d", prefix, 'a'+rune(w.rng.IntN(5)), w.rng.IntN(keys))
		if _, there := w.objects[key]; there && w.rng.IntN(4) == 0 {
			w.delete(r, key)
		} else {
			w.put(r, key, 0)
		}
	}
}

// last is the revision of the newest change.
func (w *writer) last() int64 { return w.changes[len(w.changes)-1].mod }

// since is the changes after a revision.
func (w *writer) since(revision int64) []change {
	return w.changes[slices.IndexFunc(w.changes, func(c change) bool { return c.mod > revision }):]
}

// history watches from after a revision to another one, which is a change.
func (r *running) history(after, upto int64) []change {
	r.t.Helper()
	ctx, cancel := soon()
	defer cancel()
	var all []change
	for answer := range r.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1), clientv3.WithPrevKV()) {
		if err := answer.Err(); err != nil {
			r.t.Fatalf("watch on %s from %d: %v", r.kind, after+1, err)
		}
		for _, e := range answer.Events {
			c := change{key: string(e.Kv.Key), value: string(e.Kv.Value), create: e.Kv.CreateRevision, mod: e.Kv.ModRevision,
				deleted: e.Type == mvccpb.DELETE}
			if e.PrevKv != nil {
				c.prev = string(e.PrevKv.Value)
			}
			all = append(all, c)
			if c.mod >= upto {
				return all
			}
		}
	}
	r.t.Fatalf("%s has shown %d changes after %d, and then nothing up to %d", r.kind, len(all), after, upto)
	return nil
}

// sameHistory compares what a watch has shown.
func sameHistory(t *testing.T, got, want []change) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(change{})); diff != "" {
		t.Fatalf("the history is not what was written (-want +got):\n%s", diff)
	}
}

// pick is one of the keys that are there.
func (w *writer) pick() string {
	keys := slices.Sorted(maps.Keys(w.objects))
	return keys[w.rng.IntN(len(keys))]
}
