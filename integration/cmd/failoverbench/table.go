package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

func newTable(out io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
}

// print prints the tables of one kind of blow.
func (s summary) print(out io.Writer, results []roundResult) {
	keys := ""
	if s.Keys > 0 {
		keys = fmt.Sprintf(", %d keys", s.Keys)
	}
	fmt.Fprintf(out, "\n%s: %d rounds%s, milliseconds\n", s.Kind, s.Rounds, keys)
	s.printPhases(out, results)
	s.printClients(out)
	s.printWatches(out)
	fmt.Fprintf(out, "%s: p50 %.0f ms, p99 %.0f ms, max %.0f ms, lost=%d\n\n", s.Kind, s.P50, s.P99, s.Max, s.Lost)
}

// isPause says whether the time to the first write is the length of the longest pause.
func (s summary) isPause() bool {
	return slices.ContainsFunc(kinds, func(k kind) bool { return k.name == s.Kind && k.pause })
}

// printPhases shows when each phase was reached, and how long it took after the one before.
func (s summary) printPhases(out io.Writer, results []roundResult) {
	w := newTable(out)
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
	for _, phase := range phasesOf(results) {
		var at, step []float64
		for i, r := range results {
			if v, ok := r.PhasesMS[phase]; ok {
				at, step = append(at, v), append(step, v-before[i])
				before[i] = v
			}
		}
		row(phase, at, step)
	}
	at := column(results, func(r roundResult) float64 { return r.FirstMS })
	if s.isPause() {
		row("longest pause", at, nil)
	} else {
		var step []float64
		for i := range at {
			step = append(step, at[i]-before[i])
		}
		row("first write", at, step)
	}
	w.Flush()
	fmt.Fprintf(out, "promoted to gate open: p50 %.0f, p99 %.0f, max %.0f\n", s.GateMS.P50, s.GateMS.P99, s.GateMS.Max)
}

// phasesOf are the phases that were logged, in the order in which they were reached.
func phasesOf(results []roundResult) []string {
	at := map[string][]float64{}
	for _, r := range results {
		for phase, ms := range r.PhasesMS {
			at[phase] = append(at[phase], ms)
		}
	}
	var names []string
	for name := range at {
		names = append(names, name)
	}
	rank := func(name string) int { return slices.Index(phases, name) }
	slices.SortFunc(names, func(a, b string) int {
		p, _, _ := quantiles(at[a])
		q, _, _ := quantiles(at[b])
		return cmp.Or(cmp.Compare(p, q), cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
	return names
}

// printClients shows what each kind of client met in a round.
func (s summary) printClients(out io.Writer) {
	w := newTable(out)
	fmt.Fprintln(w, "\nclient\tnext write: p50\tp99\tmax\tlongest request: p50\tmax\tread errors: mean\tmax\twrite errors: mean\tmax\tin flight: mean\tmax\t"+
		"unknown: mean\tmax\tstored: mean\ttries failed: reads\twrites\t")
	for _, name := range clientNames {
		c := s.Clients[name]
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t%.0f\t%.1f\t%.0f\t%.1f\t%.0f\t%.1f\t%.0f\t%.1f\t%.1f\t%.1f\t\n", name, c.First.P50, c.First.P99, c.First.Max,
			c.Longest.P50, c.Longest.Max, c.ReadErrors.Mean, c.ReadErrors.Max, c.WriteErrors.Mean, c.WriteErrors.Max, c.InFlight.Mean, c.InFlight.Max,
			c.Unknown.Mean, c.Unknown.Max, c.UnknownStored.Mean, c.ReadAttempts.Mean, c.WriteAttempts.Mean)
	}
	w.Flush()
	for _, name := range clientNames {
		if n := s.Clients[name].NoWrite; n > 0 {
			fmt.Fprintf(out, "client %s: no write was acknowledged any more in %d rounds\n", name, n)
		}
	}
}

// printWatches shows what became of the watches in all rounds together.
func (s summary) printWatches(out io.Writer) {
	w := newTable(out)
	fmt.Fprintln(w, "\nwatches at the node of client\tstreams\tevents\tcancelled\tstand still\tevents behind\tmissing\ttwice\tout of order\tforeign\tprogress\tahead of events\t")
	for _, name := range clientNames {
		if r, ok := s.Watches[name]; ok {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", name, r.Streams, r.Events, r.Cancelled, r.Stalled, r.Behind, r.Gaps, r.Duplicates, r.OutOfOrder, r.Foreign,
				r.Progress, r.ProgressAhead)
		}
	}
	w.Flush()
	if s.Unchecked > 0 {
		fmt.Fprintf(out, "in %d rounds there was nothing to compare watches with\n", s.Unchecked)
	}
}
