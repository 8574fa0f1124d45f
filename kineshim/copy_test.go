package kineshim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "kineshim/proto"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ledgerEngineOf is the engine that serves on a node.
func ledgerEngineOf(n *node) *ledgerEngine { return n.endpoint.current.Load().engine.(*ledgerEngine) }

// readKey is a client's read, and where its answer comes from: "copy" or a node.
func readKey(t *testing.T, n *node, serializable bool) (r *etcdserverpb.RangeResponse, from string, err error) {
	t.Helper()
	r, err = etcdserverpb.NewKVClient(dial(t, n.client)).Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k"), Serializable: serializable})
	if err == nil {
		from = string(r.Kvs[0].Value)
	}
	return r, from, err
}

func TestAStandbyAnswersReadsFromItsCopy(t *testing.T) {
	c := startCluster(t)
	c.ledger.revision = 41
	r, from, err := readKey(t, c.b, false)
	if err != nil || from != "copy" || r.Count != 41 || r.Header.MemberId != 12 || ledgerEngineOf(c.a).asked.Load() != 1 {
		t.Errorf("linearizable: %v from %s, %v, %d questions", r, from, err, ledgerEngineOf(c.a).asked.Load())
	}
	r, from, err = readKey(t, c.b, true)
	if err != nil || from != "copy" || r.Count != 0 || r.Header.RaftTerm != 13 || ledgerEngineOf(c.a).asked.Load() != 1 {
		t.Errorf("serializable: %v from %s, %v, %d questions", r, from, err, ledgerEngineOf(c.a).asked.Load())
	}
	if _, from, err := readKey(t, c.a, false); err != nil || from != "a" {
		t.Errorf("on the primary: from %s, %v", from, err)
	}
	if _, from, err := readKey(t, c.a, true); err != nil || from != "a" {
		t.Errorf("on the primary, serializable: from %s, %v", from, err)
	}
}

func TestTransactionsThatReadComeFromTheCopy(t *testing.T) {
	c := startCluster(t)
	for _, s := range []struct {
		name      string
		r         *etcdserverpb.TxnRequest
		questions int64
		primary   int
	}{
		{"linearizable", &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{rangeOp(false)}, Failure: []*etcdserverpb.RequestOp{rangeOp(true)}}, 1, 0},
		{"serializable", &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{rangeOp(true)}}, 0, 0},
		{"a linearizable one within", &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{rangeOp(true),
			txnOp(&etcdserverpb.TxnRequest{Failure: []*etcdserverpb.RequestOp{rangeOp(false)}})}}, 1, 0},
		{"only compares", &etcdserverpb.TxnRequest{Compare: []*etcdserverpb.Compare{{Key: []byte("k")}}}, 1, 0},
		{"a put", &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{rangeOp(true), putOp("k")}}, 0, 1},
	} {
		before, done := ledgerEngineOf(c.a).asked.Load(), c.ledger.count("txn")
		_, err := etcdserverpb.NewKVClient(dial(t, c.b.client)).Txn(soon(t), s.r)
		questions, primary := ledgerEngineOf(c.a).asked.Load()-before, c.ledger.count("txn")-done
		if err != nil || questions != s.questions || primary != s.primary {
			t.Errorf("%s: %v; %d questions, %d done by the primary", s.name, err, questions, primary)
		}
	}
}

func TestWithoutAPrimaryOnlySerializableReadsAreAnswered(t *testing.T) {
	c := startCluster(t)
	c.nobody(c.a, true)
	for _, n := range []*node{c.a, c.b} {
		if _, from, err := readKey(t, n, true); err != nil || from != "copy" {
			t.Errorf("from %s, %v", from, err)
		}
	}
	// A node that is about to serve, and may not yet.
	c.a.router.to(Route{Local: true})
	if _, from, err := readKey(t, c.a, true); err != nil || from != "copy" {
		t.Errorf("from %s, %v", from, err)
	}
	result := make(chan error, 1)
	go func() {
		_, from, err := readKey(t, c.a, false)
		if err == nil && from != "a" {
			err = fmt.Errorf("from %s", from)
		}
		result <- err
	}()
	select {
	case err := <-result:
		t.Fatalf("a linearizable read was answered without a primary: %v", err)
	case <-time.After(50 * time.Millisecond): // nothing to poll for: the answer must not come
	}
	c.engage(c.a)
	if err := within(t, result); err != nil {
		t.Error(err)
	}
}

func TestAReadWaitsForTheCopyToCatchUp(t *testing.T) {
	c := startCluster(t)
	c.ledger.revision = 50
	c.b.replica.set(func(r *fakeReplica) { r.revision = 49 })
	result := make(chan *etcdserverpb.RangeResponse, 1)
	go func() {
		r, _, err := readKey(t, c.b, false)
		if err != nil {
			t.Error(err)
		}
		result <- r
	}()
	eventually(t, "the primary was asked", func() bool { return ledgerEngineOf(c.a).asked.Load() == 1 })
	select {
	case r := <-result:
		t.Fatalf("an old copy answered %v", r)
	case <-time.After(50 * time.Millisecond): // nothing to poll for: the answer must not come
	}
	c.b.replica.set(func(r *fakeReplica) { r.revision = 51 })
	if r := within(t, result); r.GetHeader().GetRevision() != 51 {
		t.Errorf("got %v", r)
	}
}

func TestWhatTheCopyCannotTellIsForwarded(t *testing.T) {
	c := startCluster(t)
	c.b.replica.set(func(r *fakeReplica) { r.lacks = true })
	for _, serializable := range []bool{false, true} {
		if _, from, err := readKey(t, c.b, serializable); err != nil || from != "a" {
			t.Errorf("serializable %v: from %s, %v", serializable, from, err)
		}
	}
}

// plainEngine does not say its revision, as kine's.
type plainEngine struct{ Engine }

func TestAPrimaryWithoutARevisionIsSentTheReads(t *testing.T) {
	c := startCluster(t)
	factory := c.a.endpoint.opt.Engine
	c.a.endpoint.opt.Engine = func(ctx context.Context, s Session) (Engine, error) {
		e, err := factory(ctx, s)
		return plainEngine{e}, err
	}
	c.engage(c.a)
	if _, from, err := readKey(t, c.b, false); err != nil || from != "a" {
		t.Errorf("from %s, %v", from, err)
	}
}

// TestAReadNeverUsesAQuestionThatWasSentBeforeItArrived: the first question has its answer, which is then out of date, before the second read
// arrives.
func TestAReadNeverUsesAQuestionThatWasSentBeforeItArrived(t *testing.T) {
	c := startCluster(t)
	c.ledger.revision = 10
	answered, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	ledgerEngineOf(c.a).onRevision = func() {
		once.Do(func() {
			close(answered)
			<-goOn
		})
	}
	client := etcdserverpb.NewKVClient(dial(t, c.b.client)) // one for all, so that they arrive together
	asks := func() <-chan int64 {
		result := make(chan int64, 1)
		go func() {
			r, err := client.Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
			if err != nil {
				t.Error(err)
			}
			result <- r.GetCount()
		}()
		return result
	}
	first := asks()
	within(t, answered)
	c.ledger.mu.Lock()
	c.ledger.revision = 20
	c.ledger.mu.Unlock()
	var later []<-chan int64
	for range 20 {
		later = append(later, asks())
	}
	eventually(t, "the others gather", func() bool {
		c.b.endpoint.asker.mu.Lock()
		defer c.b.endpoint.asker.mu.Unlock()
		return c.b.endpoint.asker.next != nil
	})
	time.Sleep(100 * time.Millisecond) // until all have gathered; fewer only make the count below less exact
	close(goOn)
	if got := within(t, first); got != 10 {
		t.Errorf("the first read was answered as of %d", got)
	}
	for _, l := range later {
		if got := within(t, l); got != 20 {
			t.Errorf("a later read was answered as of %d", got)
		}
	}
	if asked := ledgerEngineOf(c.a).asked.Load(); asked < 2 || asked > 10 {
		t.Errorf("21 reads asked %d questions", asked)
	}
}

// TestReadsShareQuestionsAndAreNeverStale: writers move the revision on, readers must not see less than what was there when they began.
func TestReadsShareQuestionsAndAreNeverStale(t *testing.T) {
	c := startCluster(t)
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				c.ledger.mu.Lock()
				c.ledger.revision++
				c.ledger.mu.Unlock()
			}
		}
	})
	kv := etcdserverpb.NewKVClient(dial(t, c.b.client))
	var reads atomic.Int64
	var readers sync.WaitGroup
	for range 32 {
		readers.Go(func() {
			for range 100 {
				before := c.ledger.now()
				r, err := kv.Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
				if err != nil || r.Count < before {
					t.Errorf("%v, %v; the revision was %d before", r, err, before)
					return
				}
				reads.Add(1)
			}
		})
	}
	readers.Wait()
	close(stop)
	all.Wait()
	asked := ledgerEngineOf(c.a).asked.Load()
	t.Logf("%d reads, %d questions", reads.Load(), asked)
	if asked > reads.Load()/2 {
		t.Errorf("%d reads asked %d questions", reads.Load(), asked)
	}
}

// askOnce asks one question on a line of its own.
func askOnce(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := pb.NewReadsClient(conn).ReadIndex(ctx)
	if err != nil {
		return err
	}
	defer stream.CloseSend()
	_ = stream.Send(&pb.ReadIndexRequest{}) // Recv says what is wrong
	_, err = stream.Recv()
	return err
}

func TestAQuestionIsAnsweredOnlyBehindTheGate(t *testing.T) {
	c := startCluster(t)
	ask := func(ctx context.Context) error { return askOnce(ctx, dial(t, c.a.peer)) }
	if err := ask(soon(t)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, ask(metadata.AppendToOutgoingContext(soon(t), epochMetadata, "6")), codes.Unavailable, errOtherEpoch.Error())
	if err := ask(metadata.AppendToOutgoingContext(soon(t), epochMetadata, "7")); err != nil {
		t.Error(err)
	}
	if code := status.Code(ask(metadata.AppendToOutgoingContext(soon(t), epochMetadata, "x"))); code != codes.InvalidArgument {
		t.Error(code)
	}
	// The gate closes when the revision has been looked up.
	ledgerEngineOf(c.a).onRevision = func() { c.a.gate.set(func(g *fakeGate) { g.check = errors.New("no contact to a majority") }) }
	wantCode(t, ask(soon(t)), codes.Unavailable, "no contact to a majority")
	c.a.gate.set(func(g *fakeGate) { g.closed = errors.New("closed") })
	wantCode(t, ask(soon(t)), codes.Unavailable, "closed")
	wantCode(t, askOnce(soon(t), dial(t, c.b.peer)), codes.Unavailable, "engine has not been started")
}

// TestALineThatBrokeOffWhileNobodyAskedCostsNoRead: questions share a stream, whose end nobody hears of before the next question.
func TestALineThatBrokeOffWhileNobodyAskedCostsNoRead(t *testing.T) {
	c := startCluster(t)
	between := newMortal(t, c.a.peer, -1, -1)
	c.b.follow(t, Route{Target: between.listener.Addr().String(), Node: "a", Epoch: c.epoch})
	c.ledger.revision = 41
	ask := func() {
		t.Helper()
		if at, err := c.b.endpoint.asker.revision(soon(t)); err != nil || at.revision != 41 {
			t.Errorf("revision %d, %v", at.revision, err)
		}
	}
	ask()
	first := c.b.endpoint.asker.line
	ask()
	if c.b.endpoint.asker.line != first {
		t.Error("the second question was asked on another line")
	}
	between.sever()
	target := between.listener.Addr().String()
	eventually(t, "there is another connection", func() bool {
		reachable := c.b.endpoint.conns.reachable(target) // which connects
		between.mu.Lock()
		defer between.mu.Unlock()
		return reachable && len(between.conns) > 0
	})
	ask()
	if c.b.endpoint.asker.line == first {
		t.Error("the broken line is still used")
	}
}

// TestAQuestionThatFailsIsAskedAgain: the read waits for the next primary, which may be this node.
func TestAQuestionThatFailsIsAskedAgain(t *testing.T) {
	for _, next := range []string{"a", "b"} {
		t.Run(next, func(t *testing.T) {
			c := startCluster(t)
			asked := make(chan struct{}, 9)
			hang := make(chan struct{})
			defer close(hang)
			ledgerEngineOf(c.a).onRevision = func() {
				asked <- struct{}{}
				<-hang
			}
			result := make(chan string, 1)
			go func() {
				_, from, err := readKey(t, c.b, false)
				if err != nil {
					t.Error(err)
				}
				result <- from
			}()
			within(t, asked)
			want := "copy"
			if next == "b" {
				c.failover(c.a, c.b, true)
				want = "b"
			} else {
				c.nobody(c.a, true)
				c.epoch++
				c.engage(c.a)
				c.direct(c.a, c.b)
			}
			if from := within(t, result); from != want {
				t.Errorf("from %s, want %s", from, want)
			}
		})
	}
}

// echo serves watch streams like newFakeEngine's.
func echo(ws etcdserverpb.Watch_WatchServer) error { return newFakeEngine().onWatch(ws) }

func TestWatchStreamsLiveThroughAllChangesOfRoute(t *testing.T) {
	c := startCluster(t)
	for _, n := range []*node{c.a, c.b} {
		n.replica.onWatch = echo
		watch, err := etcdserverpb.NewWatchClient(dial(t, n.client)).Watch(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		want := int64(0)
		next := func() {
			t.Helper()
			want++
			if r := createWatch(t, watch); r.WatchId != want || r.Header.ClusterId != 11 || r.Header.MemberId != 12 {
				t.Fatalf("got %v, want watch %d", r, want)
			}
		}
		next()
		c.nobody(c.a, true)
		next()
		c.epoch++
		c.engage(c.b)
		c.direct(c.b, c.a)
		next()
		c.failover(c.b, c.a, true)
		next()
		if err := watch.CloseSend(); err != nil {
			t.Error(err)
		}
		if r, err := watch.Recv(); err == nil {
			t.Errorf("got %v after the end", r)
		}
	}
}

// A watch on which nothing can come must not look like one on which nothing happens, to a client that asks for that.
func TestAWatchThatRequiresALeaderEndsWithoutOne(t *testing.T) {
	c := startCluster(t, func(o *Options) { o.MaxWait = 500 * time.Millisecond })
	c.b.replica.onWatch = func(ws etcdserverpb.Watch_WatchServer) error { // ends with its context, as the hub does
		if CredentialsOf(ws.Context()).Since.IsZero() {
			t.Error("it is not known when the stream began")
		}
		ended := make(chan error, 1)
		go func() { ended <- echo(ws) }()
		select {
		case <-ws.Context().Done():
			return ws.Context().Err()
		case err := <-ended:
			return err
		}
	}
	client := etcdserverpb.NewWatchClient(dial(t, c.b.client))
	watch := func(ctx context.Context) etcdserverpb.Watch_WatchClient {
		t.Helper()
		w, err := client.Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		createWatch(t, w)
		return w
	}
	demanding := watch(metadata.AppendToOutgoingContext(soon(t), "hasleader", "true"))
	modest := watch(soon(t))
	began := time.Now()
	c.nobody(c.a, true)
	if _, err := demanding.Recv(); status.Convert(err).Message() != status.Convert(rpctypes.ErrGRPCNoLeader).Message() {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("ended after %v", took)
	}
	if r := createWatch(t, modest); r.WatchId != 2 {
		t.Errorf("the watch that requires nothing: %v", r)
	}
	// One that is opened meanwhile ends at once: what it would tell is as old.
	took := time.Hour
	for range 3 { // a busy machine delays one
		opened := time.Now()
		late, err := client.Watch(metadata.AppendToOutgoingContext(soon(t), "hasleader", "true"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := late.Recv(); status.Convert(err).Message() != status.Convert(rpctypes.ErrGRPCNoLeader).Message() {
			t.Errorf("got %v", err)
		}
		took = min(took, time.Since(opened))
	}
	if took > 400*time.Millisecond {
		t.Errorf("ended after %v", took)
	}
	c.direct(c.b, c.a)
	back := watch(metadata.AppendToOutgoingContext(soon(t), "hasleader", "true"))
	if r := createWatch(t, back); r.WatchId != 2 {
		t.Errorf("with a leader: %v", r)
	}
}

// A primary that is cut off keeps its route to itself: its lease may come back. Without it, it is no leader.
func TestAWatchThatRequiresALeaderEndsWhereTheLeaseIsOver(t *testing.T) {
	c := startCluster(t, func(o *Options) { o.MaxWait = 500 * time.Millisecond })
	c.a.replica.onWatch = func(ws etcdserverpb.Watch_WatchServer) error {
		<-ws.Context().Done()
		return ws.Context().Err()
	}
	w, err := etcdserverpb.NewWatchClient(dial(t, c.a.client)).Watch(metadata.AppendToOutgoingContext(soon(t), "hasleader", "true"))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(700 * time.Millisecond)
	c.a.gate.set(func(g *fakeGate) { g.closed = &ClosedError{Why: "no lease"} })
	closed := time.Now()
	if _, err := w.Recv(); status.Convert(err).Message() != status.Convert(rpctypes.ErrGRPCNoLeader).Message() || time.Since(closed) < 300*time.Millisecond {
		t.Errorf("got %v after %v", err, time.Since(closed))
	}
}

func TestAWatchWaitsForTheCopy(t *testing.T) {
	c := startCluster(t, func(o *Options) { o.MaxWait = 500 * time.Millisecond })
	c.b.replica.onWatch = echo
	c.b.replica.set(func(r *fakeReplica) { r.lacks = true })
	client := etcdserverpb.NewWatchClient(dial(t, c.b.client))
	watch, err := client.Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = watch.Recv()
	wantCode(t, err, codes.Unavailable, ErrNotHere.Error()+"; waited ")
	waitedAtLeast(t, err, 500*time.Millisecond)
	watch, err = client.Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream waits", func() bool {
		c.b.endpoint.room.mu.Lock()
		defer c.b.endpoint.room.mu.Unlock()
		return c.b.endpoint.room.waiters.Len() == 1
	})
	c.b.replica.set(func(r *fakeReplica) { r.lacks = false })
	createWatch(t, watch)
}

func TestCloseEndsWatchesOfTheCopy(t *testing.T) {
	c := startCluster(t)
	c.b.replica.onWatch = func(ws etcdserverpb.Watch_WatchServer) error {
		if err := ws.Send(&etcdserverpb.WatchResponse{Header: &etcdserverpb.ResponseHeader{}}); err != nil {
			return err
		}
		<-ws.Context().Done()
		return ws.Context().Err()
	}
	watch, err := etcdserverpb.NewWatchClient(dial(t, c.b.client)).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := c.b.endpoint.Close(); err != nil {
		t.Error(err)
	}
	_, err = watch.Recv()
	wantCode(t, err, codes.Unavailable, errSessionEnded.Error())
}
