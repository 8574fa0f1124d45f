package native

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestHowMuchMustBeFree(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for total, want := range map[int64]int64{0: 64 * mib, gib: 64 * mib, 2000 * mib: 100 * mib, 10 * gib: gib / 2, 20 * gib: gib, 4000 * gib: gib} {
		if got := lowMark(total); got != want {
			t.Errorf("of %d MiB, %d must be free, want %d", total/mib, got/mib, want/mib)
		}
		if lowMark(total) >= highMark(total) {
			t.Errorf("of %d MiB: no hysteresis", total/mib)
		}
	}
}

// mib is what a look at a file system of 2000 MiB comes to, of which 100 MiB must be free.
func (s *space) mib(free int64) spaceChange { return s.look(9, free<<20, 2000<<20) }

func TestNoSpaceComesAndGoesWithHysteresis(t *testing.T) {
	var s space
	for n, step := range []struct {
		free    int64
		change  spaceChange
		refuses bool
	}{{500, spaceSame, false}, {100, spaceSame, false}, {99, spaceRaised, true}, {20, spaceSame, true}, {149, spaceSame, true},
		{150, spaceLowered, false}, {120, spaceSame, false}, {99, spaceRaised, true}} {
		if got := s.mib(step.free); got != step.change || s.refuses.Load() != step.refuses {
			t.Errorf("step %d, %d MiB free: %v, refuses %v", n, step.free, got, s.refuses.Load())
		}
	}
	if l := s.list(pb.AlarmType_NOSPACE); len(l) != 1 || l[0].MemberID != 9 {
		t.Errorf("%v", l)
	}
}

func TestLoweredAlarmIsRaisedAgainWhileThereIsNoRoom(t *testing.T) {
	var s space
	s.mib(50)
	if !s.deactivate(alarm{member: 9, kind: pb.AlarmType_NOSPACE}) || s.refuses.Load() {
		t.Error("not lowered")
	}
	if s.mib(50) != spaceRaised || !s.refuses.Load() {
		t.Error("not raised again")
	}
	s.deactivate(alarm{member: 9, kind: pb.AlarmType_NOSPACE})
	if s.mib(120) != spaceSame || s.refuses.Load() {
		t.Error("raised again although there is enough")
	}
}

func TestAlarmOfAClientStaysUntilAClientLowersIt(t *testing.T) {
	var s space
	theirs := alarm{member: 3, kind: pb.AlarmType_NOSPACE}
	s.activate(theirs)
	s.activate(theirs)
	s.activate(alarm{member: 3, kind: pb.AlarmType_CORRUPT})
	s.mib(50)
	s.mib(1000)
	if !s.refuses.Load() || len(s.list(pb.AlarmType_NONE)) != 2 || len(s.list(pb.AlarmType_CORRUPT)) != 1 {
		t.Errorf("%v", s.list(pb.AlarmType_NONE))
	}
	if !s.deactivate(theirs) || s.deactivate(theirs) || s.refuses.Load() {
		t.Error("not lowered, or twice")
	}
}

func TestQuotaIsWhereNoSpaceBegins(t *testing.T) {
	var s space
	if q := s.quota(5); q != 0 {
		t.Errorf("%d before anything is known", q)
	}
	s.mib(130)
	if q := s.quota(10 << 20); q != 40<<20 {
		t.Errorf("%d MiB", q>>20)
	}
	s.mib(10)
	if q := s.quota(10 << 20); q != 1 {
		t.Errorf("%d, with no room at all", q)
	}
}
