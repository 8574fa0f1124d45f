package storm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/lab"
)

// Config says what is run.
type Config struct {
	Binaries cluster.Binaries
	// Seed gives the bursts, from First on (1, if it is 0). Unless Plan is set.
	Seed  uint64
	First int
	// Bursts bounds how many are done, For how long; 0: not bounded. With neither, ctx does.
	Bursts int
	For    time.Duration
	// Settings are lines added to the data nodes' configuration.
	Settings string
	// Plan is done instead of what a seed gives, burst by burst. Bursts and For do not matter then.
	Plan []Burst
	// Failures is after how many bursts in which something was wrong the run ends; 0: after the first.
	Failures int
	// Out takes the story, KeepDir the evidence of bursts in which something was wrong.
	Out     io.Writer
	KeepDir string
	// breaking, if not nil, is called in each burst before the blows, and breaks a promise: it shows that the checks find something.
	breaking func(context.Context, *round) error
}

// Summary is what a run came to.
type Summary struct {
	Bursts, Blows, Epochs int
	Took                  time.Duration
	// Wrong is what was wrong, each with its burst. Nothing: all promises were kept.
	Wrong []string
}

func (s Summary) String() string {
	perHour := 0.0
	if s.Took > 0 {
		perHour = float64(s.Epochs) / s.Took.Hours()
	}
	return fmt.Sprintf("%d bursts with %d blows in %s: %d failovers and switchovers (%.0f an hour), %d failures",
		s.Bursts, s.Blows, s.Took.Round(time.Second), s.Epochs, perHour, len(s.Wrong))
}

const (
	// foundedWithin bounds the founding of the cluster, up to where it is armed.
	foundedWithin = 2 * time.Minute
	// roundAtMost bounds a burst with all that follows.
	roundAtMost = 10 * time.Minute
)

// dataSettings keep PostgreSQL's WAL small, so that growth shows.
const dataSettings = "postgres: {settings: {max_wal_size: 96MB, min_wal_size: 32MB}}\n"

// runner is a run under way.
type runner struct {
	Config
	rig      *lab.Rig
	meter    *meter
	logs     *logs
	revision int64
	rounds   int // of this rig
	sum      Summary
}

// Run does the bursts. An error means that nothing could be tried; what is wrong with the product is in the summary.
func Run(ctx context.Context, cfg Config) (Summary, error) {
	r := &runner{Config: cfg}
	if r.First == 0 {
		r.First = 1
	}
	began := time.Now()
	err := r.run(ctx, began)
	r.sum.Took = time.Since(began)
	if r.rig != nil {
		r.wrong("the whole run", r.meter.grown()...)
		err = errors.Join(err, r.rig.Close())
	}
	return r.sum, err
}

func (r *runner) run(ctx context.Context, began time.Time) error {
	for i := 0; ctx.Err() == nil && !r.over(i, began); i++ {
		if r.rig == nil {
			if err := r.found(ctx); err != nil {
				return err
			}
		}
		n := r.First + i
		burst := r.burst(i)
		wrong, err := r.round(ctx, n, burst)
		if ctx.Err() != nil {
			return nil // it was broken off
		}
		r.sum.Bursts++
		r.sum.Blows += len(burst)
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		if len(wrong) == 0 {
			continue
		}
		r.wrong(fmt.Sprintf("burst %d", n), wrong...)
		if err := r.discard(); err != nil {
			return err
		}
		if r.Failures--; r.Failures <= 0 {
			return nil
		}
	}
	return nil
}

func (r *runner) wrong(where string, wrong ...string) {
	for _, w := range wrong {
		r.sum.Wrong = append(r.sum.Wrong, where+": "+w)
	}
}

func (r *runner) burst(i int) Burst {
	if r.Plan != nil {
		return r.Plan[i]
	}
	return Draw(r.Seed, uint64(r.First+i))
}

func (r *runner) over(i int, began time.Time) bool {
	if r.Plan != nil {
		return i >= len(r.Plan)
	}
	return r.Bursts > 0 && i >= r.Bursts || r.For > 0 && time.Since(began) >= r.For
}

// found makes a cluster.
func (r *runner) found(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, foundedWithin)
	defer cancel()
	var err error
	if r.rig, err = lab.NewRig(ctx, lab.Options{Binaries: r.Binaries}, dataSettings+r.Settings); err != nil {
		return err
	}
	r.meter, r.logs, r.revision, r.rounds = newMeter(), newLogs(), 0, 0
	return r.rig.WaitArmed(ctx)
}

func (r *runner) discard() error {
	rig := r.rig
	r.rig = nil
	return rig.Close()
}

// round does one burst and tells its story.
func (r *runner) round(ctx context.Context, n int, burst Burst) (wrong []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, roundAtMost)
	defer cancel()
	var kept bytes.Buffer
	out := io.MultiWriter(r.Out, &kept)
	r.rounds++
	fmt.Fprintf(out, "burst %d: %s\n", n, burst)
	story := lab.NewStory(out)
	following, stop := context.WithCancel(ctx)
	followed := make(chan struct{})
	go func() {
		story.Follow(following, r.rig)
		close(followed)
	}()
	dir := filepath.Join(r.KeepDir, fmt.Sprintf("burst%d-%s", n, time.Now().Format("0102-150405")))
	o := &round{rig: r.rig, number: r.rounds, burst: burst, seed: r.Seed, tell: story.Tell, out: dir, revision: r.revision, breaking: r.breaking}
	err = o.run(ctx)
	stop()
	<-followed
	r.revision = o.revision
	r.sum.Epochs += o.epochs
	said, unread := r.logs.look(r.rig.Logs())
	o.wrong, err = append(o.wrong, said...), errors.Join(err, unread)
	if broken := context.Cause(ctx); broken != nil && !errors.Is(broken, context.DeadlineExceeded) {
		fmt.Fprintf(out, "burst %d was broken off\n", n)
		return nil, broken
	}
	if len(o.wrong) > 0 || err != nil {
		r.keep(dir, out, &kept, burst, o.wrong, err)
		return o.wrong, err
	}
	size, err := r.meter.sample(r.rig)
	fmt.Fprintf(out, "burst %d passed; %s\n", n, size)
	return nil, err
}

// keep leaves the evidence of a burst in a directory, and tells how it is run again.
func (r *runner) keep(dir string, out io.Writer, story *bytes.Buffer, burst Burst, wrong []string, err error) {
	fmt.Fprintf(out, "FAILED: %s\n", burst)
	for _, w := range wrong {
		fmt.Fprintf(out, "  %s\n", w)
	}
	if err != nil {
		fmt.Fprintf(out, "  %v\n", err)
	}
	plan := filepath.Join(dir, "plan.txt")
	again := "PLAN=" + plan + " make nemesis"
	if r.Plan == nil {
		n, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), "burst"), "-")
		again = fmt.Sprintf("SEED=%d BURST=%s make nemesis   or   %s", r.Seed, n, again)
	}
	fmt.Fprintf(out, "  logs, records and the story are kept in %s\n  again: %s\n", dir, again)
	err = errors.Join(r.rig.Keep(dir), os.WriteFile(plan, []byte(burst.String()+"\n"), 0o644))
	err = errors.Join(err, os.WriteFile(filepath.Join(dir, "story.txt"), story.Bytes(), 0o644))
	if err != nil {
		fmt.Fprintf(out, "  keep: %v\n", err)
	}
}
