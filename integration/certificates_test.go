package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kineshim/integration/cluster"
)

const (
	// minuteCertificates are as short as they may be: renewed every 40 s, four kinds of them.
	minuteCertificates = "certificate_lifetime: 1m\n"
	renewedFor         = time.Hour
	renewedEvery       = 40 * time.Second
	// askEvery is how often each node is written to and read from meanwhile, askWithin what a request may take, a switchover in it.
	askEvery  = 100 * time.Millisecond
	askWithin = 10 * time.Second
)

// asker writes to a node and reads from it what it has written, and watches it all.
type asker struct {
	client         *clientv3.Client
	prefix         string
	asked, watched atomic.Int64

	mu     sync.Mutex
	errors []string
}

func (a *asker) failed(what string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errors = append(a.errors, fmt.Sprintf("%s %s: %v", time.Now().UTC().Format(time.TimeOnly), what, err))
}

func (a *asker) ask(ctx context.Context) {
	for t := time.NewTicker(askEvery); ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		n := a.asked.Add(1)
		key, value := fmt.Sprint(a.prefix, n%100), fmt.Sprint(n)
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
		if _, err := a.client.Put(within, key, value); err != nil {
			a.failed("put", err)
		} else if r, err := a.client.Get(within, key); err != nil {
			a.failed("get", err)
		} else if len(r.Kvs) != 1 || string(r.Kvs[0].Value) != value {
			a.failed("get", fmt.Errorf("%v, want %s", r.Kvs, value))
		}
		cancel()
	}
}

func (a *asker) watch(ctx context.Context, ready chan<- struct{}) {
	for r := range a.client.Watch(ctx, a.prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify()) {
		switch {
		case r.Created:
			close(ready)
		case r.Err() != nil && ctx.Err() == nil:
			a.failed("watch", r.Err())
		}
		a.watched.Add(int64(len(r.Events)))
	}
}

// Certificates that live for a minute are renewed for an hour, with a switchover in the middle, and no client sees an error.
func TestMinuteCertificatesAreRenewedForAnHour(t *testing.T) {
	if !long() {
		t.Skip("takes an hour: KINESHIM_LONG=1 asks for it. Row 47 of the failure matrix has certificates of a minute for some minutes")
	}
	r := newRig(t, func(o *cluster.Options) {
		o.Extra = map[string]string{cluster.A: minuteCertificates, cluster.B: minuteCertificates}
	})
	defer r.destroy()
	ctx, cancel := context.WithTimeout(t.Context(), armWithin)
	defer cancel()
	if err := r.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitArmed(ctx); err != nil {
		t.Fatal(err)
	}
	asking, stopAsking := context.WithCancel(t.Context())
	watching, stopWatching := context.WithCancel(t.Context())
	var askers []*asker
	var asks, watches sync.WaitGroup
	for _, node := range cluster.DataNodes {
		a := &asker{client: r.clients[node], prefix: "/minute/" + node + "/"}
		askers = append(askers, a)
		ready := make(chan struct{})
		watches.Go(func() { a.watch(watching, ready) })
		<-ready
		asks.Go(func() { a.ask(asking) })
	}
	primary := r.primary(t)
	time.Sleep(renewedFor / 2)
	if err := r.Switchover(t.Context(), cluster.Other(primary)); err != nil {
		t.Errorf("switchover: %v", err)
	}
	time.Sleep(renewedFor / 2)
	stopAsking()
	asks.Wait()
	for _, a := range askers {
		r.eventually(t, "all events are seen", func(context.Context) error {
			if seen, want := a.watched.Load(), a.asked.Load(); seen < want {
				return fmt.Errorf("%d of %d", seen, want)
			}
			return nil
		})
	}
	stopWatching()
	watches.Wait()
	for _, a := range askers {
		t.Logf("%s: %d writes and as many reads, %d events", a.prefix, a.asked.Load(), a.watched.Load())
		for _, e := range a.errors {
			t.Errorf("%s: %s", a.prefix, e)
		}
	}
	s, err := r.StatusOf(t.Context(), cluster.A)
	if err != nil || s.GetEpoch() != 2 || !s.GetArmed() {
		t.Errorf("epoch %d, armed %t, %v: the only change of roles was to be the switchover", s.GetEpoch(), s.GetArmed(), err)
	}
	r.renewedThroughout(t)
}

// renewedThroughout counts the renewals in the logs. One in ten may have come late.
func (r *rig) renewedThroughout(t *testing.T) {
	t.Helper()
	atLeast := int(renewedFor/renewedEvery) * 9 / 10
	for node, kinds := range map[string][]string{
		cluster.A:       {"this node's certificate was renewed", "PostgreSQL's certificates were renewed"},
		cluster.B:       {"this node's certificate was renewed", "PostgreSQL's certificates were renewed"},
		cluster.Witness: {"this voter's certificate was renewed"},
	} {
		text, err := os.ReadFile(r.LogPath(node))
		if err != nil {
			t.Error(err)
		}
		for _, kind := range kinds {
			n := strings.Count(string(text), kind)
			t.Logf("%s: %q %d times", node, kind, n)
			if n < atLeast {
				t.Errorf("%s: %q %d times, want %d at least", node, kind, n, atLeast)
			}
		}
	}
}
