package decide

import (
	"strings"
	"testing"

	"kineshim/raftwitness/record"
)

// ruleCase is one situation in which a rule fires, and the ways to take away one of its conditions at a time.
type ruleCase struct {
	rule string
	name string
	in   func() *Input
	set  func(*Input) // nil: the situation as it is

	// What is expected. to and kind are "" where the action has none.
	action Action
	to     string
	kind   record.Kind
	why    string // part of the reason

	// not takes away one condition each: the rule must not fire any more.
	not map[string]func(*Input)
}

var lanes = map[string][]rule{"postgres": postgresRules, "sync": syncRules, "raft": raftRules}

func ruleNamed(t *testing.T, name string) (rule, []rule) {
	t.Helper()
	for _, rules := range lanes {
		for _, r := range rules {
			if r.name == name {
				return r, rules
			}
		}
	}
	t.Fatalf("there is no rule %q", name)
	return rule{}, nil
}

func allRuleCases() []ruleCase {
	var all []ruleCase
	for _, c := range [][]ruleCase{voidCases, dataRuleCases, roleRuleCases, serveRuleCases, syncRuleCases, proposalCases, leadershipCases} {
		all = append(all, c...)
	}
	return all
}

func TestEachRuleFiresAndEachOfItsConditionsCounts(t *testing.T) {
	for _, c := range allRuleCases() {
		t.Run(c.rule+"/"+c.name, func(t *testing.T) {
			r, rules := ruleNamed(t, c.rule)
			s := first(rules, with(c.in(), c.set))
			if s.Rule != c.rule || s.Action != c.action || s.To != c.to || s.Command.Kind != c.kind {
				t.Fatalf("rule %q: %s to %q, command %q; want %q: %s to %q, command %q", s.Rule, s.Action, s.To, s.Command.Kind, c.rule, c.action, c.to, c.kind)
			}
			if c.why == "" || !strings.Contains(s.Why, c.why) {
				t.Errorf("why is %q, want %q in it", s.Why, c.why)
			}
			for missing, not := range c.not {
				if in := with(c.in(), c.set, not); r.when(in) {
					t.Errorf("it fires too when %s", missing)
				}
			}
		})
	}
}

// A rule without a case here is a rule that nobody has thought through.
func TestEveryRuleHasACaseAndCounterexamples(t *testing.T) {
	cases := map[string]int{}
	for _, c := range allRuleCases() {
		cases[c.rule] += len(c.not)
	}
	seen := map[string]bool{}
	for lane, rules := range lanes {
		for _, r := range rules {
			if seen[r.name] {
				t.Errorf("two rules are called %q", r.name)
			}
			seen[r.name] = true
			if cases[r.name] == 0 {
				t.Errorf("rule %q of the %s lane has no counterexample in these tables", r.name, lane)
			}
		}
	}
}

// An action belongs to one lane, since a lane does one thing at a time.
func TestEachActionBelongsToOneLane(t *testing.T) {
	lane := map[Action]string{}
	for _, c := range allRuleCases() {
		_, rules := ruleNamed(t, c.rule)
		for name, l := range lanes {
			if &l[0] != &rules[0] {
				continue
			}
			if was, ok := lane[c.action]; ok && was != name {
				t.Errorf("%s is an action of the %s lane and of the %s lane", c.action, was, name)
			}
			lane[c.action] = name
		}
	}
}

func TestProposalsCarryTheEpochTheProposerAndTheReason(t *testing.T) {
	s := Decide(bereaved()).Raft
	if s.Action != Propose || s.Command.Epoch != 1 || s.Command.By != "b" || s.Command.Why != s.Why || s.Why == "" {
		t.Errorf("step is %+v", s)
	}
}
