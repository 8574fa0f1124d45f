package sim

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// explain fails the test with the shortest history that breaks in this manner.
func explain(t *testing.T, h History, bad string) {
	t.Helper()
	h = h.Shrink()
	r := h.Run(true)
	var b strings.Builder
	for _, f := range h.Faults() {
		b.WriteString("   " + f.String() + "\n")
	}
	for _, l := range r.Trace[max(0, len(r.Trace)-80):] {
		b.WriteString(l + "\n")
	}
	t.Fatalf("%s\n%sall of it again: %s make sim", bad, b.String(), h)
}

// failuresFor is how much simulated time with failures one run of the tests goes through.
const failuresFor = 12 * time.Hour

// The same seeds each time, so that a failure is a change of the code, and another range of them with SIM_FROM. `make sim` looks elsewhere.
func TestHoursOfFailures(t *testing.T) {
	from := uint64(1_000_000)
	if s := os.Getenv("SIM_FROM"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		from = n
	}
	hours := failuresFor
	if testing.Short() {
		hours /= 12
	}
	each := faultSpan + 10*time.Second
	want := uint64(hours/each) + 1
	began, cpu := time.Now(), processorTime()
	total, bad := Explore(from, "", runtime.GOMAXPROCS(0), func(done uint64) bool { return done < want }, nil)
	if bad != nil {
		explain(t, History{Seed: bad.Seed}, bad.Bad)
	}
	if total.Time < hours {
		t.Errorf("%v simulated, not %v", total.Time, hours)
	}
	if total.Acked < 1000 || total.Reads < 1000 || total.Epochs < total.Histories {
		t.Errorf("%d writes and %d reads answered in %d epochs of %d histories: they show nothing", total.Acked, total.Reads, total.Epochs, total.Histories)
	}
	used := processorTime() - cpu
	t.Logf("%d histories, %.1f h simulated with failures, %d steps, %d epochs, %d writes and %d reads answered, armed again after at most %v",
		total.Histories, total.Time.Hours(), total.Steps, total.Epochs, total.Acked, total.Reads, total.ArmedAfter)
	t.Logf("%v, %v of processor time: %.1f million steps a minute on one core", time.Since(began).Round(time.Millisecond), used.Round(time.Millisecond), float64(total.Steps)/1e6/used.Minutes())
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestASeedReplaysExactly(t *testing.T) {
	for _, h := range []History{{Seed: 3}, {Seed: 7}, {Seed: 3, Keep: []int{1, 5, 9, 20}}} {
		first, second := h.Run(true), h.Run(true)
		if first.Steps != second.Steps || !slices.Equal(first.Trace, second.Trace) {
			t.Errorf("%s: two runs differ", h)
		}
		if quiet := h.Run(false); quiet.Steps != first.Steps || quiet.Bad != first.Bad || len(quiet.Trace) != 0 {
			t.Errorf("%s: it matters whether somebody looks", h)
		}
	}
	if a, b := (History{Seed: 3}).Run(true), (History{Seed: 4}).Run(true); slices.Equal(a.Trace, b.Trace) {
		t.Error("two seeds have one history")
	}
}

// A cluster that nobody disturbs does nothing once it is armed, whatever the rates of its clocks.
func TestAnArmedClusterIsQuiet(t *testing.T) {
	for seed := range uint64(8) {
		w := New(Options{Seed: seed, Skew: 0.15, Trace: true})
		if !w.Run(foundWithin, w.Armed) {
			t.Fatalf("seed %d: not armed within %v: %s\n%s", seed, foundWithin, w.Bad(), w)
		}
		w.Run(5*time.Second, nil)
		lines := len(w.Trace())
		w.Run(5*time.Minute, nil)
		if got := w.Trace()[lines:]; len(got) > 0 || w.Bad() != "" {
			t.Errorf("seed %d: %s\n%s", seed, w.Bad(), strings.Join(got, "\n"))
		}
		if w.check.acked < 100 {
			t.Errorf("seed %d: %d writes", seed, w.check.acked)
		}
	}
}

// Every kind of failure and every step of the protocol that one may wait for comes, and comes to something.
func TestTheSchedulesHaveEveryFailure(t *testing.T) {
	kinds, on := map[Kind]int{}, map[string]int{}
	for seed := range uint64(64) {
		for _, f := range Schedule(seed, faultCount, faultSpan, seed%8 == 7) {
			kinds[f.Kind]++
			on[f.On]++
		}
	}
	for _, k := range []Kind{Kill, KillMute, KillPostgres, CrashBackend, Power, Freeze, FreezePostgres, FreezeBoth, Suspend, Cut, OneWay, Isolate, Loss, SlowDisk, Wipe, Restore,
		Switchover, Stop, Pause, Force} {
		if kinds[k] < 10 {
			t.Errorf("%s: %d times", k, kinds[k])
		}
	}
	for _, c := range cues {
		if on[c] < 10 {
			t.Errorf("at %s: %d times", c, on[c])
		}
	}
	// What they wait for does happen.
	text := strings.Join(append(History{Seed: 1}.Run(true).Trace, append(History{Seed: 2}.Run(true).Trace, History{Seed: 39}.Run(true).Trace...)...), "\n") // 39 is a history of forced promotions
	for _, what := range []string{"propose pair", "propose solo", "propose promote", "hand-over", "clone", "rewind", "switchover", "its data are gone", "older copy",
		"begins anew", "has ended", "acknowledges commits itself", "forces its promotion", "ends in good order"} {
		if !strings.Contains(text, what) {
			t.Errorf("no %q in three histories", what)
		}
	}
}
