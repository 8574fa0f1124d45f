package main

import (
	"bytes"
	"context"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
)

const ms = time.Millisecond

func TestOperationsCountByTheirPartOfTheWindow(t *testing.T) {
	w := &worker{samples: []sample{
		{0, 10 * ms, 1, 10 * ms},               // before
		{90 * ms, 110 * ms, 1, 20 * ms},        // half of it
		{110 * ms, 120 * ms, 1, 10 * ms},       // all of it
		{120 * ms, 160 * ms, 0.5, 0},           // a part of an operation
		{195 * ms, 215 * ms, 1, 20 * ms},       // a quarter
		{200 * ms, 210 * ms, 1, 10 * ms},       // after
		{120 * ms, 160 * ms, 0, 1000 * ms},     // only a latency
		{50 * ms, 250 * ms, 1, 200*ms - 1*ms},  // half of it
		{100 * ms, 200 * ms, 1, 200*ms + 1*ms}, // all of it
	}}
	o := gather([]*worker{w, {errors: 2, firstError: "x", unfinished: 1}}, 100*ms, 200*ms)
	if want := 0.5 + 1 + 0.5 + 0.25 + 0.5 + 1; o.operations != want || o.window != 100*ms {
		t.Errorf("%v operations in %v, want %v", o.operations, o.window, want)
	}
	if len(o.latencies) != 6 || o.errors != 2 || o.firstError != "x" || o.unfinished != 1 {
		t.Errorf("%+v", o)
	}
}

func TestSliceEndsWhenItsOperationsAreUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{created: make([]keyRevision, 100)}
		l := load{clients: []*client{nil}, store: s, workers: 4, most: 40, timing: timing{warm: time.Hour, window: time.Hour, grace: time.Hour},
			op: func(_ context.Context, w *worker) error {
				w.store.next.Add(1)
				start := w.now()
				time.Sleep(10 * ms)
				w.done(start)
				return nil
			}}
		// The warm-up ends when the 8th operation is taken, at the beginning of the second round of ten.
		if o := l.run(t.Context()); o.done != 40 || o.operations != 36 || o.window != 90*ms {
			t.Errorf("%v operations, %v in a window of %v", o.done, o.operations, o.window)
		}
		if len(s.created) != 60 || s.next.Load() != 0 {
			t.Errorf("%d keys are left, next %d", len(s.created), s.next.Load())
		}
	})
}

func TestSliceBreaksOffWhatOutlastsItsGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := load{clients: []*client{nil}, store: &store{}, workers: 2, most: 1000, timing: timing{warm: 100 * ms, window: 200 * ms, grace: 50 * ms},
			op: func(ctx context.Context, w *worker) error {
				start := w.now()
				if w.index == 0 {
					<-ctx.Done()
					return ctx.Err()
				}
				time.Sleep(30 * ms)
				w.done(start)
				return nil
			}}
		o := l.run(t.Context())
		if want := 200.0 / 30; math.Abs(o.operations-want) > 1e-9 || o.unfinished != 1 || o.errors != 0 || o.wall != 350*ms {
			t.Errorf("%v operations, %d unfinished, %d errors after %v; want %v", o.operations, o.unfinished, o.errors, o.wall, want)
		}
	})
}

func TestRangeResponsesAreReadAsTheyAre(t *testing.T) {
	want := ranged{revision: 77, more: true, count: 9, keys: 2, lastKey: "b", lastMod: 5, shortest: 0, longest: 300}
	b, err := leanCodec{}.Marshal(&etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{ClusterId: 1 << 63, Revision: 77, RaftTerm: 3}, More: true,
		Count: 9, Kvs: []*mvccpb.KeyValue{{Key: []byte("a"), Value: make([]byte, 300), ModRevision: 4, CreateRevision: 4, Version: 1},
			{Key: []byte("b"), ModRevision: 5, Lease: -1}}})
	if err != nil {
		t.Fatal(err)
	}
	var got ranged
	if err := (leanCodec{}).Unmarshal(b, &got); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	short := mem.BufferSlice{mem.SliceBuffer(b.Materialize()[:b.Len()-1])}
	if err := (leanCodec{}).Unmarshal(short, &got); err == nil {
		t.Error("a response that is cut off is taken for whole")
	}
}

func TestPagesThatAreNotWholeAreErrors(t *testing.T) {
	whole := ranged{keys: 500, more: true, shortest: valueBytes, longest: valueBytes}
	if err := whole.check(500, true); err != nil {
		t.Error(err)
	}
	for _, r := range []ranged{{}, {keys: 499, more: true, shortest: valueBytes, longest: valueBytes}, {keys: 500, shortest: valueBytes, longest: valueBytes},
		{keys: 500, more: true, longest: valueBytes}} {
		if r.check(500, true) == nil {
			t.Errorf("%+v passes", r)
		}
	}
}

func TestEventsAreTimedFromTheResponse(t *testing.T) {
	writes := []watched{{revision: 5, start: 10 * ms, end: 20 * ms}, {revision: 6, start: 10 * ms, end: 20 * ms}, {revision: 7, end: 30 * ms}}
	var o outcome
	o.add(writes, []*watcher{{events: []watched{{revision: 5, end: 23 * ms}, {revision: 6, end: 15 * ms}, {revision: 6, end: 16 * ms}}}})
	if d := cmp.Diff([]time.Duration{3 * ms, 0}, o.latencies); d != "" || o.errors != 2 {
		t.Errorf("%s%d errors, want one for the event that came twice and one for that which did not", d, o.errors)
	}
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		goal goal
		want string
	}{
		{goal{value: 3, least: 1.5, aim: 3}, verdictAim},
		{goal{value: 2.9, least: 1.5, aim: 3}, verdictLeast},
		{goal{value: 1.4, least: 1.5, aim: 3}, verdictMissed},
		{goal{value: 0.5, least: 1, aim: 0.5, below: true}, verdictAim},
		{goal{value: 1, least: 1, aim: 0.5, below: true}, verdictLeast},
		{goal{value: 1.1, least: 1, aim: 0.5, below: true}, verdictMissed},
	} {
		if got := c.goal.verdict(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.goal, got, c.want)
		}
	}
}

// results of every line of a plan, in which our rate and latency are factor times those of the others.
func madeUp(lines []line, factor float64) []result {
	var out []result
	for _, l := range lines {
		for _, name := range systemNames {
			f := 1.0
			if name == kineshim {
				f = factor
			}
			out = append(out, result{System: name, Op: l.op, Workers: l.workers, Phase: l.phase, Keys: l.keys, Rate: l.rate, OpsPerSec: 100 * f, P99: 2 / f})
		}
	}
	return out
}

// What is to be reached: 9 write rates, create with one worker, get with 3 numbers of workers against two peers, two lists, two of counts, the hot key,
// 3 latencies of writes, 4 lines of watches.
func TestQuickRunHasAllGoals(t *testing.T) {
	for factor, want := range map[float64]map[string]int{
		20:  {verdictAim: 28},
		0.1: {verdictMissed: 27, verdictAim: 1}, // our count costs the same whatever it counts
	} {
		got := map[string]int{}
		for _, g := range findGoals(madeUp(quickLines(), factor)) {
			got[g.verdict()]++
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
}

func TestErrorsAreNoSuccess(t *testing.T) {
	results := madeUp([]line{{op: opCreate, workers: 16}}, 20)
	results[0].Errors = 1
	var b bytes.Buffer
	printGoals(&b, findGoals(results))
	if out := b.String(); !strings.Contains(out, "MISSED, with errors") || !strings.Contains(out, "missed 1") {
		t.Error(out)
	}
}

func quickTimings() []timing {
	var out []timing
	for _, l := range quickLines() {
		t := quickTiming
		if l.watches() {
			t = quickWatchTiming
		}
		out = append(out, t)
	}
	return out
}

func TestQuickPlanFitsItsBudget(t *testing.T) {
	const start = 35 * time.Second // builds that are warm, start of all systems, their first keys
	if got, ok := fit(quickTimings(), len(systemNames), betweenAtFirst, quickBudget-start); !ok || got != quickTiming {
		t.Errorf("%+v", got)
	}
}

// Whatever the time that is left: lines that are shortened to it in turn, each seeing what is left then, end in time, and none is left out that
// would fit in its shortest form.
func TestLinesAreShortenedToTheTimeThatIsLeft(t *testing.T) {
	for seconds := 400; seconds >= 0; seconds -= 7 {
		left := time.Duration(seconds) * time.Second
		all := quickTimings()
		out := 0
		for i := range all {
			got, ok := fit(all[i:], 4, betweenAtFirst, left)
			if !ok {
				out++
				continue
			}
			if got.slices < 1 || got.slices > all[i].slices || got.window > all[i].window || got.window < time.Duration(leastWindow*float64(all[i].window)) {
				t.Fatalf("%v left: %+v of %+v", left, got, all[i])
			}
			left -= time.Duration(4*got.slices) * (got.warm + got.window + betweenAtFirst)
		}
		if left < 0 || seconds >= 60 && out > 0 {
			t.Errorf("of %d s %v are left, %d lines left out", seconds, left, out)
		}
	}
}

func TestLinesAreSelectedByOperationPhaseAndWorkers(t *testing.T) {
	all := longLines()
	if got := selected(all, nil, nil); !slices.Equal(got, all) {
		t.Error("not all are selected by nothing")
	}
	got := selected(all, []string{opCreate, phaseSmall, opWatchSame}, []int{1, 64})
	want := []line{{op: opCreate, workers: 1}, {op: opCreate, workers: 64}, {op: opCount, workers: 64, keys: smallKeys, phase: phaseSmall},
		{op: opWatchSame, workers: watchers, rate: 100}, {op: opWatchSame, workers: watchers, rate: 1000}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(line{})); d != "" {
		t.Error(d)
	}
}

func TestKeysAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	small := 0
	s := &store{}
	for i := range listKeys {
		for _, key := range []string{listKey(i), poolKey(i), watchedKey(i), grownKey(i), s.freshKey()} {
			if seen[key] || len(key) < 35 {
				t.Fatalf("%q", key)
			}
			seen[key] = true
		}
		if strings.HasPrefix(listKey(i), smallPrefix) {
			small++
		}
	}
	if small != smallKeys {
		t.Errorf("%d keys below %s", small, smallPrefix)
	}
	if got := endOf("/registry/pods/"); got != "/registry/pods0" {
		t.Error(got)
	}
}

func TestGrowthGoesByTens(t *testing.T) {
	for most, want := range map[int][]int{1_000_000: {10_000, 100_000, 1_000_000}, 25_000: {10_000, 25_000}, 10: {10}} {
		if d := cmp.Diff(want, growthSizes(most)); d != "" {
			t.Error(d)
		}
	}
}
