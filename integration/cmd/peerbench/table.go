package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// resultKey says what a result is of.
type resultKey struct {
	system string
	line
}

func keyOf(r result) resultKey {
	return resultKey{r.System, line{op: r.Op, workers: r.Workers, rate: r.Rate, keys: r.Keys, phase: r.Phase}}
}

func byKey(results []result) map[resultKey]result {
	out := map[resultKey]result{}
	for _, r := range results {
		out[keyOf(r)] = r
	}
	return out
}

// resultLines are the lines that have results, in their order.
func resultLines(results []result) []line {
	var out []line
	for _, r := range results {
		if l := keyOf(r).line; !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	return out
}

// printTable prints what each system reached.
func printTable(out io.Writer, results []result, systems []string) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "\noperations per second; latency p50/p99 in ms\t")
	for _, s := range systems {
		fmt.Fprintf(w, "%s\t\t", s)
	}
	fmt.Fprintln(w)
	found := byKey(results)
	for _, l := range resultLines(results) {
		fmt.Fprintf(w, "%s\t", l)
		for _, s := range systems {
			r, ok := found[resultKey{s, l}]
			if !ok {
				fmt.Fprint(w, "-\t\t")
				continue
			}
			mark := ""
			if r.Errors > 0 || r.Amiss != "" {
				mark = "!"
			}
			fmt.Fprintf(w, "%.0f%s\t%.2f/%.2f\t", r.OpsPerSec, mark, r.P50, r.P99)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	fmt.Fprintln(out, "!: with errors, or not as the system should be; the results say more")
}

// printMemory prints what each process took at the end, and what idle systems took from the others.
func printMemory(out io.Writer, results []result, systems []*system) {
	last := map[string]result{}
	for _, r := range results {
		last[r.System] = r
	}
	fmt.Fprintln(out, "\nmemory at the end, MB (PostgreSQL's shared memory counted once)")
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	for _, s := range systems {
		r := last[s.name]
		fmt.Fprintf(w, "%s\t%.0f\t servers %.0f, PostgreSQL %.0f:", s.name, float64(r.RSS)/1e6, float64(r.RSSServers)/1e6, float64(r.RSSPostgres)/1e6)
		for _, name := range slices.Sorted(maps.Keys(r.Processes)) {
			fmt.Fprintf(w, " %s %.0f,", name, float64(r.Processes[name])/1e6)
		}
		fmt.Fprintln(w, "\t")
	}
	w.Flush()
	fmt.Fprintln(out, "\nCPU that each took while another was measured, of one core: what idle systems, and what they put off, disturb")
	for _, s := range systems {
		if s.idleFor > 0 {
			fmt.Fprintf(out, "  %s %.1f %%\n", s.name, 100*s.idleCPU.Seconds()/s.idleFor.Seconds())
		}
	}
}
