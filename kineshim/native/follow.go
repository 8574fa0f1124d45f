package native

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kineshim/kineshim/auth"
	rpc "kineshim/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

const (
	// followAgain is the pause after a round of following that came to nothing: short beside a failover.
	followAgain = 50 * time.Millisecond
	// loadAgain is the pause after a load that came to nothing, as it does while PostgreSQL is being made.
	loadAgain = 500 * time.Millisecond
)

// errRefused is for a copy that the primary does not continue.
var errRefused = errors.New("the primary does not continue this copy")

// Run follows the primary whenever no engine serves here, until ctx ends.
func (r *Replica) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		r.mu.Lock()
		idle := r.idle
		r.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return nil
		}
		r.round(ctx)
	}
	return nil
}

// round holds the role until following ends, or an engine wants it.
func (r *Replica) round(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	if r.wanted > 0 {
		r.mu.Unlock()
		return
	}
	r.stop = cancel
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stop = nil
	}()
	select {
	case r.role <- struct{}{}:
		defer func() { <-r.role }()
	case <-ctx.Done():
		return
	}
	k := r.copy.Load()
	fresh := k == nil
	if fresh {
		var err error
		if k, err = r.loadStandby(ctx); err != nil {
			r.log.Debug("the copy of the keys was not loaded", "error", err)
			sleep(ctx, loadAgain)
			return
		}
	}
	err := r.follow(ctx, k, fresh)
	switch {
	case fresh && r.copy.Load() != k: // it was never shown to anybody
		k.abandon()
	case errors.Is(err, errRefused):
		r.drop(k, err)
	}
	if ctx.Err() == nil {
		r.log.Debug("following ended", "error", err)
		sleep(ctx, followAgain)
	}
}

// loadStandby makes a copy of what PostgreSQL shows here, if all the while it is a standby of the primary.
func (r *Replica) loadStandby(ctx context.Context) (*keyspace, error) {
	life, ok := r.cfg.StandbyLife()
	if !ok {
		return nil, errNotStreaming
	}
	began := time.Now()
	// Before the load: a history that begins meanwhile must not be taken for this one.
	lineage, err := r.table.Lineage(ctx)
	if err != nil {
		return nil, err
	}
	k := newKeyspace(r.cfg.Engine, r.log)
	k.lineage.Store(lineage)
	_, meta, err := k.load(ctx, r.table.Load)
	if err != nil {
		k.abandon()
		return nil, err
	}
	k.rows.Store(new(r.standbyRows()))
	if now, ok := r.cfg.StandbyLife(); !ok || now != life {
		k.abandon()
		return nil, errors.New("PostgreSQL has been started anew, or has ceased to stream, during the load")
	}
	r.log.Info("the keys are loaded", "revision", meta.Revision, "keys", k.index.Keys(), "took", time.Since(began).Round(time.Millisecond))
	return k, nil
}

// follow takes over what the primary commits until the stream or ctx ends.
func (r *Replica) follow(ctx context.Context, k *keyspace, fresh bool) error {
	target, changed := r.cfg.Primary()
	for target == "" {
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		target, changed = r.cfg.Primary()
	}
	conn, err := r.cfg.Conn(target)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := rpc.NewReplicationClient(conn).Follow(ctx, &rpc.FollowRequest{
		Lineage: k.lineage.Load(), Row: k.committedID.Load(), Revision: k.committed(),
	})
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.Refused != "" {
		return fmt.Errorf("%w: %s", errRefused, first.Refused)
	}
	k.lineage.Store(first.Lineage)
	s := newSweeper(k)
	defer s.close()
	for m := first; ; {
		if err := k.take(m); err != nil {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		s.sweep(min(m.Swept, k.committed())) // the primary may be far ahead of what this copy has
		if m == first && fresh {
			r.copy.Store(k)
		}
		if m == first {
			r.log.Info("follows the primary", "from", target, "revision", k.committed())
		}
		if m, err = stream.Recv(); err != nil {
			return err
		}
	}
}

// take extends the copy by one message. After an error the copy is of no use.
func (k *keyspace) take(m *rpc.FollowResponse) error {
	if len(m.Access) > 0 { // before the commits are shown
		s, err := auth.Unmarshal(m.Access)
		if err != nil {
			return err
		}
		k.setAccess(s)
	}
	x := extension{k: k}
	for _, c := range m.Commits {
		for _, e := range c.Events {
			var event mvccpb.Event
			if err := event.Unmarshal(e.Event); err != nil {
				return fmt.Errorf("revision %d: %w", c.Revision, err)
			}
			if event.Kv == nil || event.Kv.ModRevision != c.Revision {
				return fmt.Errorf("revision %d: the event is of another", c.Revision)
			}
			if err := x.append(change{id: e.Row, deleted: event.Type == mvccpb.DELETE, kv: event.Kv}); err != nil {
				return fmt.Errorf("revision %d: %w", c.Revision, err)
			}
		}
	}
	if m.Revision < k.index.HeadRevision() {
		return fmt.Errorf("the primary is at revision %d, the copy at %d", m.Revision, k.index.HeadRevision())
	}
	if m.Revision > k.committed() {
		x.commit(m.Revision)
	}
	if m.Compacted > k.compacted() {
		k.compactedRev.Store(min(m.Compacted, k.committed()))
	}
	return nil
}

// sweeper forgets what the primary has deleted, beside the following: it waits for readers.
type sweeper struct {
	k      *keyspace
	upto   chan int64 // holds the newest one
	cancel context.CancelFunc
	ended  chan struct{}
}

func newSweeper(k *keyspace) *sweeper {
	ctx, cancel := context.WithCancel(context.Background())
	s := &sweeper{k: k, upto: make(chan int64, 1), cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		for {
			select {
			case revision := <-s.upto:
				k.forget(ctx, revision)
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

// sweep is called by one goroutine.
func (s *sweeper) sweep(revision int64) {
	if revision <= s.k.sweptRev.Load() {
		return
	}
	select {
	case <-s.upto:
	default:
	}
	s.upto <- revision
}

func (s *sweeper) close() {
	s.cancel()
	<-s.ended
}

// forget forgets the rows that nobody may read after the revision, when those have ended that may still.
func (k *keyspace) forget(ctx context.Context, revision int64) {
	dead := k.index.Garbage(revision)
	select {
	case <-k.holds.next():
	case <-ctx.Done():
		return
	}
	k.prune(dead)
	k.index.Compacted(revision)
	k.sweptRev.Store(revision)
}
