package sim

import (
	"strings"
	"testing"
)

// killers are the seeds whose histories show that a rule is broken. When the code changes, a seed's history may become another one: then
// `make sim MUTANTS=1` finds new ones.
var killers = map[string]uint64{
	"pairing": 12, "silence": 0, "barrier": 0, "order": 1, "insync": 1, "transfer": 0, "whole": 13, "identity": 0, "lease-longer-than-promise": 0,
	"gate-not-checked-after-gathering": 1, "lease-from-receipt": 23, "forfeit-ignored": 10, "departure-term": 24, "solo-before-recorded": 156,
	"epoch-row-skipped": 2, "freeze-skipped": 108, "grant-ignored": 39, "destroys-in-sync": 8, "restart-unconfirmed": 0, "wrong-timeline": 0,
	"flag-believed": 7, "unknown-is-failure": 12, "vip-by-role": 0,
}

// unsafe: it is a rule of safety that is broken, and not the bound of the time to be armed.
func unsafe(bad string) bool { return bad != "" && !strings.HasPrefix(bad, "not armed") }

// killSearch bounds the search for a mutant whose kept seed does not kill it any more.
const killSearch = 300

// Each rule, broken, is found by a history that does no harm to the rules as they are.
func TestEachMutantIsKilled(t *testing.T) {
	for _, m := range Mutants {
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			seed, kept := killers[m.Name]
			if !kept {
				t.Fatal("no seed is kept for it")
			}
			r := History{Seed: seed, Mutant: m.Name}.Run(false)
			for next := uint64(0); !unsafe(r.Bad) && next < killSearch; next++ {
				t.Logf("seed %d does not kill it any more", seed)
				seed = next
				r = History{Seed: seed, Mutant: m.Name}.Run(false)
			}
			if !unsafe(r.Bad) {
				t.Fatalf("nobody notices that this rule is broken: %s", m.Rule)
			}
			t.Logf("seed %d, after %v: %s", seed, r.Time, r.Bad)
			if whole := (History{Seed: seed}).Run(false); whole.Bad != "" {
				t.Errorf("seed %d breaks without the mutant too: %s", seed, whole.Bad)
			}
		})
	}
}

func TestShrinkKeepsWhatBreaks(t *testing.T) {
	h := History{Seed: killers["order"], Mutant: "order"}
	short := h.Shrink()
	if len(short.Faults()) == 0 || len(short.Faults()) > len(h.Faults())/4 {
		t.Errorf("of %d failures %d are left", len(h.Faults()), len(short.Faults()))
	}
	if want, got := manner(h.Run(false).Bad), manner(short.Run(false).Bad); got != want {
		t.Errorf("breaks as %q, not as %q", got, want)
	}
}
