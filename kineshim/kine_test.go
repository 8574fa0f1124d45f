package kineshim

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
)

// Kubernetes' three writes.
func create(key, value string) func(clientv3.KV, context.Context) (*clientv3.TxnResponse, error) {
	return func(kv clientv3.KV, ctx context.Context) (*clientv3.TxnResponse, error) {
		return kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
	}
}

func update(kv clientv3.KV, ctx context.Context, key string, revision int64, value string) (*clientv3.TxnResponse, error) {
	return kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
}

func remove(kv clientv3.KV, ctx context.Context, key string, revision int64) (*clientv3.TxnResponse, error) {
	return kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
}

func mustCreate(t *testing.T, kv clientv3.KV, key, value string) int64 {
	t.Helper()
	r, err := create(key, value)(kv, soon(t))
	if err != nil || !r.Succeeded {
		t.Fatalf("create %s: %v, %v", key, r, err)
	}
	return r.Header.Revision
}

func mustGet(t *testing.T, kv clientv3.KV, key string, options ...clientv3.OpOption) *clientv3.GetResponse {
	t.Helper()
	r, err := kv.Get(soon(t), key, options...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestKineCreateUpdateDeleteListWatch(t *testing.T) {
	pg, database := sharedDatabase(t)
	n, direct := startKine(t, pg, database)
	standby := startNode(t, "b")
	standby.follow(t, Route{Target: n.peer, Node: "a"})
	for name, c := range map[string]*clientv3.Client{"direct": direct, "forwarded": newClient(t, standby.client)} {
		t.Run(name, func(t *testing.T) {
			prefix := "/registry/" + name + "/"
			first := mustCreate(t, c, prefix+"a", "1")
			watch := c.Watch(soon(t), prefix, clientv3.WithPrefix(), clientv3.WithRev(first))
			if r, err := create(prefix+"a", "2")(c, soon(t)); err != nil || r.Succeeded {
				t.Errorf("second create: %v, %v", r, err)
			}
			r, err := update(c, soon(t), prefix+"a", first, "2")
			if err != nil || !r.Succeeded {
				t.Fatalf("update: %v, %v", r, err)
			}
			second := r.Header.Revision
			r, err = update(c, soon(t), prefix+"a", first, "3")
			if err != nil || r.Succeeded || r.Responses[0].GetResponseRange().Kvs[0].ModRevision != second {
				t.Errorf("update of an old revision: %v, %v", r, err)
			}
			mustCreate(t, c, prefix+"b", "b")
			list := mustGet(t, c, prefix, clientv3.WithPrefix(), clientv3.WithLimit(1))
			if len(list.Kvs) != 1 || list.Count != 2 || !list.More || string(list.Kvs[0].Value) != "2" || list.Header.ClusterId != 11 {
				t.Errorf("list: %v", list)
			}
			list = mustGet(t, c, string(list.Kvs[0].Key)+"\x00", clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)))
			if len(list.Kvs) != 1 || string(list.Kvs[0].Key) != prefix+"b" {
				t.Errorf("list after the first: %v", list)
			}
			r, err = remove(c, soon(t), prefix+"a", second)
			if err != nil || !r.Succeeded {
				t.Fatalf("delete: %v, %v", r, err)
			}
			if got := mustGet(t, c, prefix+"a"); len(got.Kvs) != 0 || got.Header.Revision < r.Header.Revision {
				t.Errorf("get of a deleted key: %v", got)
			}
			want := []string{"PUT a 1", "PUT a 2", "PUT b b", "DELETE a "}
			for len(want) > 0 {
				answer, ok := <-watch
				if !ok || answer.Err() != nil {
					t.Fatalf("watch: %v", answer.Err())
				}
				for _, event := range answer.Events {
					got := fmt.Sprintf("%s %s %s", event.Type, strings.TrimPrefix(string(event.Kv.Key), prefix), event.Kv.Value)
					if len(want) == 0 || got != want[0] {
						t.Fatalf("event %q, want %q", got, want)
					}
					want = want[1:]
				}
			}
		})
	}
}

func TestKineTxnsMeanWhatTheySay(t *testing.T) {
	pg, database := sharedDatabase(t)
	_, c := startKine(t, pg, database)
	a, b := mustCreate(t, c, "/a", "1"), mustCreate(t, c, "/b", "1")
	t.Run("delete of a missing key with a revision", func(t *testing.T) {
		r, err := remove(c, soon(t), "/missing", 7)
		if err != nil || r.Succeeded || len(r.Responses) != 1 || r.Responses[0].GetResponseRange().Count != 0 {
			t.Errorf("%v, %v", r, err)
		}
	})
	t.Run("update without an else", func(t *testing.T) {
		if r, err := c.Txn(soon(t)).If(clientv3.Compare(clientv3.ModRevision("/a"), "=", a+100)).Then(clientv3.OpPut("/a", "x")).Commit(); err != nil ||
			r.Succeeded || len(r.Responses) != 0 {
			t.Errorf("other revision: %v, %v", r, err)
		}
		r, err := c.Txn(soon(t)).If(clientv3.Compare(clientv3.ModRevision("/a"), "=", a)).Then(clientv3.OpPut("/a", "2")).Commit()
		if err != nil || !r.Succeeded {
			t.Errorf("%v, %v", r, err)
		}
	})
	t.Run("get and delete", func(t *testing.T) {
		for _, want := range []int64{1, 0} {
			r, err := c.Txn(soon(t)).Then(clientv3.OpGet("/b"), clientv3.OpDelete("/b")).Commit()
			if err != nil || !r.Succeeded || len(r.Responses) != 2 || r.Responses[0].GetResponseRange().Count != want ||
				r.Responses[1].GetResponseDeleteRange().Deleted != want {
				t.Errorf("%v, %v; want %d", r, err, want)
			}
		}
	})
	mod := func(key string, revision int64) clientv3.Cmp {
		return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
	}
	for name, txn := range map[string]clientv3.Txn{
		"compare of another key":     c.Txn(soon(t)).If(mod("/a", a)).Then(clientv3.OpPut("/b", "x")).Else(clientv3.OpGet("/b")),
		"create of another key":      c.Txn(soon(t)).If(mod("/missing", 0)).Then(clientv3.OpPut("/other", "x")),
		"delete of a range":          c.Txn(soon(t)).If(mod("/b", b)).Then(clientv3.OpDelete("/b", clientv3.WithPrefix())).Else(clientv3.OpGet("/b")),
		"delete if missing":          c.Txn(soon(t)).If(mod("/a", 0)).Then(clientv3.OpDelete("/a")).Else(clientv3.OpGet("/a")),
		"else of another key":        c.Txn(soon(t)).If(mod("/a", 1)).Then(clientv3.OpPut("/a", "x")).Else(clientv3.OpGet("/b")),
		"kine's own row":             c.Txn(soon(t)).If(mod("compact_rev_key", 1)).Then(clientv3.OpPut("compact_rev_key", "x")).Else(clientv3.OpGet("compact_rev_key")),
		"not equal":                  c.Txn(soon(t)).If(clientv3.Compare(clientv3.ModRevision("/a"), ">", 0)).Then(clientv3.OpPut("/a", "x")).Else(clientv3.OpGet("/a")),
		"key with a zero byte":       c.Txn(soon(t)).If(mod("/a\x00b", 0)).Then(clientv3.OpPut("/a\x00b", "x")),
		"key that is not text":       c.Txn(soon(t)).If(mod("/\xff", 0)).Then(clientv3.OpPut("/\xff", "x")),
		"key that no index can hold": c.Txn(soon(t)).If(mod(strings.Repeat("k", 3000), 0)).Then(clientv3.OpPut(strings.Repeat("k", 3000), "x")),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := txn.Commit()
			wantCode(t, err, codes.InvalidArgument, "")
			if r != nil {
				t.Errorf("answered %v", r)
			}
		})
	}
	if got := mustGet(t, c, "/", clientv3.WithRange("/registry")); len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "2" {
		t.Errorf("the refused transactions left %v", got.Kvs)
	}
}

func TestKineCompactionOfKubernetes(t *testing.T) {
	pg, database := sharedDatabase(t)
	_, c := startKine(t, pg, database)
	compact := func(version int64) *clientv3.TxnResponse {
		t.Helper()
		r, err := c.Txn(soon(t)).If(clientv3.Compare(clientv3.Version("compact_rev_key"), "=", version)).
			Then(clientv3.OpPut("compact_rev_key", fmt.Sprint(version))).Else(clientv3.OpGet("compact_rev_key")).Commit()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := compact(0); !r.Succeeded {
		t.Errorf("first: %v", r)
	}
	if r := compact(0); r.Succeeded || r.Responses[0].GetResponseRange().Kvs[0].Version != 1 {
		t.Errorf("again: %v", r)
	}
	if r := compact(1); !r.Succeeded {
		t.Errorf("next: %v", r)
	}
}

func TestKineConcurrentPutsAreAllDone(t *testing.T) {
	pg, database := sharedDatabase(t)
	_, c := startKine(t, pg, database)
	const workers, puts = 8, 10
	var mu sync.Mutex
	acked := map[int64]string{}
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range puts {
				value := fmt.Sprintf("%d/%d", w, i)
				r, err := c.Put(soon(t), "/contended", value)
				if err != nil {
					t.Errorf("put: %v", err)
					return
				}
				mu.Lock()
				if other, taken := acked[r.Header.Revision]; taken {
					t.Errorf("revision %d for %s and %s", r.Header.Revision, other, value)
				}
				acked[r.Header.Revision] = value
				mu.Unlock()
			}
		})
	}
	all.Wait()
	rows, err := pg.admin(t, database).Query(soon(t), "SELECT id, convert_from(value, 'UTF8') FROM kine WHERE name = '/contended'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var id int64
		var value string
		if err := rows.Scan(&id, &value); err != nil {
			t.Fatal(err)
		}
		if acked[id] != value {
			t.Errorf("row %d is %q, acknowledged was %q", id, value, acked[id])
		}
		n++
	}
	if rows.Err() != nil || n != workers*puts {
		t.Errorf("%d rows, %v; want %d", n, rows.Err(), workers*puts)
	}
}

func TestKineHeaderIsNeverOlderThanAnAcknowledgedWrite(t *testing.T) {
	pg, database := sharedDatabase(t)
	_, c := startKine(t, pg, database)
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 40 {
				r, err := create(fmt.Sprintf("/w%d/%d", w, i), "v")(c, soon(t))
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				// The way in which Kubernetes asks for the current revision.
				got, err := c.Get(soon(t), "/nothing")
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				if got.Header.Revision < r.Header.Revision {
					t.Errorf("header %d after write %d", got.Header.Revision, r.Header.Revision)
				}
				// And that revision can be listed.
				if _, err := c.Get(soon(t), "/nothing/", clientv3.WithPrefix(), clientv3.WithRev(r.Header.Revision)); err != nil {
					t.Errorf("list at %d: %v", r.Header.Revision, err)
				}
			}
		})
	}
	all.Wait()
}

func TestKineWatchWithoutARevisionBeginsNow(t *testing.T) {
	pg, database := sharedDatabase(t)
	_, c := startKine(t, pg, database)
	mustCreate(t, c, "/w/old", "v")
	watch := c.Watch(soon(t), "/w/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if r := <-watch; !r.Created {
		t.Fatalf("got %v", r)
	}
	eventually(t, "an event of a later key, and of none before", func() bool {
		mustCreate(t, c, fmt.Sprintf("/w/new%d", time.Now().UnixNano()), "v")
		select {
		case r := <-watch:
			if r.Err() != nil || len(r.Events) == 0 || !strings.HasPrefix(string(r.Events[0].Kv.Key), "/w/new") {
				t.Fatalf("got %v, %v", r.Events, r.Err())
			}
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
}

func TestKineWatchOfWhatItCannotHoldIsCanceled(t *testing.T) {
	pg, database := sharedDatabase(t)
	n, c := startKine(t, pg, database)
	engine := n.endpoint.current.Load().engine.(*kineEngine)
	before := engine.failures.count()
	for name, watch := range map[string]clientv3.WatchChan{
		"from key": c.Watch(soon(t), "/a", clientv3.WithFromKey()),
		"filter":   c.Watch(soon(t), "/a", clientv3.WithFilterDelete()),
		"not text": c.Watch(soon(t), "/\xff"),
	} {
		r := <-watch
		if r.Err() == nil {
			t.Errorf("%s: got %v", name, r)
		}
	}
	if engine.failures.count() != before {
		t.Errorf("a request counted as a failure: %s", engine.failures.why())
	}
}

func TestKineUnsupportedIsUnimplemented(t *testing.T) {
	pg, database := sharedDatabase(t)
	n, c := startKine(t, pg, database)
	_, err := c.Revoke(soon(t), 1)
	wantCode(t, err, codes.Unimplemented, "not supported")
	_, err = c.Delete(soon(t), "/a", clientv3.WithPrefix())
	wantCode(t, err, codes.Unimplemented, "")
	if _, err := c.Get(soon(t), "/a", clientv3.WithSerializable()); err != nil {
		t.Errorf("serializable: %v", err)
	}
	status, err := c.Status(soon(t), n.client)
	if err != nil || status.Version != kineEtcdVersion || status.DbSize == 0 || status.Header.RaftTerm != 13 {
		t.Errorf("status: %v, %v", status, err)
	}
}

func TestKineFatalEndsTheEngineAndNotTheProcess(t *testing.T) {
	pg, database := sharedDatabase(t)
	n, c := startKine(t, pg, database)
	failed := n.endpoint.EngineFailed()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		logrus.Fatalf("Transaction commit failed: %v", context.DeadlineExceeded)
		t.Error("the goroutine goes on after a fatal error")
	}()
	<-ended
	select {
	case <-failed:
	case <-time.After(patience):
		t.Fatal("the engine does not say that it failed")
	}
	_, err := c.Get(soon(t), "/a")
	wantCode(t, err, codes.Unavailable, errEngineBroken.Error())
	n.leadKine(t, pg, database)
	mustCreate(t, c, "/a", "v")
}

func TestKineStartThatFailsLeavesNothing(t *testing.T) {
	pg, _ := sharedDatabase(t)
	before := runtime.NumGoroutine()
	stranger := pg.session(t, "missing")
	stranger.DSN = func(dir string) string { return fmt.Sprintf("postgres://kine:wrong@/x?host=%s&port=%d", dir, pgPort) }
	why := map[string]string{"no PostgreSQL": "no such file", "no database": "create database", "wrong password": "password"}
	for name, s := range map[string]Session{
		"no PostgreSQL":  {SocketDir: shortDir(t), Port: 1, DSN: pg.session(t, "x").DSN},
		"no database":    pg.session(t, "missing"),
		"wrong password": stranger,
	} {
		t.Run(name, func(t *testing.T) {
			s.Log = testLog(t)
			engine, err := KineEngine(soon(t), s)
			if err == nil {
				t.Fatalf("started %v", engine)
			}
			// At once and with the reason, not when the context ends.
			if errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), why[name]) {
				t.Errorf("error %v, want one that says %q", err, why[name])
			}
		})
	}
	eventually(t, "the goroutines end", func() bool { return runtime.NumGoroutine() <= before+2 })
}

func TestKineClosesWithoutLeavingGoroutines(t *testing.T) {
	pg, database := sharedDatabase(t)
	run := func() {
		n, c := startKine(t, pg, database)
		for i := range 5 {
			watch := c.Watch(soon(t), fmt.Sprintf("/leak%d/", i), clientv3.WithPrefix(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
			if r := <-watch; !r.Created {
				t.Fatalf("got %v", r)
			}
		}
		key := fmt.Sprintf("/leak/%d", time.Now().UnixNano())
		mustCreate(t, c, key, "v")
		if err := c.RequestProgress(soon(t)); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := n.endpoint.Close(); err != nil {
			t.Fatal(err)
		}
	}
	kine := func() int {
		buf := make([]byte, 4<<20)
		n := 0
		for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "k3s-io/kine") || strings.Contains(stack, "kineshim.(*relay)") || strings.Contains(stack, "kineshim.(*kine") {
				n++
			}
		}
		return n
	}
	before := kine() // of other tests' engines
	const rounds = 4
	for range rounds {
		run()
	}
	// One goroutine for each engine may wait in kine's WaitForSyncTo for good, which nothing can end.
	eventually(t, "the goroutines of the engines end", func() bool { return kine() <= before+rounds })
}

// deadPoll is a backend whose poll loop could not be started: its watches neither bring events nor end.
type deadPoll struct{ server.Backend }

func (deadPoll) CurrentRevision(context.Context) (int64, error) { return 1, nil }

func (deadPoll) Watch(context.Context, string, string, int64) server.WatchResult {
	return server.WatchResult{Events: make(chan []*server.Event)}
}

func TestKineWithoutAPollLoopDoesNotStart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := proveWatches(ctx, deadPoll{}); err == nil {
		t.Error("watches that never end were taken for proof")
	}
}

func TestKineWatchSendsNothingAfterAFailure(t *testing.T) {
	e := &kineEngine{failures: new(failures), closed: make(chan struct{}), failed: make(chan struct{})}
	before, _ := e.failures.watch()
	sent := 0
	s := &watchStream{Watch_WatchServer: sendCounter{sent: &sent}, ctx: t.Context(), engine: e, before: before}
	if err := s.Send(&etcdserverpb.WatchResponse{}); err != nil || sent != 1 {
		t.Fatalf("sent %d, %v", sent, err)
	}
	e.failures.add("the connection ended")
	wantCode(t, s.Send(&etcdserverpb.WatchResponse{}), codes.Unavailable, "the connection ended")
	s.before = e.failures.count()
	close(e.closed)
	wantCode(t, s.Send(&etcdserverpb.WatchResponse{}), codes.Unavailable, errSessionEnded.Error())
	if sent != 1 {
		t.Errorf("sent %d, want 1", sent)
	}
}

// sendCounter counts what is sent.
type sendCounter struct {
	etcdserverpb.Watch_WatchServer
	sent *int
}

func (s sendCounter) Send(*etcdserverpb.WatchResponse) error {
	*s.sent++
	return nil
}

func TestKineTrueTxn(t *testing.T) {
	key := []byte("/k")
	found := func(mod, create int64, value string) []*etcdserverpb.ResponseOp {
		op := foundOp(&etcdserverpb.ResponseHeader{}, nil)
		if mod != 0 {
			kv := &mvccpb.KeyValue{Key: key, ModRevision: mod, CreateRevision: create, Value: []byte(value)}
			op = foundOp(&etcdserverpb.ResponseHeader{}, []*mvccpb.KeyValue{kv})
		}
		return []*etcdserverpb.ResponseOp{op}
	}
	compare := []*etcdserverpb.Compare{{Key: key, Target: etcdserverpb.Compare_MOD, TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: 7}}}
	put := []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: key}}}}
	del := []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: key}}}}
	get := []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: key}}}}
	for _, c := range []struct {
		name      string
		success   []*etcdserverpb.RequestOp
		responses []*etcdserverpb.ResponseOp
		code      codes.Code
		count     int64
	}{
		{"update lost", put, found(8, 3, "w"), codes.OK, 1},
		{"update of a deleted key", put, found(0, 0, ""), codes.OK, 0},
		{"update that failed unnoticed", put, found(7, 3, "w"), codes.Unavailable, 0},
		{"delete lost", del, found(8, 3, "w"), codes.OK, 1},
		{"delete lost to a delete", del, found(8, 0, ""), codes.OK, 0},
		{"delete that failed unnoticed", del, found(7, 3, "w"), codes.Unavailable, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := trueTxn(&etcdserverpb.TxnRequest{Compare: compare, Success: c.success, Failure: get},
				&etcdserverpb.TxnResponse{Header: &etcdserverpb.ResponseHeader{Revision: 9}, Responses: c.responses})
			wantCode(t, err, c.code, "")
			if err == nil && (r.Succeeded || r.Responses[0].GetResponseRange().Count != c.count) {
				t.Errorf("got %v", r)
			}
		})
	}
}

func TestKineDoesNotRepeatWhatMayHaveBeenDone(t *testing.T) {
	ctx := WithAttempt(t.Context(), Attempt{ID: 1, Again: true})
	_, err := asked(ctx, &kineEngine{}, true, func() (*etcdserverpb.PutResponse, error) {
		t.Error("kine was asked")
		return nil, nil
	})
	wantCode(t, err, codes.Unavailable, OutcomeUnknown)
}
