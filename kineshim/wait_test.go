package kineshim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const putMethod = "/etcdserverpb.KV/Put"

// offline is a node without servers, for tests in a synctest bubble.
type offline struct {
	*Endpoint
	gate   *fakeGate
	router *fakeRouter
	ledger *ledger
}

func newOffline(t *testing.T, change ...func(*Options)) *offline {
	t.Helper()
	o := &offline{gate: newFakeGate(), router: &fakeRouter{}, ledger: newLedger()}
	o.router.to(Route{Why: "electing"})
	options := Options{Node: "a", Gate: o.gate, Router: o.router, Log: testLog(t),
		Engine: func(context.Context, Session) (Engine, error) {
			return &ledgerEngine{fakeEngine: newFakeEngine(), l: o.ledger, node: "a", closed: make(chan struct{})}, nil
		}}
	for _, f := range change {
		f(&options)
	}
	var err error
	if o.Endpoint, err = New(options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// lead makes the node answer.
func (o *offline) lead(t *testing.T) {
	t.Helper()
	if err := o.StartEngine(t.Context(), Session{Epoch: 7, Generation: 3}); err != nil {
		t.Fatal(err)
	}
	o.router.to(Route{Local: true})
}

// put is a client's put.
func (o *offline) put(ctx context.Context, r *etcdserverpb.PutRequest) error {
	info := &grpc.UnaryServerInfo{FullMethod: putMethod}
	_, err := o.interceptUnary(fromClients)(ctx, r, info, func(ctx context.Context, req any) (any, error) {
		return services{}.Put(ctx, req.(*etcdserverpb.PutRequest))
	})
	return err
}

func TestAWaitEndsWithMaxWaitAndSaysWhatItWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffline(t)
		begun := time.Now()
		err := o.put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("k")})
		wantCode(t, err, codes.Unavailable, "electing; waited 10s for a primary")
		if took := time.Since(begun); took != DefaultMaxWait || !NotDone(err) {
			t.Errorf("refused after %v: %v", took, err)
		}
	})
}

func TestAWaitEndsWithItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffline(t)
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		wantCode(t, o.put(ctx, &etcdserverpb.PutRequest{Key: []byte("k")}), codes.DeadlineExceeded, "")
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("refused after %v", took)
		}
		gone, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		wantCode(t, o.put(gone, &etcdserverpb.PutRequest{Key: []byte("k")}), codes.Canceled, "")
	})
}

func TestCloseRefusesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffline(t)
		result := make(chan error, 1)
		go func() { result <- o.put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("k")}) }()
		synctest.Wait()
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		wantCode(t, <-result, codes.Unavailable, errSessionEnded.Error())
		wantCode(t, o.put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("k")}), codes.Unavailable, errSessionEnded.Error())
	})
}

// TestWhatIsWaitedFor: whatever keeps a call from being begun here, it is begun within one look of its end.
func TestWhatIsWaitedFor(t *testing.T) {
	closed := func(err error) func(*fakeGate) { return func(g *fakeGate) { g.closed = err } }
	for _, c := range []struct {
		name       string
		from, till func(*testing.T, *offline)
	}{
		{"no route", func(_ *testing.T, o *offline) { o.router.to(Route{Why: "starting"}) }, func(_ *testing.T, o *offline) { o.router.to(Route{Local: true}) }},
		{"a closed gate", func(_ *testing.T, o *offline) { o.gate.set(closed(errors.New("no lease"))) }, func(_ *testing.T, o *offline) { o.gate.set(closed(nil)) }},
		{"no engine", func(_ *testing.T, o *offline) { o.StopEngine() }, func(t *testing.T, o *offline) { o.lead(t) }},
		{"another session", func(_ *testing.T, o *offline) { o.gate.set(func(g *fakeGate) { g.token.Generation++ }) },
			func(_ *testing.T, o *offline) { o.gate.set(func(g *fakeGate) { g.token.Generation-- }) }},
		{"an engine that ends", func(_ *testing.T, o *offline) {
			o.ledger.meet(func(*ledgerEngine, string) fate { return fate{undone: true, err: Unavailable("ending")} })
		}, func(t *testing.T, o *offline) {
			o.StopEngine()
			o.ledger.meet(nil)
			o.lead(t)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOffline(t)
				o.lead(t)
				c.from(t, o)
				result := make(chan error, 1)
				go func() { result <- o.put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("k")}) }()
				time.Sleep(time.Second)
				synctest.Wait()
				select {
				case err := <-result:
					t.Fatalf("answered too early: %v", err)
				default:
				}
				c.till(t, o)
				begun := time.Now()
				if err := <-result; err != nil || o.ledger.count("put k") != 1 {
					t.Errorf("%v, done %v", err, o.ledger.done)
				}
				if took := time.Since(begun); took > lookEvery {
					t.Errorf("answered after %v", took)
				}
			})
		})
	}
}

// TestNobodyLooksWhileNobodyWaits: the goroutine that looks ends with the last wait.
func TestNobodyLooksWhileNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffline(t, func(o *Options) { o.MaxWait = time.Second })
		for range 3 {
			_ = o.put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("k")})
		}
		time.Sleep(2 * lookEvery)
		synctest.Wait()
		o.room.mu.Lock()
		defer o.room.mu.Unlock()
		if o.room.looking || o.room.calls != 0 || o.room.bytes != 0 || o.room.waiters.Len() != 0 {
			t.Errorf("left behind: looking %v, %d calls, %d bytes, %d waiters", o.room.looking, o.room.calls, o.room.bytes, o.room.waiters.Len())
		}
	})
}

// crowd has calls wait, and returns what they came to.
func (o *offline) crowd(ctx context.Context, n int, value []byte) <-chan error {
	results := make(chan error, n)
	var begun sync.WaitGroup
	for i := range n {
		begun.Add(1)
		go func() {
			begun.Done()
			results <- o.put(ctx, &etcdserverpb.PutRequest{Key: fmt.Append(nil, i), Value: value})
		}()
	}
	begun.Wait()
	return results
}

func (o *offline) waiting() int {
	o.room.mu.Lock()
	defer o.room.mu.Unlock()
	return o.room.waiters.Len()
}

func TestThousandsWaitWithoutATickerEachAndAreWokenAtOnce(t *testing.T) {
	const n = 8000
	o := newOffline(t, func(o *Options) { o.MaxWait = time.Minute })
	before := runtime.NumGoroutine()
	results := o.crowd(t.Context(), n, nil)
	eventually(t, "all wait", func() bool { return o.waiting() == n })
	if more := runtime.NumGoroutine() - before - n; more > 5 {
		t.Errorf("%d goroutines besides those of the requests", more)
	}
	begun := time.Now()
	o.lead(t)
	for range n {
		if err := within(t, results); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d requests answered %v after the primary was there", n, time.Since(begun))
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("all answered after %v", took)
	}
	if len(o.ledger.done) != n {
		t.Errorf("%d puts were done", len(o.ledger.done))
	}
}

// TestThoseWhoComeBackLeaveRoomForOthers: as many at once as are a quarter of what the engine takes.
func TestThoseWhoComeBackLeaveRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffline(t)
		results := o.crowd(t.Context(), 3000, nil)
		synctest.Wait()
		var inside atomic.Int64
		goOn := make(chan struct{})
		o.ledger.meet(func(*ledgerEngine, string) fate {
			inside.Add(1)
			<-goOn
			return fate{}
		})
		o.lead(t)
		time.Sleep(time.Second)
		synctest.Wait()
		if inside.Load() != 1024 {
			t.Errorf("%d requests are in the engine at once", inside.Load())
		}
		close(goOn)
		for range 3000 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestWaitingIsBounded(t *testing.T) {
	for _, c := range []struct {
		name  string
		n     int
		value []byte
	}{
		{"in number", maxWaiting, nil},
		{"in bytes", maxWaitingBytes / (3 << 19), make([]byte, 3<<19)}, // one value for all: they hold less than is counted
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOffline(t, func(o *Options) { o.MaxWait = time.Minute })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			results := o.crowd(ctx, c.n, c.value)
			eventually(t, "all wait", func() bool { return o.waiting() == c.n })
			begun := time.Now()
			err := o.put(ctx, &etcdserverpb.PutRequest{Key: []byte("one too many"), Value: make([]byte, 3<<19)})
			wantCode(t, err, codes.Unavailable, errFull.Error())
			if took := time.Since(begun); took > time.Second || !NotDone(err) {
				t.Errorf("refused after %v: %v", took, err)
			}
			cancel()
			for range c.n {
				wantCode(t, within(t, results), codes.Canceled, "")
			}
			if o.room.calls != 0 || o.room.bytes != 0 {
				t.Errorf("%d calls, %d bytes are still counted", o.room.calls, o.room.bytes)
			}
		})
	}
}

// TestWhoeverIsRefusedDoesNotStorm: the gate is open, and the engine lets nothing begin.
func TestWhoeverIsRefusedDoesNotStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 500
		o := newOffline(t)
		o.lead(t)
		var asked atomic.Int64
		o.ledger.meet(func(*ledgerEngine, string) fate {
			asked.Add(1)
			return fate{undone: true, err: Unavailable("not now")}
		})
		results := o.crowd(t.Context(), n, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if most := int64(2*n + time.Second/lookEvery); asked.Load() > most {
			t.Errorf("%d refused calls asked %d times in a second, want at most %d", n, asked.Load(), most)
		}
		o.ledger.meet(nil)
		begun := time.Now()
		for range n {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begun); took > 2*lookEvery {
			t.Errorf("the last was answered after %v", took)
		}
	})
}

// TestACrowdThatComesBackIsNotRefusedAsTooMany: the engine has room for few.
func TestACrowdThatComesBackIsNotRefusedAsTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffline(t)
		results := o.crowd(t.Context(), 300, nil)
		synctest.Wait()
		var inside atomic.Int64
		o.ledger.meet(func(*ledgerEngine, string) fate {
			defer inside.Add(-1)
			if inside.Add(1) > 20 {
				return fate{undone: true, err: errTooManyCalls}
			}
			time.Sleep(time.Millisecond)
			return fate{}
		})
		o.lead(t)
		for range 300 {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
		// Whoever has not waited is told.
		o.ledger.meet(func(*ledgerEngine, string) fate { return fate{undone: true, err: errTooManyCalls} })
		wantCode(t, o.put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("k")}), codes.ResourceExhausted, "too many")
	})
}

// TestWaitingUnderChange: seeded changes of everything that lets calls in, with clients that give up. Nothing is done twice, or answered and not
// done, and nobody is forgotten.
func TestWaitingUnderChange(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		replica := newFakeReplica()
		o := newOffline(t, func(o *Options) { o.Replica = replica })
		var mu sync.Mutex // guards mid
		mid := rand.New(rand.NewPCG(seed, 1))
		o.ledger.meet(func(*ledgerEngine, string) fate { // a call takes its time, also beyond the end of its engine
			mu.Lock()
			took, undone := time.Duration(mid.IntN(3000))*time.Microsecond, mid.IntN(10) == 0
			mu.Unlock()
			time.Sleep(took)
			if undone {
				return fate{undone: true, err: Unavailable("not begun")}
			}
			return fate{}
		})
		o.lead(t)
		stop := make(chan struct{})
		var clients sync.WaitGroup
		var answered atomic.Int64
		for i := range 50 {
			patience := time.Duration(1+random.IntN(2000)) * time.Millisecond
			clients.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					key := fmt.Sprint(i, "-", n)
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					err := o.put(ctx, &etcdserverpb.PutRequest{Key: []byte(key)})
					cancel()
					times := o.ledger.count("put " + key)
					if err == nil {
						answered.Add(1)
					}
					if err == nil && times != 1 || times > 1 || NotDone(err) && times > 0 {
						t.Errorf("put %s: %v, done %d times", key, err, times)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		generation := uint64(3)
		for range 300 {
			time.Sleep(time.Duration(random.IntN(20_000)) * time.Microsecond)
			switch random.IntN(5) {
			case 0:
				o.gate.set(func(g *fakeGate) { g.closed = errors.New("closed") })
			case 1:
				o.gate.set(func(g *fakeGate) { g.check = errors.New("a blip") })
			case 2:
				o.router.to(Route{Why: "electing"})
			case 3:
				o.StopEngine()
				generation++
				if err := o.StartEngine(t.Context(), Session{Epoch: 7, Generation: generation}); err != nil {
					t.Error(err)
				}
				o.gate.set(func(g *fakeGate) { g.token = Token{Epoch: 7, Generation: generation} })
			default:
				o.gate.set(func(g *fakeGate) { g.check, g.closed = nil, nil })
				o.router.to(Route{Local: true})
			}
		}
		close(stop)
		o.gate.set(func(g *fakeGate) { g.check, g.closed = nil, nil })
		o.router.to(Route{Local: true})
		clients.Wait()
		t.Logf("%d answered, %d attempts repeated, %d outcomes unknown", answered.Load(), o.ledger.again, o.UnknownOutcomes())
		if answered.Load() < 100 || o.ledger.again < 10 || o.room.calls != 0 {
			t.Errorf("%d answered, %d still counted", answered.Load(), o.room.calls)
		}
	})
}

// TestPeersNeverWait: what arrives at the peer address, or says that it was forwarded, is refused at once, and said not to be done.
func TestPeersNeverWait(t *testing.T) {
	n := startNode(t, "a", func(o *Options) { o.MaxWait = time.Minute })
	n.lead(t)
	for name, change := range map[string]func(){
		"no route": func() { n.router.to(Route{Why: "electing"}) },
		"not here": func() { n.router.to(Route{Target: "127.0.0.1:1"}) },
		"a closed gate": func() {
			n.router.to(Route{Local: true})
			n.gate.set(func(g *fakeGate) { g.closed = errors.New("closed") })
		},
	} {
		change()
		for _, address := range []string{n.peer, n.client} {
			var trailer metadata.MD
			ctx := metadata.AppendToOutgoingContext(soon(t), forwardedKey, "b")
			begun := time.Now()
			_, err := etcdserverpb.NewKVClient(dial(t, address)).Put(ctx, &etcdserverpb.PutRequest{Key: []byte("k")}, grpc.Trailer(&trailer))
			wantCode(t, err, codes.Unavailable, "")
			if took := time.Since(begun); took > 2*time.Second || len(trailer.Get(notDoneKey)) == 0 {
				t.Errorf("%s: refused after %v with %v", name, took, trailer)
			}
			watch, err := etcdserverpb.NewWatchClient(dial(t, address)).Watch(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_, err = watch.Recv()
			wantCode(t, err, codes.Unavailable, "")
			if len(watch.Trailer().Get(notDoneKey)) == 0 {
				t.Errorf("%s: a watch was refused with %v", name, watch.Trailer())
			}
		}
	}
}

func TestStreamsWaitBeforeTheyBegin(t *testing.T) {
	primary := startPrimary(t, "a")
	n := startNode(t, "b", func(o *Options) { o.MaxWait = patience })
	watch, err := etcdserverpb.NewWatchClient(dial(t, n.client)).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	go func() {
		defer close(begun)
		createWatch(t, watch)
	}()
	eventually(t, "the stream waits", func() bool {
		n.endpoint.room.mu.Lock()
		defer n.endpoint.room.mu.Unlock()
		return n.endpoint.room.waiters.Len() == 1
	})
	n.router.to(Route{Target: primary.peer, Node: "a"})
	within(t, begun)
}

func TestOutcomesOfRefusals(t *testing.T) {
	for _, c := range []struct {
		err            error
		notDone, doubt bool
		says           string
	}{
		{nil, false, false, ""},
		{Unavailable("why"), true, false, "etcdserver: no leader: why"},
		{InDoubt("why"), false, true, "etcdserver: no leader: why" + OutcomeUnknown},
		{Unavailable("why" + OutcomeUnknown), false, true, "etcdserver: no leader: why" + OutcomeUnknown},
		{fmt.Errorf("put: %w", Unavailable("why")), true, false, "why"},
		{status.Error(codes.Unavailable, "odd"), false, true, "odd"},
		{status.Error(codes.OutOfRange, "compacted"), false, false, "compacted"},
		{engineError(errors.New("odd")), false, true, "odd" + OutcomeUnknown},
		{engineError(Unavailable("why")), true, false, "why"},
		{waited(InDoubt("why"), true, "waited"), false, true, "why; waited" + OutcomeUnknown},
		{waited(Unavailable("why"), false, "waited"), true, false, "why; waited"},
	} {
		if NotDone(c.err) != c.notDone || doubtful(c.err) != c.doubt || !strings.Contains(status.Convert(c.err).Message(), c.says) {
			t.Errorf("%v: not done %v, in doubt %v", c.err, NotDone(c.err), doubtful(c.err))
		}
	}
}

var waitedFor = regexp.MustCompile(`; waited (\S+)`)

// waitedAtLeast looks at what an error says of how long the request waited. It may be longer on a busy machine.
func waitedAtLeast(t *testing.T, err error, least time.Duration) {
	t.Helper()
	m := waitedFor.FindStringSubmatch(status.Convert(err).Message())
	if m == nil {
		t.Errorf("%v does not say how long it waited", err)
		return
	}
	if d, perr := time.ParseDuration(m[1]); perr != nil || d < least {
		t.Errorf("waited %s, less than %v (%v)", m[1], least, perr)
	}
}
