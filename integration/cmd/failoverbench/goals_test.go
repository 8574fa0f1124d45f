package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		goal goal
		want string
	}{
		{goal{Value: 250, Least: 500, Aim: 250}, verdictAim},
		{goal{Value: 251, Least: 500, Aim: 250}, verdictLeast},
		{goal{Value: 501, Least: 500, Aim: 250}, verdictMissed},
		{goal{Value: 0, Least: 0, Aim: noLimit}, verdictLeast},
		{goal{Value: 1, Least: 0, Aim: noLimit}, verdictMissed},
		{goal{Value: 1, Least: noLimit, Aim: 0}, verdictNone},
		{goal{Value: 0, Least: noLimit, Aim: 0}, verdictAim},
		{goal{Value: 0.9, Least: 0.5, Aim: 0.9, Above: true}, verdictAim},
		{goal{Value: 0.5, Least: 0.5, Aim: 0.9, Above: true}, verdictLeast},
		{goal{Value: 0.4, Least: 0.5, Aim: 0.9, Above: true}, verdictMissed},
		{goal{Value: 0, Least: 20, Aim: 5, void: true}, verdictMissed},
	} {
		if got := c.goal.verdict(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.goal, got, c.want)
		}
	}
}

// missed are those goals of a kind of blow that are not reached.
func missed(list []goal) []string {
	var out []string
	for _, g := range list {
		if g.Verdict == verdictMissed {
			out = append(out, g.What)
		}
	}
	return out
}

func TestGoalsAreMissedByWhatIsWrong(t *testing.T) {
	perfect := func(name string) summary {
		return summary{Kind: name, Rounds: 50, P50: 100, P99: 200, Clients: map[string]clientSummary{clientSurvivor: {}, clientStruck: {}, clientBoth: {}},
			Watches: map[string]watchResult{clientSurvivor: {Streams: 200}, clientStruck: {Streams: 200}}}
	}
	for _, name := range kindNames() {
		if m := missed(goalsOf(perfect(name))); len(m) > 0 {
			t.Errorf("%s: missed %q", name, m)
		}
	}
	for _, c := range []struct {
		kind string
		make func(*summary)
		want []string
	}{
		{"silent", func(s *summary) { s.P50 = 1201 }, []string{"silent: until the next write, p50"}},
		{"kill-node", func(s *summary) { s.P99 = 1501 }, []string{"kill-node: until the next write, p99"}},
		{"kill-postgres", func(s *summary) { s.P50, s.P99 = 501, 1001 },
			[]string{"kill-postgres: until the next write, p50", "kill-postgres: until the next write, p99"}},
		{"kill-node", func(s *summary) { s.Clients[clientSurvivor] = clientSummary{ReadErrors: quantity{Max: 1}} },
			[]string{"kill-node: read errors on the node that is left, most in a round"}},
		{"kill-node", func(s *summary) {
			s.Clients[clientSurvivor] = clientSummary{WriteErrors: quantity{Max: 5}, InFlight: quantity{Max: 5}}
		}, nil},
		{"kill-node", func(s *summary) { s.Clients[clientSurvivor] = clientSummary{Beyond: quantity{Max: 1}} },
			[]string{"kill-node: write errors there beyond the writes in flight, most in a round"}},
		{"kill-node", func(s *summary) {
			s.Clients[clientStruck] = clientSummary{ReadErrors: quantity{Max: 9}, Longest: quantity{Max: 9000}}
		}, nil},
		{"switchover", func(s *summary) { s.Clients[clientStruck] = clientSummary{WriteErrors: quantity{Mean: 0.02}} },
			[]string{"switchover: errors of all clients, in all rounds"}},
		{"switchover", func(s *summary) { s.Clients[clientBoth] = clientSummary{Longest: quantity{Max: 301}} },
			[]string{"switchover: longest wait of any request of any client"}},
		{"silent", func(s *summary) { s.Watches[clientStruck] = watchResult{Cancelled: 1} }, []string{"silent: watches cancelled"}},
		{"silent", func(s *summary) { s.Watches[clientStruck] = watchResult{Stalled: 1, Behind: 9} },
			[]string{"silent: watches that stand still after the cluster is whole again"}},
		{"silent", func(s *summary) { s.Watches[clientStruck] = watchResult{Gaps: 1} },
			[]string{"silent: events that watches missed, had twice, out of order or wrong"}},
		{"silent", func(s *summary) { s.Watches[clientSurvivor] = watchResult{ProgressAhead: 1} },
			[]string{"silent: events after a notification that they had come"}},
		{"silent", func(s *summary) { s.Lost, s.Violations = 1, 1 }, []string{"silent: acknowledged writes lost", "silent: promises broken"}},
	} {
		s := perfect(c.kind)
		c.make(&s)
		if d := cmp.Diff(c.want, missed(goalsOf(s))); d != "" {
			t.Error(d)
		}
	}
}

func TestSteadyGoals(t *testing.T) {
	results := func(p99, standby float64) []steadyResult {
		return []steadyResult{{What: "watch", Node: onPrimary, P99: 1, Count: 9}, {What: "watch", Node: onStandby, P99: p99, Count: 9, PerSecond: 1000},
			{What: "get", Node: onPrimary, PerSecond: 100}, {What: "get", Node: onStandby, PerSecond: standby}}
	}
	if m := missed(steadyGoals(results(20, 50))); len(m) > 0 {
		t.Errorf("missed %q", m)
	}
	if m := missed(steadyGoals(results(20.1, 49))); len(m) != 2 {
		t.Errorf("missed %q", m)
	}
	if m := missed(steadyGoals(nil)); len(m) != 2 {
		t.Errorf("of nothing, missed %q", m)
	}
}

func TestWhatIsMissedIsMarked(t *testing.T) {
	s := summary{Kind: "kill-node", Rounds: 2, P50: 901, P99: 1400, Clients: map[string]clientSummary{}}
	var b bytes.Buffer
	printGoals(&b, goalsOf(s))
	out := b.String()
	for _, want := range []string{"901 ms", "≤ 900 ms", "MISSED", "≤ 1500 ms", "of 13, missed 1"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

func TestEventsAreTimedFromTheResponse(t *testing.T) {
	at := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	writes := []stamp{{5, at(20)}, {6, at(20)}, {7, at(30)}}
	lags, amiss := lagsOf(writes, []stamp{{5, at(23)}, {6, at(15)}, {6, at(16)}})
	if d := cmp.Diff([]float64{3, 0}, lags); d != "" || amiss != 2 {
		t.Errorf("%s%d amiss, want one for the event that came twice and one for that which did not", d, amiss)
	}
}

func TestLagsAreThoseAfterTheWarmUp(t *testing.T) {
	w := &lagWatch{watchStream: &watchStream{}, events: []stamp{{1, time.Second}, {2, 1900 * time.Millisecond}, {3, 2100 * time.Millisecond}, {4, 3 * time.Second}}}
	writes := []stamp{{1, 1 * time.Second}, {2, 1500 * time.Millisecond}, {3, 2050 * time.Millisecond}, {4, 3 * time.Second}}
	got := lagResults(writes, map[string][]*lagWatch{onStandby: {w}}, &faults{})
	want := steadyResult{Kind: "steady", What: "watch", Node: onStandby, PerSecond: 2, P50: 0, P99: 50, Max: 50, Count: 2}
	if d := cmp.Diff(want, got[1]); d != "" {
		t.Error(d)
	}
}
