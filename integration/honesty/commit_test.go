package honesty

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kineshim/integration/pgtest"
)

const writers = 16

// writerSession is the session that holds the engine's lock, or, where there is none, one that writes.
const writerSession = `SELECT pid FROM pg_stat_activity a WHERE datname = $1 AND backend_type = 'client backend'
	ORDER BY EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND locktype = 'advisory' AND mode = 'ExclusiveLock') DESC,
	state = 'active' AND query NOT LIKE 'SELECT%' DESC, random() LIMIT 1`

// blow is one way to lose a commit's answer.
type blow struct {
	name   string
	weight int
	strike func(r *rig, rng *rand.Rand)
}

var blows = []blow{
	{"lose what PostgreSQL answers", 30, func(r *rig, rng *rand.Rand) {
		r.proxy.lose(between(rng, 0, 10*time.Millisecond), 0)
	}},
	{"lose what PostgreSQL answers, and PostgreSQL notices later", 10, func(r *rig, rng *rand.Rand) {
		r.proxy.lose(between(rng, 0, 5*time.Millisecond), between(rng, 0, 200*time.Millisecond))
	}},
	{"terminate the writing session", 30, func(r *rig, _ *rand.Rand) {
		r.sql(`SELECT pg_terminate_backend(pid) FROM (`+writerSession+`) one`, r.host.Database)
	}},
	{"terminate any session", 10, func(r *rig, _ *rand.Rand) { r.sql(terminateOne, r.host.Database, false) }},
	{"terminate all sessions", 5, func(r *rig, _ *rand.Rand) { r.terminate() }},
	{"kill -9 a session: PostgreSQL begins anew by itself", 2, func(r *rig, _ *rand.Rand) {
		if pid := r.count("SELECT coalesce(max(pid), 0) FROM ("+writerSession+") one", r.host.Database); pid != 0 {
			if err := syscall.Kill(int(pid), syscall.SIGKILL); err != nil {
				r.t.Error(err)
			}
			r.awaitReinit()
		}
	}},
	{"kill -9 the whole server", 3, func(r *rig, _ *rand.Rand) {
		r.pg.Kill()
		if err := r.pg.Resume(); err != nil {
			r.t.Fatal(err)
		}
		r.reconnect()
	}},
}

// awaitReinit waits until PostgreSQL has ended all sessions and takes new ones.
func (r *rig) awaitReinit() {
	r.t.Helper()
	for deadline := time.Now().Add(recoverBound); r.admin.Ping(r.t.Context()) == nil; time.Sleep(retryPause) {
		if time.Now().After(deadline) {
			r.t.Fatal("PostgreSQL has not noticed that one of its processes was killed")
		}
	}
	for deadline := time.Now().Add(recoverBound); ; time.Sleep(retryPause) {
		ctx, cancel := call()
		conn, err := pgx.Connect(ctx, r.pg.SuperDSN("postgres"))
		cancel()
		if err == nil {
			_ = conn.Close(r.t.Context())
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("PostgreSQL does not come back: %v", err)
		}
	}
	r.reconnect()
}

func pick(rng *rand.Rand) blow {
	total := 0
	for _, b := range blows {
		total += b.weight
	}
	n := rng.IntN(total)
	for _, b := range blows {
		if n < b.weight {
			return b
		}
		n -= b.weight
	}
	panic("unreachable")
}

// A write that was acknowledged is there, one that was not may be, and none is ever said not to have been done that was done or
// that nothing can have made lose.
func TestConnectionsLostDuringCommits(t *testing.T) {
	kills := number("HONESTY_KILLS", 60)
	rng := random(t)
	pg := pgtest.New(t)
	r := start(t, options{pg: pg, proxy: behindProxy(t, pg), cacheBytes: smallCache})
	c := r.client()
	from := current(t, c) + 1
	k := r.keep()
	o := r.own(rng, writers)
	o.run()
	defer o.stop()
	struck := map[string]int{}
	for range kills {
		time.Sleep(between(rng, time.Millisecond, 200*time.Millisecond))
		k.wait()
		b := pick(rng)
		b.strike(r, rng)
		struck[b.name]++
		if t.Failed() {
			break
		}
	}
	time.Sleep(100 * time.Millisecond)
	o.stop()
	k.wait()
	k.stop()
	o.verify(t, c, from)
	t.Log(o)
	for _, b := range blows {
		t.Logf("%3d times: %s", struck[b.name], b.name)
	}
	t.Logf("%d engines started", k.starts.Load())
	if o.writes.answered.Load() < int64(kills) || o.doubts.Load() < int64(kills/10) {
		t.Error("that tries too little: writes must be answered, and some must be in doubt")
	}
}

// A write that is done, and whose answer lacks a value that cannot be read any more, is not refused as one that was not done.
func TestWriteWhoseAnswerCannotBeReadIsNotCalledUndone(t *testing.T) {
	needNative(t)
	r := start(t, options{cacheBytes: smallCache})
	c := r.client()
	large := strings.Repeat("v", smallCache) // never cached
	ways := map[string]func(key string) (bool, error){
		"put that asks for the previous value": func(key string) (bool, error) {
			request := put(key, "new")
			request.PrevKv = true
			_, err := do(c.Put, request)
			return true, err
		},
		"delete that asks for the previous values": func(key string) (bool, error) {
			_, err := do(c.DeleteRange, &pb.DeleteRangeRequest{Key: []byte(key), PrevKv: true})
			return true, err
		},
		"transaction that writes one key and reads another": func(key string) (bool, error) {
			_, err := do(c.Txn, &pb.TxnRequest{Success: []*pb.RequestOp{putOp(put(key, "new")), rangeOp(get("/large"))}})
			return true, err
		},
		"update that compares a value": func(key string) (bool, error) {
			request := update(key, "new", 0)
			request.Compare = []*pb.Compare{{Key: []byte(key), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte(large)}}}
			answer, err := do(c.Txn, request)
			return err != nil || answer.Succeeded, err
		},
	}
	must(t, c.Put, put("/large", large))
	tries, lost := 0, 0
	for what, try := range ways {
		for i := range 5 {
			key := fmt.Sprintf("/answer/%d", i)
			must(t, c.Put, put(key, large))
			r.sql(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity a WHERE datname = $1 AND NOT EXISTS (
				SELECT FROM pg_locks l WHERE l.pid = a.pid AND locktype = 'advisory' AND mode = 'ExclusiveLock')`, r.host.Database)
			succeeded, err := try(key)
			tries++
			found := first(must(t, c.Range, get(key)))
			done := found == nil || string(found.Value) == "new"
			switch {
			case err == nil && !done, !succeeded:
				t.Errorf("a %s was answered as %v, and done: %v", what, succeeded, done)
			case err != nil && refused(t, "a "+what, err) && done && !unknown(err):
				t.Errorf("a %s was done, and refused with %v", what, err)
			}
			if err != nil {
				lost++
			}
		}
	}
	t.Logf("%d writes, %d of them refused", tries, lost)
}
