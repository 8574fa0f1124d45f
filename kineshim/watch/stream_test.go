package watch

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestServeReturnsWithItsContext(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.end()
		r.open(0)
		r.create(prefix("a", 0)) // sending hangs
		r.publish(put("a", "1"))
		start := time.Now()
		r.end()
		if err := <-r.result; !errors.Is(err, rpctypes.ErrGRPCWatchCanceled) {
			t.Errorf("the stream ended with %v", err)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("it took %s", d)
		}
		synctest.Wait()
		if r.hub.running != 0 || len(r.hub.streams) != 0 {
			t.Errorf("%d goroutines and %d streams are left", r.hub.running, len(r.hub.streams))
		}
		r.publish(put("a", "2"))
	})
}

func TestClosedHubEndsItsStreamsSoThatClientsResume(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.end()
		r.open(0)
		r.create(prefix("a", 0)) // sending hangs until the stream's context ends, which is after Serve
		go r.hub.Close()
		err := <-r.result
		if status.Code(err) != codes.Unavailable || rpctypes.Error(err) == rpctypes.ErrNoLeader {
			t.Errorf("the stream ended with %v", err)
		}
		r.end()
		r.publish(put("a", "1"))
		r.open(0)
		if err := <-r.result; status.Code(err) != codes.Unavailable {
			t.Errorf("a new stream ended with %v", err)
		}
	})
}

func TestFailedSendEndsTheStream(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.create(prefix("a", 0))
		r.want("0@1 created")
		broken := status.Error(codes.Unavailable, "the gate is closed")
		r.stream.fail = broken
		r.publish(put("a", "1"))
		if err := <-r.result; !errors.Is(err, broken) {
			t.Errorf("the stream ended with %v", err)
		}
	})
}

func TestClientThatHasSentAllGoesOnToReceive(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.create(prefix("a", 0))
		close(r.stream.in)
		r.publish(put("a", "1"))
		r.want("0@1 created", "0@2 2+a=1")
	})
}

func TestRequestsAreNotReadWhileTheirAnswersCannotBeSent(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.end()
		r.open(0)
		synctest.Wait()
		created := 0
		q := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: prefix("a", 0)}}
		for {
			select {
			case r.stream.in <- q:
				created++
				synctest.Wait()
				continue
			default:
			}
			break
		}
		if created < 2 || created > 2*maxControl+2 {
			t.Errorf("%d requests were taken in", created)
		}
		if got := len(r.got()); got != created {
			t.Errorf("%d of %d requests were answered", got, created)
		}
	})
}

func TestThousandsOfWatchesOnOneStream(t *testing.T) {
	const n = 5000
	within(t, Config{}, func(r *rig) {
		r.end()
		r.open(2 * n)
		for i := range n {
			q := prefix(fmt.Sprintf("k%d/", i), 0)
			r.stream.in <- &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: q}}
		}
		if got := len(r.got()); got != n {
			t.Fatalf("%d of %d watches were created", got, n)
		}
		for i := 0; i < n; i += 50 {
			r.publish(put(fmt.Sprintf("k%d/x", i), "v"))
			got := r.got()
			if len(got) != 1 || got[0].WatchId != int64(i) {
				t.Fatalf("the event of watch %d was sent as %v", i, got)
			}
		}
		r.progress()
		r.want(fmt.Sprintf("-1@%d", r.store.revision))
	})
}
