package history

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestACorrectHistoryHasNoViolations(t *testing.T) {
	s := newScript()
	first := s.did(set("a", 0)).Revision
	s.did(get("a"))
	s.did(set("a", 0))
	s.did(set("a", first))
	s.did(putPair("a", "b"))
	s.did(getPair("a", "b"))
	s.did(remove("a", s.keys["a"].Mod))
	s.did(deleteKey("a"))
	s.did(get("a"))
	stale := s.did(getStale("b"))
	stale.Revision, stale.Seen = 1, []KV{{}}
	at := s.did(getAt("a", first))
	at.Seen = []KV{{Value: "v1", Create: first, Mod: first, Version: 1}}
	s.sights = append(s.sights, Sight{s.revision, s.now, "a watch"})
	s.did(get("b"))
	wantRules(t, s.input())
}

func TestCorrectConcurrentHistoriesHaveNoViolations(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for n := range 200 {
		rnd := rand.New(rand.NewPCG(seed, uint64(n)))
		s := random(rnd, 2+rnd.IntN(8), 150)
		if have := rules(t, s.input()); len(have) > 0 {
			t.Fatalf("seed %d, history %d: %v", seed, n, have)
		}
	}
}

// Requests of unknown outcome must not make the search take long: they double it with each, if nothing is known of them.
func TestManyLostAnswersAreDecidedInTime(t *testing.T) {
	s := newScript()
	for i := range 300 {
		s.did(put("a"))
		s.lost(put("a"), i%3 == 0)
		s.lost(deleteKey("a"), i%5 == 0)
		s.did(get("a"))
	}
	in := s.input()
	in.Timeout = 20 * time.Second
	wantRules(t, in)
}

func TestASearchThatTakesTooLongIsReported(t *testing.T) {
	s := newScript()
	s.did(put("a"))
	s.did(put("b"))
	in := s.input()
	in.Timeout = 1
	wantRules(t, in, Undecided)
}

func TestAnomaliesAreFound(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(s *script)
		want []Rule
	}{
		{"stale read", func(s *script) {
			s.did(put("a"))
			old := *s.did(get("a"))
			s.did(put("a"))
			o := s.did(get("a"))
			o.Seen, o.Revision = old.Seen, old.Revision
		}, []Rule{NotLinearizable, Rewound}},
		{"stale read under a fresh revision", func(s *script) {
			s.did(put("a"))
			old := *s.did(get("a"))
			s.did(put("a"))
			s.did(get("a")).Seen = old.Seen
		}, []Rule{NotLinearizable, WrongState}},
		{"stale read of another key", func(s *script) { // each key by itself is in order
			s.did(get("a"))
			s.did(put("b"))
			s.did(get("a")).Revision = 1
		}, []Rule{Rewound}},
		{"acknowledged write lost", func(s *script) {
			s.did(put("a"))
			s.did(put("a"))
			s.events = s.events[:1]
			o := s.did(get("a"))
			o.Seen = []KV{{Value: "v1", Create: 2, Mod: 2, Version: 1}}
		}, []Rule{NotLinearizable, Lost}},
		{"acknowledged write lost, nobody looked", func(s *script) {
			s.did(put("a"))
			s.events = nil
		}, []Rule{Lost}},
		{"acknowledged deletion lost", func(s *script) {
			s.did(put("a"))
			s.did(deleteKey("a"))
			s.events = s.events[:1]
		}, []Rule{Lost}},
		{"unknown reported as not done", func(s *script) {
			o := s.lost(put("a"), true)
			o.Outcome, o.Return = NotDone, s.now
			s.did(get("a"))
		}, []Rule{NotLinearizable, FalseClaim}},
		{"unknown reported as not done, nobody looked", func(s *script) {
			o := s.lost(put("a"), true)
			o.Outcome, o.Return = NotDone, s.now
		}, []Rule{FalseClaim}},
		{"unknown deletion reported as not done", func(s *script) {
			s.did(put("a"))
			o := s.lost(deleteKey("a"), true)
			o.Outcome, o.Return = NotDone, s.now
		}, []Rule{Foreign}},
		{"done twice", func(s *script) {
			o := *s.did(put("a"))
			s.did(put("a"))
			s.did(Op{Kind: Put, Keys: o.Keys, Value: o.Value})
			s.ops = s.ops[:2] // the client knows of one
			s.did(get("a"))
		}, []Rule{NotLinearizable, Twice}},
		{"deletion done twice", func(s *script) {
			s.did(put("a"))
			s.did(deleteKey("a"))
			s.did(put("a"))
			s.did(deleteKey("a"))
			s.ops = s.ops[:3]
		}, []Rule{Foreign}},
		{"two lost deletions made three", func(s *script) {
			for range 3 {
				s.did(put("a"))
				s.lost(deleteKey("a"), true)
			}
			s.ops = s.ops[:5]
		}, []Rule{Foreign}},
		{"deletion before it was asked for", func(s *script) {
			s.did(put("a"))
			o := *s.lost(deleteKey("a"), true)
			s.ops = s.ops[:1]
			s.did(get("a"))
			o.Call = s.now + 1
			s.ops = append(s.ops, o)
		}, []Rule{Foreign, NotLinearizable}},
		{"own compare-and-set refused after it was done", func(s *script) {
			s.did(put("a"))
			o := s.did(set("a", 2))
			o.Succeeded, o.Looked, o.Seen = false, true, []KV{s.keys["a"]}
		}, []Rule{NotLinearizable, FalseClaim}},
		{"comparison that cannot have held", func(s *script) {
			s.did(put("a"))
			s.did(put("a"))
			s.did(set("a", 3)).Compare.Number = 2
		}, []Rule{NotLinearizable, WrongState}},
		{"false refusal", func(s *script) {
			s.did(put("a"))
			o := s.did(set("a", 1))
			o.Compare.Number = 2
		}, []Rule{NotLinearizable, WrongState}},
		{"revision given twice", func(s *script) {
			s.did(put("a"))
			s.did(put("b")).Revision = 2
			s.events[1].Revision, s.events[1].KV.Mod, s.events[1].KV.Create = 2, 2, 2
		}, []Rule{Reused, Rewound}},
		{"revision behind what a watch has shown", func(s *script) {
			s.did(put("a"))
			s.sights = append(s.sights, Sight{9, s.now, "a watch"})
			s.did(get("a"))
		}, []Rule{Rewound}},
		{"revision behind what a stale read has shown", func(s *script) {
			s.did(put("a"))
			s.did(getStale("b")).Revision = 9
			s.did(get("a"))
		}, []Rule{Rewound}},
		{"pair read from two snapshots", func(s *script) {
			s.did(putPair("a", "b"))
			old := s.keys["b"]
			s.did(putPair("a", "b"))
			o := s.did(getPair("a", "b"))
			o.Seen[1] = old
			// So that each key by itself is in order: the read overlaps both.
			o.Call = s.ops[0].Call
		}, []Rule{WrongState}},
		{"half a pair written", func(s *script) {
			s.lost(putPair("a", "b"), true)
			s.events = s.events[:1]
		}, []Rule{Lost}},
		{"event nobody made", func(s *script) {
			s.did(put("a"))
			s.did(put("a"))
			s.ops = s.ops[:1]
		}, []Rule{Foreign}},
		{"stale read of what never was", func(s *script) {
			s.did(put("a"))
			s.did(getStale("a")).Seen[0].Value = "v9"
		}, []Rule{WrongState}},
		{"read at a revision of another's state", func(s *script) {
			s.did(put("a"))
			s.did(put("a"))
			s.did(getAt("a", 2))
		}, []Rule{WrongState}},
		{"wrong version", func(s *script) {
			s.did(put("a"))
			s.did(put("a"))
			s.did(get("a")).Seen[0].Version = 1
		}, []Rule{NotLinearizable, WrongState}},
		{"history with a wrong version", func(s *script) {
			s.did(put("a"))
			s.did(put("a"))
			s.events[1].KV.Version = 1
		}, []Rule{BrokenTimeline}},
		{"history with a deletion of nothing", func(s *script) {
			s.events = append(s.events, Event{Revision: 5, Key: "a"})
		}, []Rule{BrokenTimeline}},
		{"history out of order", func(s *script) {
			s.did(put("a"))
			s.did(put("b"))
			slices.Reverse(s.events)
		}, []Rule{BrokenTimeline}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScript()
			test.make(s)
			wantRules(t, s.input(), test.want...)
		})
	}
}

// What porcupine finds must not hang on the store's own account of its history.
func TestOrderIsCheckedWithoutTheStoresHistory(t *testing.T) {
	s := newScript()
	s.did(put("a"))
	old := *s.did(get("a"))
	s.did(put("a"))
	s.did(get("a")).Seen = old.Seen
	c := newChecker(Input{Ops: s.ops})
	if err := c.checkOrder(); err != nil {
		t.Fatal(err)
	}
	if len(c.found) != 1 || c.found[0].Rule != NotLinearizable {
		t.Error(c.found)
	}
}

func TestABrokenOrderIsDrawn(t *testing.T) {
	s := newScript()
	s.did(put("/x/a"))
	s.did(get("/x/a")).Seen[0] = KV{}
	in := s.input()
	in.Visualise = filepath.Join(t.TempDir(), "pictures")
	wantRules(t, in, NotLinearizable)
	if _, err := os.Stat(filepath.Join(in.Visualise, "linearizability-x-a.html")); err != nil {
		t.Error(err)
	}
}

func TestFewViolationsOfARuleAreTold(t *testing.T) {
	s := newScript()
	for range 3 * maxOfRule {
		s.did(put("a"))
	}
	s.events = nil
	found, err := Check(s.input())
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, v := range found {
		if v.Rule == Lost {
			told++
		}
	}
	if told != maxOfRule+1 {
		t.Errorf("%d violations, with the one that counts the rest", told)
	}
}
