package decide

import (
	"flag"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"kineshim/raftwitness/record"

	"pgregory.net/rapid"
)

// randomRecord is a record that can come about.
func randomRecord(t *rapid.T) record.Record {
	var r record.Record
	n := rapid.IntRange(0, 12).Draw(t, "commands")
	kinds := []record.Kind{record.Init, record.Pair, record.Solo, record.Promote, record.Timeline, record.Force, record.Pause, record.Resume}
	for range n {
		node := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node")
		c := record.Command{Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Epoch: r.Epoch, By: node, Node: node, Timeline: r.Timeline}
		switch c.Kind {
		case record.Init:
			c = initOf(node)
		case record.Pair:
			c.By, c.Node = node, other(node)
		case record.Timeline:
			c.Timeline, c.SwitchLSN = newest(&r)+rapid.Uint32Range(1, 2).Draw(t, "step"), record.LSN(rapid.Uint64Range(1, 9).Draw(t, "switch"))
		}
		if next, err := r.Apply(c); err == nil {
			r = next
		}
	}
	return r
}

func other(node string) string {
	if node == "a" {
		return "b"
	}
	return "a"
}

func newest(r *record.Record) uint32 {
	if n := len(r.Forks); n > 0 {
		return r.Forks[n-1].Timeline
	}
	return 1
}

// randomInput draws every field by itself: much of it can never be seen, and decide must be right all the same.
func randomInput(t *rapid.T) *Input {
	yes := func(name string) bool { return rapid.Bool().Draw(t, name) }
	often := func(name string) bool { return rapid.IntRange(0, 3).Draw(t, name) > 0 }
	age := func(name string) time.Duration {
		return rapid.SampledFrom([]time.Duration{0, 1, 100 * ms, 600 * ms, 1100 * ms, 4 * time.Second, 20 * time.Second, Never}).Draw(t, name)
	}
	role := func(name string) Role {
		return rapid.SampledFrom([]Role{Standby, Primary, Standby, Primary, Absent, Broken, Stopped}).Draw(t, name)
	}
	r := randomRecord(t)
	system := func(name string) uint64 {
		return rapid.SampledFrom([]uint64{systemID, systemID, systemID, 8}).Draw(t, name)
	}
	timeline := func(name string) uint32 {
		return rapid.SampledFrom([]uint32{max(1, r.Timeline), max(1, r.Timeline), r.Timeline + 1, newest(&r), 1}).Draw(t, name)
	}
	epoch := func(name string) uint64 {
		return rapid.SampledFrom([]uint64{r.Epoch, r.Epoch, r.Epoch, r.Epoch + 1, 1, 0}).Draw(t, name)
	}
	lsn := func(name string) record.LSN { return record.LSN(rapid.Uint64Range(0, 20).Draw(t, name)) }
	self := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "self")
	in := &Input{Self: self, Other: other(self), Witness: "w", Founder: yes("founder"), Record: &r, Confirmed: often("confirmed"), Pairing: rapid.IntRange(0, 4).Draw(t, "pairing") == 0, Timing: timing}
	in.Raft = Raft{Leader: often("leader"), Barrier: often("barrier"), Forfeited: rapid.IntRange(0, 4).Draw(t, "forfeited") == 0,
		LeaseLeft: rapid.SampledFrom([]time.Duration{0, ms}).Draw(t, "lease"), WitnessHeard: age("heard"), WitnessSilent: age("silent"), OtherHeard: age("other heard"), OtherSilent: age("other silent")}
	in.Local = Local{
		Role: role("role"), SystemID: system("system"), Timeline: timeline("timeline"), LSN: lsn("lsn"), MarkerEpoch: epoch("marker epoch"), MarkerTimeline: timeline("marker"),
		PromotedEpoch: epoch("promoted"), PromotedLSN: lsn("promoted lsn"), Frozen: yes("frozen"), Adrift: yes("adrift"), Streaming: yes("streaming"), NotStreaming: age("not streaming"), Served: yes("served"),
		DownFor: age("down"), UnwellFor: rapid.SampledFrom([]time.Duration{0, 0, 4 * time.Second, time.Minute}).Draw(t, "unwell"), StartFailures: rapid.IntRange(0, 6).Draw(t, "failures"), RewoundEpoch: epoch("rewound"),
		Session: often("session"), EpochCommitted: often("committed"), Engine: often("engine"), Solo: yes("solo"), StandbyStalled: rapid.SampledFrom([]time.Duration{0, 0, 1, time.Minute}).Draw(t, "stalled"),
		StandbyStreams: often("streams"), LagBytes: rapid.SampledFrom([]uint64{0, joinLagBytes, joinLagBytes + 1}).Draw(t, "lag"), Proven: often("proven"), JoinBackoff: yes("backoff"),
		Slot: yes("slot"), StaleWalsender: yes("stale"), Granted: rapid.IntRange(0, 4).Draw(t, "granted") == 0,
	}
	in.Peer = Peer{
		Age: age("peer"), Silent: age("peer silent"), SinceLeader: often("since"), Refused: rapid.IntRange(0, 4).Draw(t, "refused") == 0, Epoch: epoch("peer epoch"), Role: role("peer role"),
		Timeline: timeline("peer timeline"), SystemID: system("peer system"), LSN: lsn("peer lsn"), Whole: often("whole"), Streaming: often("peer streaming"), GateOpen: yes("open"),
		Relief: yes("relief"), Leaving: rapid.IntRange(0, 4).Draw(t, "leaving") == 0, NotReadyFor: age("not ready"),
	}
	in.Wish = Wish{SwitchTo: rapid.SampledFrom([]string{"", "", other(self)}).Draw(t, "switch"), Drained: yes("drained"), Force: rapid.IntRange(0, 4).Draw(t, "force") == 0, Stopping: rapid.IntRange(0, 5).Draw(t, "stopping") == 0}
	return in
}

// disturbed is a situation with some of its fields drawn anew.
func disturbed(t *rapid.T, base func() *Input) *Input {
	in, random := base(), randomInput(t)
	random.Self, random.Other = in.Self, in.Other
	if rapid.IntRange(0, 3).Draw(t, "keep the record") > 0 {
		random.Record = in.Record
	}
	random.Founder = in.Founder
	mix(t, reflect.ValueOf(in).Elem(), reflect.ValueOf(random).Elem())
	return random
}

// mix puts most of the fields of the first into the second. The record has been chosen before.
func mix(t *rapid.T, from, into reflect.Value) {
	for i := range from.NumField() {
		switch f := from.Type().Field(i); {
		case f.Name == "Record":
		case f.Type.Kind() == reflect.Struct:
			mix(t, from.Field(i), into.Field(i))
		case rapid.IntRange(0, 15).Draw(t, f.Name+" disturbed") > 0:
			into.Field(i).Set(from.Field(i))
		}
	}
}

// situations are those in which each rule fires, and a few in which none does.
func situations() map[string]func() *Input {
	all := map[string]func() *Input{
		"paired primary": pairedPrimary, "solo primary": soloPrimary, "paired standby": pairedStandby, "fresh other": freshOther, "long history": longHistory,
	}
	for _, c := range allRuleCases() {
		all[c.rule+": "+c.name] = func() *Input { return with(c.in(), c.set) }
	}
	return all
}

func TestWhateverIsSeenTheRulesOfSafetyHold(t *testing.T) {
	seen := map[string]int{}
	if checks := flag.Lookup("rapid.checks"); checks != nil && checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set("30000"); err != nil {
			t.Fatal(err)
		}
		defer checks.Value.Set(checks.DefValue)
	}
	bases := situations()
	names := slices.Sorted(maps.Keys(bases))
	rapid.Check(t, func(t *rapid.T) {
		var in *Input
		if rapid.IntRange(0, 3).Draw(t, "everything at random") == 0 {
			in = randomInput(t)
		} else {
			in = disturbed(t, bases[rapid.SampledFrom(names).Draw(t, "situation")])
		}
		p := Decide(in)
		NotArmed(in)
		for lane, s := range map[string]Step{"postgres": p.Postgres, "sync": p.Sync, "raft": p.Raft} {
			seen[s.Rule]++
			if s.Action != None && (s.Rule == "" || s.Why == "") {
				t.Errorf("%s without a rule or a reason: %+v", s.Action, s)
			}
			if s.Action != None && !slices.Contains(actionsOf[lane], s.Action) {
				t.Errorf("%s in the %s lane", s.Action, lane)
			}
		}
		checkPostgres(t, in, p)
		checkSync(t, in, p)
		checkRaft(t, in, p)
		checkGate(t, in, p)
	})
	for _, rules := range lanes {
		for _, r := range rules {
			if !t.Failed() && seen[r.name] == 0 {
				t.Errorf("rule %s was never drawn: the inputs are too narrow", r.name)
			}
		}
	}
}

var actionsOf = map[string][]Action{
	"postgres": {InitDB, Start, Stop, Freeze, Follow, Promote, Rewind, Clone, OpenSession, CommitEpoch, StartEngine, Drain},
	"sync":     {ConnectSolo, DisconnectSolo, ProveGating, EnsureSlot, DropStale},
	"raft":     {Propose, HandOver, Settle},
}

func checkPostgres(t *rapid.T, in *Input, p Plan) {
	l, r := &in.Local, in.Record
	switch p.Postgres.Action {
	case Clone, Rewind:
		if r.InSyncHas(in.Self) || r.Primary != in.Other || in.Peer.Role != Primary || in.Peer.Age > timing.Silence || in.Peer.Refused || in.Peer.Epoch != r.Epoch {
			t.Errorf("%s, in sync %v, primary %s, peer %+v", p.Postgres.Action, r.InSync, r.Primary, in.Peer)
		}
	case InitDB:
		if l.Role != Absent || r.Initialised() || !in.Confirmed && !in.Raft.Leads() {
			t.Errorf("initdb over %s, record %s, confirmed %v", l.Role, r.Mode(), in.Confirmed)
		}
	case Start:
		if l.Role != Stopped {
			t.Errorf("start of a PostgreSQL that is %s", l.Role)
		}
	case Promote:
		if r.Primary != in.Self || l.Role != Standby || !l.Frozen || l.SystemID != r.SystemID || r.Timeline != 0 && (!r.Solo() || in.Pairing || !in.Confirmed) {
			t.Errorf("promoted: record %+v, local %+v", r, l)
		}
	case Freeze, Follow:
		if l.Role != Standby {
			t.Errorf("%s of a PostgreSQL that is %s", p.Postgres.Action, l.Role)
		}
		if p.Postgres.Action == Follow && r.Primary != in.Other {
			t.Errorf("follows, but the primary is %q", r.Primary)
		}
	case StartEngine:
		if !l.EpochCommitted || !l.Session || l.PromotedEpoch != r.Epoch || r.Primary != in.Self {
			t.Errorf("the engine starts: %+v", l)
		}
	case CommitEpoch, OpenSession, Drain:
		if l.Role != Primary || l.PromotedEpoch != r.Epoch || r.Primary != in.Self {
			t.Errorf("%s: %+v", p.Postgres.Action, l)
		}
	}
	if l.Role == Primary && (r.Primary != in.Self || l.PromotedEpoch != r.Epoch) && p.Postgres.Action != Stop {
		t.Errorf("a primary that nothing names goes on; rule %q", p.Postgres.Rule)
	}
}

func checkSync(t *rapid.T, in *Input, p Plan) {
	if p.Sync.Action == ConnectSolo && (in.Record.Paired() || in.Pairing || in.Record.Primary != in.Self) {
		t.Errorf("solo while %s, pairing %v", in.Record.Mode(), in.Pairing)
	}
	if p.Sync.Action == ProveGating && in.Local.Solo {
		t.Error("a proof while kineshim acknowledges by itself")
	}
	if p.Sync.Action != None && (in.Local.Role != Primary || in.Record.Primary != in.Self) {
		t.Errorf("%s on what is no primary", p.Sync.Action)
	}
}

func checkRaft(t *rapid.T, in *Input, p Plan) {
	l, r := &in.Local, in.Record
	if p.Raft.Action != None && !in.Raft.Leader {
		t.Errorf("%s by a follower", p.Raft.Action)
	}
	if p.Raft.Action == HandOver && (p.Raft.To == in.Self || p.Raft.To == "" || p.Raft.To == in.Other && in.Record.Paired() && r.Primary == in.Self && p.Closed == "" && p.Raft.Rule == "relieve") {
		t.Errorf("hands over to %q, closed %q", p.Raft.To, p.Closed)
	}
	if p.Raft.Action != Propose {
		return
	}
	c := p.Raft.Command
	if !in.Raft.Barrier {
		t.Errorf("%s is proposed without a barrier", c.Kind)
	}
	switch c.Kind {
	case record.Pair, record.Solo, record.Timeline:
		if r.Primary != in.Self {
			t.Errorf("%s is proposed by a node that is not the primary", c.Kind)
		}
		if l.Role != Primary || l.PromotedEpoch != r.Epoch {
			t.Errorf("%s is proposed by a primary that does not serve", c.Kind)
		}
		if c.Kind == record.Pair && (l.Solo || !l.Proven || in.Raft.LeaseLeft <= 0 || l.Granted || in.Pairing) {
			t.Errorf("pair: %+v", l)
		}
	case record.Promote, record.Force:
		if c.Kind == record.Promote && !r.InSyncHas(in.Self) || c.Node != in.Self || !l.Frozen || l.Role != Standby || l.SystemID != r.SystemID {
			t.Errorf("%s: in sync %v, local %+v", c.Kind, r.InSync, l)
		}
	}
	if c.Kind == record.Init {
		c.ClusterID, c.Members = "c", members
	}
	if _, err := r.Apply(c); err != nil {
		t.Errorf("rule %s proposes what the record refuses: %v", p.Raft.Rule, err)
	}
}

func checkGate(t *rapid.T, in *Input, p Plan) {
	l, r := &in.Local, in.Record
	if p.Closed != "" {
		return
	}
	if r.Primary != in.Self || l.Role != Primary || l.PromotedEpoch != r.Epoch || !l.Session || !l.EpochCommitted || !l.Engine || p.Relief != "" || in.Wish.Stopping {
		t.Errorf("open: record %+v, local %+v, relief %q", r, l, p.Relief)
	}
	if r.Paired() && r.Timeline != l.Timeline {
		t.Errorf("open on timeline %d, recorded %d", l.Timeline, r.Timeline)
	}
}
