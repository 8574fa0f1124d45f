package honesty

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	contenders = 64
	// otherEvery is the pace of the writes whose events are timed.
	otherEvery = 10 * time.Millisecond
	// gross is how late no event may be, however busy the machine: kine takes ten seconds.
	gross = 2 * time.Second
)

// timed is when each write was answered and when its event came, by its value.
type timed struct {
	mu       sync.Mutex // guards the fields below
	answered map[string]time.Time
	came     map[string]time.Time
}

func (x *timed) note(m map[string]time.Time, value string) {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	m[value] = now
}

// delays are sorted; missing counts the writes without an event.
func (x *timed) delays() (delays []time.Duration, missing int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for value, at := range x.answered {
		came, ok := x.came[value]
		if !ok {
			missing++
			continue
		}
		delays = append(delays, max(0, came.Sub(at)))
	}
	slices.Sort(delays)
	return delays, missing
}

// timeEvents writes other keys for a time and returns how long after each answer its event came.
func timeEvents(t *testing.T, r *rig, prefix string, lasts time.Duration) []time.Duration {
	t.Helper()
	x := &timed{answered: map[string]time.Time{}, came: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := r.client().Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchCreateRequest{Key: []byte(prefix), RangeEnd: end(prefix)}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	if created, err := stream.Recv(); err != nil || !created.Created {
		t.Fatalf("create a watch: %v, %v", created, err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			response, err := stream.Recv()
			if err != nil || response.Canceled {
				return // canceled below
			}
			for _, e := range response.Events {
				x.note(x.came, string(e.Kv.Value))
			}
		}
	})
	c := r.client()
	tick := time.NewTicker(otherEvery)
	defer tick.Stop()
	n := 0
	for deadline := time.Now().Add(lasts); time.Now().Before(deadline); n++ {
		<-tick.C
		value := fmt.Sprint(n)
		if _, err := do(c.Put, put(fmt.Sprintf("%s%d", prefix, n%50), value)); err != nil {
			t.Fatalf("put: %v", err)
		}
		x.note(x.answered, value)
	}
	for deadline := time.Now().Add(gross); time.Now().Before(deadline); time.Sleep(retryPause) {
		if _, missing := x.delays(); missing == 0 {
			break
		}
	}
	delays, missing := x.delays()
	cancel()
	running.Wait()
	if missing > 0 || len(delays) == 0 {
		t.Fatalf("%d of %d events have not come %v after their write was answered", missing, n, gross)
	}
	return delays
}

// contend has many change one key by compare-and-set until stop is called, which returns how often one did, and how often one lost.
func contend(t *testing.T, r *rig, key string) (stop func() (won, lost int64)) {
	must(t, r.client().Put, put(key, "at first"))
	var won, lost atomic.Int64
	var stopping atomic.Bool
	var running sync.WaitGroup
	for n := range contenders {
		c := r.client()
		running.Go(func() {
			mod := int64(1)
			for i := 0; !stopping.Load(); i++ {
				answer, err := do(c.Txn, update(key, fmt.Sprintf("%d of %d", i, n), mod))
				if err != nil {
					t.Errorf("compare and set: %v", err)
					return
				}
				if answer.Succeeded {
					won.Add(1)
					mod = answer.Header.Revision
					continue
				}
				lost.Add(1)
				mod = first(answer.Responses[0].GetResponseRange()).ModRevision
			}
		})
	}
	stop = func() (int64, int64) {
		stopping.Store(true)
		running.Wait()
		return won.Load(), lost.Load()
	}
	t.Cleanup(func() { stop() })
	return stop
}

func quantiles(d []time.Duration) string {
	at := func(q float64) time.Duration {
		return d[int(q*float64(len(d)-1))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %v, p99 %v, max %v (%d events)", at(0.5), at(0.99), at(1), len(d))
}

// A key that many fight for delays nobody who watches others.
func TestHotKeyDoesNotDelayOtherWatchers(t *testing.T) {
	r := start(t, options{})
	lasts := seconds(4)
	alone := timeEvents(t, r, "/alone/", lasts/2)
	const hot = "/hot"
	stop := contend(t, r, hot)
	beside := timeEvents(t, r, "/beside/", lasts)
	won, lost := stop()
	t.Logf("from the answer of a write to its event, alone:           %s", quantiles(alone))
	t.Logf("from the answer of a write to its event, beside a hot key: %s", quantiles(beside))
	t.Logf("the hot key was changed %d times by %d, who lost %d times", won, contenders, lost)
	if worst := beside[len(beside)-1]; worst > gross {
		t.Errorf("an event came %v after its write was answered", worst)
	}
	if won < 10 || lost < 10 {
		t.Error("that tries too little")
	}
	if found := first(must(t, r.client().Range, get(hot))); found.Version != version(won+1) {
		t.Errorf("%d compare-and-sets were acknowledged after the first put, and the key has version %d", won, found.Version)
	}
}
