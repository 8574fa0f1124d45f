package failover

import (
	"testing"
	"time"

	"kineshim/failover/decide"
	"kineshim/failover/postgres"
)

// PostgreSQL's walreceiver says "streaming" for a moment also when the primary has nothing for it: then the standby would never be rebuilt, as
// each moment would begin its patience anew.
func TestStandbyStreamsOnlyIfTheSameWalreceiverDidBefore(t *testing.T) {
	f := newAgent(t, "b", soloRecord())
	began := time.Now().Add(-time.Minute)
	f.local.unstreamedSince, f.local.rewoundEpoch = began, 1
	look := func(pid int, status string) {
		f.noteStreaming(postgres.Observation{InRecovery: true, WalReceiver: postgres.WalReceiver{PID: pid, Status: status}})
	}
	for pid := 10; pid < 20; pid++ {
		look(pid, "streaming")
		if pid%2 == 0 {
			look(0, "")
		}
	}
	if f.local.unstreamedSince != began || f.local.rewoundEpoch != 1 {
		t.Errorf("walreceivers that end at once count as streaming: %v, rewound in epoch %d", f.local.unstreamedSince, f.local.rewoundEpoch)
	}
	look(20, "streaming")
	look(20, "streaming")
	if !f.local.unstreamedSince.IsZero() || f.local.rewoundEpoch != 0 {
		t.Error("one that lasts does not count")
	}
	look(20, "streaming")
	look(21, "streaming") // another one, at once: nothing is known to be amiss
	if !f.local.unstreamedSince.IsZero() {
		t.Error("a new connection counts as an interruption")
	}
	look(0, "")
	if f.local.unstreamedSince.IsZero() {
		t.Error("its end goes unnoticed")
	}
}

// A standby that was cut off has had no chance to stream: it must not be rewound the moment that the primary is back.
func TestPatienceBeginsWhenThePrimaryServes(t *testing.T) {
	f := newAgent(t, "b", soloRecord())
	long := time.Now().Add(-time.Hour)
	f.Agent.mu.Lock()
	defer f.Agent.mu.Unlock()
	f.local.unstreamedSince = long
	away := decide.Input{Self: "b", Other: "a", Record: soloRecord()}
	f.notePatience(&away)
	if since := time.Since(f.local.unstreamedSince); since > time.Minute {
		t.Errorf("it has waited for %v for a primary that does not serve", since)
	}
	serves := away
	serves.Timing.Silence = time.Second
	serves.Peer = decide.Peer{Role: decide.Primary, Epoch: serves.Record.Epoch, Timeline: serves.Record.Timeline}
	if !serves.PeerServes() {
		t.Fatalf("%+v", serves)
	}
	f.local.unstreamedSince = long
	f.notePatience(&serves)
	if f.local.unstreamedSince != long {
		t.Error("its patience does not end")
	}
	f.local.unstreamedSince = time.Time{}
	f.notePatience(&away)
	if !f.local.unstreamedSince.IsZero() {
		t.Error("one that streams is taken for one that does not")
	}
}
