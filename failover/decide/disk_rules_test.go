package decide

import (
	"strings"
	"testing"

	"kineshim/raftwitness/record"
)

func TestSwitchOverForTheDisksSake(t *testing.T) {
	low := func(in *Input) { in.Local.Disk.Low, in.Peer.Disk.Roomy = true, true }
	damaged := func(in *Input) { in.Local.Disk.Damaged = true }
	for _, c := range []struct {
		name string
		set  []func(*Input)
		want string // part; "" is none
	}{
		{"well", nil, ""},
		{"nearly full, and the standby has room", []func(*Input){low}, "nearly full"},
		{"nearly full, and so is the standby", []func(*Input){low, func(in *Input) { in.Peer.Disk.Roomy = false }}, ""},
		{"the standby's disk is nearly full", []func(*Input){func(in *Input) { in.Peer.Disk.Low = true }}, ""},
		{"damaged", []func(*Input){damaged}, "damaged pages"},
		{"damaged, and so is the standby", []func(*Input){damaged, func(in *Input) { in.Peer.Disk.Damaged = true }}, ""},
		{"damaged, and the standby's disk fails", []func(*Input){damaged, func(in *Input) { in.Peer.Disk.Failing = true }}, ""},
		{"nearly full, and the standby may lack writes", []func(*Input){low, func(in *Input) { setRecord(in, soloRecord()) }}, ""},
		{"nearly full, and failover is paused", []func(*Input){low, func(in *Input) { setRecord(in, paused(pairedRecord())) }}, ""},
		{"nearly full, and the process ends", []func(*Input){low, func(in *Input) { in.Wish.Stopping = true }}, ""},
		{"nearly full, and the standby is silent", []func(*Input){low, func(in *Input) { in.Peer.Age = timing.Silence + 1 }}, ""},
		{"nearly full, not serving", []func(*Input){low, func(in *Input) { in.Local.PromotedEpoch = 0 }}, ""},
	} {
		got := Decide(with(pairedPrimary(), c.set...)).Switch
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := Decide(with(pairedStandby(), low)).Switch; got != "" {
		t.Errorf("a standby: %q", got)
	}
}

// A standby that is about to end for want of room, or must not be promoted, is not what commits may wait for.
func TestUnfitStandbyIsNotCountedOn(t *testing.T) {
	for name, c := range map[string]struct {
		disk Disk
		why  string // "": it is counted on
	}{
		"well":        {Disk{Roomy: true}, ""},
		"nearly full": {Disk{Low: true}, ""},
		"full":        {Disk{Low: true, Full: true}, "disk is full"},
		"failing":     {Disk{Failing: true}, "takes no writes"},
		"damaged":     {Disk{Damaged: true}, "damaged"},
	} {
		sick := func(in *Input) { in.Peer.Disk = c.disk }
		s := Decide(with(pairedPrimary(), sick)).Raft
		if solo := s.Command.Kind == record.Solo; solo != (c.why != "") || !strings.Contains(s.Why, c.why) {
			t.Errorf("%s: rule %q proposes %q: %s", name, s.Rule, s.Command.Kind, s.Why)
		}
		s = Decide(with(joiningPrimary(), sick)).Raft
		if pairs := s.Command.Kind == record.Pair; pairs != (c.why == "") {
			t.Errorf("%s: rule %q proposes %q", name, s.Rule, s.Command.Kind)
		}
		if c.why != "" && !strings.Contains(strings.Join(NotArmed(with(joiningPrimary(), sick)), "; "), c.why) {
			t.Errorf("%s: the operator is not told", name)
		}
		old := func(in *Input) { in.Peer.Age = timing.Silence + 1 }
		if s := Decide(with(pairedPrimary(), sick, old)).Raft; strings.Contains(s.Why, "of the standby: ") {
			t.Errorf("%s: it acts on what the standby said long ago", name)
		}
	}
}

// The primary is gone, and this node's disk takes no writes, or its data are damaged: a wrong answer is worse than none.
func TestUnfitNodeDoesNotTakeOver(t *testing.T) {
	if s := Decide(bereaved()).Raft; s.Command.Kind != record.Promote {
		t.Fatalf("rule %q: a well one does not take over", s.Rule)
	}
	for name, disk := range map[string]Disk{"failing": {Failing: true}, "damaged": {Damaged: true}} {
		if s := Decide(with(bereaved(), func(in *Input) { in.Local.Disk = disk })).Raft; s.Command.Kind == record.Promote {
			t.Errorf("%s: rule %q promotes it", name, s.Rule)
		}
	}
	full := func(in *Input) { in.Local.Disk = Disk{Low: true, Full: true} }
	if s := Decide(with(bereaved(), full)).Raft; s.Command.Kind != record.Promote {
		t.Errorf("a full disk: rule %q, and nobody answers reads", s.Rule)
	}
}

// Damaged data are made anew as soon as the record excludes them, and not before.
func TestDamagedDataAreCloned(t *testing.T) {
	damaged := func(in *Input) { in.Local.Disk.Damaged = true }
	if s := Decide(with(pairedStandby(), damaged)).Postgres; s.Action != None {
		t.Errorf("recorded in sync, and rule %q wants %s", s.Rule, s.Action)
	}
	s := Decide(with(oldPrimary(), damaged)).Postgres
	if s.Action != Clone || !strings.Contains(s.Why, "damaged pages") {
		t.Errorf("rule %q wants %s: %s", s.Rule, s.Action, s.Why)
	}
	if s := Decide(with(soloPrimary(), damaged)); s.Postgres.Action != None || s.Closed != "" {
		t.Errorf("the only node that has everything: rule %q wants %s, closed %q", s.Postgres.Rule, s.Postgres.Action, s.Closed)
	}
}
