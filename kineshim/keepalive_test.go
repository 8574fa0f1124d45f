package kineshim

import (
	"io"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func openKeepAlive(t *testing.T, n *node) etcdserverpb.Lease_LeaseKeepAliveClient {
	t.Helper()
	s, err := etcdserverpb.NewLeaseClient(dial(t, n.client)).LeaseKeepAlive(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sendKeepAlive(t *testing.T, s etcdserverpb.Lease_LeaseKeepAliveClient, id int64) {
	t.Helper()
	if err := s.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
}

// wantKeepAlive receives an answer of a node.
func wantKeepAlive(t *testing.T, s etcdserverpb.Lease_LeaseKeepAliveClient, id int64, node string) {
	t.Helper()
	r, err := s.Recv()
	if err != nil {
		t.Fatalf("lease %d: %v", id, err)
	}
	if r.ID != id || r.TTL != int64(node[0]) || r.Header.MemberId != 12 {
		t.Fatalf("got %v, want lease %d renewed by %s", r, id, node)
	}
}

func TestKeepAlivesSurviveChangesOfRole(t *testing.T) {
	for _, at := range []string{"a", "b"} {
		t.Run("at "+at, func(t *testing.T) {
			c := startCluster(t)
			n := map[string]*node{"a": c.a, "b": c.b}[at]
			s := openKeepAlive(t, n)
			sendKeepAlive(t, s, 1)
			wantKeepAlive(t, s, 1, "a")
			// An idle stream.
			c.failover(c.a, c.b, true)
			sendKeepAlive(t, s, 2)
			wantKeepAlive(t, s, 2, "b")
			// Messages while nobody is there.
			c.nobody(c.b, true)
			for id := int64(3); id < 103; id++ {
				sendKeepAlive(t, s, id)
			}
			c.epoch++
			c.engage(c.a)
			c.direct(c.a, c.b)
			for id := int64(3); id < 103; id++ {
				wantKeepAlive(t, s, id, "a")
			}
			// A message that the primary has and does not answer.
			hangs := c.ledger.hangOnce(false)
			sendKeepAlive(t, s, 200)
			sendKeepAlive(t, s, 201)
			within(t, hangs)
			c.failover(c.a, c.b, true)
			wantKeepAlive(t, s, 200, "b")
			wantKeepAlive(t, s, 201, "b")
			if err := s.CloseSend(); err != nil {
				t.Error(err)
			}
			if r, err := s.Recv(); err != io.EOF {
				t.Errorf("after the end: %v, %v", r, err)
			}
		})
	}
}

func TestAKeepAliveEndsWellWhenAllIsAnswered(t *testing.T) {
	c := startCluster(t)
	for _, n := range []*node{c.a, c.b} {
		s := openKeepAlive(t, n)
		for id := int64(1); id <= 1000; id++ {
			sendKeepAlive(t, s, id)
		}
		if err := s.CloseSend(); err != nil {
			t.Error(err)
		}
		for id := int64(1); id <= 1000; id++ {
			wantKeepAlive(t, s, id, "a")
		}
		if _, err := s.Recv(); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
	}
}

func TestAKeepAliveThatIsNotAnsweredEndsTheStream(t *testing.T) {
	for _, why := range []string{"nobody", "silence"} {
		t.Run(why, func(t *testing.T) {
			c := startCluster(t, func(o *Options) { o.MaxWait = 300 * time.Millisecond })
			s := openKeepAlive(t, c.b)
			sendKeepAlive(t, s, 1)
			wantKeepAlive(t, s, 1, "a")
			if why == "nobody" {
				c.nobody(c.a, true)
			} else {
				c.ledger.hangOnce(false)
			}
			begun := time.Now()
			sendKeepAlive(t, s, 2)
			_, err := s.Recv()
			wantCode(t, err, codes.Unavailable, "waited ")
			if took := time.Since(begun); took < 250*time.Millisecond || took > 3*time.Second {
				t.Errorf("ended after %v", took)
			}
		})
	}
}

func TestAKeepAliveEndsWithWhatThePrimaryRefuses(t *testing.T) {
	c := startCluster(t)
	c.ledger.meet(func(*ledgerEngine, string) fate {
		return fate{undone: true, err: status.Error(codes.PermissionDenied, "no")}
	})
	for _, n := range []*node{c.a, c.b} {
		s := openKeepAlive(t, n)
		sendKeepAlive(t, s, 1)
		_, err := s.Recv()
		wantCode(t, err, codes.PermissionDenied, "no")
	}
}

func TestAKeepAliveEndsWithItsClient(t *testing.T) {
	c := startCluster(t)
	s := openKeepAlive(t, c.a)
	sendKeepAlive(t, s, 1)
	wantKeepAlive(t, s, 1, "a")
	session := c.a.endpoint.current.Load()
	streams := func() int {
		session.mu.Lock()
		defer session.mu.Unlock()
		return session.streams
	}
	if streams() != 1 {
		t.Errorf("%d streams in the engine", streams())
	}
	if err := s.CloseSend(); err != nil {
		t.Error(err)
	}
	eventually(t, "the engine's stream ends", func() bool { return streams() == 0 })
}

func TestKeepAlivesThatAreNotAnsweredAreBounded(t *testing.T) {
	c := startCluster(t)
	hangs := c.ledger.hangOnce(false)
	s := openKeepAlive(t, c.a)
	const n = 3 * maxUnanswered
	for id := int64(1); id <= n; id++ {
		sendKeepAlive(t, s, id)
	}
	within(t, hangs)
	c.failover(c.a, c.b, true)
	for id := int64(1); id <= n; id++ {
		wantKeepAlive(t, s, id, "b")
	}
}
