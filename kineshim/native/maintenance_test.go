package native

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	etcd "go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestTheVersionIsThatOfTheAPI(t *testing.T) {
	if etcdVersion != etcd.Version || clusterVersion != etcd.Cluster(etcdVersion) {
		t.Errorf("%s, %s, but the API is that of %s", etcdVersion, clusterVersion, etcd.Version)
	}
}

func TestTheSizeIsAskedForOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sizes
		asked := int64(0)
		ask := func(ctx context.Context) (int64, int64, error) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("no bound")
			}
			asked++
			return asked * 10, asked, nil
		}
		want := func(total int64) {
			t.Helper()
			if got, inUse, err := s.read(t.Context(), ask); err != nil || got != total || inUse != total/10 {
				t.Errorf("%d, %d, %v, want %d", got, inUse, err, total)
			}
		}
		want(10)
		time.Sleep(sizesFor)
		want(10)
		time.Sleep(time.Nanosecond)
		want(20)
		s.forget()
		want(30)
		time.Sleep(2 * sizesFor)
		lost := errors.New("lost")
		if _, _, err := s.read(t.Context(), func(context.Context) (int64, int64, error) { return 0, 0, lost }); !errors.Is(err, lost) {
			t.Errorf("an old size is passed off as the present one: %v", err)
		}
	})
}

// fakeCluster is a Cluster of three.
type fakeCluster struct {
	moved []uint64
	err   error
}

func (*fakeCluster) Members() []Member {
	return []Member{{ID: 1, Name: "a", PeerURLs: []string{"http://a:2380"}}, {ID: 2, Name: "b", PeerURLs: []string{"http://b:2380"}, ClientURLs: []string{"http://b:2379"}},
		{ID: 3, Name: "w", PeerURLs: []string{"http://w:2380"}}}
}
func (*fakeCluster) Leader() uint64                      { return 1 }
func (*fakeCluster) Raft() (index, applied, term uint64) { return 12, 11, 5 }
func (*fakeCluster) ClusterID() string                   { return "c-test" }
func (c *fakeCluster) MoveLeader(_ context.Context, target uint64) error {
	c.moved = append(c.moved, target)
	return c.err
}

// idle is an engine that can tell of its cluster, and nothing else.
func idle(c Cluster) *Engine {
	return &Engine{keyspace: newKeyspace(Config{}, nil), cfg: Config{Cluster: c}, failed: make(chan struct{})}
}

func TestMoveLeader(t *testing.T) {
	c := &fakeCluster{}
	e := idle(c)
	move := func(id uint64) error {
		_, err := e.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: id})
		return err
	}
	if err := move(7); err != rpctypes.ErrGRPCBadLeaderTransferee {
		t.Errorf("to nobody: %v", err)
	}
	if err := move(1); err != nil || len(c.moved) != 0 {
		t.Errorf("to itself: %v, %v", err, c.moved)
	}
	if err := move(2); err != nil || len(c.moved) != 1 {
		t.Errorf("to the other: %v, %v", err, c.moved)
	}
	c.err = errors.New("b may lack writes")
	if err := move(2); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("refused: %v", err)
	}
	c.err = rpctypes.ErrGRPCBadLeaderTransferee
	if err := move(3); err != c.err {
		t.Errorf("refused as etcd does: %v", err)
	}
}

func TestDowngradeAnswersAsEtcd(t *testing.T) {
	e := idle(&fakeCluster{})
	for _, c := range []struct {
		action  pb.DowngradeRequest_DowngradeAction
		version string
		err     error
	}{
		{pb.DowngradeRequest_VALIDATE, "3.5", rpctypes.ErrGRPCInvalidDowngradeTargetVersion},
		{pb.DowngradeRequest_ENABLE, "3.5.0", rpctypes.ErrGRPCInvalidDowngradeTargetVersion},
		{pb.DowngradeRequest_ENABLE, "3.6.0-rc.1+x", rpctypes.ErrGRPCInvalidDowngradeTargetVersion},
		{pb.DowngradeRequest_VALIDATE, "new", rpctypes.ErrGRPCWrongDowngradeVersionFormat},
		{pb.DowngradeRequest_ENABLE, "", rpctypes.ErrGRPCWrongDowngradeVersionFormat},
		{pb.DowngradeRequest_ENABLE, "3.5.0.0", rpctypes.ErrGRPCWrongDowngradeVersionFormat},
		{pb.DowngradeRequest_CANCEL, "", nil},
	} {
		r, err := e.Downgrade(t.Context(), &pb.DowngradeRequest{Action: c.action, Version: c.version})
		if err != c.err || err == nil && r.Version != "3.6" {
			t.Errorf("%v %q: %v, %v", c.action, c.version, r, err)
		}
	}
}
