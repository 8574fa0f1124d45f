package quiet

import (
	"fmt"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestEachReasonOfASourceIsSaidOnceAndThenCounted(t *testing.T) {
	r := New(Often)
	for _, step := range []struct {
		after          time.Duration
		source, reason string
		want           Line
	}{
		{0, "a", "x", Line{true, "a", 0}},
		{time.Second, "a", "x", Line{}},
		{2 * time.Second, "a", "y", Line{true, "a", 0}},
		{3 * time.Second, "b", "x", Line{true, "b", 0}},
		{59 * time.Second, "a", "x", Line{}},
		{60 * time.Second, "a", "x", Line{true, "a", 2}},
		{61 * time.Second, "a", "x", Line{}},
		{200 * time.Second, "a", "x", Line{true, "a", 1}},
	} {
		if got := r.Happened(noon.Add(step.after), step.source, step.reason); got != step.want {
			t.Errorf("after %v, %s: %s: %+v, want %+v", step.after, step.source, step.reason, got, step.want)
		}
	}
}

func TestWhatIsSaidOnceIsSaidAgainWhenItWasOver(t *testing.T) {
	r := New(Once)
	if !r.Happened(noon, "a", "x").Say || r.Happened(noon.AddDate(1, 0, 0), "a", "x").Say {
		t.Error("it is not said once")
	}
	r.Forget("a")
	if !r.Happened(noon.AddDate(1, 0, 0), "a", "x").Say {
		t.Error("it is not said again after it was over")
	}
}

// A stranger who puts another word into each of his connections, from as many addresses as he likes, brings about a bounded number of lines and has
// nothing grow.
func TestAFloodOfSourcesAndReasonsIsBounded(t *testing.T) {
	r, now, lines := New(Often), noon, 0
	for i := range 50 * maxSources {
		now = now.Add(time.Millisecond) // 13 s in all
		for j := range 2 * maxReasons {
			if r.Happened(now, fmt.Sprint("source ", i), fmt.Sprint("reason ", i, j)).Say {
				lines++
			}
		}
	}
	if most := maxSources*maxReasons + 1; lines > most {
		t.Errorf("%d lines in a minute, at most %d are wanted", lines, most)
	}
	if len(r.sources) > maxSources {
		t.Errorf("%d sources are remembered", len(r.sources))
	}
	for source, all := range r.sources {
		if len(all) > maxReasons {
			t.Fatalf("%d reasons of %s are remembered", len(all), source)
		}
	}
	line := r.Happened(now.Add(Often), "source new", "reason")
	if !line.Say || line.Source != "source new" {
		t.Errorf("when the flood is over: %+v", line)
	}
	if line := r.Happened(now.Add(Often), "source 0", "reason"); !line.Say {
		t.Error("a source of the flood is not heard any more")
	}
}

func TestTheCrowdIsCounted(t *testing.T) {
	r := New(Often)
	for i := range maxSources {
		r.Happened(noon, fmt.Sprint(i), "x")
	}
	for i := range 3 {
		want := Line{Say: i == 0}
		if i == 0 {
			want.Source = Others
		}
		if got := r.Happened(noon, fmt.Sprint("more ", i), "x"); got != want {
			t.Errorf("%d: %+v, want %+v", i, got, want)
		}
	}
	for i := range maxSources { // those that are remembered go on
		r.Happened(noon.Add(Often), fmt.Sprint(i), "x")
	}
	if got := r.Happened(noon.Add(Often+time.Second), "more", "x"); got != (Line{true, Others, 2}) {
		t.Errorf("%+v", got)
	}
}
