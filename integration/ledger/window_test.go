package ledger

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ms = int64(time.Millisecond)

func TestWindowHoldsWhatWasUnderWay(t *testing.T) {
	entries := []Entry{
		{Op: Create, Endpoint: "a", Start: 10 * ms, End: 99 * ms, Outcome: Acknowledged},                                        // before
		{Op: Update, Endpoint: "a", Start: 50 * ms, End: 150 * ms, Outcome: Acknowledged},                                       // began before
		{Op: Get, Endpoint: "a", Start: 120 * ms, End: 420 * ms, Outcome: Acknowledged},                                         // ended after
		{Op: Update, Endpoint: "a", Nonce: "n", Start: 130 * ms, End: 140 * ms, Outcome: Unknown, Code: "Unavailable"},          // an error
		{Op: Delete, Endpoint: "a", Start: 150 * ms, Outcome: Unknown},                                                          // never answered
		{Op: List, Endpoint: "a", Start: 160 * ms, End: 170 * ms, Outcome: Unknown, Code: "DeadlineExceeded"},                   // an error
		{Op: Update, Endpoint: "a", Start: 160 * ms, End: 170 * ms, Outcome: Refused},                                           // no error
		{Op: Update, Endpoint: "b", Nonce: "other", Start: 130 * ms, End: 190 * ms, Outcome: Unknown, Code: "DeadlineExceeded"}, // not asked for
		{Op: Get, Endpoint: "a", Start: 301 * ms, End: 302 * ms, Outcome: Acknowledged},                                         // after
	}
	want := Window{Requests: 6, AcknowledgedWrites: 1, LongestRead: 300 * time.Millisecond, LongestWrite: 150 * time.Millisecond,
		ReadErrors: map[string]int{"DeadlineExceeded": 1}, WriteErrors: map[string]int{"Unavailable": 1}, Unknown: []string{"n", ""}}
	if d := cmp.Diff(want, Measure(entries, "a", 100*ms, 300*ms)); d != "" {
		t.Error(d)
	}
	if w := Measure(entries, "", 100*ms, 300*ms); w.Requests != 7 || len(w.Unknown) != 3 {
		t.Errorf("of all endpoints: %+v", w)
	}
}

func TestWritesInFlightAreThoseTheBlowMayHaveHit(t *testing.T) {
	entries := []Entry{
		{Op: Update, Endpoint: "a", Start: 10 * ms, End: 99 * ms, Outcome: Acknowledged},                        // over
		{Op: Update, Endpoint: "a", Start: 10 * ms, End: 105 * ms, Outcome: Acknowledged},                       // answered during the blow
		{Op: Update, Endpoint: "a", Start: 10 * ms, End: 105 * ms, Outcome: Unknown, Code: "Unavailable"},       // hit
		{Op: Create, Endpoint: "a", Start: 104 * ms, End: 900 * ms, Outcome: Acknowledged},                      // hit, and answered
		{Op: Delete, Endpoint: "a", Start: 104 * ms, Outcome: Unknown},                                          // hit
		{Op: Get, Endpoint: "a", Start: 104 * ms, End: 900 * ms, Outcome: Acknowledged},                         // no write
		{Op: Update, Endpoint: "b", Start: 104 * ms, End: 900 * ms, Outcome: Acknowledged},                      // not asked for
		{Op: Update, Endpoint: "a", Start: 111 * ms, End: 900 * ms, Outcome: Unknown, Code: "DeadlineExceeded"}, // begun after
	}
	if n := InFlight(entries, "a", 100*ms, 110*ms); n != 3 {
		t.Errorf("%d through a, want 3", n)
	}
	if n := InFlight(entries, "", 100*ms, 110*ms); n != 4 {
		t.Errorf("%d in all, want 4", n)
	}
}
