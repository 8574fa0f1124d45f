package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kineshim/integration/cluster"
)

func TestQuantilesAreNearestRank(t *testing.T) {
	var v []float64
	for i := 100; i >= 1; i-- {
		v = append(v, float64(i))
	}
	if p50, p99, most := quantiles(v); p50 != 50 || p99 != 99 || most != 100 {
		t.Errorf("of 1 to 100: %v %v %v", p50, p99, most)
	}
	if p50, p99, most := quantiles([]float64{7}); p50 != 7 || p99 != 7 || most != 7 {
		t.Errorf("of one: %v %v %v", p50, p99, most)
	}
	if p50, p99, most := quantiles(nil); p50 != 0 || p99 != 0 || most != 0 {
		t.Errorf("of none: %v %v %v", p50, p99, most)
	}
}

func TestPhasesAreReadFromTheFirstGateAfterTheBlow(t *testing.T) {
	blow := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "log")
	before := `{"time":"2026-01-02T03:04:05.001Z","phase":"promoted"}` + "\n" // in the file before the round began
	log := before + `not JSON
{"time":"2026-01-02T03:04:04.9Z","phase":"elected"}
{"time":"2026-01-02T03:04:05.1Z","phase":"detected"}
{"time":"2026-01-02T03:04:05.2Z","phase":"detected"}
{"time":"2026-01-02T03:04:05.3Z","phase":"elected"}
{"time":"2026-01-02T03:04:05.4Z","phase":"elected"}
{"time":"2026-01-02T03:04:05.5Z","msg":"something else"}
{"time":"2026-01-02T03:04:05.6Z","phase":"gate_open"}
{"time":"2026-01-02T03:04:05.7Z","phase":"promoted"}
`
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &logReader{paths: map[string]string{cluster.A: path}, offsets: map[string]int64{cluster.A: int64(len(before))}}
	want := map[string]float64{"detected": 100, "elected": 400, "gate_open": 600}
	if d := cmp.Diff(want, r.phases(cluster.A, blow)); d != "" {
		t.Error(d)
	}
}
