package ledger

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Stats sums up a record.
type Stats struct {
	Requests                             int
	AcknowledgedWrites, AcknowledgedRead int
	RefusedWrites, UnknownWrites         int
	// ReadErrors and WriteErrors are errors by gRPC code.
	ReadErrors, WriteErrors map[string]int
	// LongestGap is the longest time without an acknowledged write, from the first request to the end of the last; it began GapStart
	// after the record did.
	LongestGap, GapStart time.Duration
}

// Summarise computes the statistics of a record.
func Summarise(entries []Entry) Stats {
	s := Stats{ReadErrors: map[string]int{}, WriteErrors: map[string]int{}}
	var acked []int64
	var first, last int64
	for _, e := range entries {
		s.Requests++
		if first == 0 || e.Start < first {
			first = e.Start
		}
		last = max(last, e.End)
		s.count(e)
		if e.Op.Writes() && e.Outcome == Acknowledged {
			acked = append(acked, e.End)
		}
	}
	gap, at := longestGap(first, last, acked)
	s.LongestGap, s.GapStart = time.Duration(gap), time.Duration(at)
	return s
}

func (s *Stats) count(e Entry) {
	switch {
	case e.Op.Writes() && e.Outcome == Acknowledged:
		s.AcknowledgedWrites++
	case e.Op.Writes() && e.Outcome == Refused:
		s.RefusedWrites++
	case e.Op.Writes():
		s.UnknownWrites++
	case e.Outcome == Acknowledged:
		s.AcknowledgedRead++
	}
	if e.Code == "" {
		return
	}
	if e.Op.Writes() {
		s.WriteErrors[e.Code]++
	} else {
		s.ReadErrors[e.Code]++
	}
}

// String is one line for a log.
func (s Stats) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests, writes: %d acknowledged, %d refused, %d unknown; longest gap without an acknowledged write %s", s.Requests,
		s.AcknowledgedWrites, s.RefusedWrites, s.UnknownWrites, s.LongestGap.Round(time.Millisecond))
	for _, code := range sortedKeys(s.WriteErrors) {
		fmt.Fprintf(&b, "; write errors %s: %d", code, s.WriteErrors[code])
	}
	for _, code := range sortedKeys(s.ReadErrors) {
		fmt.Fprintf(&b, "; read errors %s: %d", code, s.ReadErrors[code])
	}
	return b.String()
}

// PauseAfter is the longest time without an acknowledged write through the endpoint (empty: any) between two instants of the recorder's clock, and when
// it began.
func PauseAfter(entries []Entry, from, to int64, endpoint string) (start int64, length time.Duration) {
	var acked []int64
	for _, e := range entries {
		if e.Op.Writes() && e.Outcome == Acknowledged && e.End >= from && e.End <= to && (endpoint == "" || e.Endpoint == endpoint) {
			acked = append(acked, e.End)
		}
	}
	gap, at := longestGap(from, to, acked)
	return at, time.Duration(gap)
}

// FirstWriteAfter is the acknowledged write that ended first among those that began at or after the instant, through the named
// endpoint (empty: any).
func FirstWriteAfter(entries []Entry, instant int64, endpoint string) (Entry, bool) {
	var best Entry
	for _, e := range entries {
		if e.Op.Writes() && e.Outcome == Acknowledged && e.Start >= instant && (endpoint == "" || e.Endpoint == endpoint) &&
			(best.End == 0 || e.End < best.End) {
			best = e
		}
	}
	return best, best.End != 0
}

// Errors is the number of errors, all codes together.
func Errors(byCode map[string]int) int {
	n := 0
	for _, c := range byCode {
		n += c
	}
	return n
}

func longestGap(first, last int64, acked []int64) (gap, at int64) {
	marks := append([]int64{first}, acked...)
	marks = append(marks, last)
	slices.Sort(marks)
	for i := 1; i < len(marks); i++ {
		if d := marks[i] - marks[i-1]; d > gap {
			gap, at = d, marks[i-1]
		}
	}
	return gap, at
}
