package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"text/tabwriter"
)

// summary is the last line of a kind in the results.
type summary struct {
	Kind        string  `json:"kind"`
	Rounds      int     `json:"rounds"`
	P50         float64 `json:"p50ms"`
	P99         float64 `json:"p99ms"`
	Max         float64 `json:"maxms"`
	Lost        int     `json:"lost"`
	ReadErrors  int     `json:"readErrors"`
	WriteErrors int     `json:"writeErrors"`

	violations int
}

// runKind runs all rounds of one kind. A round that does not recover ends it: the cluster is kept as it is.
func (b *bench) runKind(ctx context.Context, k kind, rounds int) (summary, error) {
	s := summary{Kind: k.name}
	var results []roundResult
	for i := range rounds {
		r, err := b.runRound(ctx, k, i+1)
		if err != nil {
			b.keep = b.keep || ctx.Err() == nil
			return s, fmt.Errorf("%s, round %d: %w", k.name, i+1, err)
		}
		if err := b.enc.Encode(r); err != nil {
			return s, err
		}
		b.show(r)
		results = append(results, r)
		if len(r.Violations) > 0 {
			b.keep = true
		}
		if !r.Recovered {
			b.keep = true
			return s, fmt.Errorf("%s, round %d: no write was acknowledged within %s", k.name, i+1, recoverWithin)
		}
	}
	s.add(results)
	b.table(s, results)
	return s, b.enc.Encode(s)
}

func (b *bench) show(r roundResult) {
	fmt.Fprintf(b.out, "%-13s %3d  %s to %s: first write after %.0f ms, armed after %.0f ms, %d writes, errors: %d reads, %d writes, lost=%d\n",
		r.Kind, r.Round, r.Primary, r.Survivor, r.FirstMS, r.ArmedMS, r.Writes, r.ReadErrors, r.WriteErrors, r.Lost)
	for _, v := range r.Violations {
		fmt.Fprintf(b.out, "    %s\n", v)
	}
}

func (s *summary) add(results []roundResult) {
	var first []float64
	for _, r := range results {
		first = append(first, r.FirstMS)
		s.Rounds++
		s.Lost += r.Lost
		s.ReadErrors += r.ReadErrors
		s.WriteErrors += r.WriteErrors
		s.violations += len(r.Violations)
	}
	s.P50, s.P99, s.Max = quantiles(first)
}

// quantiles are the 50th and 99th percentile (nearest rank) and the maximum.
func quantiles(v []float64) (p50, p99, most float64) {
	if len(v) == 0 {
		return 0, 0, 0
	}
	v = slices.Sorted(slices.Values(v))
	rank := func(p float64) float64 { return v[max(0, int(math.Ceil(p*float64(len(v))))-1)] }
	return rank(0.5), rank(0.99), v[len(v)-1]
}

// table shows when each phase was reached, and how long it took after the one before.
func (b *bench) table(s summary, results []roundResult) {
	fmt.Fprintf(b.out, "\n%s: %d rounds, milliseconds\n", s.Kind, s.Rounds)
	w := tabwriter.NewWriter(b.out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "phase\tafter the blow: p50\tp99\tmax\tafter the phase before: p50\tp99\tmax\t")
	row := func(name string, at, step []float64) {
		p50, p99, most := quantiles(at)
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t", name, p50, p99, most)
		if len(step) > 0 {
			p50, p99, most = quantiles(step)
			fmt.Fprintf(w, "%.0f\t%.0f\t%.0f\t", p50, p99, most)
		}
		fmt.Fprintln(w)
	}
	before := make([]float64, len(results))
	for _, phase := range phases {
		var at, step []float64
		for i, r := range results {
			if v, ok := r.PhasesMS[phase]; ok {
				at, step = append(at, v), append(step, v-before[i])
				before[i] = v
			}
		}
		if len(at) > 0 {
			row(phase, at, step)
		}
	}
	var at, step []float64
	for i, r := range results {
		at, step = append(at, r.FirstMS), append(step, r.FirstMS-before[i])
	}
	name := "first write"
	if slices.ContainsFunc(kinds, func(k kind) bool { return k.name == s.Kind && k.pause }) {
		name, step = "longest pause", nil
	}
	row(name, at, step)
	w.Flush()
	fmt.Fprintf(b.out, "%s: p50 %.0f ms, p99 %.0f ms, max %.0f ms, lost=%d\n\n", s.Kind, s.P50, s.P99, s.Max, s.Lost)
}
