package linearizability

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kineshim.example/linearizability/history"
	"kineshim.example/linearizability/mutant"
	"kineshim.example/linearizability/nemesis"
	"kineshim.example/linearizability/watched"
	"kineshim.example/linearizability/workload"
	"kineshim/integration/cluster"
)

// hunt is how a mutant is to be found.
type hunt struct {
	mutant mutant.Mutant
	// faults are those that bring the bug out, done together in one trial. None: load alone does.
	faults []nemesis.Fault
	// crowd are the clients; nil: the usual ones.
	crowd []workload.Habits
	// settings and visible are the trial's: see Config.
	settings string
	visible  time.Duration
	// trials bounds how often that is tried.
	trials int
	// rules are what the bug breaks; one of them must be found.
	rules []history.Rule
	// quick: it is found so fast that it is part of the quick form too.
	quick bool
}

var (
	wrongAnswers = []history.Rule{history.NotLinearizable, history.WrongState, history.Rewound, history.Lost}
	wrongWrites  = []history.Rule{history.NotLinearizable, history.Twice, history.FalseClaim, history.Foreign}
)

// writers are clients that mostly write. What became of a write of two keys, the store cannot always tell.
func writers(pairs int) []workload.Habits {
	var out []workload.Habits
	for range 5 {
		for _, node := range cluster.DataNodes {
			out = append(out, workload.Habits{Nodes: []string{node}, Timeout: patience, Think: think / 4, Reads: 20, Pairs: pairs})
		}
	}
	return out
}

// repeat is n times the same fault.
func repeat(n int, f nemesis.Fault) []nemesis.Fault { return slices.Repeat([]nemesis.Fault{f}, n) }

// patientPrimary waits for its standby while a busy machine recovers a PostgreSQL, and shows what it shows.
const patientPrimary = "timing: {replication_stall: 5s}\n"

var hunts = []hunt{
	{mutant: mutant.LeaseIgnored, faults: repeat(3, nemesis.FreezeNode), trials: 5, rules: wrongAnswers},
	{mutant: mutant.BarrierSkipped, faults: repeat(3, nemesis.KillNodeUnreplicated), settings: patientPrimary, visible: 3 * time.Second, trials: 6, rules: wrongAnswers},
	{mutant: mutant.CatchUpSkipped, faults: repeat(4, nemesis.KillNode), crowd: writers(5), trials: 5, rules: append(wrongAnswers, watched.Gap, watched.Foreign)},
	{mutant: mutant.NotAsked, trials: 3, rules: wrongAnswers, quick: true},
	{mutant: mutant.FalseClaim, faults: append(repeat(2, nemesis.KillNode), repeat(2, nemesis.KillPostgres)...), crowd: writers(60), trials: 5, rules: wrongWrites},
	{mutant: mutant.LostCommitRepeated, faults: repeat(4, nemesis.KillPostgres), crowd: writers(5), trials: 6, rules: wrongWrites},
	{mutant: mutant.NotLookedUp, faults: repeat(4, nemesis.KillNode), crowd: writers(5), trials: 5, rules: wrongWrites},
	{mutant: mutant.ProgressAhead, trials: 3, rules: []history.Rule{watched.Ahead}, quick: true},
}

// wanted says whether a mutant is to be tried.
func wanted(h hunt) bool {
	switch names := os.Getenv("LINEARIZABILITY_MUTANTS"); names {
	case "":
		return long() || h.quick
	case "all":
		return true
	default:
		return slices.Contains(strings.Split(names, ","), h.mutant.Name)
	}
}

// The checks must find bugs: each mutant's, by what it breaks.
func TestMutantsAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("starts clusters of real processes")
	}
	for _, h := range hunts {
		t.Run(h.mutant.Name, func(t *testing.T) {
			if !wanted(h) {
				t.Skip("KINESHIM_LONG=1 or LINEARIZABILITY_MUTANTS asks for it")
			}
			h.run(t)
		})
	}
}

func (h hunt) run(t *testing.T) {
	overlay, err := Overlay(t.Context(), h.mutant, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if os.Getenv("LINEARIZABILITY_OUT") != "" {
		out = outDir(h.mutant.Name)
	}
	cfg := Config{Binaries: binaries(t, overlay), Faults: h.faults, Quiet: 3 * time.Second, CheckFor: checkFor, Out: out, Settings: h.settings, Visible: h.visible, Crowd: h.crowd, Log: t.Logf}
	t.Logf("the bug: %s", h.mutant.Bug)
	for range h.trials {
		cfg.Seed = seed()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute+time.Duration(len(cfg.Faults))*time.Minute)
		result, err := Run(ctx, cfg)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if result.Stopped != nil {
			t.Logf("the cluster did not recover: %v", result.Stopped)
		}
		if h.found(t, result.Violations) {
			return
		}
	}
	t.Errorf("not found in %d trials", h.trials)
}

// found says whether one of the rules was found broken, and logs how.
func (h hunt) found(t *testing.T, violations []history.Violation) bool {
	seen := map[history.Rule]int{}
	found := false
	for _, v := range violations {
		if seen[v.Rule]++; seen[v.Rule] == 1 {
			t.Logf("found: %v", v)
		}
		found = found || slices.Contains(h.rules, v.Rule)
	}
	t.Logf("found in all: %v", seen)
	return found
}

func TestEveryMutantHasAHunt(t *testing.T) {
	for _, m := range mutant.All {
		if !slices.ContainsFunc(hunts, func(h hunt) bool { return h.mutant.Name == m.Name }) {
			t.Errorf("no hunt for %s", m.Name)
		}
	}
}
