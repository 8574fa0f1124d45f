package record

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func replaceOf(node, old, new string) Command {
	return Command{Kind: Replace, By: "a", Node: node, OldServerID: old, ServerID: new, AtUnixMilli: 5, Why: "lost"}
}

func aloneOf(node, server string) Command {
	return Command{Kind: Alone, By: node, Node: node, ServerID: server, AtUnixMilli: 6, Why: "all else is lost"}
}

// replaced is solo, with the witness enrolled anew.
func replaced(t *testing.T) Record {
	t.Helper()
	return apply(t, solo(t), replaceOf("w", "w-1", "w-2"))
}

// alone is b, which was in sync, in a generation of its own.
func alone(t *testing.T) Record { t.Helper(); return apply(t, paired(t), aloneOf("b", "b-2")) }

func TestReplaceGivesAMemberANewServerID(t *testing.T) {
	old := solo(t)
	c := replaceOf("w", "w-1", "w-2")
	c.Address = "10.0.0.9:7100"
	got := apply(t, old, c)
	want := old.Clone()
	want.Incarnation = 2
	want.Members[2] = Member{Name: "w", ServerID: "w-2", Role: Witness, Address: "10.0.0.9:7100"}
	want.Replaced = []Replacement{{"w", "w-1", "w-2", 5}}
	want.History = append(want.History, Event{5, 1, Replace, "w", "lost"})
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if again := apply(t, got, replaceOf("w", "w-2", "w-3")); again.Members[2].Address != "10.0.0.9:7100" || again.Incarnation != 3 {
		t.Errorf("%+v", again)
	}
	if r, ok := got.ReplacementOf("w-1"); !ok || r.By != "w-2" {
		t.Error(r, ok)
	}
	if m, ok := got.Voter("w-2"); !ok || m.Name != "w" || len(got.Voters()) != 3 {
		t.Error(m, ok)
	}
	if _, ok := got.Voter("w-1"); ok {
		t.Error("the old server ID still votes")
	}
}

func TestAloneGivesTheOthersUp(t *testing.T) {
	old := paired(t)
	got := alone(t)
	want := old.Clone()
	want.Incarnation, want.Generation, want.GenerationID = 2, 1, "b-2"
	want.Epoch, want.Primary, want.InSync, want.Timeline, want.SwitchLSN, want.Forks = 2, "b", []string{"b"}, 0, 0, nil
	want.Members = []Member{{Name: "a", ServerID: "a-1", Role: Data, Lost: true}, {Name: "b", ServerID: "b-2", Role: Data}, {Name: "w", ServerID: "w-1", Role: Witness, Lost: true}}
	want.Replaced = []Replacement{{"b", "b-1", "b-2", 6}}
	want.History = append(want.History, Event{6, 2, Alone, "b", "all else is lost"})
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if vs := got.Voters(); len(vs) != 1 || vs[0].ServerID != "b-2" {
		t.Errorf("%+v", vs)
	}
	back := apply(t, got, Command{Kind: Timeline, By: "b", Timeline: 2}, Command{Kind: Replace, By: "b", Node: "w", OldServerID: "w-1", ServerID: "w-2"},
		Command{Kind: Replace, By: "b", Node: "a", OldServerID: "a-1", ServerID: "a-2"}, Command{Kind: Pair, By: "b", Node: "a", Timeline: 2, ServerID: "a-2"})
	if len(back.Voters()) != 3 || !back.Paired() || back.Incarnation != 4 || back.Generation != 1 {
		t.Errorf("%+v", back)
	}
	if twice := apply(t, solo(t), aloneOf("a", "a-2"), aloneOf("a", "a-3")); twice.Generation != 2 || twice.GenerationID != "a-3" {
		t.Errorf("%+v", twice)
	}
}

func TestReplaceAndAloneAreRefused(t *testing.T) {
	given := alone(t)
	with := func(c Command, change func(*Command)) Command { change(&c); return c }
	for _, tc := range []struct {
		name string
		old  Record
		c    Command
		why  string
	}{
		{"replace before init", Record{}, replaceOf("w", "w-1", "w-2"), "not initialised"},
		{"alone before init", Record{}, aloneOf("a", "a-2"), "not initialised"},
		{"replace while paired", paired(t), replaceOf("w", "w-1", "w-2"), "counts on all three"},
		{"replace by the standby", solo(t), with(replaceOf("w", "w-1", "w-2"), func(c *Command) { c.By = "b" }), "only the primary"},
		{"replace the primary", solo(t), replaceOf("a", "a-1", "a-2"), "switch over first"},
		{"replace a stranger", solo(t), replaceOf("x", "x-1", "x-2"), "no such member"},
		{"replace what was replaced", replaced(t), replaceOf("w", "w-1", "w-3"), "anew meanwhile, as w-2"},
		{"replace by nothing", solo(t), replaceOf("w", "w-1", ""), "not new"},
		{"replace by itself", solo(t), replaceOf("w", "w-1", "w-1"), "not new"},
		{"replace by another member", solo(t), replaceOf("w", "w-1", "b-1"), "not new"},
		{"replace by a void one", replaced(t), replaceOf("w", "w-2", "w-1"), "not new"},
		{"alone by another", solo(t), with(aloneOf("b", "b-2"), func(c *Command) { c.By = "a" }), "only by itself"},
		{"the witness alone", solo(t), aloneOf("w", "w-2"), "only a data node"},
		{"a stranger alone", solo(t), aloneOf("x", "x-2"), "only a data node"},
		{"alone under the old ID", solo(t), aloneOf("b", "b-1"), "not new"},
		{"alone though given up", given, aloneOf("a", "a-2"), "given up"},
		{"force a node that was given up", apply(t, given, Command{Kind: Timeline, By: "b", Timeline: 2}), Command{Kind: Force, By: "a", Node: "a"}, "given up"},
		{"pair a node that was given up", apply(t, given, Command{Kind: Timeline, By: "b", Timeline: 2}), Command{Kind: Pair, By: "b", Node: "a", Timeline: 2}, "replaced"},
		{"pair what was replaced", apply(t, solo(t), replaceOf("b", "b-1", "b-2")), Command{Kind: Pair, By: "a", Node: "b", Timeline: 1, ServerID: "b-1"}, "replaced"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.c.Epoch = tc.old.Epoch
			if got, err := tc.old.Apply(tc.c); !errors.Is(err, ErrNotAllowed) || !strings.Contains(err.Error(), tc.why) {
				t.Errorf("got %v, want %q: %+v", err, tc.why, got)
			}
		})
	}
}

// Every command by every node about every node in every kind of record: whatever is allowed leaves a sound record, in which no void server ID
// votes, the incarnation counts the changes of voters, and nobody but the primary itself is ever in sync in a new generation.
func TestAllCommandsFromAllRecordsKeepTheVotersSound(t *testing.T) {
	kinds := []Kind{Init, Pair, Solo, Promote, Timeline, Force, Pause, Resume, Revoke, Replace, Alone}
	names := []string{"a", "b", "w", "x"}
	records := []Record{{}, solo(t), paired(t), promoted(t), replaced(t), alone(t), apply(t, alone(t), Command{Kind: Timeline, By: "b", Timeline: 2})}
	tried, allowed := 0, 0
	seen := map[string]bool{}
	for depth := range 4 {
		var next []Record
		for _, r := range records {
			for _, kind := range kinds {
				for _, by := range names {
					for _, node := range names {
						c := Command{Kind: kind, Epoch: r.Epoch, By: by, Node: node, Timeline: r.Timeline, ServerID: fmt.Sprintf("%s-d%d", node, depth)}
						if m, ok := r.Member(node); ok {
							c.OldServerID = m.ServerID
						}
						switch kind {
						case Timeline:
							c.Timeline++
						case Pair:
							c.ServerID = c.OldServerID
						case Init:
							c = initCommand()
						}
						tried++
						n, err := r.Apply(c)
						if errors.Is(err, ErrInvariant) && kind != Init {
							t.Fatalf("%+v of %+v: %v", c, r, err)
						}
						if err != nil {
							continue
						}
						allowed++
						checkVoters(t, &r, &n, c)
						key := fmt.Sprint(n.Generation > 1, n.Primary, n.InSync, n.Voters(), n.Timeline > 0, n.Paused, len(n.Forks) > 0)
						if !seen[key] {
							seen[key] = true
							next = append(next, n)
						}
					}
				}
			}
		}
		records = next
	}
	t.Logf("%d commands, %d allowed, %d kinds of records", tried, allowed, len(seen))
	if allowed < 500 {
		t.Error("too few were allowed for this to mean anything")
	}
}

// checkVoters states independently of CheckInvariants what one command may do to the voters.
func checkVoters(t *testing.T, old, r *Record, c Command) {
	t.Helper()
	for _, v := range r.Voters() {
		for _, x := range r.Replaced {
			if x.ServerID == v.ServerID {
				t.Fatalf("%+v: %s is void and votes", c, v.ServerID)
			}
		}
	}
	for _, n := range r.InSync {
		if m, _ := r.Member(n); m.Lost {
			t.Fatalf("%+v: %s is in sync and given up", c, n)
		}
	}
	if !old.Initialised() {
		return
	}
	switch c.Kind {
	case Replace:
		if r.Incarnation != old.Incarnation+1 || r.Generation != old.Generation || r.Epoch != old.Epoch || r.Primary != old.Primary || c.Node == r.Primary || !old.Solo() {
			t.Fatalf("%+v led from %+v to %+v", c, old, r)
		}
	case Alone:
		if r.Incarnation != old.Incarnation+1 || r.Generation != old.Generation+1 || r.Epoch != old.Epoch+1 || r.Primary != c.By || len(r.Voters()) != 1 || !r.Solo() {
			t.Fatalf("%+v led from %+v to %+v", c, old, r)
		}
	default:
		if r.Incarnation != old.Incarnation || r.Generation != old.Generation || !cmp.Equal(r.Members, old.Members) {
			t.Fatalf("%+v changed the voters: %+v", c, r)
		}
	}
}

func TestEachInvariantOfTheVotersIsChecked(t *testing.T) {
	for _, tc := range []struct {
		want  string
		spoil func(*Record)
	}{
		{"void server ID", func(r *Record) { r.Replaced = append(r.Replaced, Replacement{"w", "w-2", "w-3", 1}) }},
		{"was given up", func(r *Record) { r.Members[0].Lost = true }},
		{"given up or taken back", func(r *Record) { r.Members[1].Lost = true }},
		{`member "w" became "v"`, func(r *Record) { r.Members[2].Name = "v" }},
		{"primary was replaced", func(r *Record) { r.Members[0].ServerID, r.Incarnation = "a-2", 3 }},
		{"1 voters changed and the incarnation went from 2 to 2", func(r *Record) { r.Members[1].ServerID = "b-2" }},
		{"0 voters changed and the incarnation went from 2 to 3", func(r *Record) { r.Incarnation = 3 }},
		{"2 voters changed", func(r *Record) { r.Members[1].ServerID, r.Members[2].ServerID, r.Incarnation = "b-2", "w-3", 4 }},
		{"generation went from 0 to 2", func(r *Record) { r.Generation = 2 }},
		{"without an epoch", func(r *Record) { r.Generation = 1 }},
		{"changed its ID", func(r *Record) { r.GenerationID = "x" }},
		{"while all three counted", func(r *Record) {
			r.Members[1].ServerID, r.Incarnation, r.InSync = "b-2", 3, []string{"a", "b"}
		}},
	} {
		t.Run(tc.want, func(t *testing.T) {
			old := replaced(t)
			r := old.Clone()
			if err := r.CheckInvariants(&old); err != nil {
				t.Fatalf("before: %v", err)
			}
			tc.spoil(&r)
			if err := r.CheckInvariants(&old); !errors.Is(err, ErrInvariant) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestVoidServerIDsAreBounded(t *testing.T) {
	r := solo(t)
	for i := range 3 * maxReplaced {
		m, _ := r.Member("w")
		r = apply(t, r, replaceOf("w", m.ServerID, fmt.Sprintf("w-n%d", i)))
	}
	if len(r.Replaced) != maxReplaced || r.Replaced[maxReplaced-1].By != r.Members[2].ServerID {
		t.Errorf("%d, %+v", len(r.Replaced), r.Replaced[len(r.Replaced)-1])
	}
}
