package integration

import (
	"context"
	"maps"
	"testing"

	"kineshim/integration/cluster"
	"kineshim/integration/ledger"
)

// A cluster that was stopped, all of it, goes on with its data and its ports when it is started again by somebody else.
func TestStoppedClusterIsResumed(t *testing.T) {
	r := armed(t)
	l := r.startLoad(t)
	l.stop()
	must(t, <-l.done)
	l.gates.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 2*armWithin)
	defer cancel()
	before, err := l.rec.ReadFinal(ctx, r.endpoint(cluster.A).Store, l.prefix, checkWithin)
	must(t, err)
	must(t, r.StopAll(ctx))
	for _, node := range cluster.Nodes {
		if pids := r.PIDs(node); len(pids) > 0 {
			t.Errorf("processes of %s are left: %v", node, pids)
		}
	}

	urls := map[string]string{cluster.A: r.ClientURL(cluster.A), cluster.B: r.ClientURL(cluster.B)}
	again, err := cluster.New(ctx, r.Dir(), cluster.Options{Binaries: lab.binaries, Engine: engine(), JSONLogs: true})
	must(t, err)
	must(t, r.Abandon()) // its connections; nothing of it runs
	r.Cluster = again
	if got := map[string]string{cluster.A: again.ClientURL(cluster.A), cluster.B: again.ClientURL(cluster.B)}; !maps.Equal(got, urls) {
		t.Errorf("the ports changed: %v, before %v", got, urls)
	}
	must(t, again.CheckPorts())
	must(t, r.StartAll(ctx))
	must(t, r.WaitArmed(ctx))
	after, err := l.rec.ReadFinal(ctx, r.endpoint(cluster.B).Store, l.prefix, checkWithin)
	must(t, err)
	for _, final := range []*ledger.Entry{before, after} {
		for _, v := range ledger.Check(ledger.Input{Entries: l.rec.Entries(), Prefix: l.prefix, Final: final}, enginePromises()) {
			t.Error(v)
		}
	}
}
