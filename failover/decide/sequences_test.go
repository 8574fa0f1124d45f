package decide

import (
	"testing"
	"time"

	"kineshim/raftwitness/record"
)

// A proposal to pair is committed, and its proposer is cut off before it learns of it: were it to act as solo, it would
// answer beside the promoted standby.
func TestAPrimaryActsAsPairedFromBeforeItProposesIt(t *testing.T) {
	in := joiningPrimary()
	if s := Decide(in).Raft; s.Command.Kind != record.Pair {
		t.Fatalf("rule %s proposes %q", s.Rule, s.Command.Kind)
	}
	in.Pairing = true // set before the proposal leaves

	// It is cut off; the standby stalls, the lease ends.
	in.Raft = Raft{WitnessHeard: Never, OtherHeard: Never}
	in.Peer.Age, in.Peer.Silent = time.Minute, time.Minute
	in.Local.StandbyStreams, in.Local.StandbyStalled = false, time.Minute
	p := Decide(in)
	if p.Sync.Action == ConnectSolo || in.wantSolo() {
		t.Errorf("rule %s: commits would go on without the standby", p.Sync.Rule)
	}
	if in.repromote() {
		t.Error("a restarted PostgreSQL would serve without a majority")
	}
	// It leads again: first of all it finds out. Then solo is known, and commits may go on.
	leads(in)
	if s := Decide(in).Raft; s.Action != Settle {
		t.Errorf("rule %s, want settle", s.Rule)
	}
	in.Pairing = false
	if s := Decide(in).Sync; s.Action != ConnectSolo {
		t.Errorf("solo is certain, and rule %q wants %q", s.Rule, s.Action)
	}
}

// The other way round: until solo is known to be committed, it is paired.
func TestAPrimaryActsAsPairedUntilItKnowsThatSoloIsCommitted(t *testing.T) {
	in := with(pairedPrimary(), func(in *Input) {
		in.Local.StandbyStreams, in.Local.StandbyStalled = false, 2*time.Second
		in.Peer.Age, in.Peer.Silent = 2*time.Second, 2*time.Second
	})
	p := Decide(in)
	if p.Raft.Command.Kind != record.Solo || p.Sync.Action != None {
		t.Fatalf("raft rule %q, sync rule %q", p.Raft.Rule, p.Sync.Rule)
	}
	setRecord(in, after(*in.Record, p.Raft.Command))
	if s := Decide(in).Sync; s.Action != ConnectSolo {
		t.Errorf("solo is recorded, and rule %q wants %q", s.Rule, s.Action)
	}
}

// A standby's disk is replaced while it is recorded in sync: neither may it be promoted, nor may its data be made anew
// before the record excludes it.
func TestDataAreDestroyedOnlyWhileTheRecordExcludesTheNode(t *testing.T) {
	for name, lose := range map[string]func(*Input){
		"gone":        func(in *Input) { in.Local = Local{Role: Absent, DownFor: time.Minute} },
		"half made":   func(in *Input) { in.Local = Local{Role: Broken, DownFor: time.Minute} },
		"other data":  func(in *Input) { in.Local.SystemID = 8 },
		"a tail":      func(in *Input) { in.Local.Timeline, in.Local.LSN = 1, 200 },
		"unstartable": func(in *Input) { in.Local.Role, in.Local.StartFailures = Stopped, 100 },
		"unfollowing": func(in *Input) { in.Local.Streaming, in.Local.NotStreaming = false, time.Hour },
		"foreign":     func(in *Input) { in.Local.MarkerEpoch, in.Local.MarkerTimeline = 1, 2 },
	} {
		in := with(pairedStandby(), lose)
		if s := Decide(in).Postgres; s.Action == Clone || s.Action == Rewind || s.Action == InitDB {
			t.Errorf("%s: %s while in sync", name, s.Action)
		}
		setRecord(in, soloRecord())
		if s := Decide(in).Postgres; s.Action != Clone && s.Action != Rewind {
			t.Errorf("%s: outside the in-sync set rule %q wants %q", name, s.Rule, s.Action)
		}
		// The same, when it has not been promoted but is its own primary by the record.
		setRecord(in, failedOver())
		if s := Decide(in).Postgres; s.Action == Clone || s.Action == Rewind || s.Action == InitDB {
			t.Errorf("%s: %s while it is the primary", name, s.Action)
		}
	}
}

// The founder comes back without its data, and has not heard yet that there is a cluster: a new database would be taken for
// the cluster's.
func TestAFounderWithoutDataDoesNotFoundTheClusterAgain(t *testing.T) {
	in := newInput("a", "b", record.Record{})
	in.Local = Local{Role: Absent}
	if s := Decide(in).Postgres; s.Action != None {
		t.Errorf("rule %s wants %s before any majority was heard", s.Rule, s.Action)
	}
	leads(in)
	setRecord(in, pairedRecord())
	if s := Decide(in).Postgres; s.Action != None {
		t.Errorf("rule %s wants %s of the recorded primary", s.Rule, s.Action)
	}
	in.Local.DownFor = startGrace + 1
	in.Peer = pairedPrimary().Peer
	if s := Decide(in).Raft; s.Action != HandOver || s.To != "b" {
		t.Errorf("rule %q wants %q: the standby, which has everything, is not asked to take over", s.Rule, s.Action)
	}
}

// The primary's disk is replaced, and the standby is lost before it has taken over: were the primary to record solo, the only
// node that has the data would be excluded.
func TestAPrimaryWithoutItsDataDoesNotExcludeTheStandby(t *testing.T) {
	for name, lose := range map[string]func(*Input){
		"gone":          func(in *Input) { in.Local = Local{Role: Absent, DownFor: time.Minute} },
		"half made":     func(in *Input) { in.Local = Local{Role: Broken, DownFor: time.Minute} },
		"other data":    func(in *Input) { died(in); in.Local.Role, in.Local.Frozen, in.Local.SystemID = Standby, true, 8 },
		"an old image":  func(in *Input) { died(in); in.Local.Role, in.Local.Frozen, in.Local.Timeline = Standby, true, 1 },
		"an older copy": func(in *Input) { died(in); in.Local.Role, in.Local.Frozen, in.Local.LSN = Standby, true, 1 },
	} {
		in := with(pairedPrimary(), lose, func(in *Input) { in.Peer.Age, in.Peer.Silent = time.Minute, time.Minute })
		if s := Decide(in).Raft; s.Action == Propose {
			t.Errorf("%s: rule %s proposes %s", name, s.Rule, s.Command.Kind)
		}
	}
	// Its data are there, only PostgreSQL had to be restarted: it serves again, alone.
	in := with(pairedPrimary(), died, func(in *Input) {
		in.Local.Role, in.Local.Frozen = Standby, true
		in.Peer.Age, in.Peer.Silent = time.Minute, time.Minute
	})
	if s := Decide(in).Raft; s.Rule != "restart-epoch" {
		t.Errorf("rule %q", s.Rule)
	}
}

func TestOnlyAMemberOfInSyncProposesItsOwnPromotionAndHasFrozenBefore(t *testing.T) {
	in := with(bereaved(), unfrozen)
	p := Decide(in)
	if p.Raft.Action != None || p.Postgres.Action != Freeze {
		t.Fatalf("unfrozen: raft %q, postgres %q", p.Raft.Rule, p.Postgres.Rule)
	}
	in.Local.Frozen = true
	p = Decide(in)
	if p.Raft.Command.Kind != record.Promote || p.Raft.Command.Node != "b" || p.Postgres.Action == Follow {
		t.Errorf("frozen: raft %+v, postgres %q", p.Raft, p.Postgres.Rule)
	}
	setRecord(in, soloRecord())
	if p = Decide(in); p.Raft.Action != None {
		t.Errorf("outside the set, rule %q wants %q", p.Raft.Rule, p.Raft.Action)
	}
}

// A promotion's outcome was unknown and its proposer lost the leadership: it followed again, and then the promotion was
// committed by another leader. WAL must be stopped once more, or PostgreSQL refuses the promotion for ever.
func TestAPromotionThatIsCommittedLateFreezesAgain(t *testing.T) {
	in := with(promoted(), unfrozen)
	if p := Decide(in); p.Postgres.Action != Freeze {
		t.Fatalf("rule %q wants %q", p.Postgres.Rule, p.Postgres.Action)
	}
	in.Local.Frozen = true
	if p := Decide(in); p.Postgres.Action != Promote {
		t.Errorf("rule %q wants %q", p.Postgres.Rule, p.Postgres.Action)
	}
}

func TestALeaderThatHandsOverClosesItsGateFirst(t *testing.T) {
	in := with(pairedPrimary(), func(in *Input) { in.Wish.SwitchTo = "b" })
	p := Decide(in)
	if p.Closed == "" || p.Raft.Action != None || p.Postgres.Action != Drain {
		t.Fatalf("a switchover begins: closed %q, raft %q, postgres %q", p.Closed, p.Raft.Rule, p.Postgres.Rule)
	}
	in.Wish.Drained, in.Local.Engine = true, false
	if p = Decide(in); p.Closed == "" || p.Raft.Action != HandOver || p.Raft.To != "b" {
		t.Errorf("drained: closed %q, raft %q to %q", p.Closed, p.Raft.Rule, p.Raft.To)
	}
	// Whatever makes a paired primary offer its leadership to the standby for good, its gate is closed.
	for name, set := range map[string]func(*Input){
		"died": died,
		"hung": func(in *Input) { in.Local.UnwellFor = time.Minute },
	} {
		if p := Decide(with(pairedPrimary(), set)); p.Raft.Rule != "relieve" || p.Closed == "" {
			t.Errorf("%s: rule %q, closed %q", name, p.Raft.Rule, p.Closed)
		}
	}
}

// The standby is promoted while the old primary's PostgreSQL still runs, which writes something of its own: the old primary could not
// follow without a rewind.
func TestAPrimaryThatHandsOverStopsPostgreSQLBeforeTheStandbyCanBePromoted(t *testing.T) {
	in := with(pairedPrimary(), drained)
	p := Decide(in)
	if p.Raft.Action != HandOver || p.Postgres.Action != None {
		t.Fatalf("drained: raft %q, postgres %q", p.Raft.Rule, p.Postgres.Rule)
	}
	in.Raft.Forfeited, in.Raft.LeaseLeft = true, 0
	if p = Decide(in); p.Postgres.Action != Stop || p.Closed == "" {
		t.Errorf("offered: postgres %q, closed %q", p.Postgres.Rule, p.Closed)
	}
	// It asks to be relieved until somebody is primary, though its PostgreSQL starts again meanwhile.
	for _, role := range []Role{Stopped, Standby} {
		died(in)
		in.Local.Role, in.Local.Frozen = role, role == Standby
		in.Raft = Raft{WitnessHeard: Never, OtherHeard: Never}
		if p = Decide(in); p.Relief != "switchover" {
			t.Errorf("%s: relief %q", role, p.Relief)
		}
	}
	// The standby has not taken over after all, and this node leads again: it serves in a new epoch.
	leads(in)
	in.Wish = Wish{}
	if p = Decide(in); p.Raft.Rule != "restart-epoch" {
		t.Errorf("nobody has taken over: raft %q", p.Raft.Rule)
	}
}

// A proposal's outcome is unknown: nothing that rests on the one or the other outcome is done until the record says it.
func TestAnUnknownOutcomeIsNotAFailure(t *testing.T) {
	// Of a promotion: neither is PostgreSQL promoted, nor is the leadership handed back.
	in := bereaved()
	p := Decide(in)
	if p.Raft.Rule != "take-over" || p.Postgres.Action == Promote {
		t.Errorf("raft %q, postgres %q", p.Raft.Rule, p.Postgres.Rule)
	}
	first := p.Raft.Command
	// Proposed once more, it is the same command of the same epoch: of the two, the record takes one.
	second := Decide(in).Raft.Command
	r := after(*in.Record, first)
	if _, err := r.Apply(second); err == nil {
		t.Error("the record takes the promotion twice")
	}
	// Of solo: the primary goes on as paired; of a pairing, before anything else, it settles.
	in = with(pairedPrimary(), func(in *Input) { in.Local.StandbyStalled = time.Minute })
	if p := Decide(in); p.Raft.Command.Kind != record.Solo || p.Sync.Action != None {
		t.Errorf("raft %q, sync %q", p.Raft.Rule, p.Sync.Rule)
	}
	in = with(joiningPrimary(), func(in *Input) { in.Pairing = true })
	if p := Decide(in); p.Raft.Action != Settle {
		t.Errorf("raft %q", p.Raft.Rule)
	}
}

func TestSoloWithoutAQuorumHoldsOnlyWhileTheProcessRuns(t *testing.T) {
	alone := func(in *Input) {
		in.Raft, in.Peer = Raft{WitnessHeard: Never, OtherHeard: Never}, Peer{Age: Never, Silent: time.Hour}
	}
	in := with(soloPrimary(), alone)
	if p := Decide(in); p.Closed != "" || p.Postgres.Action != None {
		t.Errorf("the process runs on: closed %q, rule %q", p.Closed, p.Postgres.Rule)
	}
	// Its PostgreSQL is restarted under it: it goes on.
	in = with(restartedPrimary(), alone, func(in *Input) { in.Local.Served = true })
	if p := Decide(in); p.Postgres.Action != Promote {
		t.Errorf("PostgreSQL came back: rule %q wants %q", p.Postgres.Rule, p.Postgres.Action)
	}
	// The process is restarted: it asks a majority first.
	in = with(restartedPrimary(), alone, func(in *Input) { in.Confirmed, in.Local.Served = false, false })
	if p := Decide(in); p.Postgres.Action != None || p.Raft.Action != None || p.Closed == "" {
		t.Errorf("restarted, alone: postgres %q, raft %q, closed %q", p.Postgres.Rule, p.Raft.Rule, p.Closed)
	}
	// A majority is back: a new epoch.
	leads(in)
	if p := Decide(in); p.Raft.Command.Kind != record.Promote {
		t.Errorf("restarted, with a majority: raft %q", p.Raft.Rule)
	}
}

// The primary's data are replaced by an older copy of the same timeline, which the record cannot tell from the present one. The standby, in
// sync and at hand, has more: it takes over.
func TestAPrimaryWhoseStandbyHasMoreDoesNotServeAgain(t *testing.T) {
	back := func(lsn record.LSN) *Input {
		return with(pairedPrimary(), died, func(in *Input) {
			in.Local.Role, in.Local.Frozen, in.Local.LSN = Standby, true, lsn
			in.Peer.LSN = 10 << 20
		})
	}
	for name, c := range map[string]struct {
		in   *Input
		rule string
	}{
		"older":                                {back(8 << 20), "relieve"},
		"much older":                           {back(1 << 10), "relieve"},
		"what a crash cuts off":                {back(10<<20 - 100), "restart-epoch"},
		"as much":                              {back(10 << 20), "restart-epoch"},
		"older, and the standby cannot be had": {with(back(8<<20), func(in *Input) { in.Peer.Age, in.Peer.Silent = time.Minute, time.Minute }), "restart-epoch"},
	} {
		p := Decide(c.in)
		if p.Raft.Rule != c.rule {
			t.Errorf("%s: rule %q wants %q, not %q", name, p.Raft.Rule, p.Raft.Action, c.rule)
		}
	}
}
