package failover

import (
	"testing"
	"testing/synctest"
	"time"

	pb "kineshim/proto"
)

// holder is a primary whose gate is open, after a decision.
func holder(t *testing.T) (agentFixture, *sentinel) {
	t.Helper()
	f, alive := newAgent(t, "a", pairedRecord()).serving(1), &sentinel{}
	f.store.setLease(time.Second)
	f.gate.Begin(Session{Epoch: 1, Generation: 3}, alive)
	f.gate.Open()
	f.addresses.allow(true)
	return f, alive
}

func TestAddressesFollowTheGateByTheClock(t *testing.T) {
	f, alive := holder(t)
	role := f.Addresses()
	if epoch, yes := role.Holds(); !yes || epoch != 1 {
		t.Fatalf("epoch %d, %v", epoch, yes)
	}
	f.store.setLease(0)
	if _, yes := role.Holds(); yes {
		t.Error("held without a lease")
	}
	f.store.setLease(time.Second)
	alive.dead.Store(true)
	if _, yes := role.Holds(); yes {
		t.Error("held after PostgreSQL has ended")
	}
	alive.dead.Store(false)
	f.store.set(failedOver())
	if _, yes := role.Holds(); yes {
		t.Error("held in another node's epoch")
	}
	f.store.set(pairedRecord())
	f.gate.End("stopping")
	if _, yes := role.Holds(); yes {
		t.Error("held without a session")
	}
}

func TestChangeOfTheAddressesIsToldOnce(t *testing.T) {
	f, _ := holder(t)
	role := f.Addresses()
	told := func() bool {
		select {
		case <-role.Changed():
			return true
		default:
			return false
		}
	}
	if !told() {
		t.Error("not told that they may come")
	}
	f.addresses.allow(true)
	if told() {
		t.Error("told of nothing new")
	}
	f.addresses.allow(false)
	if _, yes := role.Holds(); yes || !told() {
		t.Error("not told that they must go")
	}
}

// The answers to what was begun before a switchover go out by the addresses; a gate that is closed for any other reason has none to give.
func TestAddressesStayWhileASwitchoverDrains(t *testing.T) {
	f, _ := holder(t)
	f.local.generation, f.local.engine, f.local.epochCommitted = 3, 3, 3
	f.wish.switchTo, f.wish.switchUntil = "b", time.Now().Add(time.Minute)
	f.postgresLane.stop()
	f.syncLane.stop()
	f.raftLane.stop()
	f.step(t.Context())
	if f.gate.accepting() {
		t.Fatal("the gate is open")
	}
	if _, yes := f.Addresses().Holds(); !yes {
		t.Error("gone while answers are due")
	}
	f.local.engine = 0 // drained
	f.step(t.Context())
	if _, yes := f.Addresses().Holds(); yes {
		t.Error("held though nothing is left to answer")
	}
}

func TestHandOverWaitsUntilTheAddressesAreGone(t *testing.T) {
	for name, c := range map[string]struct {
		leaves time.Duration
		want   time.Duration
	}{
		"they leave": {5 * time.Millisecond, 5 * time.Millisecond}, "they do not": {time.Hour, addressesBound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, began := newAgent(t, "a", pairedRecord()), time.Now()
				f.cfg.VIPs = func() []*pb.VipState { return []*pb.VipState{{Held: time.Since(began) < c.leaves}} }
				f.awaitNoAddress(t.Context())
				if d := time.Since(began); d != c.want {
					t.Errorf("after %v, want %v", d, c.want)
				}
			})
		})
	}
}

func TestStatusShowsBothNodesAddresses(t *testing.T) {
	f := newAgent(t, "a", pairedRecord())
	f.engine.failed = make(chan struct{})
	f.cfg.VIPs = func() []*pb.VipState { return []*pb.VipState{{Address: "192.0.2.50", Held: true}} }
	f.hear(&pb.NodeState{Node: "b", Vips: []*pb.VipState{{Address: "192.0.2.50", Mac: "02:00:00:00:00:0b"}}}, time.Time{})
	st := f.status()
	if v := st.Nodes[0].State.Vips; len(v) != 1 || !v[0].Held {
		t.Errorf("a: %v", v)
	}
	if v := st.Nodes[1].State.Vips; len(v) != 1 || v[0].Mac != "02:00:00:00:00:0b" || f.PeerVIPs()[0].Mac != "02:00:00:00:00:0b" {
		t.Errorf("b: %v", v)
	}
}
