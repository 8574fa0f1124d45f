package failover

import (
	"testing"
	"time"

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
