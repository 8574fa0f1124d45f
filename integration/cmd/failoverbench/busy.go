package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"kineshim/integration/cluster"
	"kineshim/proto"
)

const (
	// busyPerCore is how many processes want each core. They do nothing but that.
	busyPerCore = 4
	// busyLook is the pace at which the primary's lease is looked at.
	busyLook = 100 * time.Millisecond
	// busySettings have PostgreSQL write out what is dirty as often as it may be asked to, while clients write.
	busySettings = "postgres: {settings: {checkpoint_timeout: 30s}}\n"
)

// busyKind is what a busy time is in the results. Nothing is struck.
var busyKind = kind{name: "busy", lives: true, lingers: true, pause: true}

// busyResult is the line of the results about a time in which the machine's cores had much more to do than they can.
type busyResult struct {
	roundResult
	Minutes   float64 `json:"minutes"`
	Processes int     `json:"busyProcesses"`
	// Failovers are changes of the epoch, Unpaired are entries of the record by which it ceased to be paired.
	Failovers int `json:"failovers"`
	Unpaired  int `json:"unpaired"`
	// Looks is how often the primary was looked at, Shut how often it said that its gate was closed, Unanswered how often it said nothing.
	Looks      int `json:"looks"`
	Shut       int `json:"shut"`
	Unanswered int `json:"unanswered"`
	// LeaseLeft is how little of the lease was left.
	LeaseLeft time.Duration `json:"leastLeaseLeftNanoseconds"`
	// Checkpoints are the primary's PostgreSQL's.
	Checkpoints int `json:"checkpoints"`
}

// runBusy keeps all cores busy for so long, with clients at work and PostgreSQL at its checkpoints, and counts what must not come of it.
func (b *bench) runBusy(ctx context.Context, long time.Duration) ([]goal, error) {
	stress, err := exec.LookPath("stress-ng")
	if err != nil {
		return nil, errors.New("busy: stress-ng is missing: apt-get install stress-ng")
	}
	m, err := b.newMeasurement(ctx, busyKind, long+checkWithin)
	if err != nil {
		return nil, err
	}
	defer m.close()
	r := busyResult{Minutes: long.Minutes(), Processes: busyPerCore * runtime.NumCPU()}
	fmt.Fprintf(b.out, "busy: %d processes want %d cores for %v\n", r.Processes, runtime.NumCPU(), long)
	err = m.run(ctx, func(ctx context.Context) error { return m.keepBusy(ctx, stress, long, &r) })
	b.keep = b.keep || err != nil && ctx.Err() == nil || len(m.result.Violations) > 0
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, fmt.Errorf("busy: %w", err)
	}
	r.roundResult = m.result
	if err := b.enc.Encode(r); err != nil {
		return nil, err
	}
	r.print(b)
	return r.goals(), nil
}

// keepBusy does what the time is for.
func (m *measurement) keepBusy(ctx context.Context, stress string, long time.Duration, r *busyResult) error {
	before, err := m.history(ctx)
	if err != nil {
		return err
	}
	checkpoints := m.checkpoints()
	m.before = m.clients.failedSoFar()
	cmd := exec.CommandContext(ctx, stress, "--cpu", strconv.Itoa(r.Processes), "--timeout", fmt.Sprintf("%ds", int(long.Seconds())), "--quiet")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	m.blow = time.Now()
	m.struck = m.blow
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(busyLook)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("stress-ng: %w", err)
			}
			ended = true
		case <-tick.C:
			m.lookBusy(ctx, r)
		}
	}
	m.until, m.result.Recovered = m.rec.Now(), true
	r.Checkpoints = m.checkpoints() - checkpoints
	after, err := m.history(ctx)
	if err != nil {
		return err
	}
	for _, e := range after[min(len(before), len(after)):] {
		switch e.GetKind() {
		case "promote", "force":
			r.Failovers++
		case "solo":
			r.Unpaired++
		}
	}
	return nil
}

// lookBusy looks at the node that was the primary at the beginning.
func (m *measurement) lookBusy(ctx context.Context, r *busyResult) {
	r.Looks++
	s, err := m.b.c.Status(ctx, m.primary)
	switch self := cluster.Self(s); {
	case err != nil:
		r.Unanswered++
	case !self.GetGateOpen():
		r.Shut++
	default:
		if left := time.Duration(self.GetLeaseLeftMs()) * time.Millisecond; r.LeaseLeft == 0 || left < r.LeaseLeft {
			r.LeaseLeft = left
		}
	}
}

// history is the cluster record's.
func (m *measurement) history(ctx context.Context) ([]*proto.HistoryEvent, error) {
	control, err := m.b.c.Control(m.survivor)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	h, err := control.History(ctx, &proto.HistoryRequest{})
	return h.GetEvents(), err
}

// checkpoints counts those that the primary's PostgreSQL has logged.
func (m *measurement) checkpoints() int {
	log, err := os.ReadFile(filepath.Join(m.b.c.Dir(), m.primary, "postgres.log"))
	if err != nil {
		return 0
	}
	return bytes.Count(log, []byte("checkpoint complete"))
}

func (r *busyResult) print(b *bench) {
	fmt.Fprintf(b.out, "busy: %.0f minutes, %d failovers, %d times not paired; of %d looks at the primary %d without an answer, %d at a closed gate; least lease left %v; %d checkpoints\n",
		r.Minutes, r.Failovers, r.Unpaired, r.Looks, r.Unanswered, r.Shut, r.LeaseLeft, r.Checkpoints)
	for _, name := range clientNames {
		c := r.Clients[name]
		fmt.Fprintf(b.out, "  client %-9s %7d requests, longest %.0f ms, errors: %d reads, %d writes\n", name, c.Requests, c.LongestMS, c.ReadErrors, c.WriteErrors)
	}
	for _, v := range r.Violations {
		fmt.Fprintf(b.out, "    %s\n", v)
	}
}

// goals are what a busy time is to reach.
func (r *busyResult) goals() []goal {
	var w watchResult
	for _, of := range r.Watches {
		w.add(of)
	}
	failed := 0
	for _, c := range r.Clients {
		failed += c.ReadErrors + c.WriteErrors
	}
	list := []goal{
		{What: "failovers", Value: float64(r.Failovers), Aim: noLimit},
		{What: "times that the cluster was not paired", Value: float64(r.Unpaired), Least: noLimit},
		{What: "checkpoints of PostgreSQL meanwhile", Value: float64(r.Checkpoints), Least: 1, Aim: noLimit, Above: true},
		{What: "errors of all clients", Value: float64(failed), Aim: noLimit},
		{What: "watches cancelled, standing still, or with gaps", Value: float64(w.Cancelled + w.Stalled + w.Gaps + w.Duplicates + w.OutOfOrder + w.Foreign), Aim: noLimit},
		{What: "acknowledged writes lost", Value: float64(r.Lost), Aim: noLimit},
		{What: "promises broken", Value: float64(len(r.Violations)), Aim: noLimit},
	}
	for i := range list {
		list[i].What = "busy: " + list[i].What
		list[i].Verdict = list[i].verdict()
	}
	return list
}
