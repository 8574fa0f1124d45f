package handover

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"kineshim/integration/pgtest"
)

// Bounds of one random sequence.
const (
	minStays, maxStays   = 3, 6
	maxWrites            = 25
	modelKeys, byteCount = 8, 4
)

// byteKeys are keys that kine's column cannot hold: kine does not show them, and must not lose them.
var byteKeys = []string{"/b/\xff\xfe", "/b/nul\x00", "/b/" + strings.Repeat("long", 600), "compact_rev_key_apiserver"}

// model is what a client knows of the table, whoever has it.
type model struct {
	*writer
	rt *rapid.T
	p  *place
	// revision is the greatest that was seen.
	revision int64
	// before is the kind of the engine before.
	before string
	// compacted is the greatest revision that was compacted to.
	compacted int64
	// skewed: a transaction has changed several keys, so that row IDs are not revisions until kine shows them as such.
	skewed bool
	// doubt is the value that a write in flight at a kill would have left in doubtKey.
	doubt string
}

const doubtKey = prefix + "doubt"

func TestNoSequenceOfEnginesLosesAnything(t *testing.T) {
	t.Parallel()
	pg := pgtest.New(t)
	rapid.Check(t, func(rt *rapid.T) {
		p := &place{t: rt, pg: pg}
		p.create()
		defer p.drop()
		seed := rapid.Uint64().Draw(rt, "seed of the values")
		m := &model{rt: rt, p: p, writer: newWriter(rt, rand.New(rand.NewPCG(seed, 0)))}
		kinds := rapid.SliceOfN(rapid.SampledFrom([]string{nativeEngine, nativeEngine, plainKine, kineEngine}), minStays, maxStays).Draw(rt, "engines")
		for _, kind := range kinds {
			m.stay(kind)
		}
		m.stay(nativeEngine)
	})
}

// stay lets an engine have the table for a while.
func (m *model) stay(kind string) {
	r := m.p.start(kind)
	defer func() { r.stop() }()
	m.look(r)
	var lease clientv3.LeaseID
	writes := rapid.OneOf(rapid.Just(0), rapid.IntRange(0, maxWrites), rapid.IntRange(0, maxWrites)).Draw(m.rt, "writes by "+kind)
	for range writes {
		if kind == nativeEngine {
			m.native(r, &lease)
		} else {
			m.kine(r)
		}
	}
	m.before = kind
	m.look(r)
	if kind != nativeEngine {
		return
	}
	switch rapid.SampledFrom([]string{"closed", "sessions killed", "killed"}).Draw(m.rt, "how it ends") {
	case "sessions killed":
		m.kill(r, m.p.endSessions)
	case "killed":
		m.kill(r, func() {
			m.p.pg.Kill()
			if err := m.p.pg.Resume(); err != nil {
				m.rt.Fatalf("%v", err)
			}
		})
	}
}

// kill ends the engine's sessions with a write in flight.
func (m *model) kill(r *running, kill func()) {
	m.doubt = m.value()
	ended := make(chan bool, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), opBound)
		defer cancel()
		_, err := r.Put(ctx, doubtKey, m.doubt)
		ended <- err == nil
	}()
	kill()
	if acked := <-ended; acked {
		m.took(doubtKey, m.doubt, 0)
	}
	<-r.host.EngineFailed()
}

// took notes a write whose revision will be seen later, if it is 0.
func (m *model) took(key, value string, mod int64) {
	before, there := m.objects[key]
	o := object{value: value, create: before.create, mod: mod, version: before.version + 1}
	if !there {
		o.create = mod
	}
	m.objects[key] = o
}

// see takes a revision that an answer carried.
func (m *model) see(revision int64) {
	m.rt.Helper()
	if revision < m.revision {
		m.rt.Fatalf("revision %d after %d", revision, m.revision)
	}
	m.revision = revision
}

// look compares all that the engine shows with what is known.
func (m *model) look(r *running) {
	m.rt.Helper()
	shown, revision := r.everything(prefix)
	m.see(revision)
	want := map[string]object{}
	for key, o := range m.objects {
		if strings.HasPrefix(key, prefix) {
			want[key] = o
		}
	}
	if is, there := shown[doubtKey]; there && m.doubt != "" && is.value == m.doubt && want[doubtKey].value != m.doubt {
		m.took(doubtKey, m.doubt, is.mod)
		want[doubtKey] = m.objects[doubtKey]
	}
	m.doubt = ""
	if r.kind == nativeEngine {
		for _, key := range byteKeys {
			ctx, cancel := soon()
			answer, err := r.Get(ctx, key)
			cancel()
			if err != nil {
				m.rt.Fatalf("get %q: %v", key, err)
			}
			for _, kv := range answer.Kvs {
				shown[key] = object{string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease}
			}
			if o, there := m.objects[key]; there {
				want[key] = o
			}
		}
	}
	m.learn(r, shown, want)
	same(m.rt, r.kind+" after "+m.before, shown, want)
	for key, o := range want {
		m.objects[key] = o
	}
}

// learn takes over from what is shown what may differ from what is known, where it may, and checks that it differs as it may.
// Kine shows row IDs as revisions, and has done so since: of keys with revisions of ours they are greater.
func (m *model) learn(r *running, shown, want map[string]object) {
	m.rt.Helper()
	for key, w := range want {
		is, there := shown[key]
		if !there {
			continue
		}
		kines := r.kind != nativeEngine
		if kines {
			is.version, is.lease = w.version, w.lease
		}
		if strings.HasPrefix(key, prefix) && !kines && w.lease != 0 && is.lease != 0 {
			is.lease = w.lease // that of a key which kine has written since is another one
		}
		fromKine := m.before != nativeEngine && m.before != "" && !strings.HasPrefix(key, prefix)
		if m.skewed && kines || fromKine || w.mod == 0 {
			if is.mod < w.mod || is.create < w.create && w.create != 0 {
				m.rt.Fatalf("%q has gone back from %+v to %+v", key, w, is)
			}
			w.mod, w.create = is.mod, is.create
		}
		want[key], shown[key] = w, is
	}
	if r.kind != nativeEngine && m.skewed {
		m.skewed = false
		m.compacted = m.revision // at most: it is a row ID too
	}
}

// key is one of a few, so that they meet.
func (m *model) key() string {
	return fmt.Sprintf("%s%c/%d", prefix, 'a'+rune(rapid.IntRange(0, 2).Draw(m.rt, "group")), rapid.IntRange(0, modelKeys-1).Draw(m.rt, "key"))
}

// kubernetes is one write as Kubernetes does it, or one that must lose.
func (m *model) kubernetes(r *running) {
	m.rt.Helper()
	key := m.key()
	before, there := m.objects[key]
	switch what := rapid.SampledFrom([]string{"put", "put", "delete", "lose"}).Draw(m.rt, "write"); {
	case there && what == "delete":
		m.delete(r, key)
	case there && what == "lose":
		ctx, cancel := soon()
		defer cancel()
		answer, err := r.try(ctx, before.mod-1, clientv3.OpPut(key, "lost"))
		if err != nil || answer.Succeeded {
			m.rt.Fatalf("%s: an update of %q at %d, which has %d: %v, %v", r.kind, key, before.mod-1, before.mod, answer, err)
		}
		m.see(answer.Header.Revision)
		return
	default:
		m.put(r, key, 0)
	}
	if m.last() <= m.revision {
		m.rt.Fatalf("%s has given revision %d after %d", r.kind, m.last(), m.revision)
	}
	if r.kind == nativeEngine && m.last() != m.revision+1 {
		m.rt.Fatalf("the native engine has given revision %d after %d", m.last(), m.revision)
	}
	m.see(m.last())
}

// kine is what kine can do.
func (m *model) kine(r *running) {
	if r.kind == plainKine && rapid.IntRange(0, 9).Draw(m.rt, "lost race") == 0 {
		m.p.burn()
		return
	}
	m.kubernetes(r)
}

// native is what only the native engine can do, and what Kubernetes does.
func (m *model) native(r *running, lease *clientv3.LeaseID) {
	m.rt.Helper()
	ctx, cancel := soon()
	defer cancel()
	switch rapid.SampledFrom([]string{"kubernetes", "kubernetes", "transaction", "transaction", "bytes", "lease", "range", "compact", "restart"}).Draw(m.rt, "operation") {
	case "transaction":
		m.transaction(ctx, r)
	case "bytes":
		key := byteKeys[rapid.IntRange(0, byteCount-1).Draw(m.rt, "byte key")]
		if _, there := m.objects[key]; there && rapid.Bool().Draw(m.rt, "delete") {
			m.delete(r, key)
		} else {
			m.put(r, key, 0)
		}
		m.see(m.last())
	case "lease":
		if *lease == 0 {
			granted, err := r.Grant(ctx, 3600)
			if err != nil {
				m.rt.Fatalf("grant: %v", err)
			}
			*lease = granted.ID
		}
		m.put(r, m.key(), *lease)
		m.see(m.last())
	case "range":
		m.deleteRange(ctx, r)
	case "compact":
		to := m.revision - int64(rapid.IntRange(0, 10).Draw(m.rt, "back"))
		if to <= m.compacted {
			return
		}
		if _, err := r.Compact(ctx, to, clientv3.WithCompactPhysical()); err != nil {
			m.rt.Fatalf("compact to %d of %d, compacted to %d: %v", to, m.revision, m.compacted, err)
		}
		m.compacted = to
	case "restart":
		if err := r.host.RestartEngine(); err != nil {
			m.rt.Fatalf("restart: %v", err)
		}
		m.before = nativeEngine
		m.look(r)
	default:
		m.kubernetes(r)
	}
}

// transaction changes several keys in one revision.
func (m *model) transaction(ctx context.Context, r *running) {
	m.rt.Helper()
	keys := map[string]string{}
	for range rapid.IntRange(2, 6).Draw(m.rt, "keys") {
		keys[m.key()] = m.value()
	}
	var ops []clientv3.Op
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if _, there := m.objects[key]; there && rapid.IntRange(0, 3).Draw(m.rt, "delete") == 0 {
			keys[key] = ""
			ops = append(ops, clientv3.OpDelete(key))
		} else {
			ops = append(ops, clientv3.OpPut(key, keys[key]))
		}
	}
	answer, err := r.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		m.rt.Fatalf("transaction: %v", err)
	}
	mod := answer.Header.Revision
	for key, value := range keys {
		if value == "" {
			delete(m.objects, key)
		} else {
			m.took(key, value, mod)
		}
	}
	m.several(mod, len(keys))
}

// deleteRange deletes a group.
func (m *model) deleteRange(ctx context.Context, r *running) {
	m.rt.Helper()
	group := fmt.Sprintf("%s%c/", prefix, 'a'+rune(rapid.IntRange(0, 2).Draw(m.rt, "group")))
	answer, err := r.Delete(ctx, group, clientv3.WithPrefix())
	if err != nil {
		m.rt.Fatalf("delete %s: %v", group, err)
	}
	n := 0
	for key := range m.objects {
		if strings.HasPrefix(key, group) {
			delete(m.objects, key)
			n++
		}
	}
	if answer.Deleted != int64(n) {
		m.rt.Fatalf("%d of %d keys below %s were deleted", answer.Deleted, n, group)
	}
	m.several(answer.Header.Revision, n)
}

// several is n changes at a revision.
func (m *model) several(mod int64, n int) {
	m.rt.Helper()
	if want := m.revision + int64(min(n, 1)); mod != want {
		m.rt.Fatalf("%d changes at revision %d, not %d", n, mod, want)
	}
	m.skewed = m.skewed || n > 1
	m.see(mod)
}
