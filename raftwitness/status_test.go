package raftwitness

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"kineshim/raftwitness/record"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
)

func TestStatusOfLeaderAndFollowers(t *testing.T) {
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	eventually(t, "all agree on who leads", func() bool {
		for _, name := range voters {
			s := c.node(name).Status()
			if s.LeaderName != "a" || s.Leader != (name == "a") || s.Term != c.node("a").Status().Term {
				return false
			}
			if name != "a" && (s.LeaseLeft != 0 || s.Barrier || len(s.Heard) != 0 || s.LeaderHeard > testPromise) {
				return false
			}
		}
		s := c.node("a").Status()
		_, b := s.Heard["b"]
		_, w := s.Heard["w"]
		return s.Barrier && !s.Forfeited && len(s.Heard) == 2 && b && w && s.LeaseLeft > 0 && s.LeaseLeft <= testPromise*leasePerMille/1000
	})
	if id := c.node("b").Identity(); id.ServerID != c.ids["b"].ServerID {
		t.Error(id)
	}
}

func TestChangesAreAnnounced(t *testing.T) {
	t.Parallel()
	c, _ := startCluster(t, testPromise)
	changes, stop := c.node("b").Changes()
	c.initialise()
	deadline := time.After(patience)
	for {
		if r, _ := c.node("b").Record(); r.Paired() {
			break
		}
		select {
		case <-changes:
		case <-deadline:
			t.Fatal("b was not told that the record has changed")
		}
	}
	stop()
	select { // what was there when it was stopped
	case <-changes:
	default:
	}
	c.manyCommands(1)
	c.agree()
	select {
	case <-changes:
		t.Error("told after stop")
	default:
	}
}

func commandLog(t *testing.T, index uint64, c record.Command) *raft.Log {
	t.Helper()
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return &raft.Log{Index: index, Data: b}
}

func TestFSMRefusesWhatItDoesNotKnowAndKeepsItsRecord(t *testing.T) {
	woken := 0
	f := newFSM(testLog("a"), func() { woken++ })
	id := testIdentity()
	begin := record.Command{Kind: record.Init, By: "a", Node: "a", ClusterID: "c", SystemID: 7, Members: id.Members()}
	if got := f.Apply(commandLog(t, 3, begin)); got != nil {
		t.Fatal(got)
	}
	want := f.state.Load().Record
	for index, tc := range map[uint64]struct {
		data string
		want error
	}{
		4: {`rubbish`, record.ErrUnknownKind},
		5: {`{"kind":"new","epoch":1,"by":"a","at":0}`, record.ErrUnknownKind},
		6: {`{"kind":"pause","epoch":1,"by":"a","at":0,"until":"tomorrow"}`, record.ErrUnknownKind},
		7: {`{"kind":"pause","epoch":0,"by":"a","at":0}`, record.ErrStaleEpoch},
		8: {`{"kind":"solo","epoch":1,"by":"a","at":0}`, record.ErrNotAllowed},
	} {
		err, _ := f.Apply(&raft.Log{Index: index, Data: []byte(tc.data)}).(error)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", tc.data, err)
		}
		if a := f.state.Load(); a.Index != index || cmp.Diff(want, a.Record) != "" {
			t.Errorf("%s: record of index %d: %s", tc.data, a.Index, cmp.Diff(want, a.Record))
		}
	}
	if woken != 6 {
		t.Errorf("woken %d times", woken)
	}
}

type memorySink struct {
	bytes.Buffer
	fail, closed, cancelled bool
}

func (s *memorySink) Write(b []byte) (int, error) {
	if s.fail {
		return 0, io.ErrShortWrite
	}
	return s.Buffer.Write(b)
}
func (s *memorySink) ID() string    { return "memory" }
func (s *memorySink) Close() error  { s.closed = true; return nil }
func (s *memorySink) Cancel() error { s.cancelled = true; return nil }

func TestFSMSnapshotRoundTrip(t *testing.T) {
	f, g := newFSM(testLog("a"), func() {}), newFSM(testLog("b"), func() {})
	id := testIdentity()
	f.Apply(commandLog(t, 9, record.Command{Kind: record.Init, By: "a", Node: "a", ClusterID: "c", SystemID: 1<<64 - 1, Members: id.Members()}))
	s, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	f.Apply(commandLog(t, 10, record.Command{Kind: record.Pause, Epoch: 1, By: "a"})) // after the snapshot: not in it
	sink := &memorySink{}
	if err := s.Persist(sink); err != nil || !sink.closed || sink.cancelled {
		t.Fatalf("%v %+v", err, sink)
	}
	s.Release()
	if err := g.Restore(io.NopCloser(&sink.Buffer)); err != nil {
		t.Fatal(err)
	}
	if a := g.state.Load(); a.Index != 9 || a.Record.Paused || a.Record.SystemID != 1<<64-1 || a.Record.Primary != "a" {
		t.Errorf("%+v", a)
	}
	before := g.state.Load()
	if err := g.Restore(io.NopCloser(strings.NewReader(`{"Index":`))); err == nil || g.state.Load() != before {
		t.Errorf("half a snapshot: %v", err)
	}
	full := &memorySink{fail: true}
	if err := s.Persist(full); err == nil || !full.cancelled || full.closed {
		t.Errorf("a snapshot that could not be written: %v %+v", err, full)
	}
}

func TestRaftLogLinesBecomeOurs(t *testing.T) {
	var b bytes.Buffer
	l := newLogger(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})))
	l.Warn("heartbeat timeout", "leader", "a-1")
	l.Info("entering follower state")
	got := b.String()
	for _, want := range []string{"level=INFO msg=\"raft: heartbeat timeout: leader=a-1\"", "level=DEBUG msg=\"raft: entering follower state\""} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
}
