package storm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/lab"
)

const (
	// vipGoneWithin is how long a node may keep the virtual address after its gate was last seen open. The kernel drops it 3.3 s after the last renewal at the latest;
	// the rest is for a machine whose cores are shared.
	vipGoneWithin = 7 * time.Second
	// vipEvery is the pace at which each host is looked at.
	vipEvery = 100 * time.Millisecond
)

// vipWatch looks all the time whether a node has the virtual address though its gate is closed.
type vipWatch struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards what follows
	found []string
	held  int // how often a node was seen with the address
}

func watchVIP(r *lab.Rig) *vipWatch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &vipWatch{cancel: cancel}
	for _, node := range cluster.DataNodes {
		w.wg.Go(func() { w.watch(ctx, r, node) })
	}
	return w
}

// watch looks at one node until ctx ends.
func (w *vipWatch) watch(ctx context.Context, r *lab.Rig, node string) {
	right := time.Now() // when the node last had a right to the address, or had it not
	told := false
	for ctx.Err() == nil {
		asked := time.Now()
		s, err := r.Status(ctx, node)
		open := err == nil && cluster.Self(s).GetGateOpen()
		has, err := holdsVIP(r, node)
		if err != nil && ctx.Err() == nil {
			w.note(fmt.Sprintf("whether %s has the virtual address is not known: %v", node, err))
			return
		}
		if has {
			w.saw()
		}
		if open || !has {
			right, told = asked, false
		}
		if wrong := time.Since(right); wrong > vipGoneWithin && !told {
			told = true
			w.note(fmt.Sprintf("%s has had the virtual address for %s with its gate closed", node, seconds(wrong)))
		}
		pause(ctx, vipEvery)
	}
}

func (w *vipWatch) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found = append(w.found, what)
}

func (w *vipWatch) saw() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held++
}

// stop ends the watch and returns what was wrong. It may be called again.
func (w *vipWatch) stop() []string {
	w.cancel()
	w.wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held == 0 {
		return append(w.found, "nobody was ever seen with the virtual address")
	}
	return w.found
}

// holdsVIP asks the kernel whether the address is on the node's host, whatever runs there.
func holdsVIP(r *lab.Rig, node string) (bool, error) {
	var table []byte
	err := r.Site().In(node, func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/fib_trie")
		return err
	})
	if err == nil && !strings.Contains(string(table), r.Site().Address(node)) {
		err = errors.New("the host's own address is not in its table")
	}
	return strings.Contains(string(table), lab.VIPs[0].String()+"\n"), err
}
