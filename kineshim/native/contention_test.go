package native

import (
	"fmt"
	"testing"
	"time"

	"kineshim/kineshim/kinetable"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func keyRows(keys ...string) []kinetable.Row {
	rows := make([]kinetable.Row, len(keys))
	for i, key := range keys {
		rows[i] = kinetable.Row{ID: int64(i + 2), Key: key}
	}
	return rows
}

// parked parks n operations for a key, one each millisecond.
func parked(t *testing.T, c *contention, key string, from time.Time, n int) []*operation {
	t.Helper()
	ops := make([]*operation, n)
	for i := range ops {
		at := from.Add(time.Duration(i) * time.Millisecond)
		ops[i] = &operation{parked: at, key: key}
		if !c.park(ops[i], key, at) {
			t.Fatalf("no room for operation %d", i)
		}
	}
	return ops
}

func sameOps(got []*operation, want ...*operation) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d operations, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("operation %d is another one", i)
		}
	}
	return nil
}

func TestEachChangeLetsTheFirstOfAKeysLosersGo(t *testing.T) {
	var c contention
	now := time.Now()
	a, b := parked(t, &c, "a", now, 2), parked(t, &c, "b", now, 1)
	if err := sameOps(c.changed(&batch{rows: keyRows("other", "a")}, now), a[0]); err != nil {
		t.Error(err)
	}
	if !c.contended("a") || !c.contended("b") || c.contended("other") {
		t.Error("contended is not what is parked")
	}
	if err := sameOps(c.changed(&batch{rows: keyRows("b", "a")}, now), b[0], a[1]); err != nil {
		t.Error(err)
	}
	if c.contended("a") || c.contended("b") || c.open.Load() != 0 {
		t.Error("a key is contended that nobody waits for")
	}
}

func TestLosersOfAKeyThatNobodyChangesGoOneByOne(t *testing.T) {
	var c contention
	now := time.Now()
	ops := parked(t, &c, "a", now, 2)
	if got := c.overdue(now.Add(parkIdle - 1)); got != nil {
		t.Errorf("%d operations go before the key has been idle", len(got))
	}
	now = now.Add(parkIdle)
	if err := sameOps(c.overdue(now), ops[0]); err != nil {
		t.Error(err)
	}
	if got := c.overdue(now); got != nil {
		t.Errorf("%d more operations go at the same time", len(got))
	}
	if err := sameOps(c.overdue(now.Add(parkIdle)), ops[1]); err != nil {
		t.Error(err)
	}
}

func TestNobodyIsParkedForLongerThanTheBound(t *testing.T) {
	var c contention
	now := time.Now()
	ops := parked(t, &c, "a", now, 3)
	end := ops[1].parked.Add(parkBound)
	c.lots["a"].moved = end // it has just been changed
	if err := sameOps(c.overdue(end), ops[0], ops[1]); err != nil {
		t.Error(err)
	}
}

func TestOnlySoManyLosersAreParked(t *testing.T) {
	var c contention
	now := time.Now()
	parked(t, &c, "a", now, maxParked)
	if c.park(&operation{}, "a", now) {
		t.Error("there is no bound")
	}
	if !c.park(&operation{}, "b", now) {
		t.Error("the bound of one key holds for another")
	}
	if n := len(c.all()); n != maxParked+1 || c.open.Load() != 0 || c.contended("a") {
		t.Errorf("%d let go, %d keys open", n, c.open.Load())
	}
}

func TestOnlyARaceForARevisionIsHot(t *testing.T) {
	compare := func(change func(*pb.Compare)) *pb.TxnRequest {
		c := &pb.Compare{
			Key: []byte("a"), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: 7},
		}
		if change != nil {
			change(c)
		}
		return &pb.TxnRequest{Compare: []*pb.Compare{c}}
	}
	if key, hot := hotKey(compare(nil)); key != "a" || !hot {
		t.Errorf("%q, %v", key, hot)
	}
	two := compare(nil)
	two.Compare = append(two.Compare, two.Compare[0])
	for name, r := range map[string]*pb.TxnRequest{
		"no compare":     {},
		"two":            two,
		"a creation":     compare(func(c *pb.Compare) { c.TargetUnion = &pb.Compare_ModRevision{} }),
		"a range":        compare(func(c *pb.Compare) { c.RangeEnd = []byte("b") }),
		"another target": compare(func(c *pb.Compare) { c.Target = pb.Compare_CREATE }),
		"another result": compare(func(c *pb.Compare) { c.Result = pb.Compare_GREATER }),
	} {
		if _, hot := hotKey(r); hot {
			t.Errorf("%s is hot", name)
		}
	}
}
