package linearizability

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"kineshim.example/linearizability/nemesis"
	"kineshim/integration/cluster"
)

// long says that everything is to be done at its full length.
func long() bool { return os.Getenv("KINESHIM_LONG") == "1" }

func number(env string, short, full int) int {
	if n, err := strconv.Atoi(os.Getenv(env)); err == nil && n >= 0 {
		return n
	}
	if long() {
		return full
	}
	return short
}

func seed() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("LINEARIZABILITY_SEED"), 10, 64); err == nil {
		return n
	}
	return rand.Uint64()
}

// faults takes n of each list, round robin, in an order that the seed says: each kind is to strike both nodes.
func faults(failovers, switchovers int, seed uint64) []nemesis.Fault {
	var out []nemesis.Fault
	for i := range failovers {
		out = append(out, nemesis.Failovers[i%len(nemesis.Failovers)])
	}
	for i := range switchovers {
		out = append(out, nemesis.Switchovers[i%len(nemesis.Switchovers)])
	}
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// checkFor bounds the search for orders. It takes a second or two for each hundred faults.
const checkFor = 5 * time.Minute

func outDir(name string) string {
	base := os.Getenv("LINEARIZABILITY_OUT")
	if base == "" {
		base = filepath.Join(os.TempDir(), "kineshim-linearizability")
	}
	return filepath.Join(base, fmt.Sprintf("%s-%s", name, time.Now().Format("0102-150405")))
}

func binaries(t *testing.T, overlay string) cluster.Binaries {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ks-lin-bin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := Build(t.Context(), dir, overlay)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFailoversAndSwitchoversAreNotNoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of real processes")
	}
	failovers, switchovers := number("LINEARIZABILITY_FAILOVERS", 2, 50), number("LINEARIZABILITY_SWITCHOVERS", 2, 50)
	seed := seed()
	cfg := Config{Binaries: binaries(t, ""), Faults: faults(failovers, switchovers, seed), Seed: seed, Quiet: time.Second, CheckFor: checkFor, Out: outDir("trial"), Log: t.Logf}
	t.Logf("%d failovers and %d switchovers, seed %d", failovers, switchovers, seed)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute+time.Duration(len(cfg.Faults))*time.Minute)
	defer cancel()
	result, err := Run(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range result.Violations {
		t.Error(v)
	}
	if result.Stopped != nil {
		t.Errorf("the cluster did not recover: %v", result.Stopped)
	}
}
