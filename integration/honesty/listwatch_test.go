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

// paged is the size of a page of those who list in pages, as Kubernetes does.
const paged = 500

// listAll lists a prefix, at once or in pages at the revision of the first, which it returns; revision 0 is now.
func listAll(c client, prefix string, revision int64, pages bool) ([]*mvccpb.KeyValue, int64, error) {
	request := list(prefix)
	request.Revision = revision
	if pages {
		request.Limit = paged
	}
	var all []*mvccpb.KeyValue
	for {
		answer, err := do(c.Range, request)
		if err != nil {
			return nil, 0, err
		}
		if request.Revision == 0 {
			request.Revision = answer.Header.Revision
		}
		if revision == 0 {
			revision = answer.Header.Revision
		}
		all = append(all, answer.Kvs...)
		if !answer.More {
			return all, revision, nil
		}
		request.Key = append(answer.Kvs[len(answer.Kvs)-1].Key, 0)
	}
}

// observer lists, watches from where the list ended, and lists again at that revision.
type observer struct {
	c        client
	revision int64
	listed   []*mvccpb.KeyValue
	events   []*mvccpb.Event
	err      error
}

func (o *observer) run(t *testing.T, pages bool, until func() int64) {
	if o.listed, o.revision, o.err = listAll(o.c, "/made/", 0, pages); o.err != nil {
		return
	}
	events := make(chan error, 1)
	go func() {
		var err error
		o.events, err = follow(t.Context(), o.c,
			&pb.WatchCreateRequest{Key: []byte("/made/"), RangeEnd: end("/made/"), StartRevision: o.revision + 1}, until)
		events <- err
	}()
	for range 3 {
		if err := o.again(); err != nil {
			t.Error(err)
		}
		time.Sleep(retryPause)
	}
	o.err = <-events
}

// again lists at the revision of the first list.
func (o *observer) again() error {
	again, _, err := listAll(o.c, "/made/", o.revision, false)
	if err == nil {
		err = sameKVs(again, o.listed)
	}
	if err != nil {
		return fmt.Errorf("a list at revision %d, made again: %w", o.revision, err)
	}
	return nil
}

// A list, and a watch from the revision after it, have every key exactly once, however many write.
func TestListAndWatchHaveEveryKeyOnce(t *testing.T) {
	const creators, pairs = 32, 20
	each := 60 * number("HONESTY_SECONDS", 3)
	rng := random(t)
	r := start(t, options{})
	var last atomic.Int64 // revision, when all creators have ended
	var made sync.Map     // key to revision
	var count atomic.Int64
	var creating, running sync.WaitGroup
	for n := range creators {
		c := r.client()
		creating.Go(func() {
			for i := range each {
				key := fmt.Sprintf("/made/%d/%d", n, i)
				answer, err := do(c.Txn, create(key, key))
				if err != nil || !answer.Succeeded {
					t.Errorf("create %s: %v, %v", key, answer, err)
					return
				}
				made.Store(key, answer.Header.Revision)
				count.Add(1)
			}
		})
	}
	total := int64(creators * each)
	observers := make([]*observer, pairs)
	for i := range observers {
		o := &observer{c: r.client()}
		observers[i] = o
		share := rand.New(rand.NewPCG(rng.Uint64(), 0)).Int64N(total * 9 / 10)
		running.Go(func() {
			for count.Load() < share && !t.Failed() {
				time.Sleep(retryPause / 4)
			}
			o.run(t, i%2 == 1, last.Load)
		})
	}
	creating.Wait()
	last.Store(current(t, r.client()))
	running.Wait()
	lost, twice := 0, 0
	for i, o := range observers {
		if o.err != nil {
			t.Errorf("pair %d, at revision %d: %v", i, o.revision, o.err)
			continue
		}
		if err := o.again(); err != nil {
			t.Error(err)
		}
		l, d := o.compare(t, &made)
		lost, twice = lost+l, twice+d
	}
	t.Logf("%d keys by %d creators, %d pairs of a list and a watch: %d keys lost, %d twice", total, creators, pairs, lost, twice)
}

// compare counts the keys that were made and that the observer was not told of, or was told of twice.
func (o *observer) compare(t *testing.T, made *sync.Map) (lost, twice int) {
	t.Helper()
	seen := map[string]int64{}
	note := func(kv *mvccpb.KeyValue) {
		key := string(kv.Key)
		if _, again := seen[key]; again {
			twice++
			t.Errorf("a list at %d and its watch have %s twice", o.revision, key)
		}
		seen[key] = kv.ModRevision
	}
	for _, kv := range o.listed {
		if note(kv); kv.ModRevision > o.revision {
			t.Errorf("a list at %d has %v", o.revision, kv)
		}
	}
	before := o.revision
	for _, e := range o.events {
		note(e.Kv)
		if e.Kv.ModRevision <= before {
			t.Errorf("a watch from %d on has %v after revision %d", o.revision+1, e.Kv, before)
		}
		before = e.Kv.ModRevision
	}
	made.Range(func(key, revision any) bool {
		if got, ok := seen[key.(string)]; !ok || got != revision.(int64) {
			lost++
			if lost < 4 {
				t.Errorf("a list at %d and its watch have %s at revision %d: %v, and it was made at %d", o.revision, key, got, ok, revision)
			}
		}
		return true
	})
	return lost, twice
}
