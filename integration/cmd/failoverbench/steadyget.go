package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	getWorkers = 16
	// getTurns is how often each node has its turn, so that a disturbance from outside hits both.
	getTurns  = 4
	getWarm   = 500 * time.Millisecond
	getWindow = 2 * time.Second
)

// runGets measures linearizable gets of one key, the nodes in turn.
func (s *steadyBench) runGets(ctx context.Context) ([]steadyResult, error) {
	took := map[string][]float64{}
	failed := map[string]*faults{onPrimary: {}, onStandby: {}}
	for turn := range getTurns {
		order := []string{onPrimary, onStandby}
		if turn%2 == 1 {
			order = []string{onStandby, onPrimary}
		}
		for _, at := range order {
			took[at] = append(took[at], s.getTurn(ctx, at, failed[at])...)
		}
	}
	var out []steadyResult
	for _, at := range []string{onPrimary, onStandby} {
		r := steadyResult{Kind: "steady", What: "get", Node: at, PerSecond: float64(len(took[at])) / (getTurns * getWindow).Seconds(), Count: len(took[at]),
			Errors: failed[at].count, FirstError: failed[at].first}
		r.P50, r.P99, r.Max = quantiles(took[at])
		out = append(out, r)
	}
	return out, ctx.Err()
}

// getTurn asks one node for a while, and returns what each get that ended in the window took, in milliseconds.
func (s *steadyBench) getTurn(ctx context.Context, at string, failed *faults) []float64 {
	took := make([][]float64, getWorkers)
	begin := time.Now()
	var running sync.WaitGroup
	for i := range getWorkers {
		running.Go(func() {
			kv, rnd := s.kv(at, i), rand.New(rand.NewPCG(uint64(i), 1))
			for ctx.Err() == nil {
				sent := time.Now()
				answer, err := kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(s.keys[rnd.IntN(len(s.keys))].key)})
				if err == nil && len(answer.Kvs) != 1 {
					err = fmt.Errorf("a key that exists was answered with %d keys", len(answer.Kvs))
				}
				since := time.Since(begin)
				switch {
				case since > getWarm+getWindow:
					return
				case err != nil:
					failed.add(err)
				case since >= getWarm:
					took[i] = append(took[i], milliseconds(time.Since(sent)))
				}
			}
		})
	}
	running.Wait()
	var all []float64
	for _, list := range took {
		all = append(all, list...)
	}
	return all
}

func (r steadyResult) print(out io.Writer) {
	what := map[string]string{"watch": "event after the response, at writes", "get": "linearizable get, 16 workers"}[r.What]
	fmt.Fprintf(out, "%-36s on the %s: %8.0f/s  p50 %.2f ms  p99 %.2f ms  max %.1f ms, %d counted, %d missing, %d errors %s\n",
		what, r.Node, r.PerSecond, r.P50, r.P99, r.Max, r.Count, r.Missing, r.Errors, r.FirstError)
}

// The limits of the steady lines.
const (
	eventLeast, eventAim = 20, 5 // milliseconds, p99
	getLeast, getAim     = 0.5, 0.9
)

// steadyGoals are what the steady lines are to reach.
func steadyGoals(results []steadyResult) []goal {
	of := func(what, node string) steadyResult {
		for _, r := range results {
			if r.What == what && r.Node == node {
				return r
			}
		}
		return steadyResult{}
	}
	event, standby, primary := of("watch", onStandby), of("get", onStandby), of("get", onPrimary)
	ratio := 0.0
	if primary.PerSecond > 0 {
		ratio = standby.PerSecond / primary.PerSecond
	}
	list := []goal{
		{What: fmt.Sprintf("watch event on the other node at %.0f writes/s, p99", event.PerSecond), Value: event.P99, Least: eventLeast, Aim: eventAim,
			unit: "ms", void: event.Count == 0},
		{What: "events that never came or came twice, and errors", Value: float64(event.Missing + event.Errors), Aim: noLimit},
		{What: "linearizable get on the standby, of the primary's rate", Value: ratio, Least: getLeast, Aim: getAim, Above: true, unit: "×"},
		{What: "errors of these gets", Value: float64(standby.Errors + primary.Errors), Aim: noLimit},
	}
	for i := range list {
		list[i].What = "steady: " + list[i].What
		list[i].Verdict = list[i].verdict()
	}
	return list
}
