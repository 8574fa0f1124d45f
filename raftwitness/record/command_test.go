package record

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandsThatAreAllowedChangeTheRecordAsTheySay(t *testing.T) {
	empty := Record{}
	for _, tc := range []struct {
		name string
		old  Record
		c    Command
		want func(*Record)
	}{
		{"init", empty, initCommand(), func(r *Record) {
			*r = Record{Incarnation: 1, ClusterID: "c1", SystemID: 7, Epoch: 1, Primary: "a", InSync: []string{"a"}, Members: threeVoters}
		}},
		{"timeline", promoted(t), Command{Kind: Timeline, By: "b", Timeline: 2, SwitchLSN: 0x2000}, func(r *Record) {
			r.Timeline, r.SwitchLSN = 2, 0x2000
			r.Forks = append(r.Forks, Fork{Epoch: 2, Primary: "b", Timeline: 2, SwitchLSN: 0x2000})
		}},
		{"pair", solo(t), Command{Kind: Pair, By: "a", Node: "b", Timeline: 1}, func(r *Record) { r.InSync = []string{"a", "b"} }},
		{"solo", paired(t), Command{Kind: Solo, By: "a"}, func(r *Record) { r.InSync = []string{"a"} }},
		{"promote the standby", paired(t), Command{Kind: Promote, By: "b", Node: "b", Timeline: 1}, func(r *Record) {
			r.Epoch, r.Primary, r.InSync, r.Timeline, r.SwitchLSN = 2, "b", []string{"b"}, 0, 0
		}},
		{"promote the primary again", solo(t), Command{Kind: Promote, By: "a", Node: "a"}, func(r *Record) {
			r.Epoch, r.InSync, r.Timeline, r.SwitchLSN = 2, []string{"a"}, 0, 0
		}},
		{"force", solo(t), Command{Kind: Force, By: "b", Node: "b"}, func(r *Record) {
			r.Forks = nil
			r.Epoch, r.Primary, r.InSync, r.Timeline, r.SwitchLSN = 2, "b", []string{"b"}, 0, 0
		}},
		{"pause", paired(t), Command{Kind: Pause, By: "b"}, func(r *Record) { r.Paused = true }},
		{"resume", apply(t, paired(t), Command{Kind: Pause, By: "a"}), Command{Kind: Resume, By: "b"}, func(r *Record) { r.Paused = false }},
		{"revoke", apply(t, paired(t), Command{Kind: Revoke, By: "a", Node: "bob"}), Command{Kind: Revoke, By: "b", Node: "alice"}, func(r *Record) { r.Revoked = []string{"alice", "bob"} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.c.Epoch, tc.c.AtUnixMilli, tc.c.Why = tc.old.Epoch, 99, "because"
			want := tc.old.Clone()
			tc.want(&want)
			who := tc.c.Node
			if who == "" {
				who = tc.c.By
			}
			want.History = append(want.History, Event{99, want.Epoch, tc.c.Kind, who, "because"})
			got, err := tc.old.Apply(tc.c)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestEveryCommandOfAnotherEpochIsRefused(t *testing.T) {
	allowed := map[Kind]struct {
		old Record
		c   Command
	}{
		Init:     {Record{}, initCommand()},
		Pair:     {solo(t), Command{By: "a", Node: "b", Timeline: 1}},
		Solo:     {paired(t), Command{By: "a"}},
		Promote:  {paired(t), Command{By: "b", Node: "b", Timeline: 1}},
		Timeline: {promoted(t), Command{By: "b", Timeline: 2}},
		Force:    {solo(t), Command{By: "b", Node: "b"}},
		Pause:    {solo(t), Command{By: "a"}},
		Resume:   {apply(t, solo(t), Command{Kind: Pause, By: "a"}), Command{By: "a"}},
		Revoke:   {solo(t), Command{By: "b", Node: "alice"}},
		Replace:  {solo(t), replaceOf("w", "w-1", "w-2")},
		Alone:    {paired(t), aloneOf("b", "b-2")},
	}
	for kind := range rules {
		tc, ok := allowed[kind]
		if !ok {
			t.Errorf("%s has no case here", kind)
			continue
		}
		c := tc.c
		c.Kind = kind
		for _, offset := range []int{-1, 1, 1000} {
			epoch := int(tc.old.Epoch) + offset
			if epoch < 0 {
				continue
			}
			c.Epoch = uint64(epoch)
			before := tc.old.Clone()
			if _, err := tc.old.Apply(c); !errors.Is(err, ErrStaleEpoch) {
				t.Errorf("%s of epoch %d in epoch %d: %v", kind, c.Epoch, tc.old.Epoch, err)
			}
			if d := cmp.Diff(before, tc.old); d != "" {
				t.Errorf("%s: the record has changed: %s", kind, d)
			}
		}
		c.Epoch = tc.old.Epoch
		if _, err := tc.old.Apply(c); err != nil {
			t.Errorf("%s in its own epoch: %v", kind, err)
		}
	}
}

func TestRulesRefuse(t *testing.T) {
	paused := apply(t, solo(t), Command{Kind: Pause, By: "a"})
	again := initCommand()
	revoked := solo(t)
	for i := range maxRevoked {
		revoked = apply(t, revoked, Command{Kind: Revoke, By: "a", Node: fmt.Sprint("op", i)})
	}
	stranger := initCommand()
	stranger.By = "b"
	for _, tc := range []struct {
		name string
		old  Record
		c    Command
		why  string
	}{
		{"init twice", solo(t), again, "initialised already"},
		{"init by another", Record{}, stranger, "proposes itself"},
		{"pair before init", Record{}, Command{Kind: Pair, By: "a", Node: "b", Timeline: 1}, "not initialised"},
		{"solo before init", Record{}, Command{Kind: Solo, By: "a"}, "not initialised"},
		{"promote before init", Record{}, Command{Kind: Promote, By: "a", Node: "a"}, "not initialised"},
		{"force before init", Record{}, Command{Kind: Force, By: "a", Node: "a"}, "not initialised"},
		{"timeline before init", Record{}, Command{Kind: Timeline, By: "a", Timeline: 1}, "not initialised"},
		{"pause before init", Record{}, Command{Kind: Pause, By: "a"}, "not initialised"},

		{"pair by the standby", solo(t), Command{Kind: Pair, By: "b", Node: "b", Timeline: 1}, "only the primary"},
		{"pair by the witness", solo(t), Command{Kind: Pair, By: "w", Node: "b", Timeline: 1}, "only the primary"},
		{"pair the primary", solo(t), Command{Kind: Pair, By: "a", Node: "a", Timeline: 1}, "other data node"},
		{"pair the witness", solo(t), Command{Kind: Pair, By: "a", Node: "w", Timeline: 1}, "other data node"},
		{"pair nobody", solo(t), Command{Kind: Pair, By: "a", Timeline: 1}, "other data node"},
		{"pair a stranger", solo(t), Command{Kind: Pair, By: "a", Node: "x", Timeline: 1}, "other data node"},
		{"pair on another timeline", solo(t), Command{Kind: Pair, By: "a", Node: "b", Timeline: 2}, "another timeline"},
		{"pair on no timeline", solo(t), Command{Kind: Pair, By: "a", Node: "b"}, "another timeline"},
		{"pair before the timeline is recorded", promoted(t), Command{Kind: Pair, By: "b", Node: "a"}, "another timeline"},
		{"pair twice", paired(t), Command{Kind: Pair, By: "a", Node: "b", Timeline: 1}, "paired already"},

		{"solo by the standby", paired(t), Command{Kind: Solo, By: "b"}, "only the primary"},
		{"solo by the witness", paired(t), Command{Kind: Solo, By: "w"}, "only the primary"},
		{"solo twice", solo(t), Command{Kind: Solo, By: "a"}, "solo already"},

		{"promote outside the in-sync set", solo(t), Command{Kind: Promote, By: "b", Node: "b", Timeline: 1}, "may lack"},
		{"promote the witness", paired(t), Command{Kind: Promote, By: "w", Node: "w", Timeline: 1}, "may lack"},
		{"promote another", paired(t), Command{Kind: Promote, By: "a", Node: "b", Timeline: 1}, "promotes only itself"},
		{"promote on another timeline", paired(t), Command{Kind: Promote, By: "b", Node: "b", Timeline: 2}, "another timeline"},
		{"promote on an unknown timeline", paired(t), Command{Kind: Promote, By: "b", Node: "b"}, "another timeline"},
		{"promote the old primary", promoted(t), Command{Kind: Promote, By: "a", Node: "a"}, "may lack"},

		{"force another", solo(t), Command{Kind: Force, By: "a", Node: "b"}, "promotes only itself"},
		{"force the witness", solo(t), Command{Kind: Force, By: "w", Node: "w"}, "only a data node"},
		{"force a stranger", solo(t), Command{Kind: Force, By: "x", Node: "x"}, "only a data node"},
		{"force the primary", solo(t), Command{Kind: Force, By: "a", Node: "a"}, "primary already"},

		{"timeline by the standby", solo(t), Command{Kind: Timeline, By: "b", Timeline: 2}, "only the primary"},
		{"timeline while paired", paired(t), Command{Kind: Timeline, By: "a", Timeline: 2}, "paired"},
		{"timeline zero", promoted(t), Command{Kind: Timeline, By: "b"}, "only goes up"},
		{"the same timeline", promoted(t), Command{Kind: Timeline, By: "b", Timeline: 1}, "only goes up"},

		{"pause by the witness", solo(t), Command{Kind: Pause, By: "w"}, "only a data node"},
		{"pause by a stranger", solo(t), Command{Kind: Pause, By: ""}, "only a data node"},
		{"pause twice", paused, Command{Kind: Pause, By: "a"}, "so already"},
		{"resume twice", solo(t), Command{Kind: Resume, By: "a"}, "so already"},

		{"revoke by the witness", solo(t), Command{Kind: Revoke, By: "w", Node: "alice"}, "only a data node"},
		{"revoke by an operator", solo(t), Command{Kind: Revoke, By: "alice", Node: "bob"}, "only a data node"},
		{"revoke nobody", solo(t), Command{Kind: Revoke, By: "a"}, "no operator's name"},
		{"revoke a book", solo(t), Command{Kind: Revoke, By: "a", Node: strings.Repeat("x", maxOperator+1)}, "no operator's name"},
		{"revoke twice", revoked, Command{Kind: Revoke, By: "a", Node: "op7"}, "so already"},
		{"revoke too many", revoked, Command{Kind: Revoke, By: "a", Node: "one-more"}, "keeps no more"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.c.Epoch = tc.old.Epoch
			before := tc.old.Clone()
			got, err := tc.old.Apply(tc.c)
			if !errors.Is(err, ErrNotAllowed) || !strings.Contains(err.Error(), tc.why) {
				t.Errorf("got %v, want %q", err, tc.why)
			}
			if d := cmp.Diff(Record{}, got); d != "" {
				t.Errorf("a refused command returned a record: %s", d)
			}
			if d := cmp.Diff(before, tc.old); d != "" {
				t.Errorf("the record has changed: %s", d)
			}
		})
	}
}

func TestInitWithoutAnIdentityBreaksAnInvariant(t *testing.T) {
	for name, spoil := range map[string]func(*Command){
		"no system identifier":   func(c *Command) { c.SystemID = 0 },
		"no cluster ID":          func(c *Command) { c.ClusterID = "" },
		"two members":            func(c *Command) { c.Members = c.Members[:2] },
		"founder is the witness": func(c *Command) { c.By, c.Node = "w", "w" },
		"founder is a stranger":  func(c *Command) { c.By, c.Node = "x", "x" },
	} {
		c := initCommand()
		spoil(&c)
		if _, err := (&Record{}).Apply(c); !errors.Is(err, ErrInvariant) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnknownKindsAndFieldsAreRefused(t *testing.T) {
	r := solo(t)
	if _, err := r.Apply(Command{Kind: "rename", Epoch: r.Epoch}); !errors.Is(err, ErrUnknownKind) {
		t.Errorf("unknown kind: %v", err)
	}
	for name, b := range map[string]string{
		"unknown field":      `{"kind":"solo","epoch":1,"by":"a","at":0,"unless":"raining"}`,
		"unknown in members": `{"kind":"init","epoch":0,"by":"a","at":0,"members":[{"name":"a","serverID":"a-1","role":"data","weight":2}]}`,
		"not JSON":           `solo`,
		"empty":              ``,
		"negative epoch":     `{"kind":"solo","epoch":-1,"by":"a","at":0}`,
		"timeline too large": `{"kind":"timeline","epoch":1,"by":"a","at":0,"timeline":4294967296}`,
		"bad LSN":            `{"kind":"timeline","epoch":1,"by":"a","at":0,"timeline":2,"switchLSN":"17"}`,
	} {
		if c, err := Decode([]byte(b)); !errors.Is(err, ErrUnknownKind) {
			t.Errorf("%s: decoded to %+v, %v", name, c, err)
		}
	}
}

func TestEncodedCommandsDecodeToThemselves(t *testing.T) {
	for i, c := range []Command{
		initCommand(),
		{Kind: Pair, Epoch: 3, By: "a", Node: "b", Timeline: 4, AtUnixMilli: 1700000000000, Why: "proved"},
		{Kind: Timeline, Epoch: 1 << 63, By: "b", Timeline: 1<<32 - 1, SwitchLSN: 1<<64 - 1},
		{Kind: Promote, Epoch: 3, By: "b", Node: "b", Why: "quote \" newline \n and ü"},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			b, err := c.Encode()
			if err != nil {
				t.Fatal(err)
			}
			got, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c, got); d != "" {
				t.Errorf("%s\n%s", b, d)
			}
		})
	}
}

// A node that was away while the primary began timeline 3 promotes to a timeline 3 of its own when it is forced. The record takes
// that, and remembers nothing to which the old primary's timeline 3 would seem to fit.
func TestForcedNodeMayReuseATimelineThatItNeverSaw(t *testing.T) {
	r := apply(t, solo(t), Command{Kind: Promote, By: "a", Node: "a"}, Command{Kind: Timeline, By: "a", Timeline: 3, SwitchLSN: 30})
	r = apply(t, r, Command{Kind: Force, By: "b", Node: "b"}, Command{Kind: Timeline, By: "b", Timeline: 3, SwitchLSN: 20})
	want := []Fork{{Epoch: r.Epoch, Primary: "b", Timeline: 3, SwitchLSN: 20}}
	if diff := cmp.Diff(want, r.Forks); diff != "" {
		t.Error(diff)
	}
}
