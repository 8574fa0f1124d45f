package main

import (
	"math"
	"slices"
	"time"
)

// result is one line of the results. Times are in milliseconds, memory in bytes.
type result struct {
	System    string  `json:"system"`
	Op        string  `json:"op"`
	Workers   int     `json:"workers"` // of a line with watchers: the watchers
	OpsPerSec float64 `json:"opsPerSec"`
	P50       float64 `json:"p50ms"` // of a line with watchers: from a write's response to its event, 0 where the event came first
	P99       float64 `json:"p99ms"`
	Errors    int     `json:"errors"` // wrong answers among them
	RSS       int64   `json:"rssBytes"`

	Max         float64          `json:"maxms"`
	Phase       string           `json:"phase,omitempty"`
	Keys        int              `json:"keys,omitempty"`
	Rate        int              `json:"ratePerSec,omitempty"` // of writes that was asked for; OpsPerSec is what was reached
	Operations  float64          `json:"operations"`
	Seconds     float64          `json:"seconds"`              // measured, without warm-ups
	Slices      []float64        `json:"slicesOpsPerSec"`      // each slice's rate: how far they lie apart is the noise
	Retries     int              `json:"retries,omitempty"`    // races lost on the hot key
	Unfinished  int              `json:"unfinished,omitempty"` // broken off because they took longer than a slice and its grace
	CPUMicros   float64          `json:"serverCPUMicrosPerOp"` // of all the system's processes
	CatchUp     float64          `json:"catchUpMs,omitempty"`  // how far watchers were behind at the line's begin; it was waited for
	FirstError  string           `json:"firstError,omitempty"`
	Amiss       string           `json:"amiss,omitempty"` // why this line does not count
	RSSServers  int64            `json:"rssServerBytes"`
	RSSPostgres int64            `json:"rssPostgresBytes"` // shared memory counted once
	Processes   map[string]int64 `json:"processes"`        // memory by server
}

// newResult puts the slices of a line together.
func newResult(done *run, m memory, amiss string) result {
	l := done.l
	r := result{System: done.s.name, CatchUp: rounded(done.catchUp.Seconds() * 1000), Op: l.op, Workers: l.workers, Phase: l.phase, Keys: l.keys, Rate: l.rate, Amiss: amiss,
		RSS: m.total, RSSServers: m.servers, RSSPostgres: m.postgres, Processes: m.processes}
	var latencies []time.Duration
	var operations float64
	var cpu time.Duration
	for _, o := range done.outcomes {
		r.Operations += o.operations
		r.Seconds += o.window.Seconds()
		r.Slices = append(r.Slices, rounded(perSecond(o.operations, o.window.Seconds())))
		r.Errors += o.errors
		r.Unfinished += o.unfinished
		r.Retries += o.retries
		if r.FirstError == "" {
			r.FirstError = o.firstError
		}
		latencies = append(latencies, o.latencies...)
		operations += o.done
		cpu += o.cpu
	}
	r.OpsPerSec = rounded(perSecond(r.Operations, r.Seconds))
	if operations > 0 {
		r.CPUMicros = rounded(float64(cpu.Microseconds()) / operations)
	}
	r.Operations, r.Seconds = rounded(r.Operations), rounded(r.Seconds)
	slices.Sort(latencies)
	r.P50, r.P99, r.Max = quantile(latencies, 0.5), quantile(latencies, 0.99), quantile(latencies, 1)
	return r
}

func perSecond(n, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return n / seconds
}

// rounded has three digits after the point.
func rounded(v float64) float64 { return math.Round(v*1000) / 1000 }

// quantile is the nearest rank of sorted durations, in milliseconds; 0 of none.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	d := sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
	return rounded(float64(d.Nanoseconds()) / 1e6)
}
