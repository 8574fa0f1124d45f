package decide

import (
	"strings"
	"testing"
)

const voidWhy = "voter a-1 was wiped"

var voidCases = []ruleCase{
	{
		rule: "void", name: "a solo primary is told", in: soloPrimary, action: Stop, why: voidWhy,
		set: func(in *Input) { in.Raft.Void = voidWhy },
		not: map[string]func(*Input){"it is not void": func(in *Input) { in.Raft.Void = "" }},
	},
	{
		rule: "void", name: "a standby is told", in: pairedStandby, action: Stop, why: voidWhy,
		set: func(in *Input) { in.Raft.Void = voidWhy },
		not: map[string]func(*Input){"it is not void": func(in *Input) { in.Raft.Void = "" }},
	},
}

// A void node neither serves nor starts, clones or promotes anything, in whatever state it is: all that it has is kept as it is.
func TestVoidNodeTouchesNothing(t *testing.T) {
	for name, in := range map[string]*Input{
		"solo primary": soloPrimary(), "paired primary": pairedPrimary(), "joining primary": joiningPrimary(), "standby": pairedStandby(),
		"leading standby": leadingStandby(), "bereaved": bereaved(), "promoted": promoted(), "new primary": newPrimary(), "old primary": oldPrimary(),
		"restarted primary": restartedPrimary(), "founder": freshFounder(), "other": freshOther(), "blank": blankStandby(),
	} {
		in.Raft.Void, in.Raft.Leader = voidWhy, false
		for _, role := range []Role{Absent, Broken, Stopped, Standby, Primary} {
			in.Local.Role = role
			p := Decide(in)
			if p.Closed != voidWhy || p.Raft.Action != None || p.Sync.Action != None {
				t.Errorf("%s, PostgreSQL %s: %+v", name, role, p)
			}
			if want := role == Standby || role == Primary; want != (p.Postgres.Action == Stop) || !want && p.Postgres.Action != None {
				t.Errorf("%s, PostgreSQL %s: %+v", name, role, p.Postgres)
			}
			if why := NotArmed(in); len(why) != 1 || !strings.Contains(why[0], voidWhy) {
				t.Errorf("%s: %q", name, why)
			}
		}
	}
}
