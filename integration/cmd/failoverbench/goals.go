package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// goal is one number to reach. All but rates are not to be above the limits.
type goal struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	// Least must be reached, Aim is wanted; -1: there is no such limit.
	Least float64 `json:"atLeast"`
	Aim   float64 `json:"aim"`
	// Above: the value is not to be below the limits.
	Above   bool   `json:"above,omitempty"`
	Verdict string `json:"verdict"`
	unit    string
	// void: nothing was measured.
	void bool
}

// goalsResult is the last line of the results.
type goalsResult struct {
	Kind  string `json:"kind"` // "goals"
	Goals []goal `json:"goals"`
}

// noLimit stands for a limit that there is none of. It is a number that JSON has.
const noLimit = -1

// The verdicts.
const (
	verdictAim    = "aim"
	verdictLeast  = "at least"
	verdictMissed = "MISSED"
	// verdictNone is of what is only wanted, and not reached.
	verdictNone = "-"
)

func (g goal) verdict() string {
	reached := func(limit float64) bool {
		switch {
		case limit == noLimit:
			return true
		case g.Above:
			return g.Value >= limit
		}
		return g.Value <= limit
	}
	switch {
	case g.void || !reached(g.Least):
		return verdictMissed
	case g.Aim != noLimit && reached(g.Aim):
		return verdictAim
	case g.Least == noLimit:
		return verdictNone
	}
	return verdictLeast
}

// times are the limits of the time until the next write of the clients of the node that is left, in milliseconds.
var times = map[string]struct{ p50, aim, p99 float64 }{
	"kill-postgres": {500, 250, 1000},
	"kill-group":    {900, 400, 1500},
	"kill-node":     {900, 400, 1500},
	"silent":        {1200, 800, 2500},
}

// The limits of a switchover's longest request, in milliseconds.
const (
	switchoverLeast = 300
	switchoverAim   = 100
)

// goalsOf are what a kind of blow is to reach.
func goalsOf(s summary) []goal {
	var out []goal
	add := func(what string, value, least, aim float64, unit string) {
		g := goal{What: s.Kind + ": " + what, Value: value, Least: least, Aim: aim, unit: unit}
		g.Verdict = g.verdict()
		out = append(out, g)
	}
	if t, ok := times[s.Kind]; ok {
		add("until the next write, p50", s.P50, t.p50, t.aim, "ms")
		add("until the next write, p99", s.P99, t.p99, noLimit, "ms")
	}
	if i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == s.Kind }); i >= 0 && kinds[i].graceful {
		longest, failed := 0.0, 0.0
		for _, c := range s.Clients {
			longest = max(longest, c.Longest.Max)
			failed += (c.ReadErrors.Mean + c.WriteErrors.Mean) * float64(s.Rounds)
		}
		add("longest wait of any request of any client", longest, switchoverLeast, switchoverAim, "ms")
		add("errors of all clients, in all rounds", math.Round(failed), 0, noLimit, "")
	} else {
		c := s.Clients[clientSurvivor]
		add("read errors on the node that is left, most in a round", c.ReadErrors.Max, 0, noLimit, "")
		add("refused tries of reads there, which etcd's client repeats, most in a round", c.ReadAttempts.Max, noLimit, 0, "")
		add("write errors there beyond the writes in flight, most in a round", c.Beyond.Max, 0, noLimit, "")
		add("write errors there, most in a round", c.WriteErrors.Max, noLimit, 0, "")
	}
	var w watchResult
	for _, r := range s.Watches {
		w.add(r)
	}
	add("watches cancelled", float64(w.Cancelled), 0, noLimit, "")
	add("watches that stand still after the cluster is whole again", float64(w.Stalled), 0, noLimit, "")
	add("events that watches missed, had twice, out of order or wrong", float64(w.Gaps+w.Duplicates+w.OutOfOrder+w.Foreign), 0, noLimit, "")
	add("events after a notification that they had come", float64(w.ProgressAhead), 0, noLimit, "")
	add("rounds whose watches could not be checked", float64(s.Unchecked), 0, noLimit, "")
	add("acknowledged writes lost", float64(s.Lost), 0, noLimit, "")
	add("promises broken", float64(s.Violations), 0, noLimit, "")
	return out
}

// printGoals prints what was to be reached and what was.
func printGoals(out io.Writer, list []goal) {
	if len(list) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "to reach\tmeasured\tat least\taim\treached")
	missed := 0
	for _, g := range list {
		if g.Verdict == verdictMissed {
			missed++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", g.What, g.number(g.Value), g.limit(g.Least), g.limit(g.Aim), g.Verdict)
	}
	w.Flush()
	fmt.Fprintf(out, "of %d, missed %d\n", len(list), missed)
}

func (g goal) number(v float64) string {
	switch {
	case g.unit == "":
		return fmt.Sprintf("%.0f", v)
	case g.unit == "×":
		return fmt.Sprintf("%.2f×", v)
	case v < 10 && v != math.Trunc(v):
		return fmt.Sprintf("%.1f %s", v, g.unit)
	}
	return fmt.Sprintf("%.0f %s", v, g.unit)
}

func (g goal) limit(v float64) string {
	switch {
	case v == noLimit:
		return "-"
	case g.Above:
		return "≥ " + g.number(v)
	}
	return "≤ " + g.number(v)
}
