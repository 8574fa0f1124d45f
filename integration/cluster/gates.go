package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// GateWatch asks both data nodes all the time whether their gate is open, and finds out if both ever were.
type GateWatch struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	seen   []gateSeen
	epochs map[uint64]string // who was seen open in each epoch
	found  []string
	asked  int
}

// gateSeen is an open gate: at some moment between from and to, node served the epoch.
type gateSeen struct {
	node     string
	epoch    uint64
	from, to time.Time
}

// watchGatesEvery is the pace at which each node is asked.
const watchGatesEvery = 20 * time.Millisecond

// WatchGates begins to watch.
func (c *Cluster) WatchGates() *GateWatch {
	ctx, cancel := context.WithCancel(context.Background())
	g := &GateWatch{cancel: cancel, epochs: map[uint64]string{}}
	for _, node := range DataNodes {
		g.wg.Go(func() {
			for ctx.Err() == nil {
				from := time.Now()
				s, err := c.Status(ctx, node)
				if err == nil {
					st := Self(s)
					g.observe(gateSeen{node, st.GetEpoch(), from, time.Now()}, st.GetGateOpen())
				}
				select {
				case <-ctx.Done():
				case <-time.After(watchGatesEvery):
				}
			}
		})
	}
	return g
}

// observe takes in an answer. Epochs only go up and each has one primary; so a gate open in an epoch, asked after another was seen open in a
// later epoch, proves that two nodes answered at once.
func (g *GateWatch) observe(s gateSeen, open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	if !open {
		return
	}
	if first, ok := g.epochs[s.epoch]; ok && first != s.node {
		g.found = append(g.found, fmt.Sprintf("%s and %s both had their gate open in epoch %d", first, s.node, s.epoch))
	}
	g.epochs[s.epoch] = s.node
	for _, o := range g.seen {
		older, newer := s, o
		if o.epoch < s.epoch {
			older, newer = o, s
		}
		if older.epoch < newer.epoch && older.from.After(newer.to) {
			g.found = append(g.found, fmt.Sprintf("%s had its gate open in epoch %d, asked %s after %s was seen open in epoch %d",
				older.node, older.epoch, older.from.Sub(newer.to), newer.node, newer.epoch))
		}
	}
	g.remember(s)
}

// remember keeps the first and the last sight of each node and epoch, which prove as much as all of them.
func (g *GateWatch) remember(s gateSeen) {
	var of []int
	for i, o := range g.seen {
		if o.node == s.node && o.epoch == s.epoch {
			of = append(of, i)
		}
	}
	if len(of) < 2 {
		g.seen = append(g.seen, s)
		return
	}
	g.seen[of[1]] = s
}

// Stop ends the watch and returns what it found wrong, and who was primary in each epoch seen.
func (g *GateWatch) Stop() (found []string, epochs map[uint64]string) {
	g.cancel()
	g.wg.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asked == 0 {
		g.found = append(g.found, "no node ever answered")
	}
	return g.found, g.epochs
}
