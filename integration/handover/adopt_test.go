package handover

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const compactRevKey = "compact_rev_key"

// compactAs does what an API server does each five minutes.
func (r *running) compactAs(version, revision int64) {
	r.t.Helper()
	ctx, cancel := soon()
	defer cancel()
	answer, err := r.Txn(ctx).If(clientv3.Compare(clientv3.Version(compactRevKey), "=", version)).
		Then(clientv3.OpPut(compactRevKey, "revision")).Else(clientv3.OpGet(compactRevKey)).Commit()
	if err != nil || !answer.Succeeded {
		r.t.Fatalf("%s: the transaction on %s at version %d: %v, %v", r.kind, compactRevKey, version, answer, err)
	}
	if revision == 0 {
		return
	}
	if _, err := r.Compact(ctx, revision); err != nil {
		r.t.Fatalf("%s: compact to %d: %v", r.kind, revision, err)
	}
}

func TestNativeShowsWhatKineShowed(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{plainKine, kineEngine} {
		t.Run(kind, func(t *testing.T) {
			p := newPlace(t)
			w := newWriter(t, seeded(t))
			k := p.start(kind)
			defer func() { k.stop() }()
			w.some(k, 300, 60)
			var compacted int64
			if kind == plainKine { // the other one keeps a thousand revisions, whatever it is asked for
				compacted = w.last() - 100
			}
			k.compactAs(0, 0)
			w.some(k, 20, 60)
			k.compactAs(1, compacted)
			for range 5 {
				p.burn()
			}
			w.some(k, 200, 60)
			ctx, cancel := soon()
			defer cancel()
			lease, err := k.Grant(ctx, 3600)
			if err != nil {
				t.Fatal(err)
			}
			w.put(k, prefix+"leased", lease.ID)
			k.compactAs(2, 0)
			k.history(w.last()-1, w.last()) // which makes kine look for holes
			waitFor(t, "kine has filled the holes", func() bool { return p.gaps() == 5 })
			shown, revision := k.everything(prefix)
			same(t, "kine", asKine(shown), asKine(w.objects))
			k.stop()

			n := p.start(nativeEngine)
			defer func() { n.stop() }()
			adopted, header := n.everything(prefix)
			same(t, "the native engine", asKine(adopted), asKine(shown))
			if header < revision {
				t.Errorf("revision %d after %d", header, revision)
			}
			for key, o := range adopted {
				if o.version < 1 || (compacted == 0 && o.version != w.objects[key].version) || (o.lease != 0) != (key == prefix+"leased") {
					t.Errorf("%q is %+v, was %+v", key, o, w.objects[key])
				}
			}
			key, err := n.Get(ctx, compactRevKey)
			if err != nil || len(key.Kvs) != 1 || key.Kvs[0].Version != 3 || string(key.Kvs[0].Value) != "revision" {
				t.Errorf("Kubernetes' %s: %v, %v", compactRevKey, key, err)
			}
			fixed := int64(0)
			waitFor(t, "versions are stored", func() bool {
				fixed = ask[int64](p, "SELECT count(*) FROM kine WHERE ks_version IS NOT NULL")
				return fixed > 0
			})
			if fixed > int64(len(adopted))+1 {
				t.Errorf("%d rows have been written anew, and only %d keys are there", fixed, len(adopted))
			}
			sameHistory(t, n.history(max(compacted, 2), w.last()), w.since(max(compacted, 2)))
			if compacted > 0 {
				if answer := <-n.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(compacted-1)); answer.CompactRevision != compacted {
					t.Errorf("a watch from before the compaction to %d: %+v", compacted, answer)
				}
			}
			goesOn(t, w, n, adopted, header)
		})
	}
}

// goesOn compacts and restarts the native engine, which must change nothing, and writes.
func goesOn(t *testing.T, w *writer, n *running, adopted map[string]object, header int64) {
	t.Helper()
	ctx, cancel := soon()
	defer cancel()
	middle := (w.changes[0].mod + 3*w.last()) / 4
	past, _ := n.everythingAt(prefix, middle)
	for _, compact := range []int64{0, middle, header} {
		if compact > 0 {
			if _, err := n.Compact(ctx, compact, clientv3.WithCompactPhysical()); err != nil {
				t.Fatalf("compact to %d: %v", compact, err)
			}
		}
		if err := n.host.RestartEngine(); err != nil {
			t.Fatal(err)
		}
		again, revision := n.everything(prefix)
		same(t, "started again", again, adopted)
		if revision != header {
			t.Fatalf("started again after a compaction to %d: revision %d, not %d", compact, revision, header)
		}
		if compact <= middle {
			again, _ := n.everythingAt(prefix, middle)
			same(t, "the past after a start", again, past)
		}
	}
	key := w.pick()
	mod := adopted[key].mod
	for i := range int64(3) {
		mod = n.do(mod, clientv3.OpPut(key, "by the native engine"))
		if mod != header+1+i {
			t.Fatalf("revision %d, not %d", mod, header+1+i)
		}
	}
	all, _ := n.everything(prefix)
	want := object{"by the native engine", adopted[key].create, header + 3, adopted[key].version + 3, 0}
	if all[key] != want {
		t.Errorf("%q is %+v, not %+v", key, all[key], want)
	}
}

func TestKeysOfKineExpireInTheNativeEngine(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	k := p.start(plainKine)
	defer func() { k.stop() }()
	ctx, cancel := soon()
	defer cancel()
	const ttl = 5
	for key, seconds := range map[string]int64{prefix + "short": ttl, prefix + "long": 3600} {
		lease, err := k.Grant(ctx, seconds)
		if err != nil {
			t.Fatal(err)
		}
		k.do(0, clientv3.OpPut(key, "v", clientv3.WithLease(lease.ID)))
	}
	k.stop()
	began := time.Now()
	n := p.start(nativeEngine)
	defer func() { n.stop() }()
	serves := time.Now()
	all, _ := n.everything(prefix)
	left, err := n.TimeToLive(ctx, clientv3.LeaseID(all[prefix+"short"].lease), clientv3.WithAttachedKeys())
	if err != nil || left.GrantedTTL != ttl || left.TTL > ttl || left.TTL < ttl-2 || len(left.Keys) != 1 || string(left.Keys[0]) != prefix+"short" {
		t.Fatalf("the lease of kine's key: %+v, %v", left, err)
	}
	time.Sleep(3 * time.Second)
	down := time.Now()
	if err := n.host.RestartEngine(); err != nil { // the rest of its time is kept
		t.Fatal(err)
	}
	stood := time.Since(down)
	waitFor(t, "the key expires", func() bool {
		all, _ := n.everything(prefix)
		_, there := all[prefix+"short"]
		return !there
	})
	lived := time.Since(began)
	if lived < ttl*time.Second {
		t.Errorf("the key lived for %v, its time to live is %d s", lived, ttl)
	}
	// The clock is stored each second, and expiry is exact to a second.
	if bound := serves.Sub(began) + stood + (ttl+2)*time.Second; lived > bound {
		t.Errorf("the key lived for %v, and should not for more than %v", lived, bound)
	}
	if all, _ := n.everything(prefix); all[prefix+"long"].lease == 0 || len(all) != 1 {
		t.Errorf("the other key: %+v", all)
	}
}

func TestKeysOfTheNativeEngineExpireInKine(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	n := p.start(nativeEngine)
	defer func() { n.stop() }()
	ctx, cancel := soon()
	defer cancel()
	lease, err := n.Grant(ctx, 3)
	if err != nil {
		t.Fatal(err)
	}
	n.do(0, clientv3.OpPut(prefix+"short", "v", clientv3.WithLease(lease.ID)))
	n.do(0, clientv3.OpPut(prefix+"stays", "v"))
	n.stop()
	began := time.Now()
	k := p.start(plainKine)
	defer func() { k.stop() }()
	waitFor(t, "the key expires", func() bool {
		all, _ := k.everything(prefix)
		return len(all) == 1
	})
	if lived := time.Since(began); lived < 2500*time.Millisecond {
		t.Errorf("kine let the key expire after %v", lived)
	}
	k.stop()
	n = p.start(nativeEngine)
	if all, _ := n.everything(prefix); len(all) != 1 || all[prefix+"stays"].value != "v" {
		t.Errorf("the native engine has %+v", all)
	}
	if leases, err := n.Leases(ctx); err != nil || len(leases.Leases) > 1 {
		t.Errorf("leases: %+v, %v", leases, err)
	}
}

// A kine that was not stopped, and one that is started meanwhile.
func TestKineBesideTheNativeEngineWritesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	w := newWriter(t, seeded(t))
	before := p.start(plainKine)
	defer func() { before.stop() }()
	w.some(before, 50, 20)
	n := p.start(nativeEngine)
	defer func() { n.stop() }()
	_, revision := n.everything(prefix)
	watched := make(chan []change, 1)
	attempt := func(k *running) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		key := w.pick()
		for _, op := range []clientv3.Op{clientv3.OpPut(prefix+"by kine", "v"), clientv3.OpPut(key, "by kine"), clientv3.OpDelete(key)} {
			mod := w.objects[key].mod
			if string(op.KeyBytes()) != key {
				mod = 0
			}
			if answer, err := k.try(ctx, mod, op); err == nil && answer.Succeeded {
				t.Errorf("kine has written %q", op.KeyBytes())
			}
		}
	}
	attempt(before)
	w.some(n, 30, 20)
	later := p.start(plainKine)
	defer func() { later.stop() }()
	for _, k := range []*running{before, later} {
		attempt(k)
		w.some(n, 30, 20)
		attempt(k)
	}
	go func() { watched <- n.history(revision, w.last()) }()
	shown, _ := n.everything(prefix)
	same(t, "beside kine", shown, w.objects)
	sameHistory(t, <-watched, w.since(revision))
	// What kine reads is the truth too, sooner or later.
	waitFor(t, "kine sees it", func() bool {
		_, revision := later.everything(prefix)
		return revision >= w.last()
	})
	seen, _ := later.everything(prefix)
	same(t, "kine's reads", asKine(seen), asKine(w.objects))
	n.stop()
	w.some(later, 30, 20)
	later.stop()
	before.stop()
	n = p.start(nativeEngine)
	shown, _ = n.everything(prefix)
	same(t, "after kine", shown, w.objects)
}
