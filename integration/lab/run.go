package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"kineshim/integration/cluster"
)

// Row is one row of the failure matrix.
type Row struct {
	// Number is the row's in the matrix, such as 19 or 53a.
	Number string
	// Failure, Right and Serves are the matrix's words: what fails, what is right, and who serves afterwards.
	Failure, Right, Serves string
	// Run makes the failure happen and checks what is particular to it. What the row leaves broken is repaired afterwards, and then the cluster must
	// become armed, no acknowledged write may be lost, and no two primaries may have been seen. Nil: the row is not tried here.
	Run func(*Trial)
	// Lacks says why Run is nil, or which part of the row Run does not try.
	Lacks string
	// Quick: the row is part of the selection that every run of the tests makes.
	Quick bool
	// Options changes how the row's cluster is made, which is then made for it alone.
	Options changeOptions
}

// rowAtMost bounds one row.
const rowAtMost = 8 * time.Minute

// warmUp is how long the load runs before the row begins.
const warmUp = time.Second

// Result is what became of a row.
type Result struct {
	Row      *Row
	Failures []string
	Took     time.Duration
	// Timeline is the file with the row's story.
	Timeline string
	// Kept is the directory with the logs of a row that failed; "": it passed.
	Kept string
}

// Passed says whether nothing was wrong.
func (r Result) Passed() bool { return len(r.Failures) == 0 }

// Run runs one row, writes its story to the lab's output and to a file, and says what was wrong.
func (l *Lab) Run(ctx context.Context, row *Row) Result {
	ctx, cancel := context.WithTimeout(ctx, rowAtMost)
	defer cancel()
	l.rows++
	began := time.Now()
	res := Result{Row: row, Timeline: filepath.Join(l.opts.KeepDir, "row"+row.Number+".txt")}
	var story bytes.Buffer
	fmt.Fprintf(&story, "row %s: %s\n  right: %s; who serves after: %s\n", row.Number, row.Failure, row.Right, row.Serves)
	if row.Lacks != "" {
		fmt.Fprintf(&story, "  not tried here: %s\n", row.Lacks)
	}
	res.Failures = l.run(ctx, row, &story)
	res.Took = time.Since(began)
	verdict := "PASS"
	if !res.Passed() {
		verdict = "FAIL"
		res.Kept = filepath.Join(l.opts.KeepDir, fmt.Sprintf("row%s-failed-%s", row.Number, began.Format("150405")))
		l.keepEvidence(&res)
	}
	fmt.Fprintf(&story, "%s row %s in %s%s\n", verdict, row.Number, res.Took.Round(100*time.Millisecond), busy())
	for _, f := range res.Failures {
		fmt.Fprintf(&story, "  %s\n", f)
	}
	if res.Kept != "" {
		fmt.Fprintf(&story, "  logs and records are kept in %s\n", res.Kept)
	}
	if err := os.WriteFile(res.Timeline, story.Bytes(), 0o644); err != nil {
		res.Failures = append(res.Failures, err.Error())
	}
	_, _ = story.WriteTo(l.opts.Out)
	return res
}

// busy says how busy the machine is, which explains times that are out of bounds and excuses nothing else; "" if it does not say.
func busy() string {
	b, err := os.ReadFile("/proc/loadavg")
	load, _, ok := strings.Cut(string(b), " ")
	if err != nil || !ok {
		return ""
	}
	return fmt.Sprintf("; load %s on %d processors", load, runtime.NumCPU())
}

// keepEvidence keeps the logs of a row that failed, and removes the cluster: the next row begins with another.
func (l *Lab) keepEvidence(res *Result) {
	if l.rig == nil {
		return
	}
	if err := l.rig.keep(res.Kept); err != nil {
		res.Failures = append(res.Failures, "keep logs: "+err.Error())
	}
	if err := l.Close(); err != nil {
		res.Failures = append(res.Failures, "clean up: "+err.Error())
	}
}

func (l *Lab) run(ctx context.Context, row *Row, story *bytes.Buffer) []string {
	r, err := l.armed(ctx, row)
	if err != nil {
		return []string{"before the row: " + err.Error()}
	}
	began := time.Now()
	primary := r.Primary(ctx)
	load, err := r.startLoad(ctx, l.rows, primary)
	if err != nil {
		return []string{"before the row: " + err.Error()}
	}
	t := &Trial{rig: r, ctx: ctx, A: primary, B: cluster.Other(primary), W: cluster.Witness, load: load, timeline: newTimeline(), vips: newVIPWatch(), off: map[string]bool{}}
	t.timeline.vips = t.vips
	fmt.Fprintf(story, "  A is %s, B is %s, W is %s; armed after %s\n", t.A, t.B, t.W, time.Since(began).Round(100*time.Millisecond))
	sampling, stopSampling := context.WithCancel(ctx)
	defer stopSampling()
	for _, node := range cluster.DataNodes {
		go t.timeline.sample(sampling, r.Cluster, node)
		go t.vips.watch(sampling, r, node)
	}
	r.log.set(t.timeline)
	defer r.log.set(nil)
	t.attempt(func(t *Trial) {
		t.Run(warmUp)
		row.Run(t)
	})
	if len(t.failures) > 0 {
		load.abandon()
	} else {
		t.attempt((*Trial).finish)
	}
	stopSampling()
	t.timeline.render(story, load.rec, load.rec.Entries())
	return t.failures
}

// attempt runs a part of the trial up to the point at which it fails.
func (t *Trial) attempt(part func(*Trial)) {
	defer func() {
		if p := recover(); p != nil {
			if _, ours := p.(ended); !ours {
				panic(p)
			}
		}
	}()
	part(t)
}

// finish repairs what is broken, waits until the cluster is armed again, and checks all that was promised.
func (t *Trial) finish() {
	t.repair()
	began := time.Now()
	t.Armed()
	t.timeline.note("armed again after %s", time.Since(began).Round(100*time.Millisecond))
	if !t.halted() {
		t.Writes(cluster.A)
		t.Writes(cluster.B)
		t.OnlyHasVIPs(t.SomebodyServes())
		t.Writes(VIP)
		t.Must(t.load.halt())
	}
	found, epochs := t.load.gates.Stop()
	t.timeline.note("primaries by epoch: %v", epochs)
	for i, f := range t.vips.check() {
		if i < maxFound {
			t.Failf("%s", f)
		}
	}
	for i, f := range found {
		if i < maxFound && !t.parted {
			t.Failf("two primaries: %s", f)
		}
	}
	if t.lossy {
		t.load.abandon()
		return
	}
	for _, f := range t.load.check(t.ctx) {
		t.Failf("%s", f)
	}
}

// halted says whether the row has ended the load itself.
func (t *Trial) halted() bool { return t.load.halted.Load() }

// Table is what became of the rows, one line each.
func Table(results []Result) string {
	var b strings.Builder
	passed := 0
	fmt.Fprintf(&b, "%-4s  %-6s %7s  %s\n", "row", "", "seconds", "failure")
	for _, r := range results {
		verdict := "FAILED"
		if r.Passed() {
			verdict = "pass"
			passed++
		}
		fmt.Fprintf(&b, "%-4s  %-6s %7.1f  %s\n", r.Row.Number, verdict, r.Took.Seconds(), r.Row.Failure)
		for _, f := range r.Failures {
			first, _, _ := strings.Cut(f, "\n")
			fmt.Fprintf(&b, "%21s  %s\n", "", first)
		}
	}
	fmt.Fprintf(&b, "%d of %d rows passed\n", passed, len(results))
	return b.String()
}
