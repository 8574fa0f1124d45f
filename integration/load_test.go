package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/ledger"
	"kineshim/integration/pulse"
)

// The load of all failure tests: half of the workers ask one node, half the other.
const (
	loadWorkers = 8
	loadThink   = 15 * time.Millisecond
	loadAtMost  = 5 * time.Minute
)

// engine is the engine of the clusters under test; empty: the default one.
func engine() string { return os.Getenv("KINESHIM_ENGINE") }

// enginePromises is what the engine keeps beyond what every engine must. kine answers a refused write with a revision that it
// remembers, which is older now and then than what it has acknowledged; see ExactDelete for the rest.
func enginePromises() ledger.Promises {
	own := engine() != "kine"
	return ledger.Promises{HeaderRevision: own, ExactDelete: own}
}

// load is a load under way, with a watch on both gates.
type load struct {
	r      *rig
	rec    *ledger.Recorder
	prefix string
	from   int64 // the store's revision before the load
	stop   context.CancelFunc
	done   chan error
	gates  *cluster.GateWatch
	// watches go on through all that happens, until they have seen the mark.
	watches []chan watched
	mark    atomic.Int64
	pulse   pulse.Pulse
}

// watched is what a watch under way came to.
type watched struct {
	history ledger.History
	err     error
}

// startLoad begins a load and returns when writes are acknowledged.
func (r *rig) startLoad(t *testing.T) *load {
	t.Helper()
	r.tests++
	rec, err := ledger.NewRecorder(filepath.Join(r.Dir(), fmt.Sprintf("ledger-%03d.jsonl", r.tests)))
	if err != nil {
		t.Fatal(err)
	}
	l := &load{r: r, rec: rec, prefix: fmt.Sprintf("/registry/ledger/%03d/", r.tests), done: make(chan error, 1), gates: r.WatchGates()}
	var endpoints []ledger.Endpoint
	for _, node := range cluster.DataNodes {
		endpoints = append(endpoints, r.endpoint(node))
	}
	ctx, cancel := context.WithTimeout(t.Context(), checkWithin)
	defer cancel()
	mark, err := rec.Mark(ctx, r.endpoint(r.primary(t)), l.prefix)
	if err != nil {
		t.Fatal(err)
	}
	l.from = mark.Revision - 1
	var loadCtx context.Context
	loadCtx, l.stop = context.WithCancel(context.Background())
	work := ledger.Load{Endpoints: endpoints, Recorder: rec, Prefix: l.prefix, Workers: loadWorkers, Duration: loadAtMost, Think: loadThink, Seed: uint64(r.tests)}
	go func() { l.done <- work.Run(loadCtx) }()
	go l.pulse.Run(loadCtx)
	if engine() != "kine" { // kine loses events under load by itself
		l.watch(loadCtx)
	}
	t.Cleanup(func() { // if the test ended without finish
		l.stop()
		l.mark.CompareAndSwap(0, 1) // ends the watches
		l.gates.Stop()
		_ = rec.Close()
	})
	l.waitWrite(t, "", checkWithin)
	l.run(time.Second)
	return l
}

// watch starts a watch of everything through each node. One that breaks off begins again where it was, as Kubernetes' do.
func (l *load) watch(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	for _, node := range cluster.DataNodes {
		ended := make(chan watched, 1)
		l.watches = append(l.watches, ended)
		client := l.r.clients[node]
		go func() { // ends when it has seen the mark, or with the bound
			ctx, cancel := context.WithTimeout(ctx, loadAtMost+checkWithin)
			defer cancel()
			h, err := ledger.WatchUntil(ctx, "watch through "+node, client, l.prefix, l.from, l.mark.Load)
			ended <- watched{h, err}
		}()
	}
}

// histories ends the watches at the mark.
func (l *load) histories(t *testing.T, mark int64) []ledger.History {
	t.Helper()
	l.mark.Store(mark)
	var all []ledger.History
	for _, ended := range l.watches {
		select {
		case w := <-ended:
			if w.err != nil {
				t.Error(w.err)
			}
			all = append(all, w.history)
		case <-time.After(checkWithin):
			t.Errorf("a watch has not seen revision %d within %s", mark, checkWithin)
		}
	}
	l.watches = nil
	return all
}

func (r *rig) endpoint(node string) ledger.Endpoint {
	return ledger.Endpoint{Name: node, Store: ledger.Etcd{Client: r.clients[node]}}
}

func (r *rig) primary(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), failoverWithin)
	defer cancel()
	p, err := r.WaitPrimary(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run lets the load go on for a while, as a part of the test's plan.
func (l *load) run(d time.Duration) { time.Sleep(d) }

// waitWrite waits for an acknowledged write begun from now on through the endpoint (empty: any), and returns how long it took to come.
func (l *load) waitWrite(t *testing.T, endpoint string, within time.Duration) time.Duration {
	t.Helper()
	now := l.rec.Now()
	deadline := time.Now().Add(within)
	for {
		if e, ok := l.rec.FirstWriteAfter(now, endpoint); ok {
			return time.Duration(e.End - now)
		}
		if time.Now().After(deadline) {
			t.Fatalf("no write was acknowledged through %q within %s", endpoint, within)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// gapSince is the longest time without an acknowledged write since an instant.
func (l *load) gapSince(since time.Time) time.Duration {
	_, pause := ledger.PauseAfter(l.rec.Entries(), l.rec.At(since), l.rec.Now(), "")
	return pause
}

// finish waits until the cluster is armed again, ends the load, and checks all that was promised.
func (l *load) finish(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), armWithin)
	defer cancel()
	began := time.Now()
	if err := l.r.WaitArmed(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("armed again after another %s", time.Since(began).Round(10*time.Millisecond))
	l.waitWrite(t, cluster.A, failoverWithin)
	l.waitWrite(t, cluster.B, failoverWithin)
	l.stop()
	if err := <-l.done; err != nil {
		t.Fatal(err)
	}
	found, epochs := l.gates.Stop()
	for i, f := range found {
		if i < 5 {
			t.Errorf("two primaries: %s", f)
		}
	}
	t.Logf("primaries by epoch: %v", epochs)
	l.check(t)
}

// check reads the final state and the history through each node and compares them with the record.
func (l *load) check(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), checkWithin)
	defer cancel()
	for _, node := range cluster.DataNodes {
		mark, err := l.rec.Mark(ctx, l.r.endpoint(node), l.prefix)
		if err != nil {
			t.Fatal(err)
		}
		final, err := l.rec.ReadFinal(ctx, l.r.endpoint(node).Store, l.prefix, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		history, err := ledger.WatchUntil(ctx, "history read from "+node, l.r.clients[node], l.prefix, l.from, func() int64 { return mark.Revision })
		if err != nil {
			t.Fatal(err)
		}
		entries := l.rec.Entries()
		if node == cluster.DataNodes[0] {
			t.Log(ledger.Summarise(entries))
		}
		in := ledger.Input{Entries: entries, Prefix: l.prefix, Final: final, Histories: append(l.histories(t, mark.Revision), history)}
		for _, v := range ledger.Check(in, enginePromises()) {
			t.Errorf("through %s: %s", node, v)
		}
	}
	if err := l.rec.Close(); err != nil {
		t.Errorf("record: %v", err)
	}
}
