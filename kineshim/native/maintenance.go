package native

import (
	"cmp"
	"context"
	"regexp"
	"sync"
	"time"

	"kineshim/kineshim"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// etcdVersion is the version of etcd whose API this is. Kubernetes asks for progress of its watches from 3.5.13 on.
	etcdVersion = "3.6.13"
	// storageVersion and clusterVersion are what an etcd of that version says of them.
	storageVersion = "3.6.0"
	clusterVersion = "3.6"
	// sizesFor is how long the table's size is taken for known: etcd's is a number in memory, ours a question to PostgreSQL.
	sizesFor = time.Second
	// sizesBound ends that question.
	sizesBound = 5 * time.Second
	// vacuumBound ends a vacuum that was asked for. What it has done by then is not lost, and autovacuum does the rest.
	vacuumBound = time.Hour
	// tidyFirst and tidyEvery are when the table's index is looked at: not while k3s starts, and then often enough that it has
	// grown by a few MB at most.
	tidyFirst, tidyEvery = time.Minute, 15 * time.Minute
)

// sizes is what Maintenance knows of the table's size. The zero value is ready.
type sizes struct {
	mu           sync.Mutex // guards the fields below, also while PostgreSQL is asked: once for all who wait
	total, inUse int64      // bytes
	at           time.Time  // zero: not known

	vacuum slot // of the vacuum that runs
}

// slot is for one at a time. The zero value is free.
type slot struct {
	once sync.Once // makes busy
	busy chan struct{}
}

// take waits until the slot is free, or either context ends.
func (s *slot) take(a, b context.Context) error {
	s.once.Do(func() { s.busy = make(chan struct{}, 1) })
	select {
	case s.busy <- struct{}{}:
	case <-a.Done():
		return a.Err()
	case <-b.Done():
		return b.Err()
	}
	if err := cmp.Or(a.Err(), b.Err()); err != nil { // both were so
		s.leave()
		return err
	}
	return nil
}

func (s *slot) leave() { <-s.busy }

// read returns the size in bytes, at most sizesFor old. ask asks PostgreSQL.
func (s *sizes) read(ctx context.Context, ask func(context.Context) (total, inUse int64, err error)) (total, inUse int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.at.IsZero() && time.Since(s.at) <= sizesFor {
		return s.total, s.inUse, nil
	}
	ctx, cancel := context.WithTimeout(ctx, sizesBound)
	defer cancel()
	total, inUse, err = ask(ctx)
	if err != nil {
		return 0, 0, err
	}
	s.total, s.inUse, s.at = total, inUse, time.Now()
	return total, inUse, nil
}

// forget makes the next read ask again.
func (s *sizes) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = time.Time{}
}

// Status says how the member that serves is. DbSize is the table's with all that belongs to it, DbSizeInUse what of it holds rows,
// DbSizeQuota the size at which NOSPACE would be raised, 0 if that is not known; bytes.
func (e *Engine) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	total, inUse, err := e.sizes.read(ctx, e.store.Size)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, kineshim.Unavailable("the table's size could not be read: " + err.Error())
	}
	index, applied, term := e.cfg.Cluster.Raft()
	r := &pb.StatusResponse{
		Header: e.header(), Version: etcdVersion, StorageVersion: storageVersion, DowngradeInfo: &pb.DowngradeInfo{},
		DbSize: total, DbSizeInUse: inUse, DbSizeQuota: e.space.quota(total),
		Leader: e.cfg.Cluster.Leader(), RaftIndex: index, RaftAppliedIndex: applied, RaftTerm: term,
	}
	if r.Leader == 0 {
		r.Errors = append(r.Errors, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
	}
	for _, a := range e.space.list(pb.AlarmType_NONE) {
		r.Errors = append(r.Errors, a.String())
	}
	return r, nil
}

// Defragment vacuums the table beside the writes, and returns when that is done. Unlike etcd's it stops nobody, and it gives
// space back to the rows to come rather than to the file system. One runs at a time; it goes on if its client leaves, while one that waits does not.
func (e *Engine) Defragment(asked context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	if err := e.sizes.vacuum.take(asked, e.ctx); err != nil {
		if unusable := e.usable(); unusable != nil {
			return nil, unusable
		}
		return nil, status.FromContextError(err).Err()
	}
	defer e.sizes.vacuum.leave()
	ctx, cancel := context.WithTimeout(e.ctx, vacuumBound)
	defer cancel()
	began := time.Now()
	if err := e.store.Vacuum(ctx); err != nil {
		if err := e.usable(); err != nil {
			return nil, err
		}
		return nil, kineshim.InDoubt("vacuum: " + err.Error())
	}
	e.sizes.forget()
	if line := e.said.happened("vacuum"); line.Say {
		e.log.Info("vacuumed", "took", time.Since(began).Round(time.Millisecond), "unsaid", line.Unsaid)
	}
	return &pb.DefragmentResponse{Header: e.header()}, nil
}

// runTidy keeps the table's index from growing until the engine ends.
func (e *Engine) runTidy(ctx context.Context) {
	next := time.NewTimer(tidyFirst)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
		if e.sizes.vacuum.take(ctx, ctx) != nil {
			return
		}
		bounded, cancel := context.WithTimeout(ctx, vacuumBound)
		err := e.store.Tidy(bounded)
		cancel()
		e.sizes.vacuum.leave()
		if err != nil && ctx.Err() == nil {
			e.log.Warn("the index of the table is not kept small; tried again", "error", err, "after", tidyEvery)
		}
		next.Reset(tidyEvery)
	}
}

// MoveLeader is a switchover to the member with the ID. The member that serves is taken for moved already, as in etcd.
func (e *Engine) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	if _, ok := e.member(r.TargetID); !ok {
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	}
	if r.TargetID != e.cfg.Cluster.Leader() {
		if err := e.cfg.Cluster.MoveLeader(ctx, r.TargetID); err != nil {
			return nil, moveError(err)
		}
	}
	return &pb.MoveLeaderResponse{Header: e.header()}, nil
}

// moveError is why a switchover did not come about; a reason that is no status is the cluster's refusal.
func moveError(err error) error {
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return err
	}
	return status.Error(codes.FailedPrecondition, "etcdserver: the leadership was not handed over: "+err.Error())
}

// versionFormat is what etcd takes for a version to downgrade to: semver, or major and minor.
var versionFormat = regexp.MustCompile(`^[0-9]+\.[0-9]+(\.[0-9]+(-[^+]+)?(\+.+)?)?$`)

// Downgrade is refused as etcd refuses a version that it cannot be downgraded to: there is none here. There is never a downgrade
// to cancel either, which etcd answers with the version that the cluster has.
func (e *Engine) Downgrade(_ context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	switch r.Action {
	case pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE:
		if !versionFormat.MatchString(r.Version) {
			return nil, rpctypes.ErrGRPCWrongDowngradeVersionFormat
		}
		return nil, rpctypes.ErrGRPCInvalidDowngradeTargetVersion
	case pb.DowngradeRequest_CANCEL:
		return &pb.DowngradeResponse{Header: e.header(), Version: clusterVersion}, nil
	}
	return nil, status.Error(codes.Unknown, "etcdserver: unknown method")
}
