package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// goal is one number to reach.
type goal struct {
	what string
	// ours and theirs are compared by measure; without theirs it is ours alone that counts.
	ours, theirs result
	alone        bool
	value        float64
	least, aim   float64
	// below: the value must not be above the goals, else not below.
	below bool
}

// The verdicts.
const (
	verdictAim    = "aim"
	verdictLeast  = "at least"
	verdictMissed = "MISSED"
)

func (g goal) verdict() string {
	reached := func(limit float64) bool {
		if g.below {
			return g.value <= limit
		}
		return g.value >= limit
	}
	switch {
	case reached(g.aim) && reached(g.least):
		return verdictAim
	case reached(g.least):
		return verdictLeast
	default:
		return verdictMissed
	}
}

// goals builds the list of those whose results there are.
type goals struct {
	found map[resultKey]result
	list  []goal
}

func (g *goals) of(system string, l line) (result, bool) {
	r, ok := g.found[resultKey{system, l}]
	return r, ok && r.OpsPerSec > 0
}

// rate compares rates with a peer's.
func (g *goals) rate(l line, peer string, least, aim float64) {
	ours, ok1 := g.of(kineshim, l)
	theirs, ok2 := g.of(peer, l)
	if ok1 && ok2 {
		g.list = append(g.list, goal{what: fmt.Sprintf("%s: rate vs %s", l, peer), ours: ours, theirs: theirs,
			value: ours.OpsPerSec / theirs.OpsPerSec, least: least, aim: aim})
	}
}

// latency compares 99th percentiles with a peer's.
func (g *goals) latency(l line, peer string, least, aim float64) {
	ours, ok1 := g.of(kineshim, l)
	theirs, ok2 := g.of(peer, l)
	if ok1 && ok2 && theirs.P99 > 0 {
		g.list = append(g.list, goal{what: fmt.Sprintf("%s: p99 vs %s", l, peer), ours: ours, theirs: theirs, value: ours.P99 / theirs.P99,
			least: least, aim: aim, below: true})
	}
}

// findGoals compares the results with what is to be reached (a quick run has all of it).
func findGoals(results []result) []goal {
	g := &goals{found: byKey(results)}
	for _, op := range []string{opCreate, opUpdate, opDelete} {
		for _, n := range []int{16, 64, 256} {
			g.rate(line{op: op, workers: n}, etcd3, 1.5, 3)
		}
	}
	g.rate(line{op: opCreate, workers: 1}, etcd3, 1, 1.3)
	for _, n := range allWorkers {
		g.rate(line{op: opGet, workers: n}, etcd3, 1.5, 1.5)
		g.rate(line{op: opGet, workers: n}, etcd1, 1, 1.5)
	}
	for _, n := range []int{1, 4, 16, 64, 256} {
		g.rate(line{op: opList500, workers: n}, etcd1, 1.2, 2)
		g.rate(line{op: opListAll, workers: n}, etcd1, 1.2, 2)
	}
	for _, n := range allWorkers {
		g.rate(line{op: opCount, workers: n, keys: listKeys}, etcd1, 10, 10)
	}
	g.countIndependent()
	g.rate(line{op: opHot, workers: 64}, etcd1, 3, 10)
	for _, op := range []string{opCreate, opUpdate, opDelete} {
		g.latency(line{op: op, workers: 64}, etcd3, 1, 0.5)
	}
	for _, l := range watchLines() {
		if ours, ok := g.of(kineshim, l); ok {
			g.list = append(g.list, goal{what: fmt.Sprintf("%s: event after the response, p99 ms", l), ours: ours, alone: true, value: ours.P99,
				least: 5, aim: 1, below: true})
		}
	}
	return g.list
}

// countIndependent compares our count of many keys with one of few: the aim is that it costs the same, taken as 0.8 of the rate.
func (g *goals) countIndependent() {
	many, ok1 := g.of(kineshim, line{op: opCount, workers: 64, keys: listKeys})
	few, ok2 := g.of(kineshim, line{op: opCount, workers: 64, keys: smallKeys, phase: phaseSmall})
	if ok1 && ok2 {
		g.list = append(g.list, goal{what: fmt.Sprintf("count of %d keys: rate vs our own of %d", listKeys, smallKeys), ours: many, theirs: few,
			value: many.OpsPerSec / few.OpsPerSec, least: 0, aim: 0.8})
	}
}

// printGoals prints what was to be reached and what was.
func printGoals(out io.Writer, list []goal) {
	if len(list) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\nto reach\tours\ttheirs\tratio\tat least\taim\treached\t")
	count := map[string]int{}
	for _, g := range list {
		number := func(r result) string {
			switch {
			case r.System == "":
				return "-"
			case g.below:
				return fmt.Sprintf("%.2f ms", r.P99)
			}
			return fmt.Sprintf("%.0f/s", r.OpsPerSec)
		}
		verdict := g.verdict()
		if g.ours.Errors > 0 || g.ours.Amiss != "" {
			verdict = verdictMissed + ", with errors"
		}
		count[verdict]++
		sign, limits := "≥", "×"
		if g.below {
			sign = "≤"
		}
		if g.alone {
			limits = " ms"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f%s\t%s %.4g%s\t%s %.4g%s\t%s\t\n", g.what, number(g.ours), number(g.theirs), g.value, limits,
			sign, g.least, limits, sign, g.aim, limits, verdict)
	}
	w.Flush()
	fmt.Fprintf(out, "of %d: aim %d, at least %d, missed %d\n", len(list), count[verdictAim], count[verdictLeast],
		len(list)-count[verdictAim]-count[verdictLeast])
}
