package honesty

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"kineshim/integration/pgtest"
)

// heldFor is how long a commit that waits for its standby is watched before its wait is cut short.
const heldFor = 30 * time.Millisecond

// cut is one way to end a commit's wait for its standby. The commit is then visible in this database, and lost in a failover.
type cut struct {
	name string
	do   func(r *rig)
}

// waiting are the sessions whose commits wait for the standby.
const waiting = "FROM pg_stat_activity WHERE datname = $1 AND wait_event = 'SyncRep'"

var cuts = []cut{
	{"pg_cancel_backend", func(r *rig) { r.sql("SELECT pg_cancel_backend(pid) "+waiting, r.host.Database) }},
	{"pg_terminate_backend", func(r *rig) { r.sql("SELECT pg_terminate_backend(pid) "+waiting, r.host.Database) }},
}

// slowCuts are tried once in a while.
var slowCuts = []cut{
	{"kill -9 of the whole server", func(r *rig) {
		r.pg.Kill()
		if err := r.pg.Resume(); err != nil {
			r.t.Fatal(err)
		}
		r.reconnect()
	}},
}

// held is one write whose commit waits, and what must stay hidden until it is durable.
type held struct {
	name string
	make func(c client, key string, was *mvccpb.KeyValue) error
}

var heldWrites = []held{
	{"put", func(c client, key string, _ *mvccpb.KeyValue) error {
		_, err := do(c.Put, put(key, "held"))
		return err
	}},
	{"update", func(c client, key string, was *mvccpb.KeyValue) error {
		answer, err := do(c.Txn, update(key, "held", was.ModRevision))
		return trueOr(err, answer.GetSucceeded())
	}},
	{"compare and delete", func(c client, key string, was *mvccpb.KeyValue) error {
		answer, err := do(c.Txn, remove(key, was.ModRevision))
		return trueOr(err, answer.GetSucceeded())
	}},
	{"create", func(c client, key string, _ *mvccpb.KeyValue) error {
		answer, err := do(c.Txn, create(key+"/new", "held"))
		return trueOr(err, answer.GetSucceeded())
	}},
	{"delete", func(c client, key string, _ *mvccpb.KeyValue) error {
		_, err := do(c.DeleteRange, &pb.DeleteRangeRequest{Key: []byte(key)})
		return err
	}},
	{"transaction of several keys", func(c client, key string, _ *mvccpb.KeyValue) error {
		_, err := do(c.Txn, &pb.TxnRequest{Success: []*pb.RequestOp{
			deleteOp(&pb.DeleteRangeRequest{Key: []byte(key)}), putOp(put(key+"/new", "held")), putOp(put(key+"/newer", "held"))}})
		return err
	}},
}

// kineHeldWrites is how many of them kine has.
const kineHeldWrites = 4

func trueOr(err error, ok bool) error {
	if err == nil && !ok {
		return fmt.Errorf("a false compare failure")
	}
	return err
}

// setStandbys says what commits wait for, and returns when they do: the checkpointer tells the sessions, and has done so when a
// checkpoint that was asked for later is over.
func (r *rig) setStandbys(names string) {
	r.t.Helper()
	r.sql("ALTER SYSTEM SET synchronous_standby_names = '" + names + "'")
	r.sql("SELECT pg_reload_conf()")
	r.reconnect() // a new session sees the new setting when the postmaster does
	for deadline := time.Now().Add(recoverBound); r.count("SELECT count(*) FROM pg_settings WHERE name = 'synchronous_standby_names' AND setting = $1", names) == 0; r.reconnect() {
		if time.Now().After(deadline) {
			r.t.Fatalf("synchronous_standby_names is not %q", names)
		}
		time.Sleep(retryPause)
	}
	r.sql("CHECKPOINT")
}

// A write whose commit stops waiting for its standby has an unknown outcome: its client is told so, the engine ends, and until then
// nobody has seen it.
func TestCommitCutShortIsNeitherAcknowledgedNorSeen(t *testing.T) {
	tries := number("HONESTY_CUTS", 14)
	rng := random(t)
	r := start(t, options{pg: pgtest.New(t)})
	writes := heldWrites
	if kine() {
		writes = heldWrites[:kineHeldWrites]
	}
	reads := 0
	counts := map[string]int{}
	for n := range tries {
		c := cuts[rng.IntN(len(cuts))]
		if n%7 == 6 {
			c = slowCuts[0]
		}
		w := writes[n%len(writes)]
		counts[c.name]++
		reads += tryCut(t, r, fmt.Sprintf("/cut/%d", n), w, c)
		if t.Failed() {
			t.Fatalf("try %d: %s, %s", n, w.name, c.name)
		}
	}
	t.Logf("%d commits cut short: %v; %d reads meanwhile", tries, counts, reads)
}

// awaitHeld returns when a commit waits for the standby.
func (r *rig) awaitHeld() {
	r.t.Helper()
	for deadline := time.Now().Add(recoverBound); r.count("SELECT count(*) "+waiting, r.host.Database) == 0; time.Sleep(retryPause) {
		if time.Now().After(deadline) {
			r.t.Fatal("no commit waits for the standby")
		}
	}
}

// tryCut holds one write, cuts it short, and puts a new engine in place of the one that has to fail.
func tryCut(t *testing.T, r *rig, key string, w held, how cut) (reads int) {
	t.Helper()
	c := r.client()
	must(t, c.Put, put(key, "before"))
	was, _, err := listAll(c, key, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	s := &spectator{t: t, c: r.client(), key: key, was: was, now: current(t, c)}
	s.start()
	r.setStandbys("nobody")
	failed := r.host.EngineFailed()
	var running sync.WaitGroup
	request := func(what string, f func() error) {
		running.Go(func() {
			switch err := f(); {
			case err == nil:
				t.Errorf("a %s was acknowledged", what)
			case refused(t, "a "+what, err) && !unknown(err):
				t.Errorf("a %s was refused without a word of its outcome: %v", what, err)
			}
		})
	}
	writer, second := r.client(), r.client()
	request(w.name, func() error { return w.make(writer, key, was[0]) })
	r.awaitHeld()
	if !kine() {
		// Its answer would tell of the first write, whichever way it goes.
		request("write after it", func() error {
			_, err := do(second.Txn, &pb.TxnRequest{
				Compare: []*pb.Compare{modIs(key, was[0].ModRevision), modIs(key+"/new", 0)},
				Success: []*pb.RequestOp{putOp(put(key+"/second", "held"))},
				Failure: []*pb.RequestOp{rangeOp(list(key))},
			})
			return err
		})
	}
	time.Sleep(heldFor)
	how.do(r)
	running.Wait()
	select {
	case <-failed:
	case <-time.After(callBound):
		t.Errorf("the engine has not failed after %s", how.name)
	}
	reads = s.stop()
	r.setStandbys("")
	if err := r.host.RestartEngine(); err != nil {
		t.Fatal(err)
	}
	one, _, err := listAll(c, key, 0, false)
	if err != nil {
		t.Fatalf("list after the restart: %v", err)
	}
	must(t, c.Put, put("/cut/after", "x"))
	if again, _, err := listAll(c, key, 0, false); err != nil || sameKVs(again, one) != nil {
		t.Errorf("what a new engine shows does not stay: %v, then %v (%v)", one, again, err)
	}
	return reads
}

// spectator reads and watches keys that nothing durable changes.
type spectator struct {
	t   *testing.T
	c   client
	key string
	was []*mvccpb.KeyValue
	now int64

	cancel  context.CancelFunc
	running sync.WaitGroup
	reads   int // answered
}

func (s *spectator) start() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	stream, err := s.c.Watch(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	watch := &pb.WatchCreateRequest{Key: []byte(s.key), RangeEnd: end(s.key), StartRevision: s.now + 1}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: watch}}); err != nil {
		s.t.Fatal(err)
	}
	if created, err := stream.Recv(); err != nil || !created.Created {
		s.t.Fatalf("create a watch: %v, %v", created, err)
	}
	s.running.Go(func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				return
			}
			if len(response.Events) > 0 || response.Header.Revision > s.now {
				s.t.Errorf("a watch shows what is not durable: %v", response)
				return
			}
		}
	})
	s.running.Go(func() {
		progress := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
		for ctx.Err() == nil && !s.t.Failed() {
			_ = stream.Send(progress) // its end is the other goroutine's
			s.read()
			time.Sleep(retryPause)
		}
	})
}

// read asks in several ways. Only what is durable may be in the answers.
func (s *spectator) read() {
	check := func(what string, header *pb.ResponseHeader, kvs []*mvccpb.KeyValue, err error) {
		if err != nil {
			refused(s.t, what, err)
			return
		}
		s.reads++
		if err := sameKVs(kvs, s.was); err != nil || header.Revision != s.now {
			s.t.Errorf("%s shows what is not durable: at revision %d instead of %d: %v", what, header.Revision, s.now, orNone(err))
		}
	}
	answer, err := do(s.c.Range, list(s.key))
	check("a list", answer.GetHeader(), answer.GetKvs(), err)
	answer, err = do(s.c.Range, get(s.key))
	check("a read", answer.GetHeader(), answer.GetKvs(), err)
	if kine() {
		return
	}
	txn, err := do(s.c.Txn, &pb.TxnRequest{
		Compare: []*pb.Compare{modIs(s.key, s.was[0].ModRevision)},
		Success: []*pb.RequestOp{rangeOp(list(s.key))},
	})
	if err == nil && !txn.Succeeded {
		s.t.Errorf("a compare shows what is not durable: %v", txn)
		return
	}
	var kvs []*mvccpb.KeyValue
	if err == nil {
		kvs = txn.Responses[0].GetResponseRange().Kvs
	}
	check("a transaction that reads", txn.GetHeader(), kvs, err)
	future := list(s.key)
	future.Revision = s.now + 1
	if answer, err := do(s.c.Range, future); err == nil {
		s.t.Errorf("the revision of a write that is not durable can be read: %v", answer)
	}
}

// stop ends it and returns how many reads were answered.
func (s *spectator) stop() int {
	s.cancel()
	s.running.Wait()
	return s.reads
}
