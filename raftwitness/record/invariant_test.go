package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEachInvariantIsChecked(t *testing.T) {
	for _, tc := range []struct {
		want  string
		spoil func(*Record)
	}{
		{"became uninitialised", func(r *Record) { r.Epoch = 0 }},
		{"2 members", func(r *Record) { r.Members = r.Members[:2] }},
		{"two members are called", func(r *Record) { r.Members = append([]Member{r.Members[1]}, r.Members[1:]...) }},
		{"3 members hold data", func(r *Record) {
			r.Members = append([]Member(nil), r.Members...)
			r.Members[2].Role = Data
		}},
		{"not one or two sorted", func(r *Record) { r.InSync = nil }},
		{"not one or two sorted", func(r *Record) { r.InSync = []string{"b", "a"} }},
		{"not one or two sorted", func(r *Record) { r.InSync = []string{"a", "b", "w"} }},
		{"one node twice", func(r *Record) { r.InSync = []string{"a", "a"} }},
		{"not a data node", func(r *Record) { r.InSync = []string{"a", "w"} }},
		{"not a data node", func(r *Record) { r.InSync = []string{"a", "x"} }},
		{"is not in sync", func(r *Record) { r.InSync = []string{"b"} }},
		{"is not in sync", func(r *Record) { r.Primary = "" }},
		{"no system identifier", func(r *Record) { r.SystemID = 0 }},
		{"no cluster ID", func(r *Record) { r.ClusterID = "" }},
		{"unknown timeline", func(r *Record) { r.Timeline = 0 }},
		{"not the last fork's", func(r *Record) { r.Timeline = 9 }},
		{"out of order", func(r *Record) { r.Forks = append([]Fork{{Epoch: 1, Timeline: 1}}, r.Forks...) }},
		{"out of order", func(r *Record) { r.Forks = append([]Fork{{Epoch: 2, Timeline: 0}}, r.Forks...) }},
		{"epoch went from 1 to 3", func(r *Record) { r.Epoch, r.InSync = 3, []string{"a"} }},
		{"primary changed within", func(r *Record) { r.Primary = "b" }},
		{"began paired", func(r *Record) { r.Epoch = 2 }},
		{"identity changed", func(r *Record) { r.ClusterID = "c2" }},
		{"identity changed", func(r *Record) { r.SystemID = 8 }},
		{"is so no more", func(r *Record) { r.Revoked = []string{"bob"} }},
	} {
		t.Run(tc.want, func(t *testing.T) {
			old := apply(t, paired(t), Command{Kind: Revoke, By: "a", Node: "alice"})
			r := old.Clone()
			if err := r.CheckInvariants(&old); err != nil {
				t.Fatalf("before: %v", err)
			}
			tc.spoil(&r)
			err := r.CheckInvariants(&old)
			if !errors.Is(err, ErrInvariant) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	t.Run("epoch goes down", func(t *testing.T) {
		old, r := promoted(t), paired(t)
		if err := r.CheckInvariants(&old); !errors.Is(err, ErrInvariant) || !strings.Contains(err.Error(), "epoch went from 2 to 1") {
			t.Error(err)
		}
	})
}

func TestQuestionsAboutTheRecord(t *testing.T) {
	zero, s, p := Record{}, solo(t), paired(t)
	if zero.Initialised() || !s.Initialised() {
		t.Error("Initialised")
	}
	if got := fmt.Sprintf("%s %s %s", zero.Mode(), s.Mode(), p.Mode()); got != "uninitialised solo paired" {
		t.Error(got)
	}
	if zero.Solo() || !s.Solo() || p.Solo() || zero.Paired() || s.Paired() || !p.Paired() {
		t.Error("Solo, Paired")
	}
	if s.InSyncHas("b") || !p.InSyncHas("b") || p.InSyncHas("w") {
		t.Error("InSyncHas")
	}
	if m, ok := p.Member("w"); !ok || m.Role != Witness {
		t.Error(m, ok)
	}
	if _, ok := p.Member("x"); ok {
		t.Error("a stranger is a member")
	}
}

func TestForksTellWhereATimelineEnded(t *testing.T) {
	r := apply(t, promoted(t), Command{Kind: Timeline, By: "b", Timeline: 3, SwitchLSN: 0x3000})
	if f, ok := r.ForkOf(3); !ok || f != (Fork{2, "b", 3, 0x3000}) {
		t.Error(f, ok)
	}
	if f, ok := r.ForkOf(2); ok {
		t.Error("a timeline that was never recorded has a fork", f)
	}
	for timeline, want := range map[uint32]uint32{0: 1, 1: 3, 2: 3, 3: 0} {
		f, ok := r.FirstForkAfter(timeline)
		if ok != (want != 0) || f.Timeline != want {
			t.Errorf("first fork after %d: %+v, %v", timeline, f, ok)
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	r := paired(t)
	want, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	c := r.Clone()
	c.InSync[0], c.Members[0].Name, c.Forks[0].Epoch, c.History[0].Why = "x", "x", 99, "x"
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Error(d)
	}
}

func TestRecordSurvivesJSON(t *testing.T) {
	r := apply(t, promoted(t), Command{Kind: Timeline, By: "b", Timeline: 2, SwitchLSN: 0xFFFFFFFF_00000001, Why: "ü \" \n"})
	r.SystemID = 1<<64 - 1 // more than a JSON number holds exactly
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got Record
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, got); d != "" {
		t.Errorf("%s\n%s", b, d)
	}
	if !strings.Contains(string(b), `"FFFFFFFF/1"`) {
		t.Errorf("the LSN is not in PostgreSQL's form: %s", b)
	}
}
