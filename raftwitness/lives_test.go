package raftwitness

import (
	"strings"
	"testing"
)

func TestClaimsAreJudgedByWhatIsKnown(t *testing.T) {
	k := known{Log: "l1", Life: 5, Nonce: "n5", Term: 7, Index: 40}
	same := claim{Log: "l1", Life: 5, Nonce: "n5", Term: 7, Index: 40}
	next := claim{Log: "l1", Life: 6, Nonce: "n6", Term: 7, Index: 40}
	for name, tc := range map[string]struct {
		k     known
		c     claim
		spoil func(*claim)
		want  breach
	}{
		"the same life":                      {k, same, nil, ""},
		"the same life, an older hello":      {k, same, func(c *claim) { c.Term, c.Index = 3, 10 }, ""},
		"the next life":                      {k, next, nil, ""},
		"a life whose hello nobody has read": {k, next, func(c *claim) { c.Life = 9 }, ""},
		"a longer log in a later term":       {k, next, func(c *claim) { c.Term, c.Index = 9, 60 }, ""},
		"a stranger":                         {known{}, next, nil, ""},
		"an older version":                   {k, claim{}, nil, ""},
		"another log":                        {k, next, func(c *claim) { c.Log = "l2" }, wiped},
		"another log, in its first life":     {k, claim{Log: "l2", Life: 1, Nonce: "x"}, nil, wiped},
		"an earlier life":                    {k, same, func(c *claim) { c.Life, c.Nonce = 4, "n4" }, restored},
		"the same life of another process":   {k, same, func(c *claim) { c.Nonce = "other" }, duplicated},
		"an earlier term":                    {k, next, func(c *claim) { c.Term = 6 }, restored},
		"a shorter log":                      {k, next, func(c *claim) { c.Index = 39 }, restored},
	} {
		t.Run(name, func(t *testing.T) {
			c := tc.c
			if tc.spoil != nil {
				tc.spoil(&c)
			}
			got, why := tc.k.judge(c)
			if got != tc.want || (why == "") != (tc.want == "") {
				t.Errorf("got %q (%s), want %q", got, why, tc.want)
			}
			if got != "" {
				return
			}
			if b, why := tc.k.with(c).judge(c); b != "" {
				t.Errorf("once accepted, it is %s: %s", b, why)
			}
		})
	}
}

// What is not committed may be taken back: a claim does not make the end of a log known.
func TestTheEndOfALogIsNotHeldAgainstAVoter(t *testing.T) {
	k := known{}.with(claim{Log: "l", Life: 1, Nonce: "a", Term: 2, Index: 50})
	if b, why := k.judge(claim{Log: "l", Life: 2, Nonce: "b", Term: 3, Index: 48}); b != "" {
		t.Errorf("%s: %s", b, why)
	}
}

func TestOfTwoHistoriesOneSupersedes(t *testing.T) {
	founded := standing{Incarnation: 1, Epoch: 9}
	for name, tc := range map[string]struct{ later, earlier standing }{
		"a voter was replaced":                 {standing{Incarnation: 2, Epoch: 9}, founded},
		"replaced, in an earlier epoch":        {standing{Incarnation: 2, Epoch: 3}, founded},
		"one went on alone":                    {standing{Generation: 1, GenerationID: "b-2", Incarnation: 2, Epoch: 3}, standing{Incarnation: 7, Epoch: 9}},
		"both went on alone, one for longer":   {standing{Generation: 1, GenerationID: "a-2", Epoch: 5}, standing{Generation: 1, GenerationID: "b-2", Epoch: 4, Incarnation: 9}},
		"both went on alone, in the same way":  {standing{Generation: 1, GenerationID: "b-2", Epoch: 5}, standing{Generation: 1, GenerationID: "a-2", Epoch: 5}},
		"alone twice":                          {standing{Generation: 2, GenerationID: "b-3", Epoch: 5}, standing{Generation: 1, GenerationID: "a-2", Epoch: 50}},
		"a record supersedes an empty one":     {founded, standing{}},
		"a voter enrolled anew, with no log":   {standing{Incarnation: 2}, founded},
		"alone, then a voter was replaced too": {standing{Generation: 1, GenerationID: "b-2", Incarnation: 3}, standing{Generation: 1, GenerationID: "b-2", Incarnation: 2, Epoch: 9}},
	} {
		if !tc.later.supersedes(tc.earlier) || tc.earlier.supersedes(tc.later) {
			t.Errorf("%s: %v, %v", name, tc.later.supersedes(tc.earlier), tc.earlier.supersedes(tc.later))
		}
		if tc.later.supersedes(tc.later) {
			t.Errorf("%s: it supersedes itself", name)
		}
	}
	if a, b := founded, (standing{Incarnation: 1, Epoch: 3}); a.supersedes(b) || b.supersedes(a) {
		t.Error("a voter that lags behind by an epoch is superseded")
	}
}

func TestMemoryKeepsWhatWasCommittedOnly(t *testing.T) {
	m := &memory{path: t.TempDir() + "/lives.json", dirty: make(chan struct{}, 1), held: map[string]uint64{}, log: testLog("m")}
	m.Others = map[string]known{}
	m.saw("w", 3, 9, 9)
	if m.of("w") != (known{}) {
		t.Error("something is known of a voter that has not said who it is")
	}
	if b, why, err := m.accept("w", claim{Log: "l", Life: 1, Nonce: "n", Term: 2, Index: 30}); b != "" || err != nil {
		t.Fatal(b, why, err)
	}
	m.saw("w", 3, 20, 12)
	if k := m.of("w"); k.Index != 12 || k.Term != 3 {
		t.Errorf("%+v", k)
	}
	m.saw("w", 3, 0, 25) // a heartbeat: what it had before is committed by now
	m.saw("w", 2, 5, 5)
	if k := m.of("w"); k.Index != 20 || k.Term != 3 {
		t.Errorf("%+v", k)
	}
	if b, _, _ := m.accept("w", claim{Log: "l", Life: 2, Nonce: "n", Term: 3, Index: 19}); b != restored {
		t.Errorf("an older copy was accepted: %q", b)
	}
	m.writeIfDirty()
	again := &memory{path: m.path}
	if err := again.load(); err != nil || again.of("w") != m.of("w") || again.of("w").Index != 20 {
		t.Errorf("%+v, %v", again.of("w"), err)
	}
}

func TestRefusalsNameTheCommandThatHelps(t *testing.T) {
	id := identities(testPromise, map[string]string{"a": "x", "b": "x", "w": "x"})["w"]
	b, _ := id.PeerByName("b")
	if got := wiped.remedy(id.self().Member); !strings.Contains(got, "shimctl witness replace") {
		t.Error(got)
	}
	if got := restored.remedy(b.Member); !strings.Contains(got, "shimctl node replace b") {
		t.Error(got)
	}
	if got := duplicated.remedy(b.Member); !strings.Contains(got, "stop one of the two") {
		t.Error(got)
	}
}
