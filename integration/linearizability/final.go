package linearizability

import (
	"context"
	"fmt"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kineshim.example/linearizability/history"
	"kineshim.example/linearizability/watched"
	"kineshim.example/linearizability/workload"
	"kineshim/integration/cluster"
)

// timeline reads the store's whole history through each node, checks that both give the same, and that old revisions can be watched and
// read. through is the last revision.
func (t *Session) timeline(ctx context.Context) (*history.Timeline, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	through := int64(0)
	for _, node := range cluster.DataNodes { // each has seen all that the other acknowledged
		var err error
		if through, err = t.mark(ctx, node); err != nil {
			return nil, 0, err
		}
	}
	rnd := t.random(300)
	var timeline *history.Timeline
	for _, node := range cluster.DataNodes {
		w, err := t.replay(ctx, node, t.from, through)
		if err != nil {
			return nil, 0, err
		}
		if timeline == nil {
			timeline = history.NewTimeline(workload.Events(w))
		}
		t.found = append(t.found, watched.Check(w, timeline, through)...)
		if err := t.readOld(ctx, node, timeline, rnd); err != nil {
			return nil, 0, err
		}
	}
	return timeline, through, nil
}

func (t *Session) replay(ctx context.Context, node string, from, through int64) (*watched.Watch, error) {
	conn, err := t.conn(node)
	if err != nil {
		return nil, err
	}
	return workload.Replay(ctx, fmt.Sprintf("watch from %d through %s at the end", from, node), pb.NewWatchClient(conn), t.keys, from, through)
}

// readOld watches and reads old revisions through a node.
func (t *Session) readOld(ctx context.Context, node string, timeline *history.Timeline, rnd *rand.Rand) error {
	through := timeline.Last()
	for range replays {
		w, err := t.replay(ctx, node, t.from+rnd.Int64N(through-t.from+1), through)
		if err != nil {
			return err
		}
		t.found = append(t.found, watched.Check(w, timeline, through)...)
	}
	conn, err := t.conn(node)
	if err != nil {
		return err
	}
	for n := range snapshots {
		at := through
		if n > 0 {
			at = t.from + rnd.Int64N(through-t.from+1)
		}
		have, err := workload.ReadAll(ctx, pb.NewKVClient(conn), t.keys, at)
		if err != nil {
			return err
		}
		t.compare(fmt.Sprintf("all keys at revision %d through %s", at, node), have, timeline.All(at))
	}
	return nil
}

// compare compares the state of all keys with what it should be.
func (t *Session) compare(what string, have, want map[string]history.KV) {
	for key, kv := range want {
		if have[key] != kv {
			t.violate(history.WrongState, "%s: %s is %v, not %v", what, key, have[key], kv)
		}
		delete(have, key)
	}
	for key, kv := range have {
		t.violate(history.WrongState, "%s: %s is %v, not absent", what, key, kv)
	}
}

// withoutTimeline makes the best of a cluster whose history cannot be read: if it had not stopped before, that is a finding.
func (t *Session) withoutTimeline(recovered bool, err error) {
	if recovered {
		t.violate(history.BrokenTimeline, "the history could not be read at the end: %v", err)
	}
	t.found = append(t.found, t.rec.Odds()...)
	t.found = append(t.found, history.CheckRealTime(history.Input{Ops: t.rec.Ops(), Sights: t.rec.Sights()})...)
}
