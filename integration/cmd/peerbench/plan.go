package main

import (
	"fmt"
	"slices"
	"time"
)

// line is one operation with one number of workers, measured on all systems in turn.
type line struct {
	op      string
	workers int
	// rate is the writes per second of a line with watchers.
	rate int
	// keys are those below the prefix that is listed or counted, where lines differ in it.
	keys int
	// phase tells lines from the plain ones of the same operation. Empty: plain.
	phase string
}

// The phases.
const (
	phaseSmall  = "small-prefix"  // of few keys among many
	phaseIdle   = "idle-watchers" // with 1,000 watches in which nothing happens
	phaseGrowth = "growth"        // with ever more keys
)

func (l line) String() string {
	s := fmt.Sprintf("%s, %d workers", l.op, l.workers)
	if l.rate > 0 {
		s = fmt.Sprintf("%s, %d watchers, %d writes/s", l.op, l.workers, l.rate)
	}
	if l.keys > 0 {
		s += fmt.Sprintf(", %d keys", l.keys)
	}
	if l.phase != "" {
		s += " (" + l.phase + ")"
	}
	return s
}

func (l line) watches() bool { return l.rate > 0 }

var allWorkers = []int{1, 16, 64, 256}

// watchRates are in writes per second.
var watchRates = []int{100, 1000}

// The timings. A slice is short so that all systems see the same noise; many slices make a line.
var (
	quickTiming      = timing{slices: 3, warm: 150 * time.Millisecond, window: 700 * time.Millisecond, grace: 2 * time.Second}
	quickWatchTiming = timing{slices: 2, warm: 300 * time.Millisecond, window: 1200 * time.Millisecond, grace: 2 * time.Second}
	longTiming       = timing{slices: 5, warm: 500 * time.Millisecond, window: 2 * time.Second, grace: 10 * time.Second}
	longWatchTiming  = timing{slices: 5, warm: 500 * time.Millisecond, window: 3 * time.Second, grace: 10 * time.Second}
)

const (
	// quickBudget is what a quick run may take before the systems are stopped: of its 6 minutes, some are for builds before it and for the stop.
	quickBudget = 330 * time.Second
	// mostOperations bounds a slice. No system comes near; a bound it is all the same.
	mostOperations = 500_000
)

// writeLines are in the order in which what they create is deleted again.
func writeLines(createWorkers, otherWorkers []int) []line {
	var out []line
	for _, n := range createWorkers {
		out = append(out, line{op: opCreate, workers: n})
	}
	for _, op := range []string{opUpdate, opDelete} {
		for _, n := range otherWorkers {
			out = append(out, line{op: op, workers: n})
		}
	}
	return out
}

func watchLines() []line {
	var out []line
	for _, op := range []string{opWatchSame, opWatchOther} {
		for _, rate := range watchRates {
			out = append(out, line{op: op, workers: watchers, rate: rate})
		}
	}
	return out
}

// quickLines are those that the ratios need.
func quickLines() []line {
	out := writeLines(allWorkers, []int{16, 64, 256})
	for _, n := range []int{16, 64, 256} {
		out = append(out, line{op: opGet, workers: n})
	}
	out = append(out,
		line{op: opList500, workers: 16},
		line{op: opListAll, workers: 4},
		line{op: opCount, workers: 64, keys: listKeys},
		line{op: opCount, workers: 64, keys: smallKeys, phase: phaseSmall})
	out = append(out, watchLines()...)
	return append(out, line{op: opHot, workers: 64}) // kine's watchers are behind for long after it
}

// longLines are all but the growth.
func longLines() []line {
	out := writeLines(allWorkers, allWorkers)
	for _, op := range []string{opGet, opList500, opListAll, opCount, opMixed} {
		for _, n := range allWorkers {
			l := line{op: op, workers: n}
			if op == opCount {
				l.keys = listKeys
			}
			out = append(out, l)
		}
	}
	out = append(out, line{op: opCount, workers: 64, keys: smallKeys, phase: phaseSmall})
	out = append(out, watchLines()...)
	out = append(out, line{op: opCreate, workers: 64, phase: phaseIdle})
	for _, n := range allWorkers {
		out = append(out, line{op: opHot, workers: n})
	}
	return out
}

// selected are the lines with the operations and numbers of workers; nil: all. Lines of a phase are named by it.
func selected(lines []line, ops []string, workers []int) []line {
	return slices.DeleteFunc(slices.Clone(lines), func(l line) bool {
		name := l.op
		if l.phase != "" {
			name = l.phase
		}
		return ops != nil && !slices.Contains(ops, name) || workers != nil && !l.watches() && !slices.Contains(workers, l.workers)
	})
}

// betweenAtFirst is about what lies between two slices, until it is known: watches are opened, the last operations under way end.
const betweenAtFirst = 250 * time.Millisecond

// leastWindow is the part of the planned window below which a slice says nothing.
const leastWindow = 0.2

// fit shortens the first of the timings, all of which are to be run on n systems each, so that all fit into what is left of the time: first
// the windows, then the number of slices. between is what lies between slices. False: that is too little.
func fit(timings []timing, n int, between, left time.Duration) (timing, bool) {
	first := timings[0]
	for most := first.slices; most > 0; most-- {
		var fixed, windows time.Duration
		for _, t := range timings {
			count := time.Duration(n * min(t.slices, most))
			fixed += count * (t.warm + between)
			windows += count * t.window
		}
		if factor := min(1, (left-fixed).Seconds()/windows.Seconds()); factor >= leastWindow {
			first.slices = most
			first.window = time.Duration(float64(first.window) * factor)
			return first, true
		}
	}
	return first, false
}
