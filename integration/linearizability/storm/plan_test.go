package storm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPlansAreTextAndBack(t *testing.T) {
	var text string
	var want []Burst
	for n := range uint64(200) {
		b := Draw(7, n+1)
		want = append(want, b)
		text += b.String() + "\n"
	}
	have, err := Parse("# a comment\n\n" + text)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(have, want, slices.Equal[Burst]) {
		t.Error("a plan that was written is another one when it is read")
	}
}

func TestPlansThatMakeNoSenseAreRefused(t *testing.T) {
	for _, text := range []string{"+1s", "1s kill primary", "+1s abduct primary", "+1s kill primary for ever", "+x kill primary", "+1s kill primary secondary for 1s", "+1s kill primary;"} {
		if plan, err := Parse(text); !errors.Is(err, ErrPlan) {
			t.Errorf("%q: %v, %v", text, plan, err)
		}
	}
}

func TestSeedGivesTheSameBurst(t *testing.T) {
	for n := range uint64(50) {
		if a, b := Draw(3, n), Draw(3, n); !slices.Equal(a, b) {
			t.Fatalf("burst %d is %q, and then %q", n, a, b)
		}
	}
	if slices.Equal(Draw(3, 1), Draw(4, 1)) && slices.Equal(Draw(3, 2), Draw(4, 2)) {
		t.Error("two seeds give the same bursts")
	}
}

// The matrix promises nothing for three failures at once; and what is never drawn is never tried.
func TestDrawnBurstsStayWithinTheMatrixAndTryEverything(t *testing.T) {
	drawn := map[string]bool{}
	overlaps := 0
	for n := range uint64(3000) {
		b := Draw(11, n)
		if len(b) == 0 || len(b) > blowsAtMost {
			t.Fatalf("burst %d has %d blows", n, len(b))
		}
		for i, blow := range b {
			drawn[blow.Kind] = true
			if before := under(b[:i], blow.At); before >= atOnce {
				t.Fatalf("burst %d: %d failures at once: %s", n, before+1, b)
			} else if before > 0 {
				overlaps++
			}
			if i > 0 && blow.At < b[i-1].At {
				t.Fatalf("burst %d is out of order: %s", n, b)
			}
		}
	}
	for _, k := range kinds {
		if !drawn[k.name] {
			t.Errorf("%s is never drawn", k.name)
		}
	}
	if overlaps < 500 {
		t.Errorf("only %d failures strike while another lasts", overlaps)
	}
}

func TestGrowthIsNoticed(t *testing.T) {
	var flat, grows sizes
	for i := range int64(100) {
		flat = append(flat, (100+i%20)<<20)
		grows = append(grows, (100+3*i)<<20)
	}
	if _, _, grown := flat.grown(memorySlack); grown {
		t.Error("a size that stays is told as growth")
	}
	if _, _, grown := grows.grown(memorySlack); !grown {
		t.Error("growth is not noticed")
	}
	if _, _, grown := grows[:warmRounds].grown(memorySlack); grown {
		t.Error("growth before all is warm counts")
	}
}

func TestAlarmsInLogsAreFoundOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	write := func(text string) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	l := newLogs()
	expect := func(want int) {
		t.Helper()
		found, err := l.look([]string{path})
		if err != nil || len(found) != want {
			t.Errorf("found %v, %v, not %d", found, err, want)
		}
	}
	write(`{"level":"INFO","msg":"gate closed"}` + "\n" + `{"level":"ERROR","msg":"the disk takes no writes: this voter does not vote until it does"}` + "\n")
	expect(0)
	write(`{"level":"ERROR","msg":"command refused"}` + "\nWARNING: DATA RACE\n")
	expect(2)
	expect(0)
	write("panic: no\n" + strings.Repeat("x", logAtMost) + "\n")
	expect(1)
	if info, err := os.Stat(path); err != nil || info.Size() != 0 {
		t.Errorf("a large log is not emptied: %v, %v", info, err)
	}
	write("fatal error: concurrent map iteration and map write\n")
	expect(1)
}
