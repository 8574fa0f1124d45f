package storm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kineshim.example/linearizability"
	"kineshim.example/linearizability/mutant"
	"kineshim/integration/cluster"
	"kineshim/integration/lab/site"
)

const (
	// fixedFor and freshFor are how long bursts of the fixed seed and of a fresh one are begun.
	fixedFor = 30 * time.Second
	freshFor = 30 * time.Second
	// fixedSeed is one whose first bursts are of many kinds, and short.
	fixedSeed = 1
)

// config prepares a run, of a product with a bug if one is given, or skips the test where none can be made.
func config(t *testing.T, bug ...mutant.Mutant) Config {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a cluster of real processes")
	}
	if err := site.Supported(); err != nil {
		t.Skipf("SKIPPED, THE NEMESIS DOES NOT STRIKE: %v", err)
	}
	dir, err := os.MkdirTemp("/tmp", "ks-storm-bin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	overlay := ""
	for _, m := range bug {
		if overlay, err = linearizability.Overlay(t.Context(), m, t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	b, err := linearizability.Build(t.Context(), dir, overlay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left := site.Traces(os.Getpid()); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return Config{Binaries: b, Out: teller{t}, KeepDir: filepath.Join(os.TempDir(), "kineshim-nemesis")}
}

// teller writes a story to the test's log.
type teller struct{ t *testing.T }

func (w teller) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func storm(t *testing.T, cfg Config) {
	t.Helper()
	summary, err := Run(t.Context(), cfg)
	t.Log(summary)
	if err != nil {
		t.Error(err)
	}
	for _, w := range summary.Wrong {
		t.Error(w)
	}
	if summary.Bursts == 0 {
		t.Error("no burst was done")
	}
}

func TestSeededStorm(t *testing.T) {
	for name, c := range map[string]Config{"fixed": {Seed: fixedSeed, For: fixedFor}, "fresh": {Seed: rand.Uint64(), For: freshFor}} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.Seed, cfg.For = c.Seed, c.For
			t.Logf("seed %d", cfg.Seed)
			storm(t, cfg)
		})
	}
}

// Each plan in testdata once found something; what, is said in it and in docs/found.md.
func TestPlansThatFoundSomething(t *testing.T) {
	plans, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(plans) == 0 {
		t.Fatalf("plans: %v, %v", plans, err)
	}
	for _, path := range plans {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			cfg := config(t)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Plan, err = Parse(string(text)); err != nil {
				t.Fatal(err)
			}
			storm(t, cfg)
		})
	}
}

// Promises that are broken on purpose must be found, by each of the two loads.
func TestBrokenPromisesAreFound(t *testing.T) {
	// deletes removes a key that has been written for good.
	deletes := func(ctx context.Context, r *round, below string) error {
		c := r.rig.Client(cluster.A)
		resp, err := c.Get(ctx, below, clientv3.WithPrefix(), clientv3.WithLimit(1))
		if err == nil && len(resp.Kvs) == 0 {
			err = fmt.Errorf("nothing is below %s, so that nothing is broken", below)
		}
		if err == nil {
			_, err = c.Delete(ctx, string(resp.Kvs[0].Key))
		}
		return err
	}
	for name, c := range map[string]struct {
		breaking func(context.Context, *round) error
		found    []string
	}{
		"ledger":   {func(ctx context.Context, r *round) error { return deletes(ctx, r, r.ledger.Prefix()+"mark/") }, []string{"lost write", "watch gap"}},
		"requests": {func(ctx context.Context, r *round) error { return deletes(ctx, r, r.prefix()+"mark/") }, []string{"foreign change"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.Plan, cfg.KeepDir, cfg.breaking = []Burst{{{Kind: "reload", Target: primary}}}, t.TempDir(), c.breaking
			summary, err := Run(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			all := strings.Join(summary.Wrong, "\n")
			for _, f := range c.found {
				if !strings.Contains(all, f) {
					t.Errorf("not found: %s; found:\n%s", f, all)
				}
			}
			if kept, _ := filepath.Glob(filepath.Join(cfg.KeepDir, "*", "story.txt")); len(kept) != 1 {
				t.Errorf("stories kept: %v", kept)
			}
		})
	}
}

// A product with a bug made on purpose must be found out.
func TestMutantIsFound(t *testing.T) {
	if os.Getenv("KINESHIM_LONG") != "1" {
		t.Skip("KINESHIM_LONG=1 asks for it")
	}
	cfg := config(t, mutant.LeaseIgnored)
	cfg.Plan, cfg.KeepDir = slices.Repeat([]Burst{{{Kind: "freeze-node", Target: primary, For: 3 * time.Second}}}, mutantTries), t.TempDir()
	summary, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(summary.Wrong) == 0 {
		t.Errorf("%s: not found", mutant.LeaseIgnored.Bug)
	}
	for _, w := range summary.Wrong {
		t.Logf("found: %s", w)
	}
}

// mutantTries is how often the primary is frozen. A client's request must meet the moment at which it goes on.
const mutantTries = 15
