package ledger

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var everyPromise = Promises{HeaderRevision: true, Terms: true, ExactDelete: true}

// runLoad runs a load on the store under a fake clock, and returns what there is to check.
func runLoad(t *testing.T, m *memory, workers, requests int, seed uint64) Input {
	t.Helper()
	in := Input{Prefix: "/registry/ledger/"}
	synctest.Test(t, func(t *testing.T) {
		rec, err := NewRecorder("")
		if err != nil {
			t.Fatal(err)
		}
		load := Load{Endpoints: []Endpoint{{"a", m}}, Recorder: rec, Prefix: in.Prefix, Workers: workers, Requests: int64(requests),
			OwnKeys: 3, SharedKeys: 2, ValueSize: 60, Think: time.Millisecond, Seed: seed}
		if err := load.Run(context.Background()); err != nil {
			t.Fatal(err)
		}
		m.lateAll.Wait()
		time.Sleep(time.Millisecond)
		if in.Final, err = rec.ReadFinal(context.Background(), m, in.Prefix, time.Second); err != nil {
			t.Fatal(err)
		}
		in.Entries = rec.Entries()
		in.Histories = []History{m.history()}
	})
	return in
}

func TestHonestStorePasses(t *testing.T) {
	for seed := range uint64(150) {
		m := newMemory(seed)
		m.unknown = int(seed%4) * 10
		in := runLoad(t, m, 5, 600, seed)
		for _, v := range Check(in, everyPromise) {
			t.Errorf("seed %d: %s", seed, v)
		}
		if t.Failed() {
			t.Fatalf("an honest store was accused")
		}
		s := Summarise(in.Entries)
		if s.AcknowledgedWrites < 100 || m.unknown > 0 && s.UnknownWrites == 0 || s.RefusedWrites == 0 {
			t.Fatalf("seed %d: the load tries too little: %s", seed, s)
		}
	}
}

// lies are all lies, with the rules that may report them.
var lies = map[lie][]Rule{
	losesWrite:         {LostWrite, StaleRead, FalseRefusal, BrokenChain},
	ackWithoutDoing:    {LostWrite, StaleRead, FalseRefusal, BrokenChain},
	bringsBackOld:      {LostWrite, StaleRead, FalseRefusal},
	rewritesOld:        {ReusedRevision},
	losesDelete:        {LostWrite, StaleRead, FalseRefusal},
	falseRefusalLook:   {FalseRefusal},
	falseRefusalBlind:  {StaleRead},
	falseRefusalAbsent: {FalseRefusal},
	falseCreateRefusal: {FalseRefusal},
	doesWhatItRefuses:  {ForeignValue},
	truncatesList:      {StaleRead},
	emptyDatabase:      {StaleRead},
	wiped:              {LostWrite, StaleRead, FalseRefusal},
	readsStale:         {StaleRead},
	readsStaleAbsence:  {StaleRead},
	reusesRevision:     {ReusedRevision, RewoundRevision},
	rewindsRevision:    {ReusedRevision, RewoundRevision},
	updatesBlindly:     {LostWrite, BrokenChain},
	createsOver:        {LostWrite},
	deletesBlindly:     {BrokenChain, LostWrite, RewoundRevision},
	damagesValue:       {ForeignValue},
	swapsKeys:          {ForeignValue},
	inventsKey:         {ForeignValue},
	headerGoesBack:     {RewoundRevision},
	twoMembers:         {TwoPrimaries},
	oldTerm:            {TwoPrimaries},
	deleteAcksFalsely:  {BrokenChain, LostWrite, RewoundRevision},
	deletesUnasked:     {LostWrite, StaleRead, FalseRefusal},
	ackedAtOtherRev:    {ReusedRevision, RewoundRevision, BrokenChain},
	dropsEvent:         {WatchGap},
	doublesEvent:       {WatchGap},
	swapsEvents:        {WatchGap},
	inventsDeleteEvent: {WatchGap},
	alteredEvent:       {ForeignValue, WatchGap},

	losesUnknownAfter:   {LostWrite, StaleRead, FalseRefusal, BrokenChain},
	dropsUnknownUpdates: {WatchGap},
}

// isHistoryLie says that only the watch lies.
func isHistoryLie(l lie) bool { return len(l) > 8 && l[:8] == "history:" }

func TestEveryLieIsFound(t *testing.T) {
	for l, rules := range lies {
		t.Run(string(l), func(t *testing.T) {
			t.Parallel()
			told := 0
			for seed := uint64(0); seed < 60 && told < 10; seed++ {
				m := newMemory(seed)
				m.lie, m.lieAfter = l, 40+int(seed)*5
				if l == losesUnknownAfter || l == dropsUnknownUpdates {
					m.unknown = 10
				}
				workers, requests := 1+int(seed%2)*4, 500
				if l == deleteAcksFalsely { // needs two who delete the same key
					workers, requests = 8, 2000
				}
				in := runLoad(t, m, workers, requests, seed)
				if !isHistoryLie(l) {
					in.Histories = nil // to be found without
				}
				if !m.told {
					continue
				}
				told++
				found := Check(in, everyPromise)
				if !slices.ContainsFunc(found, func(v Violation) bool { return slices.Contains(rules, v.Rule) }) {
					t.Errorf("seed %d: told, but not found; violations: %v", seed, found)
				}
			}
			if told < 5 {
				t.Fatalf("told only %d times", told)
			}
		})
	}
}

// With answers lost at random some single lie may have an honest explanation, so here most must be found, not all.
func TestMostLiesAreFoundAmongLostAnswers(t *testing.T) {
	told, found := 0, 0
	var missed []string
	for _, l := range sortedLies() {
		for seed := range uint64(6) {
			m := newMemory(seed)
			m.lie, m.lieAfter, m.unknown = l, 100+int(seed)*20, 15
			in := runLoad(t, m, 4, 800, seed)
			if !isHistoryLie(l) {
				in.Histories = nil
			}
			if !m.told {
				continue
			}
			told++
			if len(Check(in, everyPromise)) > 0 {
				found++
			} else {
				missed = append(missed, fmt.Sprintf("%s (seed %d)", l, seed))
			}
		}
	}
	t.Logf("found %d of %d; missed %q", found, told, missed)
	if told < 100 || found*10 < told*9 {
		t.Errorf("found only %d of %d", found, told)
	}
}

func sortedLies() []lie {
	var out []lie
	for l := range lies {
		out = append(out, l)
	}
	slices.Sort(out)
	return out
}

func TestRecordSurvivesInItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.jsonl")
	rec, err := NewRecorder(path)
	if err != nil {
		t.Fatal(err)
	}
	load := Load{Endpoints: []Endpoint{{"a", newMemory(1)}}, Recorder: rec, Prefix: "/p/", Workers: 2, Requests: 40}
	if err := load.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	hanging := rec.begin(Entry{Op: Create, Key: "/p/x", Nonce: "x"})
	if err := rec.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content = append(content, []byte(`{"end":{"id":41,"op":"cre`)...) // cut off by a crash
	got, err := ReadRecord(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 41 || got[40].ID != hanging.ID || got[40].End != 0 {
		t.Fatalf("got %d entries, the last %+v", len(got), got[len(got)-1])
	}
	if want := rec.Entries(); fmt.Sprint(got[:40]) != fmt.Sprint(want[:40]) {
		t.Errorf("the file differs from memory:\n%v\n%v", got[:40], want[:40])
	}
	if _, err := NewRecorder(path); err == nil {
		t.Error("a second record was begun in the same file")
	}
}

func TestUnboundedLoadIsRefused(t *testing.T) {
	rec, _ := NewRecorder("")
	load := Load{Endpoints: []Endpoint{{"a", newMemory(1)}}, Recorder: rec, Prefix: "/p/", Workers: 1}
	if err := load.Run(context.Background()); err == nil {
		t.Error("a load bounded by nothing was begun")
	}
}

func TestStats(t *testing.T) {
	ms := int64(time.Millisecond)
	entries := []Entry{
		{ID: 1, Op: Create, Endpoint: "a", Start: 1 * ms, End: 5 * ms, Outcome: Acknowledged},
		{ID: 2, Op: Update, Endpoint: "a", Start: 10 * ms, End: 400 * ms, Outcome: Unknown, Code: "Unavailable"},
		{ID: 3, Op: Get, Endpoint: "b", Start: 15 * ms, End: 30 * ms, Outcome: Unknown, Code: "DeadlineExceeded"},
		{ID: 4, Op: Update, Endpoint: "b", Start: 20 * ms, End: 905 * ms, Outcome: Acknowledged},
		{ID: 5, Op: Update, Endpoint: "b", Start: 500 * ms, End: 1000 * ms, Outcome: Acknowledged},
	}
	s := Summarise(entries)
	if s.LongestGap != 900*time.Millisecond || s.GapStart != 5*time.Millisecond {
		t.Errorf("longest gap %s at %s", s.LongestGap, s.GapStart)
	}
	if s.WriteErrors["Unavailable"] != 1 || s.ReadErrors["DeadlineExceeded"] != 1 || s.AcknowledgedWrites != 3 || s.UnknownWrites != 1 {
		t.Errorf("counted %+v", s)
	}
	if e, ok := FirstWriteAfter(entries, 100*ms, "b"); !ok || e.ID != 5 {
		t.Errorf("the first write begun after 100 ms is %d", e.ID)
	}
	if e, ok := FirstWriteAfter(entries, 6*ms, ""); !ok || e.ID != 4 {
		t.Errorf("the first write begun after 6 ms is %d", e.ID)
	}
	if _, ok := FirstWriteAfter(entries, 100*ms, "a"); ok {
		t.Error("found a write through a")
	}
	if start, length := PauseAfter(entries, 900*ms, 1000*ms, ""); start != 905*ms || length != 95*time.Millisecond {
		t.Errorf("pause %s from %d", length, start)
	}
}
