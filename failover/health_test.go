package failover

import (
	"testing"
	"time"

	pb "kineshim/proto"
)

// A switchover for the disk's sake is begun as if an operator had asked for it; one that comes to nothing is not begun again at once.
func TestSwitchoverByItselfIsBegunOnceInAWhile(t *testing.T) {
	f := newAgent(t, "a", pairedRecord())
	f.Agent.mu.Lock()
	defer f.Agent.mu.Unlock()
	f.beginSwitch("")
	if f.wish.switchTo != "" {
		t.Error("begun for no reason")
	}
	f.beginSwitch("the disk here is nearly full")
	if f.wish.switchTo != "b" || !f.wish.switchUntil.After(time.Now()) {
		t.Errorf("the wish is %+v", f.wish)
	}
	f.wish.switchTo = "" // it came to nothing
	f.beginSwitch("the disk here is nearly full")
	if f.wish.switchTo != "" {
		t.Error("begun again at once")
	}
	f.noSwitchUntil = time.Now()
	f.wish.leaving = true
	f.beginSwitch("the disk here is nearly full")
	if f.wish.switchTo != "" {
		t.Error("begun by a process that is about to end")
	}
	f.wish.leaving = false
	f.beginSwitch("the disk here is nearly full")
	if f.wish.switchTo != "b" {
		t.Error("not begun again after a while")
	}
}

// What a node says of its disk reaches the other one's decisions, and the operator.
func TestTroubleWithTheDiskIsTold(t *testing.T) {
	f := newAgent(t, "a", pairedRecord())
	f.hear(&pb.NodeState{Node: "b", Role: "standby", DiskTrouble: "its disk is full: 3 MB free of 3000", DiskLow: true, DiskFull: true}, time.Now())
	f.Agent.mu.Lock()
	in := f.input()
	f.Agent.mu.Unlock()
	if d := in.Peer.Disk; !d.Low || !d.Full || d.Roomy || d.Failing || d.Damaged {
		t.Errorf("heard as %+v", d)
	}
	for _, n := range f.Agent.status().GetNodes() {
		if n.GetName() == "b" && n.GetHealth() != "does not stream; its disk is full: 3 MB free of 3000" {
			t.Errorf("the operator reads: %q", n.GetHealth())
		}
	}
	f.Agent.mu.Lock()
	f.local.data.Damaged = true
	f.Agent.mu.Unlock()
	if s := f.nodeState(); !s.GetDataDamaged() || s.GetDiskTrouble() != damagedText {
		t.Errorf("it says of itself: damaged %v, %q", s.GetDataDamaged(), s.GetDiskTrouble())
	}
}
