package failover

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"kineshim/failover/decide"
	pb "kineshim/proto"
)

func TestVitalsArePublishedWithEachDecision(t *testing.T) {
	f := newAgent(t, "a", pairedRecord()).serving(1)
	if f.Vitals() != nil {
		t.Fatal("vitals before the first decision")
	}
	before := time.Now()
	f.step(t.Context())
	v := f.Vitals()
	switch {
	case v == nil || v.At.Before(before):
		t.Fatalf("%+v", v)
	case v.Status.Epoch != 1 || v.Status.Primary != "a" || v.State().GetRole() != string(decide.Primary):
		t.Errorf("%v", v.Status)
	case v.PeerHeard != decide.Never || v.WitnessHeard != decide.Never || v.LagKnown:
		t.Errorf("nobody was heard: %+v", v)
	case len(v.Failovers) != len(Causes):
		t.Errorf("%v", v.Failovers)
	}
}

// logged has an agent log into a buffer.
func (f agentFixture) logged() *bytes.Buffer {
	var b bytes.Buffer
	f.Agent.log = slog.New(slog.NewTextHandler(&b, nil))
	return &b
}

func TestSilenceOfTheOtherNodeIsLoggedOnce(t *testing.T) {
	f := newAgent(t, "a", pairedRecord())
	log := f.logged()
	in := f.input()
	for _, d := range []time.Duration{0, time.Minute, time.Hour} {
		in.Peer.Silent = d
		f.noteSilence(&in)
	}
	if n := strings.Count(log.String(), "the other node is silent"); n != 1 || !strings.Contains(log.String(), "for=1m0s") {
		t.Errorf("%s", log)
	}
	f.hear(tellsOfItself("b"), time.Now())
	in = f.input()
	f.noteSilence(&in)
	f.noteSilence(&in)
	if n := strings.Count(log.String(), "is heard again"); n != 1 {
		t.Errorf("%s", log)
	}
}

func TestALeaseThatHasRunOutIsLoggedOnce(t *testing.T) {
	f := newAgent(t, "a", pairedRecord())
	log := f.logged()
	f.Gate().Begin(Session{Epoch: 1, Generation: 1}, new(sentinel))
	f.Gate().Open()
	in := f.input()
	for _, lease := range []time.Duration{time.Second, 0, 0, time.Second, time.Second} {
		f.store.setLease(lease)
		f.noteLease(&in)
	}
	if strings.Count(log.String(), "the lease has run out") != 1 || strings.Count(log.String(), "the lease is back") != 1 {
		t.Errorf("%s", log)
	}
}

func TestWhyThePrimaryAsksToBeRelievedIsLoggedOnce(t *testing.T) {
	f := newAgent(t, "b", pairedRecord())
	log := f.logged()
	s := tellsOfItself("a")
	s.WantsRelief, s.ReliefReason = true, "its PostgreSQL has died"
	f.hear(s, time.Now())
	f.hear(s, time.Now())
	if strings.Count(log.String(), "the primary asks to be relieved") != 1 || !strings.Contains(log.String(), "its PostgreSQL has died") {
		t.Errorf("%s", log)
	}
}

// tellsOfItself is what a node says that is well.
func tellsOfItself(node string) *pb.NodeState {
	return &pb.NodeState{Node: node, Role: string(decide.Standby), Epoch: 1, Streaming: true, DataComplete: true}
}
