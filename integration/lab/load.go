package lab

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/ledger"
)

// The load of every row: the workers are spread over the endpoints; those that ask a data node do so on its host, as the k3s there does.
const (
	loadWorkers = 6
	loadThink   = 15 * time.Millisecond
	loadAtMost  = 10 * time.Minute
)

// promises are what the native engine keeps beyond what every engine must.
var promises = ledger.Promises{HeaderRevision: true, ExactDelete: true}

// load is a load under way, with a watch on both gates and a watch of all keys through each node.
type load struct {
	r       *rig
	rec     *ledger.Recorder
	prefix  string
	from    int64 // the store's revision before the load
	stop    context.CancelFunc
	done    chan error
	gates   *cluster.GateWatch
	watches []chan watched
	mark    atomic.Int64
	// halted: its requests have been ended.
	halted atomic.Bool
	// jumped: an operator's decision has let revisions jump, so that watches begin again.
	jumped atomic.Bool
}

// watched is what a watch under way came to.
type watched struct {
	histories []ledger.History
	err       error
}

// startLoad begins a load. The caller ends it with end, or with abandon.
func (r *rig) startLoad(ctx context.Context, number int, primary string) (*load, error) {
	rec, err := ledger.NewRecorder(r.ledgerPath(number))
	if err != nil {
		return nil, err
	}
	l := &load{r: r, rec: rec, prefix: fmt.Sprintf("/registry/lab/%03d/", number), done: make(chan error, 1), gates: r.WatchGates()}
	bounded, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	mark, err := rec.Mark(bounded, r.endpoint(primary), l.prefix)
	if err != nil {
		l.gates.Stop()
		return nil, err
	}
	l.from = mark.Revision - 1
	var run context.Context
	run, l.stop = context.WithCancel(context.Background())
	work := ledger.Load{Recorder: rec, Prefix: l.prefix, Workers: loadWorkers, Duration: loadAtMost, Think: loadThink, Seed: uint64(number)}
	for _, node := range r.endpoints() {
		work.Endpoints = append(work.Endpoints, r.endpoint(node))
		work.Renewers = append(work.Renewers, r.endpoint(node))
		l.watch(node)
	}
	go func() { l.done <- work.Run(run) }()
	return l, nil
}

// watch watches everything through the node. A watch that breaks off begins again where it was, as Kubernetes' do. It ends when it has seen the
// mark, or with its bound.
func (l *load) watch(node string) {
	ended := make(chan watched, 1)
	l.watches = append(l.watches, ended)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), loadAtMost+checkWithin)
		defer cancel()
		h, err := ledger.WatchThrough(ctx, "watch through "+node, l.r.clients[node], l.prefix, l.from, l.mark.Load, l.jumped.Load)
		ended <- watched{h, err}
	}()
}

// abandon ends what a row that failed has left running.
func (l *load) abandon() {
	l.stop()
	l.mark.CompareAndSwap(0, 1) // ends the watches
	l.gates.Stop()
	_ = l.rec.Close()
}

// halt ends the load's requests, and waits for those under way.
func (l *load) halt() error {
	l.halted.Store(true)
	l.stop()
	return <-l.done
}

// histories ends the watches at the mark.
func (l *load) histories(mark int64) (all []ledger.History, found []string) {
	l.mark.Store(mark)
	for _, ended := range l.watches {
		select {
		case w := <-ended:
			if w.err != nil {
				found = append(found, w.err.Error())
			}
			all = append(all, w.histories...)
		case <-time.After(checkWithin):
			found = append(found, fmt.Sprintf("a watch has not seen revision %d within %s", mark, checkWithin))
		}
	}
	l.watches = nil
	return all, found
}

// maxFound bounds what is told of each kind of violation: one lost database would else be told for every request.
const maxFound = 5

// check reads the final state and the history through each node and compares them with the record. It returns what is wrong.
func (l *load) check(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	var found []string
	for _, node := range cluster.DataNodes {
		mark, err := l.rec.Mark(ctx, l.r.endpoint(node), l.prefix)
		if err != nil {
			return append(found, err.Error())
		}
		final, err := l.rec.ReadFinal(ctx, l.r.endpoint(node).Store, l.prefix, 5*time.Second)
		if err != nil {
			return append(found, err.Error())
		}
		read, err := ledger.WatchThrough(ctx, "history read from "+node, l.r.clients[node], l.prefix, l.from, func() int64 { return mark.Revision }, l.jumped.Load)
		if err != nil {
			return append(found, err.Error())
		}
		watched, wrong := l.histories(mark.Revision)
		found = append(found, wrong...)
		in := ledger.Input{Entries: l.rec.Entries(), Prefix: l.prefix, Final: final, Histories: append(watched, read...)}
		for i, v := range ledger.Check(in, promises) {
			if i < maxFound {
				found = append(found, fmt.Sprintf("through %s: %s", node, v))
			}
		}
	}
	if err := l.rec.Close(); err != nil {
		found = append(found, err.Error())
	}
	return found
}
