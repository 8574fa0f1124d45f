package failover

import (
	"errors"
	"strings"
	"testing"
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/postgres"
	pb "kineshim/proto"
	"kineshim/raftwitness/record"
)

// fakeLoner has a record on disk, and remembers with which one it was made to go on.
type fakeLoner struct {
	rec  record.Record
	gone *record.Record
	err  error
}

func (l *fakeLoner) LastRecord() (record.Record, error) { return l.rec, nil }
func (l *fakeLoner) Address(member string) string       { return member + ":1" }
func (l *fakeLoner) GoAlone(r record.Record) error {
	if l.err == nil {
		l.gone = &r
	}
	return l.err
}

// lastStanding is b, a standby in good order that has heard nobody lead for long, and whose last record is rec.
func lastStanding(t *testing.T, rec *record.Record) (agentFixture, ControlServer, *fakeLoner) {
	t.Helper()
	f := newAgent(t, "b", &record.Record{}) // after a restart, Raft has applied nothing
	f.raft.led = time.Now().Add(-2 * aloneAfter)
	f.local.data = postgres.DataState{Exists: true, Complete: true, SystemID: 7, Timeline: 2}
	l := &fakeLoner{rec: *rec}
	return f, ControlServer{Agent: f.Agent, Loner: l, NewServerID: func(name string) string { return name + "-new" }}, l
}

func TestPreviewAloneSaysWhetherSomethingMayBeLost(t *testing.T) {
	heard := func(f agentFixture, s *pb.NodeState) {
		f.Agent.peer = peer{state: s, at: time.Now().Add(-time.Minute), caughtUpAt: time.Now().Add(-2 * time.Minute)}
	}
	for name, tc := range map[string]struct {
		rec                       *record.Record
		heard                     *pb.NodeState
		safe, known, loses, timed bool
	}{
		"in sync, and heard until the others were lost":  {pairedRecord(), &pb.NodeState{Epoch: 1, Role: "primary", FlushLsn: 0}, true, true, false, false},
		"in sync, but was away itself":                   {pairedRecord(), nil, false, false, false, false},
		"behind, the primary was heard":                  {soloRecord(), &pb.NodeState{Epoch: 1, Role: "primary", FlushLsn: 4096}, false, true, true, true},
		"behind, the primary was never heard":            {soloRecord(), nil, false, false, false, false},
		"behind, the primary was heard in another epoch": {soloRecord(), &pb.NodeState{Epoch: 9, Role: "primary", FlushLsn: 4096}, false, false, false, false},
		"the solo primary itself":                        {failedOver(), nil, true, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			f, s, _ := lastStanding(t, tc.rec)
			if tc.heard != nil {
				heard(f, tc.heard)
			}
			p, err := s.PreviewAlone(t.Context(), nil)
			if err != nil || !p.Possible || p.Confirm == "" {
				t.Fatalf("%v, %v", p, err)
			}
			if p.Safe != tc.safe || p.LossKnown != tc.known || (p.LossBytes > 0) != tc.loses || (p.LossMs > 0) != tc.timed || (p.OtherSilentMs >= 0) != (tc.heard != nil) {
				t.Errorf("%v", p)
			}
			if len(p.Others) != 2 || p.Others[0].Address != "a:1" {
				t.Errorf("who must be switched off: %v", p.Others)
			}
		})
	}
}

func TestServeAloneIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(agentFixture, *fakeLoner)
		why   string
	}{
		"void":                  {func(f agentFixture, _ *fakeLoner) { f.store.status.Void = "it was wiped" }, "out of the cluster itself"},
		"never in a cluster":    {func(_ agentFixture, l *fakeLoner) { l.rec = record.Record{} }, "no cluster record"},
		"somebody leads":        {func(f agentFixture, _ *fakeLoner) { f.store.status.LeaderName = "w" }, "nobody has to be given up"},
		"it leads itself":       {func(f agentFixture, _ *fakeLoner) { f.store.status.Leader = true }, "nobody has to be given up"},
		"somebody led just now": {func(f agentFixture, _ *fakeLoner) { f.raft.led = time.Now() }, "until a moment ago"},
		"no data":               {func(f agentFixture, _ *fakeLoner) { f.local.data.Exists = false }, "no whole copy"},
		"half a copy":           {func(f agentFixture, _ *fakeLoner) { f.local.data.Complete = false }, "no whole copy"},
		"another database":      {func(f agentFixture, _ *fakeLoner) { f.local.data.SystemID = 8 }, "not the cluster's"},
		"the other one is serving": {func(f agentFixture, _ *fakeLoner) {
			f.Agent.peer = peer{state: &pb.NodeState{GateOpen: true}, at: time.Now()}
		}, "alive and serves"},
		"it is alone already": {func(_ agentFixture, l *fakeLoner) {
			r, err := l.rec.Apply(record.Command{Kind: record.Alone, Epoch: l.rec.Epoch, By: "b", Node: "b", ServerID: "b-2"})
			if err != nil {
				t.Fatal(err)
			}
			l.rec = r
		}, "only member already"},
	} {
		t.Run(name, func(t *testing.T) {
			f, s, l := lastStanding(t, failedOver())
			tc.spoil(f, l)
			p, err := s.PreviewAlone(t.Context(), nil)
			if err != nil || p.Possible || !strings.Contains(p.Reason, tc.why) {
				t.Errorf("%v, %v", p, err)
			}
			if r, err := s.ServeAlone(t.Context(), &pb.ServeAloneRequest{Confirm: p.Confirm, Force: true}); err != nil || r.Done || l.gone != nil {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
}

func TestServeAloneTakesTheWordAndTheForceThatItNeeds(t *testing.T) {
	_, s, l := lastStanding(t, soloRecord())
	p, err := s.PreviewAlone(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]*pb.ServeAloneRequest{
		"no confirmation": {Force: true}, "another confirmation": {Confirm: "x", Force: true}, "no force": {Confirm: p.Confirm},
	} {
		if r, err := s.ServeAlone(t.Context(), q); err != nil || r.Done || l.gone != nil {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	l.err = errors.New("disk full")
	if r, err := s.ServeAlone(t.Context(), &pb.ServeAloneRequest{Confirm: p.Confirm, Force: true}); err == nil {
		t.Errorf("%v", r)
	}
	l.err = nil
	r, err := s.ServeAlone(t.Context(), &pb.ServeAloneRequest{Confirm: p.Confirm, Force: true, Operator: "anna"})
	if err != nil || !r.Done || l.gone == nil || r.Epoch != 2 {
		t.Fatalf("%v, %v", r, err)
	}
	last := l.gone.History[len(l.gone.History)-1]
	if l.gone.Primary != "b" || l.gone.GenerationID != "b-new" || last.Kind != record.Alone || last.AtUnixMilli == 0 || last.Why != "by anna, though it may lack acknowledged writes" {
		t.Errorf("%+v", l.gone)
	}
}

// A copy of the keys that is older than a node's going on alone may hold what is lost now.
func TestGoingOnAloneCountsAsForced(t *testing.T) {
	alone := recordAfter(record.Command{Kind: record.Alone, By: "b", Node: "b", ServerID: "b-2"}) // epoch 2
	if !forcedSince(alone, 1) || forcedSince(alone, 2) {
		t.Error(forcedSince(alone, 1), forcedSince(alone, 2))
	}
}

// A node that has the other's name and not its server ID is not heard.
func TestStrangersUnderTheNameOfTheOtherNodeAreNotHeard(t *testing.T) {
	f := newAgent(t, "a", pairedRecord())
	for server, why := range map[string]string{"": "", "b-1": "", "b-2": "enrolled anew"} {
		if got := f.stranger(&pb.NodeState{Node: "b", ServerId: server}); (got == "") != (why == "") || !strings.Contains(got, why) {
			t.Errorf("%q: %q", server, got)
		}
	}
	if _, err := (PeerServer{Agent: f.Agent}).Exchange(t.Context(), &pb.NodeState{Node: "b", ServerId: "b-2", Role: string(decide.Primary)}); err == nil || f.Agent.peer.state != nil {
		t.Errorf("%v, %v", err, f.Agent.peer.state)
	}
	f.store.set(recordAfter(record.Command{Kind: record.Alone, By: "a", Node: "a", ServerID: "a-2"}))
	if got := f.stranger(&pb.NodeState{Node: "b", ServerId: "b-1"}); !strings.Contains(got, "given up") {
		t.Error(got)
	}
}
