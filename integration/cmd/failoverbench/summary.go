package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
)

// quantity is what is told of a number that every round has. The percentiles are nearest rank.
type quantity struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	Max  float64 `json:"max"`
	Mean float64 `json:"mean"`
}

// quantityOf sums up v. Nothing gives zeros.
func quantityOf(v []float64) quantity {
	q := quantity{}
	q.P50, q.P99, q.Max = quantiles(v)
	for _, x := range v {
		q.Mean += x / float64(len(v))
	}
	return q
}

// clientSummary is what one kind of client met in all rounds of a kind of blow. Times are milliseconds.
type clientSummary struct {
	First quantity `json:"firstWriteMs"`
	// NoWrite counts rounds in which no write was acknowledged any more; they are left out of First.
	NoWrite     int      `json:"noWrite,omitempty"`
	Longest     quantity `json:"longestMs"`
	ReadErrors  quantity `json:"readErrors"`
	WriteErrors quantity `json:"writeErrors"`
	InFlight    quantity `json:"writesInFlight"`
	// Beyond are the write errors of a round that its writes in flight do not account for.
	Beyond        quantity `json:"writeErrorsBeyondInFlight"`
	Unknown       quantity `json:"unknownWrites"`
	UnknownStored quantity `json:"unknownStored"`
	ReadAttempts  quantity `json:"failedReadAttempts"`
	WriteAttempts quantity `json:"failedWriteAttempts"`
}

// summary is the last line of a kind in the results.
type summary struct {
	Kind        string  `json:"kind"`
	Rounds      int     `json:"rounds"`
	Keys        int     `json:"keys,omitempty"`
	P50         float64 `json:"p50ms"`
	P99         float64 `json:"p99ms"`
	Max         float64 `json:"maxms"`
	Lost        int     `json:"lost"`
	ReadErrors  int     `json:"readErrors"`
	WriteErrors int     `json:"writeErrors"`

	Violations int                      `json:"violations"`
	Clients    map[string]clientSummary `json:"clients"`
	Watches    map[string]watchResult   `json:"watches"`
	// Unchecked counts rounds whose watches could be compared with nothing.
	Unchecked int `json:"watchesUnchecked,omitempty"`
	// GateMS is from the promotion of PostgreSQL to the open gate.
	GateMS quantity `json:"promotedToGateMs"`
}

// runKind runs all rounds of one kind. A round that does not recover ends it: the cluster is kept as it is. What the rounds before an error
// have shown is told all the same.
func (b *bench) runKind(ctx context.Context, k kind, rounds int) (summary, error) {
	var results []roundResult
	var broken error
	for i := 0; i < rounds && broken == nil; i++ {
		r, err := b.runRound(ctx, k, i+1)
		if err != nil {
			b.keep = b.keep || ctx.Err() == nil
			broken = fmt.Errorf("%s, round %d: %w", k.name, i+1, err)
			break
		}
		if err := b.enc.Encode(r); err != nil {
			return summary{}, err
		}
		b.show(r)
		b.keep = b.keep || len(r.Violations) > 0 || !r.Recovered
		if !r.Recovered {
			broken = fmt.Errorf("%s, round %d: no write was acknowledged within %s", k.name, i+1, recoverWithin)
			break
		}
		results = append(results, r)
	}
	s := summarise(k, results)
	if len(results) == 0 {
		return s, broken
	}
	s.print(b.out, results)
	if err := b.enc.Encode(s); err != nil {
		return s, err
	}
	return s, broken
}

func (b *bench) show(r roundResult) {
	fmt.Fprintf(b.out, "%-13s %3d  %s to %s: first write after %.0f ms, armed after %.0f ms, %d writes, errors: %d reads, %d writes, lost=%d\n",
		r.Kind, r.Round, r.Primary, r.Survivor, r.FirstMS, r.ArmedMS, r.Writes, r.ReadErrors, r.WriteErrors, r.Lost)
	if r.WatchesUnchecked != "" {
		fmt.Fprintf(b.out, "    watches are not checked: %s\n", r.WatchesUnchecked)
	}
	for _, name := range clientNames {
		if w := r.Watches[name]; w.Cancelled > 0 {
			fmt.Fprintf(b.out, "    %d watches ended at the node of client %s: %s\n", w.Cancelled, name, strings.Join(w.Reasons, "; "))
		}
	}
	for _, v := range r.Violations {
		fmt.Fprintf(b.out, "    %s\n", v)
	}
}

func summarise(k kind, results []roundResult) summary {
	s := summary{Kind: k.name, Clients: map[string]clientSummary{}, Watches: map[string]watchResult{}}
	var gate []float64
	for _, r := range results {
		s.Rounds++
		s.Keys = r.Keys
		s.Lost += r.Lost
		s.ReadErrors += r.ReadErrors
		s.WriteErrors += r.WriteErrors
		s.Violations += len(r.Violations)
		if r.WatchesUnchecked != "" {
			s.Unchecked++
		}
		for at, w := range r.Watches {
			sum := s.Watches[at]
			sum.add(w)
			s.Watches[at] = sum
		}
		promoted, ok1 := r.PhasesMS["promoted"]
		open, ok2 := r.PhasesMS["gate_open"]
		if ok1 && ok2 && open >= promoted {
			gate = append(gate, open-promoted)
		}
	}
	s.P50, s.P99, s.Max = quantiles(column(results, func(r roundResult) float64 { return r.FirstMS }))
	s.GateMS = quantityOf(gate)
	for _, name := range clientNames {
		s.Clients[name] = summariseClient(name, results)
	}
	return s
}

// column takes one number from each round.
func column(results []roundResult, of func(roundResult) float64) []float64 {
	var out []float64
	for _, r := range results {
		out = append(out, of(r))
	}
	return out
}

func summariseClient(name string, results []roundResult) clientSummary {
	of := func(number func(clientResult) float64) quantity {
		return quantityOf(column(results, func(r roundResult) float64 { return number(r.Clients[name]) }))
	}
	count := func(number func(clientResult) int) quantity {
		return of(func(c clientResult) float64 { return float64(number(c)) })
	}
	first := column(results, func(r roundResult) float64 { return r.Clients[name].FirstMS })
	found := slices.DeleteFunc(slices.Clone(first), func(ms float64) bool { return ms == 0 })
	return clientSummary{
		First: quantityOf(found), NoWrite: len(first) - len(found),
		Longest:       of(func(c clientResult) float64 { return c.LongestMS }),
		ReadErrors:    count(func(c clientResult) int { return c.ReadErrors }),
		WriteErrors:   count(func(c clientResult) int { return c.WriteErrors }),
		InFlight:      count(func(c clientResult) int { return c.InFlight }),
		Beyond:        count(clientResult.errorsBeyond),
		Unknown:       count(func(c clientResult) int { return c.Unknown }),
		UnknownStored: count(func(c clientResult) int { return c.UnknownStored }),
		ReadAttempts:  count(func(c clientResult) int { return c.ReadAttempts }),
		WriteAttempts: count(func(c clientResult) int { return c.WriteAttempts }),
	}
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
