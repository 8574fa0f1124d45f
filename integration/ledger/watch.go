package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Mark writes a key of its own below the prefix, as part of the record, again until it is acknowledged or ctx ends. Its revision is
// later than that of every write known before.
func (r *Recorder) Mark(ctx context.Context, ep Endpoint, prefix string) (Entry, error) {
	for n := 0; ; n++ {
		nonce := fmt.Sprintf("%smark-%d-%d", prefix, r.Now(), n)
		e := r.begin(Entry{Worker: -1, Endpoint: ep.Name, Op: Create, Key: fmt.Sprintf("%smark/%d-%d", prefix, r.Now(), n), Nonce: nonce})
		attempt, cancel := context.WithTimeout(ctx, defaultTimeout)
		a, err := ep.Store.Write(attempt, Create, e.Key, Value(nonce, 0), 0)
		cancel()
		done := r.end(e, func(e *Entry) { fill(e, a, err) })
		if done.Outcome == Acknowledged {
			return done, nil
		}
		sleep(ctx, defaultPause)
		if ctx.Err() != nil {
			return done, fmt.Errorf("mark: %w", errors.Join(err, ctx.Err()))
		}
	}
}

// WatchUntil watches the prefix from the revision after from until it has seen the mark's revision. A watch that breaks off is
// resumed after the last event seen, as Kubernetes' reflectors do.
func WatchUntil(ctx context.Context, name string, c *clientv3.Client, prefix string, from int64, mark func() int64) (History, error) {
	h := History{Name: name, From: from, To: from}
	for {
		err := watchOnce(ctx, c, prefix, &h, mark)
		if err == nil {
			return h, nil
		}
		if errors.Is(err, rpctypes.ErrCompacted) || ctx.Err() != nil {
			return h, fmt.Errorf("watch %s after revision %d: %w", prefix, h.To, err)
		}
		sleep(ctx, defaultPause)
	}
}

// WatchThrough is WatchUntil where revisions may jump, as after an operator's decision that may lose writes: a watch that is told that what comes next for it is
// compacted lists, as Kubernetes' reflectors do, and another History begins there. mayJump says whether that may be; else it is an error.
func WatchThrough(ctx context.Context, name string, c *clientv3.Client, prefix string, from int64, mark func() int64, mayJump func() bool) ([]History, error) {
	var all []History
	for {
		h, err := WatchUntil(ctx, name, c, prefix, from, mark)
		all = append(all, h)
		if err == nil || !errors.Is(err, rpctypes.ErrCompacted) || !mayJump() {
			return all, err
		}
		for {
			now, err := c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err == nil {
				from = now.Header.Revision
				break
			}
			if ctx.Err() != nil {
				return all, fmt.Errorf("list %s after a jump: %w", prefix, err)
			}
			sleep(ctx, defaultPause)
		}
	}
}

// markPoll is how often a watch without events asks whether the mark has been set.
const markPoll = 100 * time.Millisecond

func watchOnce(ctx context.Context, c *clientv3.Client, prefix string, h *History, mark func() int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	events := c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(h.To+1))
	tick := time.NewTicker(markPoll)
	defer tick.Stop()
	for {
		select {
		case resp, ok := <-events:
			if !ok {
				return errors.Join(errors.New("the watch has ended"), ctx.Err())
			}
			if err := resp.Err(); err != nil {
				return err
			}
			h.add(resp.Events)
		case <-tick.C:
		}
		if m := mark(); m > 0 && h.To >= m {
			return nil
		}
	}
}

func (h *History) add(events []*clientv3.Event) {
	for _, ev := range events {
		e := EventOf((*mvccpb.Event)(ev))
		h.Events = append(h.Events, e)
		h.To = max(h.To, e.Revision)
	}
}

// EventOf is an event as a watch's response shows it.
func EventOf(ev *mvccpb.Event) Event {
	e := Event{Key: string(ev.Kv.Key), Revision: ev.Kv.ModRevision, Deleted: ev.Type == mvccpb.DELETE}
	if !e.Deleted {
		e.Nonce = nonceOf(ev.Kv.Value)
	}
	return e
}
