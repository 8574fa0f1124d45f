package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kineshim/integration/ledger"
)

const ms = int64(time.Millisecond)

// write is an acknowledged write, in milliseconds.
func write(client string, start, end int64) ledger.Entry {
	return ledger.Entry{Op: ledger.Update, Endpoint: client, Start: start * ms, End: end * ms, Outcome: ledger.Acknowledged}
}

func TestNextWriteIsTheFirstBegunAfterASuddenBlow(t *testing.T) {
	s := span{blow: 1000 * ms, struck: 1010 * ms, end: 9000 * ms, kind: kind{name: "kill-node"}}
	entries := []ledger.Entry{
		write(clientSurvivor, 995, 1400),  // was under way: its answer may have been on its way
		write(clientSurvivor, 1020, 1800), // begun after
		write(clientSurvivor, 1500, 1700), // begun after and answered first
		write(clientBoth, 1015, 1100),     // of another client
	}
	if d, ok := s.first(entries, clientSurvivor); !ok || d != 700*time.Millisecond {
		t.Errorf("%v %v", d, ok)
	}
	if d, ok := s.first(entries, clientStruck); ok {
		t.Errorf("a client without a write: %v", d)
	}
}

func TestPauseOfTheNextPairingIsNotTheOutages(t *testing.T) {
	s := span{blow: 1000 * ms, struck: 1001 * ms, until: 4000 * ms, end: 9000 * ms, kind: kind{lingers: true}}
	entries := []ledger.Entry{write(clientSurvivor, 995, 1010), write(clientSurvivor, 1011, 1090)}
	for at := int64(1100); at < 4000; at += 50 {
		if at < 3200 || at > 3300 {
			entries = append(entries, write(clientSurvivor, at-20, at))
		}
	}
	if d, ok := s.first(entries, clientSurvivor); !ok || d != 90*time.Millisecond {
		t.Errorf("%v %v", d, ok)
	}
}

func TestNextWriteEndsTheLongestPauseWhereTheOldPrimaryLingers(t *testing.T) {
	s := span{blow: 1000 * ms, struck: 1001 * ms, until: 4000 * ms, end: 9000 * ms, kind: kind{lingers: true}}
	entries := []ledger.Entry{
		write(clientSurvivor, 995, 1040), write(clientSurvivor, 1041, 1050), // the old primary goes on for a moment
		write(clientSurvivor, 1060, 1350), write(clientSurvivor, 1351, 1500),
		write(clientSurvivor, 1500, 2000), // a longer pause
		write(clientSurvivor, 2000, 2400), write(clientSurvivor, 2400, 2800), write(clientSurvivor, 2800, 3200),
		write(clientSurvivor, 3200, 3600), write(clientSurvivor, 3600, 3990),
		write(clientStruck, 990, 1100),  // its pause is not over when the search ends
		write(clientStruck, 990, 5000),  // but then
		write(clientStruck, 5000, 5100), // not the first
		write(clientBoth, 900, 1100),    // no more
	}
	if d, ok := s.first(entries, clientSurvivor); !ok || d != 1000*time.Millisecond {
		t.Errorf("the end of the longest pause: %v %v", d, ok)
	}
	if d, ok := s.first(entries, clientStruck); !ok || d != 4000*time.Millisecond {
		t.Errorf("the end of a pause that outlasts the search: %v %v", d, ok)
	}
	if d, ok := s.first(entries, clientBoth); ok {
		t.Errorf("a pause without an end: %v", d)
	}
	s.kind.pause = true
	if d, ok := s.first(entries, clientSurvivor); !ok || d != 500*time.Millisecond {
		t.Errorf("the length of the longest pause: %v %v", d, ok)
	}
	if d, ok := s.first(entries, clientStruck); !ok || d != 3900*time.Millisecond {
		t.Errorf("the length of a pause that outlasts the search: %v %v", d, ok)
	}
}

func TestClientIsMeasuredFromTheBlowOn(t *testing.T) {
	failed := func(op ledger.Op, start, end int64, nonce, code string) ledger.Entry {
		return ledger.Entry{Op: op, Endpoint: clientSurvivor, Start: start * ms, End: end * ms, Nonce: nonce, Outcome: ledger.Unknown, Code: code}
	}
	entries := []ledger.Entry{
		failed(ledger.Get, 100, 200, "", "Unavailable"),             // before
		failed(ledger.Update, 990, 1005, "done", "Unavailable"),     // in flight, and done
		failed(ledger.Create, 990, 1300, "not done", "Unavailable"), // in flight, and not done
		write(clientSurvivor, 1030, 1900),                           // begun before the loss was noticed
		failed(ledger.Delete, 1200, 1400, "", "DeadlineExceeded"),   // no fault of the blow itself
		failed(ledger.List, 1200, 3200, "", "DeadlineExceeded"),
		failed(ledger.Get, 1200, 1300, "", "Unavailable"),
		write(clientSurvivor, 1900, 1910),
		failed(ledger.Update, 9100, 9200, "late", "Unavailable"), // after the end
	}
	s := span{blow: 1000 * ms, struck: 1010 * ms, known: 1050 * ms, until: 2000 * ms, end: 9000 * ms, kind: kind{name: "kill-node"}}
	want := clientResult{FirstMS: 900, LongestMS: 2000, LongestReadMS: 2000, LongestWriteMS: 870, ReadErrors: 2, WriteErrors: 3,
		Codes: map[string]int{"Unavailable": 3, "DeadlineExceeded": 2}, InFlight: 2, Unknown: 3, UnknownStored: 1, Requests: 7, Writes: 2}
	got := s.measure(entries, clientSurvivor, storedNonces([]ledger.Event{{Nonce: "done", Revision: 5}, {Nonce: "late", Revision: 6}, {Deleted: true, Revision: 7}}))
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n := got.errorsBeyond(); n != 1 {
		t.Errorf("%d errors beyond those in flight", n)
	}
	s.kind.lingers = true
	if got := s.measure(entries, clientSurvivor, nil); got.InFlight != 3 || got.errorsBeyond() != 0 {
		t.Errorf("in flight when the loss is noticed: %d, %d errors beyond", got.InFlight, got.errorsBeyond())
	}
	s.kind.graceful = true
	if got := s.measure(entries, clientSurvivor, nil); got.InFlight != 2 {
		t.Errorf("in flight when a switchover begins: %d", got.InFlight)
	}
}

func TestSummaryTellsClientsApart(t *testing.T) {
	results := []roundResult{
		{FirstMS: 100, ReadErrors: 5, Lost: 1, Violations: []string{"x"}, PhasesMS: map[string]float64{"promoted": 50, "gate_open": 90},
			Clients: map[string]clientResult{clientSurvivor: {FirstMS: 100, LongestMS: 120, WriteErrors: 3, InFlight: 4}, clientStruck: {FirstMS: 0, ReadErrors: 7}},
			Watches: map[string]watchResult{clientSurvivor: {Streams: 4, Cancelled: 1, Reasons: []string{"r"}}}},
		{FirstMS: 300, PhasesMS: map[string]float64{"promoted": 150, "gate_open": 210},
			Clients: map[string]clientResult{clientSurvivor: {FirstMS: 300, LongestMS: 110, WriteErrors: 6, InFlight: 4}, clientStruck: {FirstMS: 900, ReadErrors: 1}},
			Watches: map[string]watchResult{clientSurvivor: {Streams: 4, Gaps: 2}}, WatchesUnchecked: "compacted"},
	}
	s := summarise(kinds[0], results)
	c := s.Clients[clientSurvivor]
	if c.First != (quantity{100, 300, 300, 200}) || c.Longest.Max != 120 || c.Beyond != (quantity{0, 2, 2, 1}) || c.NoWrite != 0 {
		t.Errorf("%+v", c)
	}
	if c := s.Clients[clientStruck]; c.First != (quantity{900, 900, 900, 900}) || c.NoWrite != 1 || c.ReadErrors.Mean != 4 {
		t.Errorf("%+v", c)
	}
	if s.P50 != 100 || s.Max != 300 || s.Lost != 1 || s.Violations != 1 || s.Unchecked != 1 || s.GateMS != (quantity{40, 60, 60, 50}) {
		t.Errorf("%+v", s)
	}
	if w := s.Watches[clientSurvivor]; w.Streams != 8 || w.Cancelled != 1 || w.Gaps != 2 || len(w.Reasons) != 1 {
		t.Errorf("%+v", w)
	}
}

func TestPhasesAreShownInTheOrderInWhichTheyWereReached(t *testing.T) {
	results := []roundResult{{PhasesMS: map[string]float64{"promoted": 30, "detected": 10, "drained": 20}}, {PhasesMS: map[string]float64{"promoted": 40, "gate_open": 40}}}
	if d := cmp.Diff([]string{"detected", "drained", "promoted", "gate_open"}, phasesOf(results)); d != "" {
		t.Error(d)
	}
}
